"""GitLab's own limits (429): who is one request too many hears it, and nobody else does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_api.conftest import directory
from tests.gitlab_jwt.test_asking import before
from tests.semantics.company import CAMEL, HOME, STRANGER, user
from tests.support.peers import eventually
from tests.support.wire import SERVICE, Wire, authorization

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.conftest import GatewayFactory
    from tests.fakes.gitlab import Asked
    from tests.support.gateway import GatewayProcess
    from tests.support.wire import Answer

NEAR, FAR = "203.0.113.7", "203.0.113.8"
PROXY = {"server": {"trusted_proxies": ["127.0.0.1"]}, "anonymous": "direct"}
TOKEN = "/jwt/auth?service=" + SERVICE + "&scope=repository:{}:pull"
TAGS = "/v2/{}/tags/list"
IMAGES = "/api/v4/projects/{}/registry/repositories"
PROJECT = "/api/v4/projects/{}"
DEVELOPER = user("developer")


class Caller(NamedTuple):
    """Where somebody is, and what they show."""

    address: str
    headers: Mapping[str, str]


NOBODY = Caller(NEAR, {})
BASIC = Caller(NEAR, authorization(DEVELOPER))
PRIVATE = Caller(NEAR, {"PRIVATE-TOKEN": DEVELOPER.password})


@pytest.fixture
def own() -> Iterator[FakeGitLab]:
    """Run a GitLab of the test's own, in which every user has a token."""
    with FakeGitLab(directory()) as fake:
        yield fake


def send(gateway: GatewayProcess, who: Caller, path: str, name: str = HOME) -> Answer:
    """Ask something about a project or its image."""
    shown = quote(name, safe="") if path.startswith("/api") else name.lower()
    return gateway.wire().send("GET", path.format(shown), None, {"X-Forwarded-For": who.address, **who.headers})


def near(asked: Asked) -> bool:
    """Throttle one address, logged in or not."""
    return asked.forwarded_for == NEAR


WAYS = [
    pytest.param("jwt", NOBODY, TOKEN, id="token, nobody"),
    pytest.param("jwt", BASIC, TOKEN, id="token, Basic"),
    pytest.param("jwt", NOBODY, TAGS, id="tags, nobody"),
    pytest.param("jwt", BASIC, TAGS, id="tags, Basic"),
    pytest.param("jwt", NOBODY, IMAGES, id="REST, nobody"),
    pytest.param("jwt", PRIVATE, IMAGES, id="REST, token"),
    pytest.param("jwt", NOBODY, PROJECT, id="passed on, nobody"),
    pytest.param("jwt", PRIVATE, PROJECT, id="passed on, token"),
    pytest.param("api", BASIC, TOKEN, id="facts: token, Basic"),
    pytest.param("api", NOBODY, IMAGES, id="facts: REST, nobody"),
    pytest.param("api", PRIVATE, IMAGES, id="facts: REST, token"),
]


@pytest.mark.parametrize(("mode", "who", "path"), WAYS)
def test_gitlab_s_429_is_one_caller_s(
    gateway_factory: GatewayFactory, own: FakeGitLab, mode: str, who: Caller, path: str
) -> None:
    """Who asks GitLab too often hears 429 and for how long, and for everybody else it goes on answering."""
    keys = {"mode": mode, "service_token": own.service_token} if mode == "api" else {}
    gateway = before_any(gateway_factory, own, **keys)
    own.throttled = near
    for number in range(8):
        answer = send(gateway, who, path, f"mx/zz{number}").expect(429)
        assert answer.header("Retry-After") == "42"
    send(gateway, Caller(FAR, authorization(STRANGER)), TOKEN, CAMEL).expect(200)
    send(gateway, Caller(FAR, BASIC.headers), TAGS, HOME).expect(404)
    send(gateway, Caller(FAR, PRIVATE.headers), IMAGES, HOME).expect(200)


def before_any(factory: GatewayFactory, fake: FakeGitLab, **keys: Any) -> GatewayProcess:
    """Put a gateway before it, in either mode."""
    if keys.get("mode") != "api":
        return before(factory, fake, PROXY, **keys)
    item = {"use": "auth_gitlab", "url": fake.url, **keys}
    gateway = factory(sources=[item, {"use": "naming"}, {"use": "visibility"}], extra=PROXY)
    fake.requests.clear()
    return gateway


def test_in_whose_words(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Registry clients read it as the specification's code; what is passed on comes back as GitLab said it."""
    gateway = before(gateway_factory, own, PROXY)
    own.throttled = near
    for path in (TOKEN, TAGS):
        assert send(gateway, BASIC, path).json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert set(send(gateway, NOBODY, IMAGES).json()) == {"message"}
    passed = send(gateway, NOBODY, PROJECT).expect(429)
    assert passed.json() == {"message": "429 Too Many Requests"}
    assert passed.header("Retry-After") == "42"


def test_one_s_429_is_not_another_s(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Who asks the same at the same time from elsewhere is not refused for whoever asked first."""
    gateway = before(gateway_factory, own, PROXY)
    own.throttled = near
    own.mode, own.delay = "slow", 0.5
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(send, gateway, NOBODY, TOKEN, CAMEL)
        eventually(lambda: len(own.requests) == 1, "the first question is under way")
        second = pool.submit(send, gateway, Caller(FAR, {}), TOKEN, CAMEL)
        assert (first.result().status, second.result().status) == (429, 200)


def test_a_throttled_gateway_is_not_ready(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Where GitLab throttles the gateway itself, readiness says so."""
    gateway = before(gateway_factory, own, PROXY)
    own.mode = "429"
    assert b"429" in Wire(gateway.admin_url).get("/readyz").expect(503).body


def test_a_throttled_service_token_is_nobody_s_fault(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """In mode api a question under the service token that GitLab throttles is 503, whoever caused it."""
    gateway = before_any(gateway_factory, own, mode="api", service_token=own.service_token)
    own.throttled = lambda asked: asked.headers.get("PRIVATE-TOKEN") == own.service_token
    for who in (NOBODY, BASIC):
        send(gateway, who, TOKEN).expect(503).header("Retry-After")
