"""`GET /explain/REQUEST_ID`: why a past request was refused, for those who may know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.journeys.test_explain import explain
from tests.support import redis as peers
from tests.support.peers import eventually
from tests.support.people import ALICE_READ, BOB, CAROL, DAVE, HIDDEN, MALLORY, PRIVATE, PROJECT_DEVELOPER, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess
    from tests.support.wire import Account, Answer

UPLOADS = f"/v2/{PRIVATE}/blobs/uploads/"


def refused(gateway: GatewayProcess) -> str:
    """Let a reporter try to push, and give the request's id."""
    return gateway.wire(BOB).send("POST", UPLOADS).expect(403).header("X-Request-Id")


def past(gateway: GatewayProcess, who: Account | None, request_id: str) -> Answer:
    """Ask why."""
    return gateway.wire(who).get(f"/explain/{request_id}")


@pytest.mark.parametrize("who", [pytest.param(ROOT, id="administrator"), pytest.param(DAVE, id="maintainer")])
def test_the_chain_is_the_one_that_explain_shows(gateway: GatewayProcess, who: Account) -> None:
    """An administrator and a maintainer of the project read the steps that the command shows for the same wish."""
    record = past(gateway, who, refused(gateway)).expect(200).json()
    chain = explain(gateway, BOB, "push", PRIVATE)
    assert record["accesses"][0]["steps"] == chain["steps"][:-1]
    assert record["accesses"][0]["next"] == chain["next"]
    assert (record["subject"], record["status"], record["method"], record["route"]) == ("bob", 403, "POST", "uploads")


@pytest.mark.parametrize("who", [BOB, CAROL, MALLORY, ALICE_READ, PROJECT_DEVELOPER])
def test_nobody_else_reads_it(gateway: GatewayProcess, who: Account) -> None:
    """To everybody else, whoever was refused too, it is as a request that never was."""
    answer, never = past(gateway, who, refused(gateway)).expect(404), past(gateway, who, "0" * 20).expect(404)
    assert answer.body == never.body


def test_without_a_credential_it_is_challenged(gateway: GatewayProcess) -> None:
    """Nobody is asked who they are."""
    assert past(gateway, None, refused(gateway)).expect(401).header("WWW-Authenticate").startswith("Bearer ")


def test_what_a_stranger_may_not_hear_is_kept_for_administrators(gateway: GatewayProcess) -> None:
    """The record of a hidden project's refusal says what the stranger was not told."""
    answer = gateway.wire(MALLORY).get(f"/v2/{HIDDEN}/tags/list").expect(403)
    record = past(gateway, ROOT, answer.header("X-Request-Id")).expect(200).json()
    assert "mallory is not a member" in str(record["accesses"][0]["steps"])
    past(gateway, MALLORY, answer.header("X-Request-Id")).expect(404)


def test_a_token_request_keeps_each_refused_scope(gateway: GatewayProcess) -> None:
    """A partial grant is a refusal too: the scopes that were cut are there, and no other."""
    query = f"service=container_registry&scope=repository:{PRIVATE}:pull,push&scope=repository:acme/open:pull"
    answer = gateway.wire(BOB).get(f"/jwt/auth?{query}").expect(200)
    accesses = past(gateway, ROOT, answer.header("X-Request-Id")).expect(200).json()["accesses"]
    assert [(one["name"], one["asked"], one["allowed"]) for one in accesses] == [(PRIVATE, ["pull", "push"], ["pull"])]


def test_a_refusal_under_a_token_says_what_the_token_remembers(gateway: GatewayProcess) -> None:
    """Under a token nobody is asked again: the record has the reason that the token carries."""
    token = gateway.wire(BOB).token(f"repository:{PRIVATE}:pull,push")
    answer = gateway.wire(token).send("POST", UPLOADS).expect(403)
    (access,) = past(gateway, DAVE, answer.header("X-Request-Id")).expect(200).json()["accesses"]
    assert access["steps"][0]["step"] == "role"
    assert "developer" in access["next"]


def test_what_was_granted_leaves_no_record(gateway: GatewayProcess) -> None:
    """Only refusals are kept."""
    answer = gateway.wire(CAROL).send("POST", UPLOADS).expect(202)
    past(gateway, ROOT, answer.header("X-Request-Id")).expect(404)


def test_any_replica_can_be_asked(gateway_factory: GatewayFactory, tmp_path: Path) -> None:
    """With Redis, the record of one replica is read at another, and Redis holds no word of it."""
    with peers.redis(tmp_path / "redis") as server:
        cache: dict[str, Any] = {"cache": {"url": server.url, "timeout": "1s"}}
        one = gateway_factory(extra=cache)
        key = {"signing_key_file": str(one.data / "signing-key.pem")}
        other = gateway_factory(extra={**cache, "tokens": key})
        request_id = refused(one)
        eventually(lambda: past(other, DAVE, request_id).status == 200, "the other replica knows it")
        stored = b"".join(key + value for key, value in server.dump().items())
        assert b"bob" not in stored
        assert PRIVATE.encode() not in stored
