"""When policies run, what they leave behind, and what stops them (semantics 7.3)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from gateway.core.leases import Leases
from gateway.core.schema import leases, repositories
from gateway.oci import RepositoryName
from gateway.plugins import By, InvalidSettingError, Project, Visibility
from plugins.cleanup import rules, runs
from tests.cleanup.conftest import DAY, NOW, PROJECT, RefusingProxy, built, documents, opened, plugin_of, record, save
from tests.images.conftest import ALICE, APP, Rig
from tests.support.distribution import distribution
from tests.support.passing import pass_time

if TYPE_CHECKING:
    from pathlib import Path

OTHER = RepositoryName("acme/app/other")


async def fill(parts: Rig, *names: str, repository: RepositoryName = APP) -> None:
    """Push an image a hundred days old under each name."""
    for name in names:
        await parts.push(built(100), name, name=repository)


async def run_due(parts: Rig) -> None:
    """Let the periodic job run once."""
    await plugin_of(parts).runs.run_due()


async def kept(parts: Rig, project: str = "acme/app") -> dict[str, Any]:
    """What is kept of a project's policy."""
    found = await documents(parts).get("policy", project)
    assert found is not None
    value: dict[str, Any] = found.value
    return value


async def set_state(parts: Rig, state: str, started: datetime | None = None) -> None:
    """Let the cleanup of the repository stand so."""
    at = None if started is None else int(started.timestamp() * 1000)
    async with parts.parts.database.write() as writer:
        await writer.run(update(repositories).values(cleanup_state=state, cleanup_started_at=at))


def events(parts: Rig) -> list[str]:
    """The lines of the plugin."""
    return [line["event"] for line in parts.lines if line.get("logger") == "plugins.cleanup"]


def ends(parts: Rig) -> list[str]:
    """How runs over a repository ended, one after the other."""
    return [line["status"] for line in parts.lines if line["event"] == "a repository was cleaned up"]


async def test_a_policy_that_is_due(local: Rig) -> None:
    """It removes what it says, and the repository says when, and how much."""
    await fill(local, "latest", "v1", "v2")
    await save(local)
    began = datetime.now(UTC)
    await run_due(local)
    assert await local.tags() == ["latest"]
    found = await record(local)
    assert (found.cleanup_state, found.cleanup_deleted) == ("unscheduled", 2)
    assert found.cleanup_started_at is not None
    assert found.cleanup_completed_at is not None
    assert began - timedelta(seconds=1) <= found.cleanup_started_at <= found.cleanup_completed_at
    assert {(line["how"], line["subject"]) for line in local.deleted} == {("cleanup policy", "")}


async def test_the_next_run(local: Rig) -> None:
    """Once every repository was started, the next run is a cadence from now; until then nothing happens."""
    await fill(local, "v1")
    await save(local, cadence="7d")
    await run_due(local)
    following = datetime.fromisoformat((await kept(local))["next_run_at"])
    assert abs(following - datetime.now(UTC) - 7 * DAY) < timedelta(minutes=1)
    await fill(local, "v2")
    await run_due(local)
    assert await local.tags() == ["v2"]


NOT_DUE = [
    pytest.param({"due": False}, id="the time has not come"),
    pytest.param({"enabled": False}, id="not enabled"),
]


@pytest.mark.parametrize("settings", NOT_DUE)
async def test_a_policy_that_is_not_due(local: Rig, settings: dict[str, Any]) -> None:
    """Nothing happens."""
    await fill(local, "v1")
    await save(local, **settings)
    await run_due(local)
    assert await local.tags() == ["v1"]
    assert (await record(local)).cleanup_started_at is None


async def test_all_repositories_of_the_project_and_no_others(local: Rig) -> None:
    """A policy is a project's: its images below it too, and those of another project not."""
    await fill(local, "v1")
    await fill(local, "v1", repository=OTHER)
    await local.parts.metadata.record({RepositoryName("acme/other"): "acme/other"})
    await fill(local, "v1", repository=RepositoryName("acme/other"))
    await save(local)
    await run_due(local)
    assert [await local.tags(name) for name in (APP, OTHER, RepositoryName("acme/other"))] == [[], [], ["v1"]]


async def test_a_repository_that_was_started_already(local: Rig) -> None:
    """Whoever died after one of two goes on with the other, and then the next run is set."""
    await fill(local, "v1")
    await fill(local, "v1", repository=OTHER)
    await save(local)
    async with local.parts.database.write() as writer:
        at = int(NOW.timestamp() * 1000)
        await writer.run(update(repositories).where(repositories.c.path == APP).values(cleanup_started_at=at))
    await run_due(local)
    assert [await local.tags(name) for name in (APP, OTHER)] == [["v1"], []]
    assert datetime.fromisoformat((await kept(local))["next_run_at"]) > NOW


@pytest.mark.parametrize("state", ["unfinished", "ongoing", "scheduled"])
async def test_what_was_begun_is_gone_on_with(local: Rig, state: str) -> None:
    """A run that was not finished is, although the next one is not due yet."""
    await fill(local, "v1")
    await save(local, due=False)
    await set_state(local, state, NOW - DAY / 4)
    await run_due(local)
    assert await local.tags() == []
    assert (await record(local)).cleanup_state == "unscheduled"


async def test_a_run_that_takes_longer_than_its_time(tmp_path: Path, template: Path) -> None:
    """It gives way after delete_timeout, and goes on as long as it gets anywhere."""
    options = {"cleanup": {"delete_timeout": "1ms"}}
    async with opened(tmp_path / "gateway", template, **options) as parts:
        names = [f"v{number}" for number in range(5)]
        await fill(parts, *names)
        await save(parts)
        await run_due(parts)
        assert await parts.tags() == []
        assert ends(parts).count("finished") == 1
        assert "unfinished" in ends(parts)


async def test_a_project_without_repositories(local: Rig) -> None:
    """Its policy is switched off, and the log says so."""
    await save(local)
    await run_due(local)
    assert (await kept(local))["enabled"] is False
    assert events(local) == ["a cleanup policy was switched off"]


INVALID = [
    pytest.param({"name_regex": "["}, id="a pattern that is none"),
    pytest.param({"cadence": "hourly"}, id="a cadence that is none"),
    pytest.param({"keep_n": 3}, id="a number that is not allowed"),
]


@pytest.mark.parametrize("wrong", INVALID)
async def test_a_policy_that_makes_no_sense(local: Rig, wrong: dict[str, Any]) -> None:
    """It is switched off once, deletes nothing, and is shown as one that nobody has saved."""
    await fill(local, "v1")
    policy = rules.as_json(await save(local)) | wrong
    await documents(local).put("policy", "acme/app", policy, "somebody")
    await run_due(local)
    await run_due(local)
    assert await local.tags() == ["v1"]
    assert await kept(local) == policy | {"enabled": False}
    assert events(local) == ["a cleanup policy was switched off"]
    assert (await local.parts.plugins.expiration_policy(PROJECT)) is not None


async def test_a_registry_that_is_read_only(local: Rig) -> None:
    """The run fails, says why, and is taken up again."""
    await fill(local, "v1")
    await save(local)
    await local.parts.maintenance.switch({"mode": "read_only"})
    await run_due(local)
    assert (await record(local)).cleanup_state == "unfinished"
    assert "read-only" in next(line["why"] for line in local.lines if line.get("status") == "failed")
    await local.parts.maintenance.switch({"mode": None})
    await run_due(local)
    assert await local.tags() == []
    assert (await record(local)).cleanup_state == "unscheduled"


async def test_a_repository_that_is_being_deleted(local: Rig) -> None:
    """What goes as a whole is not cleaned up."""
    await fill(local, "v1")
    await save(local)
    assert await local.parts.images.delete_repository((await record(local)).id, By("alice", "test"))
    await run_due(local)
    assert local.deleted == []


async def test_a_policy_that_is_edited_during_its_run(local: Rig) -> None:
    """The save has set the next run; the run that ends behind it does not."""
    await fill(local, "v1")
    seen = await save(local)
    project = Project("acme/app", Visibility.PRIVATE)
    saved = await local.parts.plugins.set_expiration_policy(ALICE, project, {"cadence": "14d"})
    assert saved is not None
    await plugin_of(local).runs._policies.move_on("acme/app", seen, datetime.now(UTC))
    assert await kept(local) == rules.as_json(saved)


# -- one at a time ----------------------------------------------------------------------------------------------


async def test_a_policy_that_runs_elsewhere(local: Rig) -> None:
    """While somebody else runs it nobody does; when they are done it is looked at again."""
    await fill(local, "v1")
    await save(local)
    elsewhere = Leases(local.parts.database)
    holder = await elsewhere.take("cleanup policy acme/app", 60)
    assert holder is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run_due(local), 0.5)
    assert await local.tags() == ["v1"]
    await elsewhere.release("cleanup policy acme/app", holder)
    await run_due(local)
    assert await local.tags() == []


async def test_a_runner_that_died(local: Rig) -> None:
    """Its lease runs out, and what it had begun is gone on with."""
    await fill(local, "v1")
    await save(local, due=False)
    await set_state(local, "ongoing", NOW - DAY / 4)
    assert await Leases(local.parts.database).take("cleanup policy acme/app", 60) is not None
    async with local.parts.database.write() as writer:
        await writer.run(update(leases).values(held_until=0))
    await run_due(local)
    assert await local.tags() == []


async def test_what_is_due_beside_a_long_run(local: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that becomes due while another project's is run is run beside it."""
    monkeypatch.setattr(runs, "_LOOK", 0.05)
    other = RepositoryName("acme/z")
    await local.parts.metadata.record({other: "acme/z"})
    await fill(local, *(f"v{number}" for number in range(30)))
    await fill(local, "v1", repository=other)
    await save(local)
    running = asyncio.create_task(run_due(local))
    while not local.deleted:
        assert not running.done()
        await asyncio.sleep(0)
    await save(local, "acme/z")
    await running
    done = [line["repository"] for line in local.lines if line["event"] == "a repository was cleaned up"]
    assert done == [other, APP]


async def test_what_is_due_beside_a_run_elsewhere(local: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is run elsewhere keeps no other waiting, however long it takes there."""
    monkeypatch.setattr(runs, "_LOOK", 0.05)
    other = RepositoryName("acme/z")
    await local.parts.metadata.record({other: "acme/z"})
    await fill(local, "v1")
    await fill(local, "v1", repository=other)
    await save(local)
    elsewhere = Leases(local.parts.database)
    holder = await elsewhere.take("cleanup policy acme/app", 60)
    assert holder is not None
    running = asyncio.create_task(run_due(local))
    while not any(line["event"] == "a repository was cleaned up" for line in local.lines):
        assert not running.done()
        await save(local, "acme/z")
        await asyncio.sleep(0.01)
    assert (await local.tags(other), await local.tags()) == ([], ["v1"])
    await elsewhere.release("cleanup policy acme/app", holder)
    await running
    assert await local.tags() == []


async def test_a_runner_that_died_is_looked_for_between_intervals(local: Rig) -> None:
    """Whose policy is due has to wait for the next interval; what somebody was in the middle of has not."""
    watch = plugin_of(local).runs.watch
    await watch()
    await fill(local, "v1")
    await save(local)
    await watch()
    assert await local.tags() == ["v1"]
    await save(local, due=False)
    # Also after this one has run the policy itself.
    for _ in range(2):
        await set_state(local, "ongoing", NOW - DAY / 4)
        await watch()
        assert await local.tags() == []
        await fill(local, "v1")


# -- what the registry refuses ------------------------------------------------------------------------------------


async def test_a_tag_that_the_registry_keeps(tmp_path: Path, template: Path) -> None:
    """The others go, and the run fails with its name (semantics 6)."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with RefusingProxy(b"manifests/v1 ") as proxy, distribution(folder) as registry:
        backend = {"use": "backend_distribution", "url": registry.url, "proxy": proxy.url}
        cleanup = {"delete_timeout": "1ms"}
        async with opened(tmp_path / "gateway", template, backend=backend, cleanup=cleanup) as parts:
            await fill(parts, "a1", "v1", "v2", "v3")
            await save(parts)
            proxy.refusing = True
            await run_due(parts)
            assert await parts.tags() == ["v1"]
            assert (await record(parts)).cleanup_state == "unfinished"
            last = [line for line in parts.lines if line["event"] == "a repository was cleaned up"][-1]
            assert (last["status"], last["why"]) == ("failed", "could not delete tags: v1")


# -- max_delete_percent -------------------------------------------------------------------------------------------


@pytest.fixture
def half() -> dict[str, Any]:
    """Let half of the tags go unasked."""
    return {"cleanup": {"max_delete_percent": 50}}


async def test_a_plan_that_would_remove_too_much(tmp_path: Path, template: Path, half: dict[str, Any]) -> None:
    """It stops, waits, is confirmed, and then does what was confirmed and nothing else."""
    async with opened(tmp_path / "gateway", template, **half) as parts:
        plugin = plugin_of(parts)
        await fill(parts, "latest", "v1", "v2")
        await save(parts)
        await run_due(parts)
        assert await parts.tags() == ["latest", "v1", "v2"]
        assert (await record(parts)).cleanup_state == "unfinished"
        waiting = (await plugin.stopped.waiting([APP]))[APP]
        assert (waiting.remove, waiting.total, set(waiting.tags)) == (2, 3, {"v1", "v2"})
        assert waiting.id == (await plugin.runs.plan(await record(parts), await save(parts, due=False))).id

        # What was pushed since is not part of what was confirmed, nor is what moved.
        await fill(parts, "v2", "v3")
        assert await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=True) == {APP: waiting.id}
        await run_due(parts)
        assert await parts.tags() == ["latest", "v2", "v3"]
        assert (await record(parts)).cleanup_state == "unscheduled"
        assert await plugin.stopped.get(APP) is None


async def test_a_plan_that_waits_is_said_once(tmp_path: Path, template: Path, half: dict[str, Any]) -> None:
    """Each run looks again, and one that would remove less by now goes on by itself."""
    async with opened(tmp_path / "gateway", template, **half) as parts:
        await fill(parts, "v1", "v2")
        await save(parts)
        await run_due(parts)
        first = await plugin_of(parts).stopped.get(APP)
        await run_due(parts)
        assert await plugin_of(parts).stopped.get(APP) == first
        for name in ("latest", "also-kept", "kept"):
            await parts.push(built(0), name)
        await save(parts, due=False, older_than="7d")
        await run_due(parts)
        assert await parts.tags() == ["also-kept", "kept", "latest"]
        assert await plugin_of(parts).stopped.get(APP) is None


SHARES = [(100, True), (99, False), (0, False)]


@pytest.mark.parametrize(("most", "goes"), SHARES, ids=[str(most) for most, _ in SHARES])
async def test_the_share(tmp_path: Path, template: Path, most: int, goes: bool) -> None:  # noqa: FBT001 - a column
    """Only more than max_delete_percent stops; 100 never does."""
    async with opened(tmp_path / "gateway", template, cleanup={"max_delete_percent": most}) as parts:
        await fill(parts, "v1")
        await save(parts)
        await run_due(parts)
        assert (await parts.tags() == []) is goes


async def test_the_share_of_a_sample(tmp_path: Path, template: Path) -> None:
    """With max_list_size it is still the share of what goes in all that counts."""
    options = {"cleanup": {"max_delete_percent": 50, "max_list_size": 1}}
    async with opened(tmp_path / "gateway", template, **options) as parts:
        await fill(parts, "v1", "v2", "v3")
        await save(parts)
        await run_due(parts)
        assert await parts.tags() == ["v1", "v2", "v3"]


async def test_a_sample_that_is_confirmed(tmp_path: Path, template: Path) -> None:
    """All of it goes, whatever was pushed meanwhile; then the rest is looked at, and waits."""
    options = {"cleanup": {"max_delete_percent": 50, "max_list_size": 2}}
    async with opened(tmp_path / "gateway", template, **options) as parts:
        plugin = plugin_of(parts)
        await fill(parts, *(f"v{number}" for number in range(8)))
        await save(parts)
        await run_due(parts)
        first = (await plugin.stopped.waiting([APP]))[APP]
        await fill(parts, "w")
        await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=True)
        assert await do_ordered(parts)
        assert set(await parts.tags()) == {"w", *(f"v{number}" for number in range(8))} - set(first.tags)
        second = (await plugin.stopped.waiting([APP]))[APP]
        assert len(second.tags) == 2
        await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=True)
        await run_due(parts)
        assert len(await parts.tags()) == 5


async def test_a_confirmation_is_of_one_plan(tmp_path: Path, template: Path, half: dict[str, Any]) -> None:
    """While it is not carried out, no other plan goes unasked."""
    async with opened(tmp_path / "gateway", template, **half) as parts:
        plugin, by = plugin_of(parts), By("operator", "cleanup policy")
        await fill(parts, "v1", "v2", "w1", "w2")
        policy = await save(parts, due=False, name_regex="v.*|w.*")
        asked = (await plugin.runs.plan(await record(parts), policy)).removed
        chosen = {name: str(asked[name].digest) for name in ("v1", "v2", "w1")}
        await plugin.runs.run(PROJECT, policy, by, plans={str(APP): chosen})
        await plugin.stopped.confirm([APP], "alice")
        for_all = {str(APP): {name: str(tag.digest) for name, tag in asked.items()}}
        (done,) = await plugin.runs.run(PROJECT, policy, by, plans=for_all)
        assert done.status == "stopped"
        assert len(await parts.tags()) == 4
        # A part of what was confirmed was confirmed.
        (done,) = await plugin.runs.run(PROJECT, policy, by, plans={str(APP): {"v1": chosen["v1"], "v2": chosen["v2"]}})
        assert (done.status, await parts.tags()) == ("finished", ["w1", "w2"])
        assert await plugin.stopped.get(APP) is not None


async def test_samples_until_all_is_done(tmp_path: Path, template: Path) -> None:
    """Runs that were cut are unfinished, and go on."""
    async with opened(tmp_path / "gateway", template, cleanup={"max_list_size": 2}) as parts:
        await fill(parts, "v1", "v2", "v3", "v4", "v5")
        await save(parts)
        await run_due(parts)
        assert await parts.tags() == []
        assert ends(parts) == ["unfinished", "unfinished", "finished"]


# -- by order -------------------------------------------------------------------------------------------------------


async def do_ordered(parts: Rig) -> bool:
    """Do the task that was promised, if there is one."""
    claimed = await parts.parts.tasks._claimed()
    if claimed is None:
        return False
    await parts.parts.tasks._try(*claimed)
    return True


async def test_a_run_that_is_ordered(local: Rig) -> None:
    """Through the hook a policy runs soon, though it is not due; the log says who wanted it."""
    await fill(local, "v1")
    await save(local, due=False)
    assert await local.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=False) == {}
    assert await local.tags() == ["v1"]
    assert await do_ordered(local)
    assert await local.tags() == []
    assert [line["subject"] for line in local.deleted] == ["alice"]


async def test_a_run_that_is_ordered_and_stops(tmp_path: Path, template: Path, half: dict[str, Any]) -> None:
    """Who orders hears what waits for a confirmation; confirming orders what was confirmed."""
    async with opened(tmp_path / "gateway", template, **half) as parts:
        await fill(parts, "v1")
        await save(parts, due=False)
        assert await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=True) == {}
        assert not await do_ordered(parts)
        await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=False)
        assert await do_ordered(parts)
        waiting = await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=False)
        assert waiting is not None
        assert list(waiting) == [APP]
        assert await do_ordered(parts)
        assert await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=True) == waiting
        assert await do_ordered(parts)
        assert await parts.tags() == []


async def test_a_run_that_is_ordered_takes_longer_than_its_time(tmp_path: Path, template: Path) -> None:
    """It goes on to its end, also where no policy runs by itself; and is told of as one."""
    options = {"cleanup": {"delete_timeout": "1ms", "concurrency": 0}}
    async with opened(tmp_path / "gateway", template, **options) as parts:
        await fill(parts, "v1", "v2", "v3")
        policy = await save(parts, due=False)
        await parts.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=False)
        assert await do_ordered(parts)
        assert await parts.tags() == []
        assert (await record(parts)).cleanup_state == "unscheduled"
        await fill(parts, "v1", "v2", "v3")
        heard: list[tuple[int, int]] = []
        (done,) = await plugin_of(parts).runs.run(
            PROJECT,
            policy,
            By("operator", "cleanup policy"),
            watch=lambda _, state: heard.append((state.removed, state.planned)),
        )
        assert (done.status, done.total, done.planned, done.removed) == ("finished", 3, 3, 3)
        assert list(dict.fromkeys(heard)) == [(1, 3), (2, 3), (3, 3)]


async def test_a_run_that_is_ordered_is_not_gone_on_with_once_the_policy_is_off(tmp_path: Path, template: Path) -> None:
    """Between two turns somebody may switch the policy off."""
    async with opened(tmp_path / "gateway", template, cleanup={"delete_timeout": "1ms"}) as parts:
        await fill(parts, "v1", "v2", "v3")
        policy = await save(parts, due=False)
        await save(parts, due=False, enabled=False)
        (done,) = await plugin_of(parts).runs.run(PROJECT, policy, By("operator", "cleanup policy"))
        assert (done.status, await parts.tags()) == ("unfinished", ["v2", "v3"])


async def test_a_run_that_is_ordered_while_the_policy_is_run(local: Rig) -> None:
    """The order stands until the policy is run nowhere else, whoever ran it: they may be dead."""
    await fill(local, "v1")
    await save(local, due=False)
    elsewhere = Leases(local.parts.database)
    holder = await elsewhere.take("cleanup policy acme/app", 600)
    assert holder is not None
    await local.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=False)
    for _ in range(3):
        assert await do_ordered(local)
        assert not await do_ordered(local)
        await pass_time(local.parts.database, 10)
    assert await local.tags() == ["v1"]
    await elsewhere.release("cleanup policy acme/app", holder)
    assert await do_ordered(local)
    assert await local.tags() == []
    assert [line["subject"] for line in local.deleted] == ["alice"]
    await pass_time(local.parts.database, 10)
    assert not await do_ordered(local)


RESTRICTED = [
    pytest.param("unscheduled", False, id="nothing was to do"),
    pytest.param("unfinished", False, id="a run was to be gone on with"),
    pytest.param("unscheduled", True, id="the registry is read-only"),
]


@pytest.mark.parametrize(("state", "read_only"), RESTRICTED)
async def test_a_run_by_a_plan_that_does_not_finish(
    tmp_path: Path,
    template: Path,
    state: str,
    read_only: bool,  # noqa: FBT001 - a column
) -> None:
    """However it ends, nobody goes on with it without the plan: the repository is left as it was."""
    async with opened(tmp_path / "gateway", template, cleanup={"delete_timeout": "1ms"}) as parts:
        plugin, by = plugin_of(parts), By("operator", "cleanup policy")
        await fill(parts, "v1", "v2", "v3")
        policy = await save(parts)
        removed = (await plugin.runs.plan(await record(parts), policy)).removed
        chosen = {str(APP): {name: str(removed[name].digest) for name in ("v1", "v2")}}
        started = NOW - DAY
        await set_state(parts, state, started)
        await parts.parts.maintenance.switch({"mode": "read_only" if read_only else None})
        # What ends in the middle, as a command does that is interrupted or killed, undoes nothing.
        begun = asyncio.Event()
        run = plugin.runs.run(PROJECT, policy, by, plans=chosen, watch=lambda *_: begun.set())
        running = asyncio.create_task(run)
        running.add_done_callback(lambda _: begun.set())
        await begun.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        found = await record(parts)
        assert (found.cleanup_state, found.cleanup_started_at) == (state, started)
        await plugin.runs.run(PROJECT, policy, by, plans=chosen)
        found = await record(parts)
        assert (found.cleanup_state, found.cleanup_started_at) == (state, started)
        assert (await kept(parts))["next_run_at"] == rules.as_json(policy)["next_run_at"]
        assert await parts.tags() == (["v1", "v2", "v3"] if read_only else ["v3"])


async def test_a_policy_that_is_not_enabled_is_not_run(local: Rig) -> None:
    """Whoever orders it hears so, and one that was switched off meanwhile is not run."""
    await fill(local, "v1")
    with pytest.raises(InvalidSettingError, match="not enabled"):
        await local.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=False)
    await save(local, due=False)
    await local.parts.plugins.run_cleanup(ALICE, PROJECT, confirm=False)
    await save(local, due=False, enabled=False)
    assert await do_ordered(local)
    assert await local.tags() == ["v1"]


async def test_policies_are_kept_by_project(local: Rig) -> None:
    """The hooks keep a policy and give it back, by the project's path in any case; nobody's is GitLab's default."""
    assert await local.parts.plugins.expiration_policy(PROJECT) == rules.DEFAULT
    capital = Project("Acme/App", Visibility.PRIVATE)
    saved = await local.parts.plugins.set_expiration_policy(ALICE, capital, {"enabled": True, "keep_n": 5})
    assert saved is not None
    assert (saved.enabled, saved.keep_n, saved.older_than) == (True, 5, "90d")
    assert await local.parts.plugins.expiration_policy(PROJECT) == saved
    with pytest.raises(InvalidSettingError, match="keep_n is not included in the list"):
        await local.parts.plugins.set_expiration_policy(ALICE, PROJECT, {"keep_n": 3})
    assert await local.parts.plugins.expiration_policy(PROJECT) == saved
    assert await local.parts.plugins.expiration_policy(Project("acme/b", Visibility.PRIVATE)) == rules.DEFAULT


async def test_no_job_with_a_concurrency_of_0(tmp_path: Path, template: Path) -> None:
    """Then no policy runs by itself."""
    async with opened(tmp_path / "gateway", template, cleanup={"concurrency": 0}) as parts:
        assert "run cleanup policies" not in [job.name for job in parts.parts.plugins.jobs()]
    async with opened(tmp_path / "other", template) as parts:
        assert "run cleanup policies" in [job.name for job in parts.parts.plugins.jobs()]


async def test_several_projects_at_once(tmp_path: Path, template: Path) -> None:
    """So many projects as configured are cleaned at the same time, and each once."""
    async with opened(tmp_path / "gateway", template, cleanup={"concurrency": 2}) as parts:
        for number in range(4):
            name = RepositoryName(f"acme/p{number}")
            await parts.parts.metadata.record({name: name})
            await fill(parts, "v1", "v2", "v3", "v4", repository=name)
            await save(parts, name)
        await run_due(parts)
        done = [line["repository"] for line in parts.lines if line["event"] == "a repository was cleaned up"]
        assert sorted(done) == [f"acme/p{number}" for number in range(4)]
        gone = [(line["repository"], tag) for line in parts.deleted for tag in line["tags"]]
        assert len(gone) == len(set(gone)) == 16
        first = next(place for place, line in enumerate(parts.lines) if line["event"] == "a repository was cleaned up")
        begun = {line["repository"] for line in parts.lines[:first] if line["event"] == "deleted"}
        assert len(begun) == 2


async def test_a_failure_costs_one_project(local: Rig) -> None:
    """What goes wrong with one project is said, and the others are cleaned."""
    await fill(local, "v1")
    await local.parts.metadata.record({RepositoryName("acme/z"): "acme/z"})
    await fill(local, "v1", repository=RepositoryName("acme/z"))
    for project in ("acme/app", "acme/z"):
        await save(local, project)
    async with local.parts.database.write() as writer:
        # A name that no client can push.
        await writer.run(update(repositories).where(repositories.c.path == APP).values(project="acme/app", path="A"))
    await documents(local).put("stopped", "A", {"broken": True}, "somebody")
    await run_due(local)
    assert await local.tags(RepositoryName("acme/z")) == []
    assert "a repository could not be cleaned up" in events(local)


async def test_a_failure_costs_one_repository(local: Rig) -> None:
    """The project's others are cleaned, and nobody takes it for a run whose runner died."""
    await fill(local, "v1")
    await fill(local, "v1", repository=OTHER)
    await save(local)
    await documents(local).put("stopped", APP, {"broken": True}, "somebody")
    await run_due(local)
    assert (await local.tags(), await local.tags(OTHER)) == (["v1"], [])
    assert (await record(local)).cleanup_state == "unfinished"
    assert events(local).count("a repository could not be cleaned up") == 1
    await plugin_of(local).runs.watch()
    looked = events(local).count("a repository could not be cleaned up")
    await plugin_of(local).runs.watch()
    assert events(local).count("a repository could not be cleaned up") == looked
