"""Callers without a credential before a GitLab: it hears where they are, and they have so much of it and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gitlab_jwt.test_throttled import (
    BASIC,
    FAR,
    IMAGES,
    NEAR,
    NOBODY,
    PRIVATE,
    PROJECT,
    TAGS,
    TOKEN,
    Caller,
    before_any,
    own,
    send,
)
from tests.semantics.company import CAMEL, HOME, job, user
from tests.support import images
from tests.support.peers import eventually
from tests.support.wire import authorization

if TYPE_CHECKING:
    from tests.conftest import GatewayFactory
    from tests.fakes.gitlab import FakeGitLab

__all__ = ["own"]

JOB = Caller(NEAR, {"JOB-TOKEN": job("developer").password})
CATALOG = "/v2/_catalog"


def heard(fake: FakeGitLab) -> set[str | None]:
    """Tell from where GitLab was asked."""
    assert fake.requests
    return {one.forwarded_for for one in fake.requests}


@pytest.mark.parametrize(
    ("who", "path"),
    [
        pytest.param(NOBODY, TOKEN, id="token"),
        pytest.param(NOBODY, TAGS, id="tags"),
        pytest.param(NOBODY, IMAGES, id="REST"),
        pytest.param(NOBODY, PROJECT, id="passed on"),
        pytest.param(JOB, PROJECT, id="passed on, of a job, which is nobody there"),
        pytest.param(JOB, IMAGES, id="what a job is shown of another project"),
    ],
)
def test_gitlab_hears_where_nobody_is(gateway_factory: GatewayFactory, own: FakeGitLab, who: Caller, path: str) -> None:
    """GitLab, which bans and throttles by address, hears that of a caller without a credential."""
    gateway = before_any(gateway_factory, own)
    send(gateway, who, path, CAMEL)
    assert heard(own) == {NEAR}


def test_gitlab_hears_who_lists_the_catalog(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Under no credential, and under a token, whose credential is gone, it is asked from where they are."""
    gateway = before_any(gateway_factory, own, remember="1s", remember_refusals="1s")
    gateway.wire(user("owner")).push_image(CAMEL.lower(), "1", images.image(b"listed"))
    tokens = [send(gateway, who, TOKEN, CAMEL).expect(200).json()["token"] for who in (NOBODY, BASIC)]
    for headers in ({}, *(authorization(token) for token in tokens)):

        def asked(headers: Any = headers) -> bool:
            own.requests.clear()
            assert send(gateway, Caller(NEAR, headers), CATALOG).expect(200).json()["repositories"] == [CAMEL.lower()]
            return bool(own.requests)

        eventually(asked, "what is remembered is over")
        assert heard(own) == {NEAR}


def test_in_mode_api_a_login_comes_from_where_it_is(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Credentials that are tried at the REST API are tried from the caller's address, the service token from none."""
    gateway = before_any(gateway_factory, own, mode="api", service_token=own.service_token)
    send(gateway, BASIC, TOKEN).expect(200)
    places = {one.headers.get("PRIVATE-TOKEN") == own.service_token: one.forwarded_for for one in own.requests}
    assert places == {True: None, False: NEAR}


def test_strangers_share_what_is_remembered(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Where a stranger is makes no difference to the answer: it is asked for once."""
    gateway = before_any(gateway_factory, own)
    for address in (NEAR, FAR):
        send(gateway, Caller(address, {}), TOKEN, CAMEL).expect(200)
        send(gateway, Caller(address, {}), IMAGES, CAMEL).expect(200)
    assert heard(own) == {NEAR}


WAYS = [
    pytest.param(mode, path, id=f"{mode}, {word}")
    for mode in ("jwt", "api")
    for path, word in ((TOKEN, "token"), (TAGS, "tags"), (IMAGES, "REST"), (PROJECT, "passed on"))
]


@pytest.mark.parametrize(("mode", "path"), WAYS)
def test_strangers_have_a_limit(gateway_factory: GatewayFactory, own: FakeGitLab, mode: str, path: str) -> None:
    """What strangers at one address have GitLab asked in a while has an end: 429, before it reaches GitLab."""
    keys = {"mode": mode, "service_token": own.service_token} if mode == "api" else {}
    gateway = before_any(gateway_factory, own, anonymous_questions=3, **keys)
    answers = [send(gateway, NOBODY, path, f"mx/zz{number}") for number in range(6)]
    assert [answer.status == 429 for answer in answers] == [False] * 3 + [True] * 3
    assert len(own.requests) == 3
    assert 1 <= int(answers[-1].header("Retry-After")) <= 60
    if not path.startswith("/api"):
        assert answers[-1].json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert send(gateway, Caller(FAR, {}), path, "mx/zz").status != 429
    for who in (BASIC, PRIVATE, JOB):
        for ways in (TOKEN, TAGS) if who is BASIC else (IMAGES, PROJECT):
            assert send(gateway, who, ways, HOME).status != 429


def test_one_request_has_the_same_limit(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A stranger who asks for many names at once has no more of GitLab asked for than one who asks one by one."""
    gateway = before_any(gateway_factory, own, mode="api", service_token=own.service_token, anonymous_questions=5)
    many = "&".join(f"scope=repository:mx/zz{number}/a/b:pull" for number in range(50))
    send(gateway, NOBODY, f"{TOKEN}&{many}", CAMEL).expect(429)
    assert len(own.requests) == 5


def test_what_is_remembered_costs_nothing(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A stranger may ask as often as they like for what GitLab has answered a moment ago."""
    gateway = before_any(gateway_factory, own, anonymous_questions=1)
    for _ in range(5):
        send(gateway, NOBODY, TOKEN, CAMEL).expect(200)
    send(gateway, NOBODY, TOKEN, "mx/zz").expect(429)


def test_who_is_logged_in_is_not_counted(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Callers with a credential neither have this limit nor use it up, a job that is taken for nobody included."""
    gateway = before_any(gateway_factory, own, anonymous_questions=1)
    for number in range(4):
        assert send(gateway, BASIC, TOKEN, f"mx/zz{number}").status == 200
        assert send(gateway, PRIVATE, IMAGES, f"mx/zz{number}").status == 404
        assert send(gateway, JOB, PROJECT, f"mx/zz{number}").status == 404
        assert send(gateway, JOB, IMAGES, f"mx/zz{number}").status == 403
    send(gateway, NOBODY, TOKEN, CAMEL).expect(200)


def test_the_limit_is_over_after_a_while(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """After `anonymous_questions_within` since the first of them a stranger may ask again, who never stopped asking."""
    gateway = before_any(gateway_factory, own, anonymous_questions=1, anonymous_questions_within="1s")
    numbers = iter(range(10_000))
    assert send(gateway, NOBODY, TOKEN, f"mx/zz{next(numbers)}").status == 403
    assert send(gateway, NOBODY, TOKEN, f"mx/zz{next(numbers)}").header("Retry-After") == "1"
    eventually(lambda: send(gateway, NOBODY, TOKEN, f"mx/zz{next(numbers)}").status == 403, "they may ask again")
