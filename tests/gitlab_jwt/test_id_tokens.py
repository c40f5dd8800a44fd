"""CI ID tokens as passwords: what the operator's rules on their claims open, and what opens nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.plugins import Action
from plugins.auth_gitlab import rules
from plugins.auth_gitlab.config import IdTokenRule
from tests.fakes.gitlab import FakeGitLab
from tests.semantics import company
from tests.semantics.asking import FORBIDDEN, ask, entries, scope
from tests.support import images
from tests.support.gateway import GatewayProcess
from tests.support.peers import eventually
from tests.support.wire import Account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import GatewayFactory

AUDIENCE = "https://registry.example.com"
IMAGE = "acme/app/built"
RULES = [
    {
        "claims": {"project_path": "acme/*", "ref_protected": "true"},
        "repositories": ["acme/app/**"],
        "actions": ["pull", "push"],
    },
    {"claims": {"project_path": "**"}, "repositories": ["base/*"]},
    {"claims": {"environment": "production"}, "repositories": ["acme/app/**"], "actions": ["delete"]},
]
JOB = {"sub": "project_path:acme/app:ref_type:branch:ref:main", "project_path": "acme/app", "ref_protected": "true"}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeGitLab]:
    """Run a GitLab that publishes its OIDC keys."""
    with FakeGitLab(company.directory()) as running:
        yield running


@pytest.fixture(scope="module")
def served(fake: FakeGitLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Run a gateway with the rules."""
    item: dict[str, object] = {
        "use": "auth_gitlab",
        "url": fake.url,
        "id_tokens": {"audience": AUDIENCE, "rules": RULES},
    }
    sources: list[dict[str, object]] = [item, {"use": "naming"}, {"use": "visibility"}]
    gateway = GatewayProcess(tmp_path_factory.mktemp("id-tokens"), sources=sources)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.end()


def job(fake: FakeGitLab, username: str = "gitlab-ci-token", **claims: Any) -> Account:
    """Be a job that presents its ID token."""
    said = {"aud": AUDIENCE, "user_login": "developer", **JOB, **claims}
    return Account(username, fake.mint_id_token({name: value for name, value in said.items() if value is not None}))


GRANTS = [
    pytest.param({}, IMAGE, ["pull", "push"], id="protected branch, its project"),
    pytest.param({}, f"{IMAGE}/deep/er", ["pull", "push"], id="below"),
    pytest.param({}, "acme/other/x", None, id="another repository"),
    pytest.param({}, "base/python", ["pull"], id="a rule for every project"),
    pytest.param({}, "base/python/slim", None, id="one star is one component"),
    pytest.param({"ref_protected": "false"}, IMAGE, None, id="unprotected branch"),
    pytest.param({"ref_protected": None}, IMAGE, None, id="a claim that is missing"),
    pytest.param({"ref_protected": True}, IMAGE, ["pull", "push"], id="truth as JSON has it"),
    pytest.param({"project_path": "acme/sub/app"}, IMAGE, None, id="project of a subgroup"),
    pytest.param({"project_path": "xacme/app"}, IMAGE, None, id="the whole claim must fit"),
    pytest.param({"environment": "production"}, IMAGE, ["pull", "push", "delete"], id="rules add up"),
]


@pytest.mark.parametrize(("claims", "name", "expected"), GRANTS)
def test_rules_open(
    served: GatewayProcess, fake: FakeGitLab, claims: dict[str, Any], name: str, expected: list[str] | None
) -> None:
    """An ID token is granted what the rules that it fits allow, and nothing else."""
    answer = ask(served, job(fake, **claims), scope(name, "pull,push,delete,*"))
    found = [(entry["name"], entry["actions"]) for entry in entries(answer.expect(200))]
    assert found == ([(name, expected)] if expected else [])


def test_a_token_that_fits_no_rule_is_forbidden(served: GatewayProcess, fake: FakeGitLab) -> None:
    """A genuine token that no rule is for is 403, as a token without a registry scope."""
    assert ask(served, job(fake, project_path=None)).expect(403).json() == FORBIDDEN


@pytest.mark.parametrize("username", ["gitlab-ci-token", "whoever", ""])
def test_a_job_pushes_with_its_id_token(served: GatewayProcess, fake: FakeGitLab, username: str) -> None:
    """A job pushes and pulls with the ID token as its password, under any user name."""
    who = job(fake, username)
    wire = served.wire(served.wire(who).token(scope(IMAGE, "pull,push")))
    wire.push_image(IMAGE, "1", images.image(username.encode()))
    assert served.wire(who).get(f"/v2/{IMAGE}/tags/list").expect(200).json()["tags"] == ["1"]
    assert not [one for one in fake.requests if one.path == "/jwt/auth" and one.username == username]


def _signed(fake: FakeGitLab, key: Any = None, *, algorithm: str = "RS256", **claims: Any) -> str:
    genuine = job(fake).password
    header = jwt.get_unverified_header(genuine)
    body = {**jwt.decode(genuine, options={"verify_signature": False}), **claims}
    return jwt.encode(body, key or rsa.generate_private_key(65537, 2048), algorithm, headers={"kid": header["kid"]})


FORGED: dict[str, Callable[[FakeGitLab], str]] = {
    "other audience": lambda fake: job(fake, aud="https://vault.example.com").password,
    "expired": lambda fake: job(fake, exp=int(time.time()) - 60).password,
    "other key": _signed,
    "HS256": lambda fake: _signed(fake, "secret" * 8, algorithm="HS256"),
    "unknown key id": lambda fake: jwt.encode(
        {"iss": fake.url, "aud": AUDIENCE, **JOB}, rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": "x"}
    ),
    "no key id": lambda fake: jwt.encode(
        {"iss": fake.url, "aud": AUDIENCE, **JOB}, rsa.generate_private_key(65537, 2048), "RS256"
    ),
    "registry token of GitLab": lambda fake: fake.sign({"iss": fake.url, "aud": AUDIENCE, **JOB}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_what_is_no_id_token_opens_nothing(
    served: GatewayProcess, fake: FakeGitLab, forge: Callable[[FakeGitLab], str]
) -> None:
    """A token for another audience, of another key or time is a wrong password."""
    ask(served, Account("gitlab-ci-token", forge(fake)), scope(IMAGE, "pull")).expect(401)


def test_keys_that_cannot_be_read_are_no_wrong_password(gateway_factory: GatewayFactory) -> None:
    """While GitLab's keys can't be had a genuine token is 503, the second time as the first; then it is good."""
    with FakeGitLab(company.directory()) as own:
        item: dict[str, object] = {"use": "auth_gitlab", "url": own.url}
        known = {"id_tokens": {"audience": AUDIENCE, "rules": RULES}}
        gateway = gateway_factory(sources=[item | known, {"use": "naming"}, {"use": "visibility"}])
        own.mode = "500"
        for _ in range(3):
            ask(gateway, job(own), scope(IMAGE, "pull")).expect(503)
        own.mode = "ok"
        eventually(lambda: ask(gateway, job(own), scope(IMAGE, "pull")).status == 200, "the keys are read", within=30)


DEEP = "eyJ" + "W" * 4000 + ".W.W"


@pytest.mark.parametrize("password", [DEEP, "eyJ..", "eyJhbGciOiJub25lIn0.W1tbW1tb.x", "eyJ.eyJ.eyJ"])
def test_what_only_looks_like_a_token_is_a_wrong_password(
    served: GatewayProcess, fake: FakeGitLab, password: str
) -> None:
    """Text in the shape of a token that can't be read is put to GitLab, as any password."""
    before = fake.count("/jwt/auth")
    ask(served, Account("developer", password)).expect(401)
    assert fake.count("/jwt/auth") == before + 1


def test_another_issuers_token_is_a_password_like_any_other(served: GatewayProcess, fake: FakeGitLab) -> None:
    """A JSON Web Token that GitLab did not make is put to GitLab as what it is: an unknown password."""
    before = fake.count("/jwt/auth")
    ask(served, job(fake, "developer", iss="https://elsewhere.example.com")).expect(401)
    assert fake.count("/jwt/auth") == before + 1


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("acme/*", "acme/app", True),
        ("acme/*", "acme/app/x", False),
        ("acme/**", "acme/app/x", True),
        ("**", "", True),
        ("a.c", "abc", False),
        ("a*c", "a/c", False),
        ("release-*", "release-1\n", True),
        ("main", "main\n", False),
    ],
)
def test_patterns(pattern: str, value: str, *, expected: bool) -> None:
    """One star stays within a component, two do not, and everything else is itself."""
    assert rules.fits(pattern, value) is expected


def test_rules_of_a_token_that_fits_none() -> None:
    """Without a rule there is nothing."""
    rule = IdTokenRule(claims={"ref": "main"}, repositories=("**",))
    assert rules.matching([rule], {}) == ()
    assert rules.allowed((), "acme/app") == frozenset()
    assert rules.allowed((rule,), "acme/app") == frozenset({Action.PULL})
