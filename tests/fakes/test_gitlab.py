"""The fake GitLab gives the answers that the semantics expect of GitLab: what the gateway is held to, where both agree.

Where they don't: GitLab fails at a scope of fewer than three parts, leaves several scopes of one repository apart,
and has a body for the service `dependency_proxy`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.fakes.gitlab import FakeGitLab, Mode
from tests.fakes.gitlab_rules import Release
from tests.semantics import company, test_credentials, test_matrix, test_names, test_token_endpoint
from tests.semantics.asking import ALL, FORBIDDEN, access, entries, rows, scope
from tests.semantics.company import (
    ADMIN_API,
    CAMEL,
    CAMEL_ID,
    DEVELOPER,
    HOME,
    HOME_ID,
    MAINTAINER,
    PERSONAL,
    SHARED,
    SUB,
    bot,
    deploy,
    ending,
    job,
    other,
    person,
    token,
)
from tests.support.wire import SERVICE, Account, Answer, Credential, Wire

PUBLIC = other("public-enabled")
GRANTS = test_matrix.GRANTS


@pytest.fixture(scope="module")
def current() -> Iterator[FakeGitLab]:
    """Serve the company from today's GitLab; nobody changes it."""
    with FakeGitLab(company.directory()) as running:
        yield running


@pytest.fixture(scope="module")
def old() -> Iterator[FakeGitLab]:
    """Serve the company from GitLab 14.x; nobody changes it."""
    with FakeGitLab(company.directory(), release="14.x") as running:
        yield running


@pytest.fixture
def fake() -> Iterator[FakeGitLab]:
    """Serve the company to a test that changes its GitLab."""
    with FakeGitLab(company.directory()) as running:
        yield running


@pytest.fixture(params=["current", "14.x"])
def gitlab(request: pytest.FixtureRequest, current: FakeGitLab, old: FakeGitLab) -> FakeGitLab:
    """Give each of the releases in turn."""
    return current if request.param == "current" else old


def ask(gitlab: FakeGitLab, who: Credential, *scopes: str, service: str | None = SERVICE, **more: str) -> Answer:
    """Ask for a token, with each scope as a parameter of its own."""
    named = [] if service is None else [("service", service)]
    query = urlencode([*named, *(("scope", scope) for scope in scopes), *more.items()])
    return Wire(gitlab.url, who).get(f"/jwt/auth?{query}")


def may(gitlab: FakeGitLab, who: Credential, name: str, actions: str = ALL) -> str:
    """Say what a token for one repository grants, or the status of a refusal."""
    answer = ask(gitlab, who, scope(name, actions))
    if answer.status != 200:
        return str(answer.status)
    found = access(answer)
    assert [granted for granted, _ in found] in ([], [name.lower()])
    return found[0][1] if found else ""


def verified(gitlab: FakeGitLab, text: str, *, audience: str | None = None) -> dict[str, Any]:
    """Verify a token with the certificate, as a registry does, and give its claims."""
    key: Any = x509.load_pem_x509_certificate(gitlab.certificate_pem.encode()).public_key()
    options: Any = {"verify_aud": audience is not None}
    found = jwt.decode(text, key, algorithms=["RS256"], audience=audience, options=options)
    assert isinstance(found, dict)
    return found


def claims(gitlab: FakeGitLab, answer: Answer) -> dict[str, Any]:
    """Give the claims of the token in an answer."""
    return verified(gitlab, answer.expect(200).json()["token"], audience=SERVICE)


def user_info(gitlab: FakeGitLab, found: dict[str, Any]) -> dict[str, Any] | None:
    """Verify the JWT in the claim `user`, and give its content."""
    content = verified(gitlab, found["user"])["user_info"]
    assert content is None or isinstance(content, dict)
    return content


def illegible(*scopes: str, release: Release = "current") -> bool:
    """Tell whether GitLab fails at these scopes."""
    single = scopes if release == "14.x" else [part for scope in scopes for part in scope.split()]
    return any(part.count(":") < 2 for part in single)


# -- the matrix (4) -----------------------------------------------------------------------------------

NO_EXTERNAL_GUESTS = {
    (f"mx/internal-{setting}", f"external-{role}")
    for setting in ("enabled", "archived")
    for role in ("guest", "planner")
}
"""Who reads nothing in 14.x."""


@pytest.mark.parametrize(("project", "column", "cell"), test_matrix.CELLS)
def test_matrix_of_people(gitlab: FakeGitLab, project: str, column: str, cell: str) -> None:
    """Each cell of the matrix is granted, but for external guests of internal projects in 14.x."""
    expected = GRANTS[cell] if cell != "-" or column != "nobody" else "403"
    if gitlab.release == "14.x" and (project, column) in NO_EXTERNAL_GUESTS:
        expected = ""
    assert may(gitlab, person(column), project) == expected


@pytest.mark.parametrize(("column", "project", "cell"), test_matrix.INHERITED)
def test_roles_are_inherited(gitlab: FakeGitLab, column: str, project: str, cell: str) -> None:
    """The highest role of the project and the groups above it counts."""
    assert may(gitlab, person(column), project) == GRANTS[cell]


@pytest.mark.parametrize(("project", "scopes", "cell"), test_matrix.DEPLOY)
def test_deploy_token_of_a_group(gitlab: FakeGitLab, project: str, scopes: str, cell: str) -> None:
    """A group's deploy token does what its scopes say below the group."""
    assert may(gitlab, deploy("group", scopes.replace(",", " ")), project) == cell.removeprefix("-")


@pytest.mark.parametrize(("place", "project", "allowed"), test_matrix.PLACES)
def test_place_of_a_deploy_token(gitlab: FakeGitLab, place: str, project: str, allowed: str) -> None:
    """A deploy token covers its own project, or every project below its group."""
    assert may(gitlab, deploy(place, "read_registry write_registry"), project) == allowed


@pytest.mark.parametrize(("project", "cell"), test_matrix.OWN)
def test_job_at_home(gitlab: FakeGitLab, project: str, cell: str) -> None:
    """In its own project a job pulls, pushes and deletes whoever runs it."""
    assert may(gitlab, job("stranger", project), project) == GRANTS[cell]


@pytest.mark.parametrize("username", company.JOB_USERS)
def test_job_at_home_whoever_runs_it(gitlab: FakeGitLab, username: str) -> None:
    """What a job may in its own project is not its user's."""
    assert may(gitlab, job(username), HOME) == "pull,push,delete"


ELSEWHERE = [
    (title, row, column, cell)
    for title in company.ALLOWLISTS
    for row, column, cell in rows(test_matrix.ELSEWHERE[title])
]


@pytest.mark.parametrize(("title", "row", "username", "cell"), ELSEWHERE)
def test_job_elsewhere(current: FakeGitLab, title: str, row: str, username: str, cell: str) -> None:
    """In other projects a job at most pulls, as its user's membership and the list permit."""
    assert may(current, job(username), other(row, title)) == cell.removeprefix("-")


@pytest.mark.parametrize(("row", "username", "cell"), rows(test_matrix.ELSEWHERE["no list"]))
@pytest.mark.parametrize("title", company.ALLOWLISTS)
def test_job_elsewhere_in_14(old: FakeGitLab, title: str, row: str, username: str, cell: str) -> None:
    """In 14.x a project has no list of whose jobs may come."""
    assert may(old, job(username), other(row, title)) == cell.removeprefix("-")


@pytest.mark.parametrize(("who", "project", "allowed"), test_matrix.PERSONS)
def test_job_and_its_user(gitlab: FakeGitLab, who: Account, project: str, allowed: str) -> None:
    """A job has a part of its user's rights."""
    assert may(gitlab, who, project) == allowed


# -- credentials (2) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", company.USER_KINDS)
@pytest.mark.parametrize(("scopes", "where", "allowed"), test_credentials.CEILINGS)
def test_ceiling(gitlab: FakeGitLab, kind: str, scopes: str, where: str, allowed: str) -> None:
    """Scopes add up to a ceiling; in 14.x OAuth is `oauth2` with `api`, or no way in."""
    who, expected = token(kind, scopes.replace("+", " ")), allowed.removeprefix("-")
    if gitlab.release == "14.x" and kind == "oauth_token":
        who, expected = who._replace(username="oauth2"), expected if scopes == "api" else "401"
    assert may(gitlab, who, test_credentials.WHERE[where]) == expected


@pytest.mark.parametrize("place", ["project", "group"])
@pytest.mark.parametrize(("scopes", "where", "allowed"), test_credentials.DEPLOY_CEILINGS)
def test_deploy_ceiling(gitlab: FakeGitLab, place: str, scopes: str, where: str, allowed: str) -> None:
    """A deploy token does by its scopes where it belongs, and is nobody elsewhere."""
    who = deploy(place, scopes.replace("+", " "))
    assert may(gitlab, who, test_credentials.WHERE[where]) == allowed.removeprefix("-")


@pytest.mark.parametrize("kind", ["project_access_token", "group_access_token"])
@pytest.mark.parametrize(("role", "allowed"), test_credentials.BOT_ROLES.items())
def test_role_of_a_bot(gitlab: FakeGitLab, kind: str, role: str, allowed: str) -> None:
    """A bot is a member with the role of its token."""
    assert may(gitlab, bot(kind, role), HOME) == allowed


@pytest.mark.parametrize(("who", "project", "allowed"), test_credentials.PLACES)
def test_place_of_a_bot(gitlab: FakeGitLab, who: Account, project: str, allowed: str) -> None:
    """A bot is a member where its token was made, and below."""
    assert may(gitlab, who, project) == allowed


@pytest.mark.parametrize(
    ("username", "secret", "expected"),
    [pytest.param(*row, id=title) for title, *row in test_credentials.RECOGNISED],
)
def test_recognition(gitlab: FakeGitLab, username: str, secret: str, expected: tuple[str, str] | None) -> None:
    """The secret decides who it is; 14.x tells no type, names deploy tokens, and wants `oauth2` for OAuth."""
    answer = ask(gitlab, Account(username, secret))
    lost = gitlab.release == "14.x" and secret == test_credentials.OAUTH and username != "oauth2"
    if expected is None or lost:
        answer.expect(401)
        return
    found = claims(gitlab, answer)
    if gitlab.release == "14.x":
        assert found["sub"] == (expected[0] or username)
        assert not {"auth_type", "user"} & set(found)
    else:
        assert (found["sub"], found["auth_type"]) == expected


def test_two_deploy_tokens_share_a_username(gitlab: FakeGitLab) -> None:
    """Under one username, the secret tells two deploy tokens apart."""
    found = [(may(gitlab, who, HOME), may(gitlab, who, SUB)) for who in SHARED]
    assert found == [("pull", ""), ("", "pull")]


@pytest.mark.parametrize("who", [pytest.param(who, id=title) for title, who in test_credentials.DEAD])
def test_dead(gitlab: FakeGitLab, who: Account) -> None:
    """A dead credential is 401, for a public image too."""
    ask(gitlab, who).expect(401)
    ask(gitlab, who, scope(PUBLIC, "pull")).expect(401)


@pytest.mark.parametrize("kind", [*company.USER_KINDS, "deploy_token"])
def test_alive_until_the_day_before(current: FakeGitLab, kind: str) -> None:
    """A token that expires tomorrow is good today."""
    assert "pull" in may(current, ending(kind, "expires tomorrow"), HOME).split(",")


@pytest.mark.parametrize("who", [pytest.param(who, id=title) for title, who in test_credentials.SCOPELESS.items()])
@pytest.mark.parametrize("scopes", [pytest.param(each, id=title) for title, each in test_credentials.ASKED.items()])
def test_gate(current: FakeGitLab, who: Account, scopes: list[str]) -> None:
    """A good token without a scope of the registry is 403 whatever it asks for."""
    assert ask(current, who, *scopes).expect(403).json() == FORBIDDEN


@pytest.mark.parametrize(
    ("who", "auth_type", "subject", "username"),
    [pytest.param(*row, id=title) for title, *row in test_credentials.CALLERS],
)
def test_claims_of_a_caller(current: FakeGitLab, who: Account, auth_type: str, subject: str, username: str) -> None:
    """A token tells how its bearer came, as whom, and in a JWT of its own under which username and number."""
    found = claims(current, ask(current, who, scope(PUBLIC, "pull")))
    assert (found["auth_type"], found["sub"]) == (auth_type, subject)
    content = user_info(current, found)
    number = {"user_id": current.user_id(username)} if subject else {"deploy_token_id": current.token_id(who.password)}
    assert content == {"token_type": auth_type, "username": username, **number}


@pytest.mark.parametrize("kind", ["project_access_token", "group_access_token"])
def test_claims_of_a_bot(current: FakeGitLab, kind: str) -> None:
    """A project's or group's token is a personal one of a bot."""
    found = claims(current, ask(current, token(kind, "api")))
    content = user_info(current, found)
    assert content is not None
    assert found["auth_type"] == content["token_type"] == "personal_access_token"
    assert found["sub"] == content["username"]
    assert "_bot_" in found["sub"]


def test_claims_of_nobody(current: FakeGitLab) -> None:
    """Nobody's token has the type none, an empty subject and no user."""
    found = claims(current, ask(current, None, scope(PUBLIC, "pull")))
    assert (found["auth_type"], found["sub"], user_info(current, found)) == ("none", "", None)


# -- the token endpoint (3) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "scopes", "service", "status"),
    [pytest.param(*row, id=title) for title, *row in test_token_endpoint.STATUSES],
)
def test_status(gitlab: FakeGitLab, who: Credential, scopes: list[str], service: str | None, status: int) -> None:
    """Each check comes in order, with its status and its body."""
    if illegible(*scopes) and status == 403 and who is None:
        status = 500
    answer = ask(gitlab, who, *scopes, service=service).expect(status)
    if service == "dependency_proxy":
        assert answer.json()["errors"][0]["message"] == "dependency proxy not enabled"
    elif status == 404:
        assert answer.body == b""
    elif status == 403:
        assert answer.json() == FORBIDDEN
    elif status == 401:
        [error] = answer.json()["errors"]
        assert error["code"] == "UNAUTHORIZED"
        assert error["message"].startswith("HTTP Basic: Access denied.")


@pytest.mark.parametrize("who", test_token_endpoint.CALLERS.values())
def test_post(gitlab: FakeGitLab, who: Credential) -> None:
    """POST is 404."""
    Wire(gitlab.url, who).send("POST", f"/jwt/auth?service={SERVICE}", b"grant_type=password").expect(404)


@pytest.mark.parametrize(("header", "status"), test_token_endpoint.HEADERS)
def test_other_headers(gitlab: FakeGitLab, header: str, status: int) -> None:
    """A Basic header that nobody can be read from is a bad credential; any other scheme is nobody."""
    Wire(gitlab.url).get(f"/jwt/auth?service={SERVICE}", Authorization=header).expect(status)


@pytest.mark.parametrize(
    ("scopes", "expected"), [pytest.param(*row, id=title) for title, *row in test_token_endpoint.SCOPES]
)
def test_scopes(gitlab: FakeGitLab, scopes: list[str], expected: list[tuple[str, str]]) -> None:
    """There is an entry for each scope of which something is left; 14.x knows no scopes joined by spaces."""
    answer = ask(gitlab, DEVELOPER, *scopes)
    if illegible(*scopes, release=gitlab.release):
        answer.expect(500)
    elif gitlab.release == "current" or not any(" " in scope for scope in scopes):
        assert access(answer) == expected
    else:
        assert len(access(answer)) <= len(scopes)


@pytest.mark.parametrize(("scopes", "expected"), test_token_endpoint.UNITED)
def test_scopes_of_one_repository(current: FakeGitLab, scopes: list[str], expected: str) -> None:
    """Several scopes for one repository make several entries, which together hold what a united one would."""
    found = [
        action
        for name, actions in access(ask(current, DEVELOPER, *scopes))
        if name == HOME
        for action in actions.split(",")
    ]
    assert list(dict.fromkeys(found)) == expected.split(",")


@pytest.mark.parametrize(
    ("who", "scopes", "shown"), [pytest.param(*row, id=title) for title, *row in test_token_endpoint.CATALOGS]
)
def test_catalog(gitlab: FakeGitLab, who: Account, scopes: list[str], shown: bool) -> None:  # noqa: FBT001
    """The catalog is an instance admin's who asks for exactly `*`."""
    if gitlab.release == "14.x" and any(" " in scope for scope in scopes):
        shown = False
    found = [
        (entry["name"], entry["actions"]) for entry in entries(ask(gitlab, who, *scopes)) if entry["type"] == "registry"
    ]
    assert all(each == ("catalog", ["*"]) for each in found)
    assert bool(found) is shown


def test_answer(gitlab: FakeGitLab) -> None:
    """The answer has a token and nothing else, whatever is asked for beside."""
    found = ask(gitlab, DEVELOPER, scope(HOME, "pull"), account="admin", client_id="docker", offline_token="true")
    assert set(found.expect(200).json()) == {"token"}
    assert claims(gitlab, found)["sub"] == "developer"


def test_claims(gitlab: FakeGitLab) -> None:
    """A token has the issuer, the service, its times and an id, and is good for five minutes."""
    before = int(time.time())
    found = claims(gitlab, ask(gitlab, DEVELOPER))
    assert (found["iss"], found["aud"], found["access"]) == ("gitlab-issuer", SERVICE, [])
    assert before <= found["iat"] <= time.time()
    assert (found["iat"] - found["nbf"], found["exp"] - found["iat"]) == (5, 300)
    assert claims(gitlab, ask(gitlab, DEVELOPER))["jti"] != found["jti"]


@pytest.mark.parametrize(("name", "expected"), test_token_endpoint.METAS)
def test_meta(current: FakeGitLab, name: str, expected: dict[str, Any]) -> None:
    """An entry names its project by path and id, and the root of its namespaces."""
    [entry] = entries(ask(current, DEVELOPER, scope(name, "pull,push")))
    assert expected.items() <= entry["meta"].items()
    assert set(entry["meta"]) == {"project_path", "project_id", "root_namespace_id"}


def test_no_meta_in_14(old: FakeGitLab) -> None:
    """In 14.x an entry is a type, a name and actions."""
    [entry] = entries(ask(old, DEVELOPER, scope(HOME, "push")))
    assert entry == {"type": "repository", "name": HOME, "actions": ["push"]}


def test_push_makes_a_record(fake: FakeGitLab) -> None:
    """A record appears when push is granted, and not for pull or a refusal."""
    may(fake, DEVELOPER, f"{HOME}/pulled", "pull")
    may(fake, DEVELOPER, f"{PUBLIC}/refused", "push")
    assert fake.repositories == set()
    may(fake, DEVELOPER, f"{HOME}/Pushed", "pull,push")
    assert fake.repositories == {f"{HOME}/pushed"}


# -- names (5) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "allowed"), test_names.PLACES)
def test_place(gitlab: FakeGitLab, name: str, allowed: str) -> None:
    """An image is its project, or lies up to two names below it."""
    assert may(gitlab, DEVELOPER, name, "pull,push") == allowed


@pytest.mark.parametrize(("extra", "allowed"), [("", "pull"), ("/a", "pull"), ("/a/b", "")])
def test_number_of_components(gitlab: FakeGitLab, extra: str, allowed: str) -> None:
    """A name has fewer than twenty components."""
    assert may(gitlab, DEVELOPER, f"{company.DEEP}{extra}", "pull") == allowed


@pytest.mark.parametrize("component", test_names.LEGAL)
def test_legal(gitlab: FakeGitLab, component: str) -> None:
    """Any run of dashes joins letters, or of ten at most in 14.x."""
    expected = "" if gitlab.release == "14.x" and "-" * 11 in component else "pull"
    assert may(gitlab, DEVELOPER, f"{HOME}/{component}/x", "pull") == expected


@pytest.mark.parametrize("component", [*test_names.ILLEGAL, *test_names.FOREIGN])
def test_illegal(gitlab: FakeGitLab, component: str) -> None:
    """An illegal name's scope is dropped; one with a tab is two scopes, and GitLab fails at the first."""
    answer = ask(gitlab, DEVELOPER, scope(f"{HOME}/{component}", "pull"), scope(HOME, "pull"))
    if component == "a\tb" and gitlab.release == "current":
        answer.expect(500)
    else:
        assert access(answer) == [(HOME, "pull")]


@pytest.mark.parametrize("project", company.UNNAMEABLE)
def test_unnameable_project(gitlab: FakeGitLab, project: str) -> None:
    """A project whose path is no legal name gets nothing."""
    assert access(ask(gitlab, MAINTAINER, scope(project, "pull"))) == []


@pytest.mark.parametrize(("asked", "name"), test_names.CAPITALS)
def test_capitals(gitlab: FakeGitLab, asked: str, name: str) -> None:
    """A scope's name is lower-cased, and its project is found however that is spelt."""
    assert access(ask(gitlab, DEVELOPER, scope(asked, "pull,push"))) == [(name, "pull,push")]


# -- its keys -----------------------------------------------------------------------------------------


def test_key_and_fingerprint(current: FakeGitLab) -> None:
    """Certificate and public key are of one RSA key of 2048 bits, whose libtrust fingerprint stands in each header."""
    key: Any = serialization.load_pem_public_key(current.public_key_pem.encode())
    assert x509.load_pem_x509_certificate(current.certificate_pem.encode()).public_key() == key
    assert key.key_size == 2048
    header = jwt.get_unverified_header(ask(current, DEVELOPER).json()["token"])
    assert header == {"typ": "JWT", "alg": "RS256", "kid": current.kid}
    groups = current.kid.split(":")
    assert [len(group) for group in groups] == [4] * 12


def test_minted(current: FakeGitLab) -> None:
    """A token that GitLab makes for itself has the entries that it wants, and nobody's name."""
    wanted = [{"type": "repository", "name": HOME, "actions": ["*"]}]
    found = verified(current, current.mint(wanted), audience=SERVICE)
    assert (found["access"], found["iss"]) == (wanted, "gitlab-issuer")
    assert "sub" not in found


def test_forged(current: FakeGitLab) -> None:
    """Whatever claims and headers a test wants are signed."""
    forged = current.sign({"iss": "elsewhere"}, {"kid": "another", "jku": f"{current.url}/keys"})
    assert jwt.get_unverified_header(forged)["kid"] == "another"
    assert verified(current, forged) == {"iss": "elsewhere"}


def test_id_tokens(current: FakeGitLab) -> None:
    """ID tokens are of another key, which is published, and whose issuer is the GitLab."""
    text = current.mint_id_token({"aud": "gateway", "project_path": HOME})
    published = jwt.PyJWKSet.from_dict(Wire(current.url).get("/oauth/discovery/keys").expect(200).json())
    key = published[jwt.get_unverified_header(text)["kid"]]
    found = jwt.decode(text, key, algorithms=["RS256"], audience="gateway", issuer=current.url)
    assert found["project_path"] == HOME
    with pytest.raises(jwt.InvalidSignatureError):
        verified(current, text)


# -- REST (13) ----------------------------------------------------------------------------------------

API = token("personal_access_token", "api").password
REGISTRY_ONLY = token("personal_access_token", "read_registry").password
READ_USER = token("personal_access_token", "read_user").password
OAUTH_API = token("oauth_token", "api").password
OAUTH_REGISTRY = token("oauth_token", "read_registry").password
DEPLOY = deploy("project", "read_registry").password
RUNNING = job("developer").password
FINISHED = job("developer", status="success").password
DEAD = ending("personal_access_token", "revoked").password


def headers(private: str = "", bearer: str = "", job_token: str = "") -> dict[str, str]:
    """Spell the headers of a REST call."""
    named = {"PRIVATE-TOKEN": private, "Authorization": bearer and f"Bearer {bearer}", "JOB-TOKEN": job_token}
    return {name: value for name, value in named.items() if value}


def rest(gitlab: FakeGitLab, path: str, **tokens: str) -> Answer:
    """GET a path of the API."""
    return Wire(gitlab.url).get(f"/api/v4{path}", **headers(**tokens))


SELF = "/personal_access_tokens/self"
HOME_PATH = f"/projects/{quote(HOME, safe='')}"
PUBLIC_PATH = f"/projects/{quote(PUBLIC, safe='')}"
REST: list[tuple[str, dict[str, str], int]] = [
    ("/version", {"private": API}, 200),
    ("/version", {}, 401),
    (SELF, {"private": API}, 200),
    (SELF, {"private": REGISTRY_ONLY}, 200),
    (SELF, {"bearer": REGISTRY_ONLY}, 200),
    (SELF, {"private": bot("project_access_token", "guest").password}, 200),
    (SELF, {"private": bot("group_access_token", "guest").password}, 200),
    (SELF, {}, 401),
    (SELF, {"private": DEAD}, 401),
    (SELF, {"private": DEPLOY}, 401),
    (SELF, {"bearer": OAUTH_API}, 401),
    (SELF, {"job_token": RUNNING}, 401),
    (SELF, {"private": DEVELOPER.password}, 401),
    ("/user", {"private": API}, 200),
    ("/user", {"private": READ_USER}, 200),
    ("/user", {"bearer": OAUTH_API}, 200),
    ("/user", {"private": OAUTH_API}, 401),
    ("/user", {}, 401),
    ("/user", {"private": DEAD}, 401),
    ("/user", {"private": DEPLOY}, 401),
    ("/user", {"private": REGISTRY_ONLY}, 403),
    ("/user", {"bearer": OAUTH_REGISTRY}, 403),
    ("/job", {"job_token": RUNNING}, 200),
    (f"/job?job_token={quote(RUNNING)}", {}, 200),
    ("/job", {"job_token": FINISHED}, 401),
    ("/job", {"job_token": API}, 401),
    ("/job", {"private": API}, 401),
    ("/job", {}, 401),
    (HOME_PATH, {"private": API}, 200),
    (f"/projects/{HOME_ID}", {"private": API}, 200),
    (HOME_PATH, {"bearer": OAUTH_API}, 200),
    (HOME_PATH, {}, 404),
    (HOME_PATH, {"private": company.DEEP_SUBGROUP_BOT.password}, 404),
    (HOME_PATH, {"private": ADMIN_API.password}, 200),
    (HOME_PATH, {"private": REGISTRY_ONLY}, 403),
    (HOME_PATH, {"private": DEAD}, 401),
    (PUBLIC_PATH, {}, 200),
    (PUBLIC_PATH, {"private": DEAD}, 401),
    (PUBLIC_PATH, {"private": REGISTRY_ONLY}, 403),
    ("/projects/mx%2Fnone", {"private": API}, 404),
    ("/users?username=developer", {"private": API}, 200),
    ("/users?username=developer", {}, 401),
    ("/users?username=developer", {"private": REGISTRY_ONLY}, 403),
    ("/nothing", {"private": API}, 404),
    # The images of a project: by the matrix; a job's own project alone (6).
    (f"{HOME_PATH}/registry/repositories", {"private": API}, 200),
    (f"{HOME_PATH}/registry/repositories", {"private": REGISTRY_ONLY}, 403),
    (f"{HOME_PATH}/registry/repositories", {"private": bot("project_access_token", "reporter").password}, 200),
    (f"{HOME_PATH}/registry/repositories", {}, 404),
    (f"{HOME_PATH}/registry/repositories", {"private": company.DEEP_SUBGROUP_BOT.password}, 404),
    (f"{HOME_PATH}/registry/repositories", {"job_token": RUNNING}, 200),
    (f"{HOME_PATH}/registry/repositories", {"job_token": FINISHED}, 401),
    (f"{PUBLIC_PATH}/registry/repositories", {}, 200),
    # Groups: seen by visibility and members, listed by reporters.
    ("/groups/mx", {}, 200),
    ("/groups/mx", {"private": REGISTRY_ONLY}, 403),
    ("/groups/mx", {"private": DEAD}, 401),
    ("/groups/mx%2Fsub", {}, 404),
    ("/groups/mx%2Fsub", {"private": API}, 200),
    ("/groups/mx%2Fsub", {"private": bot("project_access_token", "owner").password}, 404),
    ("/groups/none", {"private": API}, 404),
    ("/groups/mx/registry/repositories", {"private": API}, 200),
    ("/groups/mx%2Fsub/registry/repositories", {"private": company.DEEP_SUBGROUP_BOT.password}, 200),
    ("/groups/mx%2Fsub/registry/repositories", {}, 404),
    ("/groups/mx/registry/repositories", {"private": ADMIN_API.password}, 200),
]
FORBIDDEN_REST = [
    pytest.param("/groups/mx/registry/repositories", {}, id="nobody and a public group"),
    pytest.param(
        "/groups/mx/registry/repositories",
        {"private": bot("group_access_token", "planner").password},
        id="a planner and the group's images",
    ),
    pytest.param(
        "/groups/mx/registry/repositories",
        {"private": bot("project_access_token", "owner").password},
        id="a member of a project below",
    ),
    pytest.param(
        f"{HOME_PATH}/registry/repositories",
        {"private": bot("project_access_token", "guest").password},
        id="a guest and a private project's images",
    ),
    pytest.param(
        f"/projects/{quote('mx/public-disabled', safe='')}/registry/repositories", {"private": API}, id="disabled"
    ),
    pytest.param(f"{PUBLIC_PATH}/registry/repositories", {"job_token": RUNNING}, id="a job elsewhere"),
]


@pytest.mark.parametrize(("path", "tokens", "status"), REST)
def test_rest(current: FakeGitLab, path: str, tokens: dict[str, str], status: int) -> None:
    """Each call takes the tokens that it takes, from where it takes them."""
    answer = rest(current, path, **tokens).expect(status)
    assert isinstance(answer.json(), dict | list)
    if status == 403:
        assert answer.json()["error"] == "insufficient_scope"


@pytest.mark.parametrize(("path", "tokens"), FORBIDDEN_REST)
def test_rest_is_forbidden(current: FakeGitLab, path: str, tokens: dict[str, str]) -> None:
    """What is seen and not allowed is 403 (6), with GitLab's words."""
    said = rest(current, path, **tokens).expect(403).json()["message"]
    assert said.startswith("403 Forbidden")
    assert ("different project" in said) == ("job_token" in tokens)


def settings(gitlab: FakeGitLab, private: str, body: str, project: str = HOME, kind: str = "json") -> Answer:
    """PUT the settings of a project."""
    sent = {**headers(private), "Content-Type": f"application/{kind}"}
    return Wire(gitlab.url).send("PUT", f"/api/v4/projects/{quote(project, safe='')}", body.encode(), sent)


def test_settings(fake: FakeGitLab) -> None:
    """A maintainer changes the registry's level, by JSON or a form, and the token endpoint follows."""
    level = "container_registry_access_level"
    assert settings(fake, API, json.dumps({level: "disabled"})).expect(200).json()[level] == "disabled"
    assert may(fake, MAINTAINER, HOME) == ""
    form = f"{level}=private&container_expiration_policy_attributes[keep_n]=5"
    found = settings(fake, API, form, kind="x-www-form-urlencoded").expect(200).json()
    assert (found[level], found["container_expiration_policy"]["keep_n"]) == ("private", "5")
    assert may(fake, MAINTAINER, HOME) == ALL
    assert fake.directory["projects"] != company.directory()["projects"]


def test_expiration_policy(fake: FakeGitLab) -> None:
    """A policy begins as GitLab's do; a change moves its next run to a whole cadence from now (7.1)."""
    kept = "container_expiration_policy"
    assert rest(fake, HOME_PATH, private=API).json()[kept]["name_regex"] == ".*"
    change = {"enabled": True, "cadence": "7d", "name_regex_delete": "x", "name_regex_keep": "y"}
    found = settings(fake, API, json.dumps({f"{kept}_attributes": change})).expect(200).json()[kept]
    assert (found["enabled"], found["name_regex"], found["name_regex_keep"]) == (True, "x", "y")
    assert found["next_run_at"] > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 6 * 86_400))
    assert rest(fake, HOME_PATH, private=API).json()[kept] == found


NO_SETTINGS = [
    pytest.param(bot("project_access_token", "developer").password, {}, 403, id="developer"),
    pytest.param(token("personal_access_token", "read_api").password, {}, 403, id="read_api"),
    pytest.param(company.DEEP_SUBGROUP_BOT.password, {}, 404, id="stranger"),
    pytest.param("", {}, 401, id="nobody"),
    pytest.param(API, {"container_registry_access_level": "public"}, 400, id="level"),
    pytest.param(API, {"container_expiration_policy_attributes": {"cadence": "2d"}}, 400, id="cadence"),
]


@pytest.mark.parametrize(("private", "change", "status"), NO_SETTINGS)
def test_no_settings(current: FakeGitLab, private: str, change: dict[str, Any], status: int) -> None:
    """Nobody below a maintainer changes settings, and no value but GitLab's is taken."""
    settings(current, private, json.dumps(change)).expect(status)


def test_group(current: FakeGitLab) -> None:
    """A group has its path, its visibility and the group above it."""
    found = rest(current, "/groups/mx%2Fsub", private=API).json()
    assert (found["id"], found["full_path"], found["visibility"]) == (current.group_id("mx/sub"), "mx/sub", "private")
    assert found["parent_id"] == current.group_id("mx")
    assert rest(current, f"/groups/{found['id']}", private=API).json() == found


def test_group_projects(current: FakeGitLab) -> None:
    """Those of the group that the caller sees are listed, and those of its subgroups where they are asked for."""
    projects = "/groups/mx/projects"
    own = {item["path_with_namespace"] for item in rest(current, f"{projects}?per_page=100", private=API).json()}
    deep = rest(current, f"{projects}?per_page=100&include_subgroups=true", private=API).json()
    assert {item["path_with_namespace"] for item in deep} - own == {SUB}
    assert HOME in own
    public = {item["visibility"] for item in rest(current, f"{projects}?per_page=100").json()}
    assert public == {"public"}


def test_pages(current: FakeGitLab) -> None:
    """Lists come by pages, with GitLab's headers, and links to the pages beside."""
    path = "/groups/mx/projects?per_page=4"
    first, second = (rest(current, f"{path}&page={page}", private=API).expect(200) for page in (1, 2))
    assert len(first.json()) == len(second.json()) == 4
    assert (first.header("X-Page"), first.header("X-Per-Page"), first.header("X-Next-Page")) == ("1", "4", "2")
    assert (first.header("X-Prev-Page"), second.header("X-Prev-Page")) == ("", "1")
    assert int(first.header("X-Total-Pages")) == -(-int(first.header("X-Total")) // 4)
    assert f'{current.url}/api/v4/groups/mx/projects?page=2&per_page=4>; rel="next"' in first.header("Link")


def test_images_are_the_records(fake: FakeGitLab) -> None:
    """A project's and a group's images are what pushes were granted for."""
    ask(fake, DEVELOPER, scope(f"{HOME}/extra", "push")).expect(200)
    for path in (f"{HOME_PATH}/registry/repositories", "/groups/mx/registry/repositories"):
        [found] = rest(fake, path, private=API).expect(200).json()
        assert (found["name"], found["path"], found["project_id"]) == ("extra", f"{HOME}/extra", HOME_ID)


def test_job_of_a_guest(current: FakeGitLab) -> None:
    """Over REST a job lists images by its user's role, which the token endpoint does not look at (6)."""
    rest(current, f"{HOME_PATH}/registry/repositories", job_token=job("guest").password).expect(403)
    assert may(current, job("guest"), HOME) == "pull,push,delete"


def test_group_member(current: FakeGitLab) -> None:
    """A member's level in a group is inherited from those above it."""
    path = f"/groups/mx%2Fsub/members/all/{current.user_id('owner')}"
    assert rest(current, path, private=current.service_token).expect(200).json()["access_level"] == 50
    stranger = f"/groups/mx/members/all/{current.user_id('stranger')}"
    rest(current, stranger, private=current.service_token).expect(404)


def test_rest_of_14(old: FakeGitLab) -> None:
    """14.x has neither the token's own record nor the administrator's."""
    assert rest(old, "/version", private=API).json()["version"].startswith("14.")
    rest(old, SELF, private=API).expect(404)
    sent = json.dumps({"token": API}).encode()
    Wire(old.url).send("POST", "/api/v4/admin/token", sent, headers(old.service_token)).expect(404)


def test_token_self(current: FakeGitLab) -> None:
    """A token's own record tells its scopes and its owner."""
    found = rest(current, SELF, private=REGISTRY_ONLY).json()
    assert (found["id"], found["scopes"]) == (current.token_id(REGISTRY_ONLY), ["read_registry"])
    assert (found["user_id"], found["active"], found["revoked"]) == (current.user_id("maintainer"), True, False)


def test_user(current: FakeGitLab) -> None:
    """A user sees themselves, and only an admin whether they are one."""
    found = rest(current, "/user", private=API).json()
    assert (found["id"], found["username"], found["bot"]) == (current.user_id("maintainer"), "maintainer", False)
    assert "is_admin" not in found
    assert rest(current, "/user", private=ADMIN_API.password).json()["is_admin"] is True


def test_users(current: FakeGitLab) -> None:
    """A username finds its user, however spelt, and the service token sees what they are."""
    [found] = rest(current, "/users?username=External-Reporter", private=current.service_token).json()
    assert (found["id"], found["external"]) == (current.user_id("external-reporter"), True)
    assert rest(current, "/users?username=nobody-at-all", private=current.service_token).json() == []


def test_job(current: FakeGitLab) -> None:
    """A running job tells its user and its project."""
    found = rest(current, "/job", job_token=RUNNING).json()
    assert (found["status"], found["user"]["username"]) == ("running", "developer")
    assert found["pipeline"]["project_id"] == HOME_ID


def test_project(current: FakeGitLab) -> None:
    """A project tells its registry's level, and the roles of whoever asks in it and in the groups above."""
    found = rest(current, f"/projects/{quote(company.LOWERED, safe='')}", private=API).json()
    assert found["permissions"]["project_access"]["access_level"] == 10
    assert found["permissions"]["group_access"]["access_level"] == 40
    assert (found["visibility"], found["container_registry_access_level"]) == ("private", "enabled")
    found = rest(current, f"/projects/{CAMEL_ID}").json()
    assert (found["path_with_namespace"], found["container_registry_enabled"]) == (CAMEL, True)
    assert found["container_registry_image_prefix"].endswith(f"/{CAMEL.lower()}")
    assert "permissions" not in found


MEMBERS = [("developer", HOME, 30), ("planner", HOME, 15), ("reporter", SUB, 40), ("homer", PERSONAL, 50)]


@pytest.mark.parametrize(("username", "project", "level"), MEMBERS)
def test_member(current: FakeGitLab, username: str, project: str, level: int) -> None:
    """A member's level is the effective one."""
    path = f"/projects/{quote(project, safe='')}/members/all/{current.user_id(username)}"
    found = rest(current, path, private=current.service_token).expect(200).json()
    assert (found["username"], found["access_level"]) == (username, level)


@pytest.mark.parametrize("username", ["stranger", "admin"])
def test_no_member(current: FakeGitLab, username: str) -> None:
    """Whoever is no member is 404, an admin too, and without a token it is 401."""
    path = f"{HOME_PATH}/members/all/{current.user_id(username)}"
    rest(current, path, private=current.service_token).expect(404)
    rest(current, f"{HOME_PATH}/members/all/1", private=current.service_token).expect(404)
    rest(current, path).expect(401)


ADMIN_TOKEN = [
    pytest.param(API, 200, {"scopes": ["api"]}, id="personal"),
    pytest.param(bot("project_access_token", "guest").password, 200, {"scopes": ["api"]}, id="project"),
    pytest.param(DEPLOY, 200, {"username": deploy("project", "read_registry").username}, id="deploy"),
    pytest.param(DEAD, 200, {"revoked": True, "active": False}, id="revoked"),
    pytest.param(RUNNING, 200, {"status": "running"}, id="job"),
    pytest.param(OAUTH_API, 422, {}, id="OAuth"),
    pytest.param("unheard of", 404, {}, id="unknown"),
]


@pytest.mark.parametrize(("secret", "status", "expected"), ADMIN_TOKEN)
def test_admin_token(current: FakeGitLab, secret: str, status: int, expected: dict[str, Any]) -> None:
    """An admin learns what a token is, dead or alive."""
    sent = json.dumps({"token": secret}).encode()
    answer = Wire(current.url).send("POST", "/api/v4/admin/token", sent, headers(current.service_token)).expect(status)
    assert expected.items() <= answer.json().items()


@pytest.mark.parametrize(("private", "status"), [("", 401), (DEAD, 401), (API, 403), (ADMIN_API.password, 200)])
def test_admin_token_is_for_admins(current: FakeGitLab, private: str, status: int) -> None:
    """Whoever is no admin learns nothing."""
    sent = urlencode({"token": API}).encode()
    Wire(current.url).send("POST", "/api/v4/admin/token", sent, headers(private)).expect(status)


def test_oauth_token_info(current: FakeGitLab) -> None:
    """An OAuth token tells its owner and scopes; any other is 401."""
    found = Wire(current.url, OAUTH_API).get("/oauth/token/info").expect(200).json()
    assert (found["resource_owner_id"], found["scope"]) == (current.user_id("maintainer"), ["api"])
    for secret in (API, "unheard of", None, ending("oauth_token", "revoked").password):
        Wire(current.url, secret).get("/oauth/token/info").expect(401)


def test_sign_in_page(current: FakeGitLab) -> None:
    """The login page is a page."""
    assert Wire(current.url).get("/users/sign_in").expect(200).headers.get_content_type() == "text/html"
    assert Wire(current.url).get("/anything/else").expect(404).json() == {"error": "404 Not Found"}


# -- what tests do to it ------------------------------------------------------------------------------

FAILING: list[tuple[Mode, int]] = [("429", 429), ("500", 500), ("503", 503), ("redirect", 302), ("garbage", 200)]


@pytest.mark.parametrize(("mode", "status"), FAILING)
def test_failing(fake: FakeGitLab, mode: Mode, status: int) -> None:
    """It fails at every path, and recovers."""
    fake.mode = mode
    for answer in (ask(fake, DEVELOPER), rest(fake, "/user", private=API)):
        answer.expect(status)
    fake.mode = "ok"
    ask(fake, DEVELOPER).expect(200)


def test_garbage(fake: FakeGitLab) -> None:
    """Garbage is called JSON, and is none."""
    fake.mode = "garbage"
    answer = ask(fake, DEVELOPER).expect(200)
    assert answer.headers.get_content_type() == "application/json"
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_hints_of_failures(fake: FakeGitLab) -> None:
    """A throttled caller hears when to come again, and a redirected one where to log in."""
    fake.mode = "429"
    assert ask(fake, DEVELOPER).header("Retry-After") == "60"
    fake.mode = "redirect"
    assert ask(fake, DEVELOPER).location == f"{fake.url}/users/sign_in"


def test_down(fake: FakeGitLab) -> None:
    """Down, it breaks connections off; stopped, it refuses them; started again, it is where it was."""
    fake.mode = "down"
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(fake, DEVELOPER)
    assert fake.count("/jwt/auth") == 1
    fake.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(fake, DEVELOPER)
    fake.mode = "ok"
    fake.start()
    ask(fake, DEVELOPER).expect(200)


def test_slow(fake: FakeGitLab) -> None:
    """Slow, it answers as ever, but later."""
    fake.mode, fake.delay = "slow", 0.2
    before = time.monotonic()
    ask(fake, DEVELOPER).expect(200)
    assert time.monotonic() - before >= 0.2


def test_maintenance(fake: FakeGitLab) -> None:
    """Under maintenance only pull is granted, and POST is still 404."""
    fake.mode = "maintenance"
    assert may(fake, MAINTAINER, HOME) == may(fake, job("developer"), HOME) == "pull"
    assert may(fake, DEVELOPER, HOME, "push") == ""
    assert fake.repositories == set()
    Wire(fake.url).send("POST", "/jwt/auth").expect(404)


def test_registry_switched_off(fake: FakeGitLab) -> None:
    """Without a registry the endpoint is 404, and a token with its scopes alone is no token any more."""
    fake.registry_enabled = False
    expected = {"errors": [{"code": "UNAVAILABLE", "message": "registry not enabled"}], "http_status": 404}
    for who in (DEVELOPER, None, job("developer"), token("personal_access_token", "read_registry read_user")):
        assert ask(fake, who).expect(404).json() == expected
    for who in (token("personal_access_token", "read_registry"), deploy("project", "read_registry write_registry")):
        ask(fake, who).expect(401)
    assert ask(fake, DEVELOPER, service="harbor").expect(404).body == b""


def test_revocation(fake: FakeGitLab) -> None:
    """With another directory the rights are others, and the numbers are the same."""
    numbers = fake.user_id("developer"), fake.project_id(SUB), fake.token_id(API)
    directory = company.directory()
    for entry in directory["tokens"]:
        entry["revoked"] = entry.get("token") == API
    fake.directory = {**directory, "users": list(reversed(directory["users"]))}
    ask(fake, Account("", API)).expect(401)
    rest(fake, "/user", private=API).expect(401)
    rest(fake, "/user", private=fake.service_token).expect(200)
    assert numbers == (fake.user_id("developer"), fake.project_id(SUB), fake.token_id(API))


def test_hashed_tokens(fake: FakeGitLab) -> None:
    """A directory may hold the hash of a token in its place."""
    hashed = {"kind": "personal_access_token", "user": "maintainer", "scopes": ["api"]}
    digest = hashlib.sha256(b"secret").hexdigest()
    fake.directory = {**company.directory(), "tokens": [{**hashed, "token_sha256": digest}]}
    assert may(fake, Account("", "secret"), HOME) == ALL


def test_what_was_asked(fake: FakeGitLab) -> None:
    """It remembers each request as it came."""
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    Wire(fake.url, DEVELOPER).get("/jwt/auth?service=a&scope=b&scope=c%20d&empty=", **forwarded)
    rest(fake, HOME_PATH, private=API)
    [first, second] = fake.requests
    assert (first.method, first.path, first.username) == ("GET", "/jwt/auth", "developer")
    assert first.query == [("service", "a"), ("scope", "b"), ("scope", "c d"), ("empty", "")]
    assert first.forwarded_for == "203.0.113.7"
    assert (second.path, second.username, second.forwarded_for) == (f"/api/v4{HOME_PATH}", None, None)
    assert (fake.count("/jwt/auth"), fake.count("/jwt")) == (1, 0)
