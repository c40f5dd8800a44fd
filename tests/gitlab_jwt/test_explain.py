"""The chain shows what GitLab's token endpoint was asked, what it answered, and where that was found."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from tests.gitlab_jwt.test_asking import before, own
from tests.journeys.test_explain import explain
from tests.journeys.test_explain_past import past
from tests.semantics.asking import FORBIDDEN, ask, claims, scope
from tests.semantics.company import ADMIN, HOME, REPORTER, STRANGER, token
from tests.support.peers import eventually
from tests.support.wire import Account

if TYPE_CHECKING:
    from tests.conftest import GatewayFactory
    from tests.fakes.gitlab import FakeGitLab, Mode
    from tests.support.gateway import GatewayProcess

__all__ = ["own"]

TAGS = f"/v2/{HOME}/tags/list"
MISSING = "mx/missing"
NOTHING = (
    b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied: '
    b"the repository does not exist, or you may not see it; check the name, that its project exists and has the "
    b'container registry enabled, and that your credential may read it","detail":{"reason":"hidden","actions":[],'
    b'"next":"check the name, that its project exists and has the container registry enabled, and that your credential '
    b'may read it"}}]}'
)
"""The whole body that a stranger gets, whatever is behind the name."""


def heard(chain: dict[str, Any]) -> list[str]:
    """Read what GitLab was asked, of an explanation or a record's access."""
    return [step["finding"] for step in chain["steps"] if step["step"] == "auth_gitlab"]


def record(gateway: GatewayProcess, request_id: str) -> dict[str, Any]:
    """Read the one access of a refusal's record, as an administrator."""
    (access,) = past(gateway, ADMIN, request_id).expect(200).json()["accesses"]
    assert isinstance(access, dict)
    return access


def refused(gateway: GatewayProcess) -> str:
    """Let a stranger pull, and give the request's id."""
    return gateway.wire(STRANGER).get(TAGS).expect(403).header("X-Request-Id")


ASKED = [
    pytest.param(
        REPORTER,
        "push",
        ["GET /jwt/auth → 200", f"GET /jwt/auth scope=repository:{HOME}:pull,push → 200, access: pull"],
        id="partial grant",
    ),
    pytest.param(
        STRANGER,
        "pull",
        ["GET /jwt/auth → 200", f"GET /jwt/auth scope=repository:{HOME}:pull → 200, access: nothing"],
        id="no grant",
    ),
    pytest.param(
        None, "pull", [f"GET /jwt/auth scope=repository:{HOME}:pull → 403 access forbidden"], id="nobody, private"
    ),
    pytest.param(
        token("personal_access_token", "read_user"),
        "pull",
        [
            "GET /jwt/auth → 403 access forbidden",
            f"GET /jwt/auth scope=repository:{HOME}:pull → 403 access forbidden",
        ],
        id="no registry scope",
    ),
    pytest.param(Account("reporter", "hunter2-hunter2"), "pull", ["GET /jwt/auth → 401"], id="wrong password"),
]


@pytest.mark.parametrize(("who", "wish", "expected"), ASKED)
def test_what_gitlab_was_asked_and_said(
    gateway_factory: GatewayFactory, own: FakeGitLab, who: Account | None, wish: str, expected: list[str]
) -> None:
    """Each question stands there with its answer, and no secret does."""
    said = explain(before(gateway_factory, own), who, wish, HOME)
    assert heard(said) == [f"{one} (asked just now)" for one in expected]
    assert not said["granted"]
    assert who is None or who.password not in json.dumps(said)


def test_where_it_was_found(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """The record of a refusal says of each answer whether it was heard, remembered, or stale while GitLab is down."""
    gateway = before(gateway_factory, own, remember="1s")

    def found(source: str, mode: Mode) -> bool:
        own.mode = mode
        request_id = refused(gateway)
        own.mode = "ok"
        if past(gateway, ADMIN, request_id).status == HTTPStatus.SERVICE_UNAVAILABLE:
            # GitLab is left alone for a while after some failures in a row, also by who asks for the record.
            return False
        said = heard(record(gateway, request_id))
        return len(said) == 2 and all(one.endswith(f"({source})") for one in said)

    assert found("asked just now", "ok")
    eventually(lambda: found("in memory", "ok"), "both answers are remembered")
    eventually(lambda: found("stale", "down"), "both answers outlived GitLab")


def strangers_hear_nothing(gateway: GatewayProcess) -> None:
    """Hold a gateway to one answer for hidden and missing projects, byte for byte, without a word of GitLab's."""
    for name in (HOME, MISSING):
        path = f"/v2/{name}/tags/list"
        assert gateway.wire(STRANGER).get(path).expect(403).body == NOTHING
        challenge = gateway.wire().get(path).expect(401)
        assert challenge.body == b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
        assert ask(gateway, None, scope(name)).expect(403).json() == FORBIDDEN
        answer = ask(gateway, STRANGER, scope(name)).expect(200)
        assert claims(gateway, answer)["access"] == []
        assert b"GET /" not in answer.body
        bearer = gateway.wire(answer.json()["token"]).get(path).expect(403)
        assert bearer.body == NOTHING


def test_a_stranger_hears_nothing_of_it(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """What GitLab was asked is for operators: to a stranger hidden and missing are one answer, byte for byte."""
    strangers_hear_nothing(before(gateway_factory, own))


def test_who_may_pull_hears_the_reason_alone(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A refused push tells who may pull why, and not what GitLab was asked."""
    answer = before(gateway_factory, own).wire(REPORTER).send("POST", f"/v2/{HOME}/blobs/uploads/").expect(403)
    assert answer.json()["errors"][0]["detail"]["reason"] == "gitlab"
    assert b"GET /jwt/auth" not in answer.body
