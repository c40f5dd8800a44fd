"""`registry-gateway explain`: the chain of steps, and that a denial, its detail and the log are cut from the same."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import GatewayProcess, command
from tests.support.peers import eventually
from tests.support.people import (
    ALICE_EXPIRED,
    ALICE_READ,
    BOB,
    CAROL,
    DAVE,
    DEPLOY_READ,
    HIDDEN,
    JOB,
    MALLORY,
    PRIVATE,
    PUBLIC,
    ROOT,
)
from tests.support.wire import Account

if TYPE_CHECKING:
    from pathlib import Path


def run(gateway: GatewayProcess, *arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does."""
    return command("explain", "--config", gateway.config, *arguments, said=said)


def explain(gateway: GatewayProcess, who: Account | None, wish: str, image: str) -> dict[str, Any]:
    """Explain for somebody, for programs."""
    caller = ["--user", who.username, "--password-stdin"] if who else ["--anonymous"]
    ended = run(gateway, wish, image, *caller, "--json", said=f"{who.password}\n" if who else "")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert isinstance(found, dict)
    return found


CHAINS = [
    pytest.param(CAROL, "push", PRIVATE, None, "", id="developer pushes"),
    pytest.param(None, "pull", PUBLIC, None, "", id="nobody pulls what is public"),
    pytest.param(BOB, "push", PRIVATE, "role", "developer role", id="reporter pushes"),
    pytest.param(CAROL, "delete", PRIVATE, "role", "maintainer role", id="developer deletes"),
    pytest.param(DAVE, "delete", f"{PRIVATE}:1", None, "", id="maintainer deletes"),
    pytest.param(None, "push", PUBLIC, "login", "log in", id="nobody pushes"),
    pytest.param(ALICE_READ, "push", PRIVATE, "scopes", "write_registry or api", id="scopes too small"),
    pytest.param(DEPLOY_READ, "pull", PUBLIC, None, "", id="deploy token of another project, public"),
    pytest.param(JOB, "push", PUBLIC, "job_token", "CI_REGISTRY_IMAGE", id="job pushes to another project"),
    pytest.param(MALLORY, "pull", HIDDEN, "role", "reporter role", id="stranger, private"),
    pytest.param(ROOT, "pull", "acme/nothing/there", "project", "create the project", id="no project"),
    pytest.param(ROOT, "pull", f"{PRIVATE}/a/b/c", "project", "at most 2 names below", id="too far below"),
    pytest.param(ROOT, "pull", "acme", "naming", "GROUP/PROJECT", id="too few components"),
    pytest.param(ALICE_EXPIRED, "pull", PUBLIC, "credential", "check username", id="expired"),
    pytest.param(Account("bob", JOB.password), "pull", PUBLIC, "credential", "check username", id="wrong username"),
]


@pytest.mark.parametrize(("who", "wish", "image", "step", "remedy"), CHAINS)
def test_chain(
    gateway: GatewayProcess, *, who: Account | None, wish: str, image: str, step: str | None, remedy: str
) -> None:
    """The chain names the step that refuses, and what would change the answer; its last step is the result."""
    found = explain(gateway, who, wish, image)
    failed = [one["step"] for one in found["steps"] if not one["passed"]]
    assert failed[:1] == ([step] if step else [])
    assert found["granted"] is (step is None)
    assert found["steps"][-1]["step"] == "result"
    assert remedy in found["next"]


def test_every_part_is_in_the_chain(gateway: GatewayProcess) -> None:
    """A chain that runs to its end shows credential, scopes, naming, project, role, visibility and result."""
    found = explain(gateway, ALICE_READ, "pull", f"{PRIVATE}/x")
    assert [step["step"] for step in found["steps"]] == [
        "credential",
        "scopes",
        "naming",
        "project",
        "role",
        "visibility",
        "result",
    ]
    said = [step["finding"] for step in found["steps"]]
    assert "personal access token of alice" in said[0]
    assert "read_registry" in said[1]


@pytest.mark.parametrize(
    "image",
    [f"127.0.0.1:5000/{PRIVATE}:1", f"localhost/{PRIVATE}", f"registry.example.com/{PRIVATE}@sha256:{'0' * 64}"],
)
def test_image_as_clients_write_it(gateway: GatewayProcess, image: str) -> None:
    """Host, tag and digest may stand there."""
    assert explain(gateway, BOB, "pull", image)["granted"]


def test_text(gateway: GatewayProcess) -> None:
    """For people it is one line a step, and then what would change the answer."""
    ended = run(gateway, "push", PRIVATE, "--user", "bob", "--password-stdin", said=BOB.password)
    lines = ended.stdout.splitlines()
    assert [line.split()[1] for line in lines[:7]] == ["ok", "ok", "ok", "ok", "NO", "ok", "NO"]
    assert lines[-1] == f"To change the answer: ask a maintainer or owner of {PRIVATE} for the developer role"


@pytest.mark.parametrize(
    "arguments",
    [(), ("--anonymous", "--user", "bob", "--password-stdin"), ("--user", "bob"), ("--password-stdin",)],
)
def test_for_whom(gateway: GatewayProcess, arguments: tuple[str, ...]) -> None:
    """Without saying for whom, or saying it twice, one line says what is missing."""
    ended = run(gateway, "pull", PRIVATE, *arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith("explain: say for whom")
    assert len(ended.stderr.splitlines()) == 1


def test_wire_and_log_are_cut_from_the_chain(gateway: GatewayProcess) -> None:
    """The failed step and its remedy are the denial's detail and message, and the log's reason."""
    chain = explain(gateway, BOB, "push", PRIVATE)
    step = next(one for one in chain["steps"] if not one["passed"])
    answer = gateway.wire(BOB).send("POST", f"/v2/{PRIVATE}/blobs/uploads/").expect(403)
    error = answer.json()["errors"][0]
    assert error["detail"] == {"reason": step["step"], "actions": ["push"], "next": chain["next"]}
    assert error["message"].endswith(f"{step['finding']}; {chain['next']}")
    line = logged(gateway, answer.header("X-Request-Id"), "request")
    assert line["denied"] == f"{step['finding']}; {chain['next']}"


def test_log_says_what_a_stranger_may_not_hear(gateway: GatewayProcess) -> None:
    """The log has the whole reason where the caller hears that there is nothing."""
    chain = explain(gateway, MALLORY, "pull", HIDDEN)
    step = next(one for one in chain["steps"] if not one["passed"])
    answer = gateway.wire(MALLORY).get(f"/v2/{HIDDEN}/tags/list").expect(403)
    assert answer.json()["errors"][0]["detail"]["reason"] == "hidden"
    assert step["finding"] in logged(gateway, answer.header("X-Request-Id"), "request")["denied"]


def test_token_endpoint_logs_each_refused_scope(gateway: GatewayProcess) -> None:
    """A scope that is not granted whole has a line with what was asked, what was granted, and why."""
    query = f"service=container_registry&scope=repository:{PRIVATE}:pull,push"
    answer = gateway.wire(BOB).get(f"/jwt/auth?{query}").expect(200)
    line = logged(gateway, answer.header("X-Request-Id"), "Denied container registry permissions")
    assert line["requested_project_path"] == PRIVATE
    assert line["requested_actions"] == ["pull", "push"]
    assert line["authorized_actions"] == ["pull"]
    assert (line["scope_type"], line["username"], line["project_path"]) == ("repository", "bob", PRIVATE)
    assert "developer" in line["reason"]


def test_token_endpoint_logs_who_was_refused_and_why(gateway: GatewayProcess) -> None:
    """A credential that is no good is refused with GitLab's words, and the log says what is wrong with it."""
    answer = gateway.wire(ALICE_EXPIRED).get("/jwt/auth?service=container_registry").expect(401)
    assert "expired" not in answer.json()["errors"][0]["message"]
    assert "expired" in logged(gateway, answer.header("X-Request-Id"), "request")["denied"]


def logged(gateway: GatewayProcess, request_id: str, event: str) -> dict[str, Any]:
    """The line of an event of one request; lines are written in the turn of the loop that answers."""

    def found() -> dict[str, Any] | None:
        lines = (json.loads(line) for line in gateway.log.splitlines() if request_id in line)
        return next((line for line in lines if line["event"] == event), None)

    return eventually(found, f"a line {event} of {request_id}")
