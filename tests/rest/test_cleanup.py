"""What a cleanup policy would do, and running it, over the API (ours)."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gateway.plugins import CleanupRules
from plugins.gitlab_api import Plugin
from plugins.gitlab_api.cleanup import Cleanup
from tests.contracts.oci import content
from tests.images.conftest import APP, rig
from tests.rest.place import Place, url
from tests.support.gateway import PROGRAM
from tests.support.images import image
from tests.support.peers import run
from tests.support.people import ALICE_API, BOB_API, CAROL_API, MALLORY_API

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.wire import Account

PROJECT = "acme/app"
POLICY: Mapping[str, Any] = {
    "enabled": True,
    "cadence": "1d",
    "keep_n": None,
    "older_than": None,
    "name_regex": "old-.*",
}


@pytest.fixture
def place(gateway_factory: GatewayFactory) -> Place:
    """A gateway of the test's own, with a repository of four tags and a policy that removes two."""
    found = Place(gateway_factory(cleanup={"max_delete_percent": 50}))
    for tag in ("old-1", "old-2", "new", "latest"):
        found.push(PROJECT, image(tag.encode()), tag)
    _set(found, POLICY)
    return found


def _set(place: Place, policy: Mapping[str, Any]) -> None:
    body = json.dumps({"container_expiration_policy_attributes": policy}).encode()
    headers = {"Content-Type": "application/json"}
    place.send("PUT", url("projects", PROJECT), ALICE_API, body, headers).expect(200)


def _tags(place: Place) -> list[str]:
    return list(place.registry.get(f"/v2/{PROJECT}/tags/list").expect(200).json()["tags"])


def _wait_for(place: Place, tags: list[str]) -> None:
    until = time.monotonic() + 20
    while _tags(place) != tags and time.monotonic() < until:
        time.sleep(0.05)
    assert _tags(place) == tags


def _plan(place: Place, account: Account = ALICE_API) -> Any:
    (plan,) = place.get("projects", PROJECT, "registry", "cleanup", "plan", account=account).expect(200).json()
    return plan


def test_a_plan_says_what_would_become_of_each_tag(place: Place) -> None:
    """Every tag is there with the rule that decides, and nothing goes because of it."""
    plan = _plan(place)
    decided = {tag["name"]: (tag["decision"], tag["rule"]) for tag in plan["tags"]}
    assert decided == {
        "latest": ("keep", "latest"),
        "new": ("keep", "no_match"),
        "old-1": ("remove", "matched"),
        "old-2": ("remove", "matched"),
    }
    assert plan["repository"] == PROJECT
    assert (plan["percent"], plan["cut"], plan["waiting"]) == (50.0, False, None)
    assert plan["bytes"] == sum(tag["bytes"] for tag in plan["tags"]) > 0
    assert _tags(place) == ["latest", "new", "old-1", "old-2"]


def test_what_was_planned_is_done(place: Place) -> None:
    """A run removes what the plan said, and the next plan is empty."""
    place.send("POST", url("projects", PROJECT, "registry", "cleanup", "run")).expect(202)
    _wait_for(place, ["latest", "new"])
    assert not [tag for tag in _plan(place)["tags"] if tag["decision"] == "remove"]


def test_a_run_that_would_remove_too_much_waits(place: Place) -> None:
    """More than `max_delete_percent` goes only once somebody has confirmed it."""
    _set(place, {**POLICY, "name_regex": ".*"})
    place.send("POST", url("projects", PROJECT, "registry", "cleanup", "run")).expect(202)
    until = time.monotonic() + 20
    waiting: dict[str, str] = {}
    while not waiting and time.monotonic() < until:
        answer = place.send("POST", url("projects", PROJECT, "registry", "cleanup", "run")).expect(202)
        waiting = answer.json()["plans"]
    plan = _plan(place)
    assert waiting == {PROJECT: plan["id"]} == {PROJECT: plan["waiting"]}
    assert _tags(place) == ["latest", "new", "old-1", "old-2"]
    confirmed = place.send("POST", url("projects", PROJECT, "registry", "cleanup", "confirm")).expect(202)
    assert confirmed.json()["plans"] == waiting
    _wait_for(place, ["latest"])


CALLERS = [
    pytest.param(None, 404, 404, id="nobody"),
    pytest.param(MALLORY_API, 404, 404, id="stranger"),
    pytest.param(BOB_API, 403, 403, id="reporter"),
    pytest.param(CAROL_API, 403, 403, id="developer"),
]


@pytest.mark.parametrize(("account", "plan", "run"), CALLERS)
def test_who_may(place: Place, account: Account | None, plan: int, run: int) -> None:
    """Maintainers see the plan, and run it."""
    place.get("projects", PROJECT, "registry", "cleanup", "plan", account=account).expect(plan)
    for word in ("run", "confirm"):
        status = place.send("POST", url("projects", PROJECT, "registry", "cleanup", word), account).status
        assert status == run
    assert _tags(place) == ["latest", "new", "old-1", "old-2"]


def test_a_policy_that_is_off_is_planned_and_not_run(place: Place) -> None:
    """A plan may be looked at before a policy is enabled; running it is 400 with the reason."""
    _set(place, {**POLICY, "enabled": False})
    assert _plan(place)["percent"] == 50.0
    answer = place.send("POST", url("projects", PROJECT, "registry", "cleanup", "run")).expect(400)
    assert "not enabled" in answer.json()["message"]


def test_the_plan_is_the_one_that_runs(gateway_factory: GatewayFactory) -> None:
    """Where a run looks at a part of the tags, the plan is of that part, over the API as on the command line."""
    place = Place(gateway_factory(cleanup={"max_list_size": 1}))
    for number in range(8):
        place.push(PROJECT, image(f"image {number}".encode()), f"old-{number}")
    _set(place, POLICY)
    plan = _plan(place)
    printed = run([PROGRAM, "cleanup", "plan", PROJECT, "--json", "--config", place.gateway.config]).stdout
    assert plan["id"] == json.loads(printed)["repositories"][0]["id"]
    assert plan["cut"] is True
    assert [tag["rule"] for tag in plan["tags"]].count("not_listed") == 7


async def test_equal_questions_are_answered_by_one_plan(tmp_path: Path) -> None:
    """Who asks while a plan of the same repository is made gets that one; who asks later gets another."""
    async with rig(tmp_path) as parts:
        await parts.push(content.image(), "v1")
        plugin = parts.parts.plugins.plugin("gitlab_api")
        assert isinstance(plugin, Plugin)
        planned = partial(Cleanup(plugin._lent)._planned, APP)
        rules = CleanupRules(".*")
        first, second, other = await asyncio.gather(planned(rules), planned(rules), planned(CleanupRules("w.*")))
        assert first is second
        assert (list(first.removed), list(other.removed)) == (["v1"], [])
        assert await planned(rules) is not first
