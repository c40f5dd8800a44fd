"""The REST API before a GitLab: whom it is asked as, how often, what is passed on, and what happens when it fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from gateway.plugins import (
    Ability,
    Access,
    Action,
    ApiCall,
    CredentialKind,
    ExpirationPolicy,
    InvalidCredentialError,
    RegistryError,
)
from tests.fakes.gitlab import FakeGitLab, Mode
from tests.gitlab_api.conftest import directory
from tests.semantics.abilities import CLIENT, EXTERNAL, HIDDEN, Deciding, bearer, of_job, private
from tests.semantics.company import ADMIN_API, CAMEL, HOME, HOME_ID, bot, job, other, token, user
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., Deciding]

MAINTAINER = private(token("personal_access_token", "api").password)
DEVELOPER = private(user("developer").password)
HOME_PATH = f"projects/{quote(HOME, safe='')}"


@pytest.fixture
def own() -> Iterator[FakeGitLab]:
    """Run a GitLab of the test's own."""
    with FakeGitLab(directory()) as fake:
        yield fake


@pytest.fixture
def old() -> Iterator[FakeGitLab]:
    """Run a GitLab 14.x of the test's own."""
    with FakeGitLab(directory(), release="14.x") as fake:
        yield fake


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Put the plugin before a GitLab, with some keys."""
    running: list[Deciding] = []

    def before(fake: FakeGitLab, *, cached: bool = True, **keys: Any) -> Deciding:
        source = {"use": "auth_gitlab", "url": fake.url, **keys}
        sources = [source, {"use": "naming"}, {"use": "visibility"}]
        deciding = Deciding(tmp_path / str(len(running)), sources, cached=cached)
        running.append(deciding)
        deciding.__enter__()
        fake.requests.clear()
        return deciding

    yield before
    for deciding in running:
        deciding.__exit__(None, None, None)


def secrets(fake: FakeGitLab) -> set[str]:
    """Tell under which credentials it was asked over REST; none is nobody."""
    names = ("PRIVATE-TOKEN", "JOB-TOKEN", "Authorization")
    asked = (one for one in fake.requests if one.path != "/jwt/auth")
    return {next((one.headers[name] for name in names if name in one.headers), "") for one in asked}


def paths(fake: FakeGitLab) -> list[str]:
    """List what it was asked."""
    return [one.path.removeprefix("/api/v4/") for one in fake.requests]


def test_a_caller_s_questions_go_under_their_credential(start: Start, own: FakeGitLab) -> None:
    """Whatever is found out about a caller is asked as the caller, and GitLab hears where they are."""
    deciding = start(own)
    assert deciding.may(DEVELOPER, HOME) == "RPT"
    assert secrets(own) == {DEVELOPER.secret}
    assert {one.forwarded_for for one in own.requests} == {CLIENT.address}


@pytest.mark.parametrize(
    ("who", "header"),
    [
        (DEVELOPER, "PRIVATE-TOKEN"),
        (bearer(token("oauth_token", "api").password), "Authorization"),
        (of_job(job("developer").password), "JOB-TOKEN"),
    ],
)
def test_the_scheme_is_kept(start: Start, own: FakeGitLab, who: Any, header: str) -> None:
    """A credential goes on in the header that it came in."""
    start(own).identity(who)
    assert own.requests
    assert all(header in one.headers for one in own.requests)


def test_push_is_never_asked(start: Start, own: FakeGitLab) -> None:
    """Deciding about images asks the token endpoint for no push, at which GitLab makes records (semantics 14.3)."""
    deciding = start(own)
    for who in (DEVELOPER, MAINTAINER, private(ADMIN_API.password), of_job(job("developer").password)):
        deciding.may(who, HOME)
    scopes = [value for one in own.requests for name, value in one.query if name == "scope"]
    assert scopes
    assert not any("push" in scope for scope in scopes)
    assert own.repositories == set()


def test_a_developer_s_tag_costs_no_warning(start: Start, own: FakeGitLab) -> None:
    """Where the role that GitLab tells is enough, its token endpoint is not asked for what it would refuse."""
    deciding = start(own)
    identity = deciding.identity(DEVELOPER)
    project = deciding.project(DEVELOPER, HOME)
    access = Access("project", HOME, (Ability.DELETE_TAG,), project=project)
    answers: Any = deciding.run(deciding.plugins.decide(identity, [access]))
    assert Ability.DELETE_TAG in answers[0].allowed
    assert own.count("/jwt/auth") == 0


def test_answers_are_remembered(start: Start, own: FakeGitLab) -> None:
    """The same question of the same caller is asked once; another caller's is another one."""
    deciding = start(own)
    deciding.may(DEVELOPER, HOME)
    own.requests.clear()
    deciding.may(DEVELOPER, HOME)
    assert own.requests == []
    deciding.may(bearer(DEVELOPER.secret), HOME)
    assert paths(own)


def test_a_revoked_token(start: Start, own: FakeGitLab) -> None:
    """A token that is revoked while its login is remembered is 401 at the next question, and known to be wrong then."""
    deciding = start(own)
    identity = deciding.identity(DEVELOPER)
    changed = directory()
    next(person for person in changed["users"] if person["username"] == "developer")["state"] = "blocked"
    own.directory = changed
    with pytest.raises(RegistryError) as refused:
        deciding.run(deciding.plugins.find_project(identity, HOME))
    assert refused.value.status == 401
    with pytest.raises(InvalidCredentialError):
        deciding.identity(DEVELOPER)


FAILURES: list[Mode] = ["down", "500", "503", "garbage", "redirect"]


@pytest.mark.parametrize("mode", FAILURES)
def test_gitlab_that_fails_is_503(start: Start, own: FakeGitLab, mode: Mode) -> None:
    """What can't be found out is 503 with Retry-After, at each question, and nothing that was granted serves longer."""
    deciding = start(own, remember="0s")
    identity = deciding.identity(DEVELOPER)
    project, plugins = deciding.project(DEVELOPER, HOME), deciding.plugins
    access = Access("project", HOME, tuple(Ability), project=project)
    own.mode = mode
    questions: list[Callable[[], Any]] = [
        lambda: deciding.identity(MAINTAINER),
        lambda: deciding.run(plugins.find_project(identity, HOME)),
        lambda: deciding.run(plugins.find_group(identity, "mx")),
        lambda: deciding.run(plugins.decide(identity, [access])),
        *([] if mode == "garbage" else [lambda: deciding.run(plugins.relay(identity, ApiCall("GET", "user")))]),
    ]
    for question in questions:
        with pytest.raises(RegistryError) as refused:
            question()
        assert (refused.value.status, bool(refused.value.headers["Retry-After"])) == (503, True)


def test_guesses_are_throttled(start: Start, own: FakeGitLab) -> None:
    """Who guesses too often does not reach GitLab, whatever header the guess comes in; a known token goes on."""
    deciding = start(own, failed_logins=3)
    deciding.identity(DEVELOPER)
    for number in range(3):
        assert not deciding.knows(private(f"guess-{number}") if number % 2 else bearer(f"guess-{number}"))
    asked = len(own.requests)
    with pytest.raises(RegistryError) as refused:
        deciding.identity(private("guess-4"))
    assert refused.value.status == 429
    assert len(own.requests) == asked
    assert deciding.knows(DEVELOPER)
    assert deciding.knows(of_job(job("developer").password))


# -- who ------------------------------------------------------------------------------------------------


def test_an_identity_says_what_gitlab_says(start: Start, own: FakeGitLab) -> None:
    """Kind, owner and scopes are GitLab's; an administrator is one where GitLab tells them so."""
    deciding = start(own)
    found = deciding.identity(MAINTAINER)
    number = own.user_id("maintainer")
    assert (found.kind, found.subject, found.id) == (
        CredentialKind.PERSONAL_ACCESS_TOKEN,
        "maintainer",
        f"user:{number}",
    )
    assert (found.scopes, found.admin) == (("api",), False)
    assert deciding.identity(private(ADMIN_API.password)).admin
    assert deciding.identity(private(user("external-guest").password)).external
    registry_only = deciding.identity(private(token("personal_access_token", "read_registry").password))
    assert (registry_only.scopes, registry_only.id) == (("read_registry",), f"user:{number}")
    assert registry_only.subject
    running = deciding.identity(of_job(job("developer").password))
    assert (running.kind, running.subject) == (CredentialKind.JOB_TOKEN, "developer")
    assert Action.ALL not in running.ceiling


def test_a_profile_is_what_gitlab_told(start: Start, own: FakeGitLab) -> None:
    """User and token are described as GitLab does to their bearer; a bot is one."""
    deciding = start(own)
    profile = deciding.run(deciding.plugins.profile(deciding.identity(MAINTAINER)))
    assert profile is not None
    assert (profile.id, profile.username, profile.bot) == (own.user_id("maintainer"), "maintainer", False)
    assert (profile.token or {})["id"] == own.token_id(MAINTAINER.secret)
    bots = deciding.identity(private(bot("project_access_token", "guest").password))
    described = deciding.run(deciding.plugins.profile(bots))
    assert described is not None
    assert described.bot
    nameless = deciding.identity(private(token("personal_access_token", "read_registry").password))
    assert deciding.run(deciding.plugins.profile(nameless)) is None


# -- 14.x, which tells nobody a token's scopes --------------------------------------------------------------

IN_14 = {
    ("personal_access_token", "api"): "RPTAS",
    ("personal_access_token", "read_api"): "RP",
    ("oauth_token", "api"): "RPTAS",
    ("project_access_token", "api"): "RPTAS",
}


@pytest.mark.parametrize(("kind", "scopes"), IN_14)
def test_unknown_scopes_are_kept_to_by_gitlab(start: Start, old: FakeGitLab, kind: str, scopes: str) -> None:
    """Where GitLab does not tell a token's scopes, what it changes is what GitLab's token endpoint grants it."""
    assert start(old).may(bearer(token(kind, scopes).password), HOME) == IN_14[kind, scopes]


def test_a_developer_in_14(start: Start, old: FakeGitLab) -> None:
    """A developer's token of unknown scopes deletes no tag: it might be one that only reads."""
    assert start(old).may(DEVELOPER, HOME) == "RP"


@pytest.mark.parametrize(("scopes", "status"), [("read_user", 403), ("read_registry", 403), ("openid", 403)])
def test_too_small_a_scope_in_14(start: Start, old: FakeGitLab, scopes: str, status: int) -> None:
    """A token that is alive is somebody's, and what it has no scope for is forbidden in GitLab's words."""
    deciding = start(old)
    who = private(token("personal_access_token", scopes).password)
    assert deciding.knows(who)
    with pytest.raises(RegistryError, match="higher privileges") as refused:
        deciding.project(who, HOME)
    assert refused.value.status == status


# -- jobs -------------------------------------------------------------------------------------------------


def test_a_job_finds_its_own_project(start: Start, own: FakeGitLab) -> None:
    """A job's project is found by number and path, though the API shows jobs none; of others, what is public."""
    deciding, who = start(own), of_job(job("developer").password)
    for wanted in (HOME_ID, HOME, HOME.upper()):
        found = deciding.project(who, wanted)
        assert found is not None
        assert (found.id, found.path) == (HOME_ID, HOME)
    assert deciding.project(who, other("private-enabled")) is None
    assert deciding.project(who, CAMEL) is not None


@pytest.mark.parametrize(
    ("username", "served", "allowed"),
    [
        ("developer", True, "RPT"),
        ("maintainer", True, "RPTA"),
        ("reporter", True, "RP"),
        ("developer", False, "RPT"),
        ("maintainer", False, "RPT"),
        ("guest", False, "R"),
    ],
)
def test_a_job_s_role(start: Start, own: FakeGitLab, username: str, allowed: str, *, served: bool) -> None:
    """With a service token a job's user's role counts; without one a job deletes tags, as it may images, no more."""
    keys = {"service_token": own.service_token} if served else {}
    assert start(own, **keys).may(of_job(job(username).password), HOME) == allowed


# -- groups -------------------------------------------------------------------------------------------------


def large(names: list[str]) -> FakeGitLab:
    """Make a GitLab with a group of many projects."""
    many = directory()
    many["groups"].append({"path": "large", "visibility": "public"})
    many["projects"] += [{"path": name, "visibility": "public"} for name in names]
    return FakeGitLab(many)


@pytest.mark.parametrize("counts", [True, False], ids=["GitLab says how many", "GitLab does not"])
@pytest.mark.parametrize("size", [0, 49, 50, 51, 450])
def test_a_large_group(start: Start, size: int, *, counts: bool) -> None:
    """A group's projects are read to the last, each once and in GitLab's order."""
    names = [f"large/p{number:03}" for number in range(size)]
    with large(names) as fake:
        fake.counts = counts
        deciding = start(fake)
        identity, plugins = deciding.identity(DEVELOPER), deciding.plugins
        group = deciding.run(plugins.find_group(identity, "large"))
        assert group is not None
        assert [one.path for one in deciding.run(plugins.group_projects(identity, group))] == names


@pytest.mark.parametrize(("concurrency", "most"), [(32, 8), (3, 2), (1, 1)])
def test_pages_are_read_side_by_side(start: Start, concurrency: int, most: int) -> None:
    """Where GitLab says how many there are, pages are read at the same time, and leave room for others' questions."""
    with large([f"large/p{number:03}" for number in range(600)]) as fake:
        deciding = start(fake, concurrency=concurrency)
        fake.mode, fake.delay = "slow", 0.1
        assert len(deciding.listed(DEVELOPER, "large")) == 600
        assert fake.most_at_once == most


def test_a_page_that_fails_fails_the_list(start: Start) -> None:
    """A list of which one page can't be read is 503, and not a shorter one."""
    with large([f"large/p{number:03}" for number in range(450)]) as fake:
        deciding = start(fake)
        fake.throttled = lambda asked: ("page", "5") in asked.query
        with pytest.raises(RegistryError) as refused:
            deciding.listed(DEVELOPER, "large")
        assert refused.value.status == 429


NO_KEYS = ["", ".", "..", "../user", "mx/..", "mx//home", "/mx/home", "mx/home/"]


@pytest.mark.parametrize("wanted", NO_KEYS)
@pytest.mark.parametrize("who", [None, DEVELOPER, of_job(job("developer").password)], ids=["nobody", "user", "job"])
def test_what_can_be_no_key_is_not_asked(start: Start, own: FakeGitLab, who: Any, wanted: str) -> None:
    """A key with a part that is empty or leads elsewhere names nothing in GitLab, which is not asked."""
    deciding = start(own)
    identity = deciding.identity(who)
    own.requests.clear()
    assert deciding.run(deciding.plugins.find_project(identity, wanted)) is None
    assert deciding.run(deciding.plugins.find_group(identity, wanted)) is None
    assert own.requests == []


SHAPES: list[Any] = [
    pytest.param([], id="list"),
    pytest.param({}, id="nothing"),
    pytest.param("text", id="text"),
    pytest.param(None, id="null"),
    pytest.param(
        {"id": 1, "path_with_namespace": HOME, "full_path": "mx", "visibility": "odd"}, id="unknown visibility"
    ),
    pytest.param(
        {"id": "one", "path_with_namespace": HOME, "full_path": "mx", "visibility": "public"}, id="number that is none"
    ),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_of_another_shape(start: Start, own: FakeGitLab, shape: Any) -> None:
    """What is not GitLab's is an answer that can't be had, 503; no plugin fails of it, and others are asked."""
    deciding = start(own)
    identity, plugins = deciding.identity(DEVELOPER), deciding.plugins
    own.instead |= {f"/api/v4/{HOME_PATH}": shape, "/api/v4/groups/mx": shape}
    for _ in range(8):
        for question in (plugins.find_project(identity, HOME), plugins.find_group(identity, "mx")):
            with pytest.raises(RegistryError) as refused:
                deciding.run(question)
            assert (type(refused.value), refused.value.status) == (RegistryError, 503)
    assert deciding.project(DEVELOPER, CAMEL) is not None


# -- what is passed on ----------------------------------------------------------------------------------------


def test_a_call_is_passed_on(start: Start, own: FakeGitLab) -> None:
    """Method, path, query, body and content type arrive as they were sent, and the answer comes back whole."""
    deciding = start(own)
    body = json.dumps({"container_registry_access_level": "private"}).encode()
    call = ApiCall("PUT", f"{HOME_PATH}?statistics=false", body, "application/json; charset=utf-8")
    found = deciding.relayed(MAINTAINER, call)
    assert found.status == 200
    assert json.loads(found.body)["container_registry_access_level"] == "private"
    assert found.headers["Content-Type"].startswith("application/json")
    sent = own.requests[-1]
    assert (sent.method, sent.path, sent.query) == ("PUT", f"/api/v4/{HOME_PATH}", [("statistics", "false")])
    assert (sent.body, sent.headers["Content-Type"]) == (body, "application/json; charset=utf-8")
    assert (sent.headers["PRIVATE-TOKEN"], sent.forwarded_for) == (MAINTAINER.secret, CLIENT.address)


def test_pages_lead_back_here(start: Start, own: FakeGitLab) -> None:
    """The headers of a list come along, and its links lead to the gateway."""
    path = "groups/mx/projects?per_page=100&page=1"
    found = start(own).relayed(MAINTAINER, ApiCall("GET", "groups/mx/projects?per_page=2&page=2"))
    assert (found.headers["X-Page"], found.headers["X-Next-Page"], found.headers["X-Prev-Page"]) == ("2", "3", "1")
    assert f'<{EXTERNAL}/api/v4/groups/mx/projects?page=3&per_page=2>; rel="next"' in found.headers["Link"]
    assert own.url not in found.headers["Link"]
    whole = Wire(own.url).get(f"/api/v4/{path}", **{"PRIVATE-TOKEN": MAINTAINER.secret}).body
    assert len(whole) > 10_000
    assert start(own).relayed(MAINTAINER, ApiCall("GET", path)).body == whole


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [
        (None, "user", 401),
        (None, f"projects/{quote(CAMEL, safe='')}", 200),
        (MAINTAINER, "projects/mx%2Fnone", 404),
        (private(token("personal_access_token", "read_registry").password), "user", 403),
        (of_job(job("developer").password), "job", 200),
    ],
)
def test_gitlab_s_refusals_are_passed_back(start: Start, own: FakeGitLab, who: Any, path: str, status: int) -> None:
    """What GitLab answers, nobody included, is what the client hears."""
    assert start(own).relayed(who, ApiCall("GET", path)).status == status


@pytest.mark.parametrize(
    "path",
    ["../../oauth/token/info", "projects/../../../jwt/auth", "%2e%2e/%2E%2e/oauth", "./user", "a b", "x\\..\\y", "é"],
)
def test_no_call_leaves_the_api(start: Start, own: FakeGitLab, path: str) -> None:
    """A path that leads elsewhere is not sent."""
    deciding = start(own)
    deciding.identity(MAINTAINER)
    asked = len(own.requests)
    with pytest.raises(RegistryError) as refused:
        deciding.relayed(MAINTAINER, ApiCall("GET", path))
    assert refused.value.status == 404
    assert len(own.requests) == asked


PAGES = [
    *(pytest.param(mode, False, id=f"{mode}, what is found out") for mode in ("500", "503", "garbage", "redirect")),
    *(pytest.param(mode, True, id=f"{mode}, what is passed on") for mode in ("500", "503", "redirect")),
]


@pytest.mark.parametrize(("mode", "passed"), PAGES)
def test_a_failing_page_stops_nobody(start: Start, own: FakeGitLab, mode: Mode, *, passed: bool) -> None:
    """However often a page fails that a client chose, GitLab is asked for others."""
    deciding = start(own)
    identity, plugins = deciding.identity(MAINTAINER), deciding.plugins
    own.mode = mode
    for number in range(8):
        call = ApiCall("GET", f"projects/mx%2Fzz{number}")
        question: Any = plugins.relay(identity, call) if passed else plugins.find_project(identity, f"mx/zz{number}")
        with pytest.raises(RegistryError):
            deciding.run(question)
    own.mode = "ok"
    assert deciding.relayed(MAINTAINER, ApiCall("GET", "user")).status == 200
    assert deciding.knows(DEVELOPER)


def test_the_service_token_is_not_for_callers(start: Start, own: FakeGitLab) -> None:
    """With a service token configured, no caller's question and no call is put under it."""
    deciding = start(own, service_token=own.service_token)
    own.requests.clear()
    deciding.may(DEVELOPER, HOME)
    deciding.may_with_group(None, "mx")
    deciding.relayed(None, ApiCall("GET", "version"))
    assert own.service_token not in secrets(own)


# -- policies -------------------------------------------------------------------------------------------------


def test_the_expiration_policy(start: Start, own: FakeGitLab) -> None:
    """GitLab's policy is read with the service token, and as nothing without one."""
    change = {"container_expiration_policy_attributes": {"enabled": True, "cadence": "7d", "keep_n": 5}}
    call = ApiCall("PUT", HOME_PATH, json.dumps(change).encode(), "application/json")
    deciding = start(own, service_token=own.service_token)
    deciding.relayed(MAINTAINER, call)
    project = deciding.project(MAINTAINER, HOME)
    assert project is not None
    found = deciding.run(deciding.plugins.expiration_policy(project))
    assert found is not None
    assert found.next_run_at is not None
    assert found == ExpirationPolicy(
        enabled=True, cadence="7d", keep_n=5, older_than="90d", name_regex=".*", next_run_at=found.next_run_at
    )
    without = start(own)
    assert without.run(without.plugins.expiration_policy(project)) is None


def test_hidden_is_hidden(start: Start, own: FakeGitLab) -> None:
    """A project that GitLab does not show the caller is not there, whatever the service token could read."""
    deciding = start(own, service_token=own.service_token)
    assert deciding.may(private(user("stranger").password), HOME) == HIDDEN
    assert deciding.may(None, HOME_ID) == HIDDEN
