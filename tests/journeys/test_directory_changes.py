"""An edit of the directory, seen from outside: it counts at the next decision, and a broken one changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support import people
from tests.support.people import ALICE_API, BOB, CAROL, JOB, MALLORY, PRIVATE, PUBLIC
from tests.support.wire import Account, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess

SCOPE = f"repository:{PRIVATE}:pull"
START = f"/v2/{PRIVATE}/blobs/uploads/"


def edit(gateway: GatewayProcess, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the directory as editors do, in one step."""
    directory = people.directory()
    change(directory)
    write(gateway, yaml.safe_dump(directory))


def write(gateway: GatewayProcess, text: str) -> None:
    """Put another file in the directory's place."""
    fresh = gateway.directory.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(gateway.directory)


def revoke(who: Account) -> Callable[[dict[str, Any]], object]:
    """Revoke somebody's token."""
    return lambda directory: [
        token.update(revoked=True) for token in directory["tokens"] if token["token"] == who.password
    ]


def block(who: Account) -> Callable[[dict[str, Any]], object]:
    """Block somebody's account."""
    return lambda directory: [
        user.update(state="blocked") for user in directory["users"] if user["username"] == who.username
    ]


def job_is_over(directory: dict[str, Any]) -> None:
    """End the job."""
    next(token for token in directory["tokens"] if token["token"] == JOB.password)["status"] = "success"


@pytest.mark.parametrize(
    ("who", "change"),
    [
        pytest.param(ALICE_API, revoke(ALICE_API), id="token revoked"),
        pytest.param(BOB, block(BOB), id="user blocked"),
        pytest.param(JOB, block(BOB), id="the job's user blocked"),
        pytest.param(JOB, job_is_over, id="job over"),
    ],
)
def test_a_credential_ends_at_once(
    gateway_factory: GatewayFactory, who: Account, change: Callable[[dict[str, Any]], object]
) -> None:
    """The next login fails; a token that was issued before lives out its minutes."""
    gateway = gateway_factory()
    token = gateway.wire(who).token(SCOPE)
    edit(gateway, change)
    gateway.wire(who).get("/v2/").expect(401)
    gateway.wire(who).get("/jwt/auth?service=container_registry").expect(401)
    gateway.wire(token).get(f"/v2/{PRIVATE}/tags/list").expect(404)


def test_a_role_counts_at_once(gateway_factory: GatewayFactory) -> None:
    """A role given or taken away counts in the next decision, and so does a project's visibility."""
    gateway = gateway_factory()
    gateway.wire(BOB).send("POST", START).expect(403)
    edit(gateway, lambda directory: directory["groups"][0]["members"].update(bob="developer", carol="guest"))
    gateway.wire(BOB).send("POST", START).expect(202)
    gateway.wire(CAROL).send("POST", START).expect(403)
    edit(gateway, lambda directory: directory["projects"][1].update(visibility="private"))
    gateway.wire(MALLORY).get(f"/v2/{PUBLIC}/tags/list").expect(403)


def test_a_broken_edit_changes_nothing(gateway_factory: GatewayFactory) -> None:
    """The old content stays in use, the log and readiness say what to mend, and mending it is enough."""
    gateway = gateway_factory()
    write(gateway, "users: [{username: bob, pasword: hunter2}]")
    gateway.wire(CAROL).send("POST", START).expect(202)
    answer = Wire(gateway.admin_url).get("/readyz").expect(503)
    said = f"{gateway.directory}: users.0.pasword: unknown key"
    assert said in answer.body.decode()
    assert said in gateway.log
    assert "hunter2" not in gateway.log + answer.body.decode()
    edit(gateway, lambda directory: directory)
    Wire(gateway.admin_url).get("/readyz").expect(200)
