"""A plan is applied tag by tag, over every backend, and each tag is looked at again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway.core.planning import KIND
from gateway.core.retention import stem
from gateway.errors import RegistryError
from gateway.oci import Digest, Tag
from gateway.plugins import Applied, By, CleanupRules, InvalidSettingError, Task
from tests.cleanup.conftest import DAY, NOW, RefusingProxy, aged, built, opened, record
from tests.contracts.oci.content import artifact, image, index
from tests.fakes.proxy import ForwardProxy
from tests.images.conftest import ALICE, APP, BY, Rig
from tests.support.distribution import distribution
from tests.support.images import image as small_image
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

ALL = CleanupRules(".*")


def signature_of(digest: str) -> str:
    """Name the tag of an image's signature."""
    return f"{stem(digest)}.sig"


async def test_sibling_tags_stay(images: Rig) -> None:
    """Trap 28: tags are removed by name, so that the other tags of an image and its bytes stay."""
    digest = await images.push(built(100), "v1", "kept")
    plan = await images.parts.images.plan(APP, CleanupRules("v.*", None, None, 7 * DAY))
    assert [tag.name for tag in plan.tags if tag.remove] == ["v1"]
    assert await images.tags() == ["kept", "v1"]
    state = await images.parts.images.apply(plan, BY)
    assert state == Applied(planned=1, removed=1, stayed=0, finished=True)
    assert await images.tags() == ["kept"]
    assert await images.has(digest)
    assert (await images.parts.images.plan(APP, plan.rules)).removed == {}


async def test_a_tag_that_moved_is_left_alone(images: Rig) -> None:
    """What was pushed under a name since it was planned stays; so does what was pushed under a new one."""
    await images.push(built(100), "v1", "v2")
    plan = await images.parts.images.plan(APP, ALL)
    fresh = await images.push(built(0), "v1")
    await images.push(built(0), "v3")
    state = await images.parts.images.apply(plan, BY)
    assert state == Applied(planned=2, removed=1, stayed=1, finished=True)
    assert await images.tags() == ["v1", "v3"]
    found = await images.parts.images.tag(ALICE, APP, Tag("v1"))
    assert found is not None
    assert found.digest == fresh


async def test_a_tag_that_is_gone(images: Rig) -> None:
    """What somebody else removed meanwhile is not counted as removed."""
    await images.push(built(100), "v1", "v2")
    plan = await images.parts.images.plan(APP, ALL)
    await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    assert await images.parts.images.apply(plan, BY) == Applied(planned=2, removed=1, stayed=1, finished=True)


async def test_signatures_go_with_the_last_tag_of_their_image(images: Rig) -> None:
    """They are in the plan, and count; those of a child go with the index."""
    child = built(100)
    await images.push(index([child]), "v1", "v2")
    for subject in (child.digest, index([child]).digest):
        await images.push(artifact(), signature_of(subject))
    await images.push(image(), "other")
    plan = await images.parts.images.plan(APP, CleanupRules("v1"))
    assert list(plan.removed) == ["v1"]
    plan = await images.parts.images.plan(APP, CleanupRules("v.*"))
    wanted = {"v1", "v2", signature_of(child.digest), signature_of(index([child]).digest)}
    assert set(plan.removed) == wanted
    state = await images.parts.images.apply(plan, BY)
    assert state == Applied(planned=4, removed=4, stayed=0, finished=True)
    assert await images.tags() == ["other"]
    assert {line["how"] for line in images.deleted} == {"test", "test, with its subject"}


async def test_signatures_stay_with_an_image_that_moved(images: Rig) -> None:
    """Where a tag came to lead to the image meanwhile, what belongs to it stays with it."""
    old = built(100)
    await images.push(old, "v1")
    await images.push(artifact(), signature_of(old.digest))
    plan = await images.parts.images.plan(APP, ALL)
    assert set(plan.removed) == {"v1", signature_of(old.digest)}
    await images.push(old, "kept")
    assert await images.parts.images.apply(plan, BY) == Applied(planned=2, removed=1, stayed=1, finished=True)
    assert await images.tags() == ["kept", signature_of(old.digest)]


async def test_dates_are_read_where_they_matter(images: Rig) -> None:
    """Trap 27: the date is the config's, read once; an index has none, and counts as now."""
    ages = {"v1": 100.0, "v2": 50.0, "v3": 1.0}
    for name, age in ages.items():
        await images.push(built(age), name)
    await images.push(index([built(100)]), "multi")
    assert all(tag.created_at is None for tag in (await images.parts.images.plan(APP, ALL)).tags)
    plan = await images.parts.images.plan(APP, CleanupRules(".*", None, 2, 7 * DAY))
    assert {tag.name: tag.created_at for tag in plan.tags} == {
        "multi": None,
        **{name: NOW - age * DAY for name, age in ages.items()},
    }
    assert {tag.name: tag.rule for tag in plan.tags} == {
        "multi": "newest",
        "v1": "matched",
        "v2": "matched",
        "v3": "newest",
    }


async def test_told_after_each(local: Rig) -> None:
    """Whoever watches hears of each tag."""
    for number in range(3):
        await local.push(built(100), f"v{number}")
    heard: list[tuple[int, int]] = []
    plan = await local.parts.images.plan(APP, ALL)
    await local.parts.images.apply(plan, BY, lambda state: heard.append((state.removed, state.planned)))
    assert heard == [(1, 3), (2, 3), (3, 3), (3, 3)]


async def test_a_time_that_is_over(local: Rig) -> None:
    """After its time a run ends unfinished, with what it did, and the next plan has the rest."""
    for number in range(3):
        await local.push(built(100), f"v{number}")
    plan = await local.parts.images.plan(APP, ALL)
    state = await local.parts.images.apply(plan, BY, seconds=0)
    assert state == Applied(planned=3, removed=1, stayed=0, finished=False)
    rest = await local.parts.images.plan(APP, ALL)
    assert list(rest.removed) == ["v1", "v2"]
    assert (await local.parts.images.apply(rest, BY)).finished
    assert await local.tags() == []


async def test_a_pattern_that_is_none(local: Rig) -> None:
    """Nothing is planned by it."""
    await local.push(built(100), "v1")
    with pytest.raises(InvalidSettingError, match=r"^name_regex_keep is an invalid regexp"):
        await local.parts.images.plan(APP, CleanupRules(".*", "["))


async def test_a_repository_that_is_not_there(local: Rig) -> None:
    """There is nothing to plan."""
    plan = await local.parts.images.plan(APP, ALL)
    assert (plan.tags, plan.percent) == ((), 0.0)
    assert (await local.parts.images.apply(plan, BY)).finished


async def test_nothing_goes_while_the_registry_is_read_only(local: Rig) -> None:
    """A plan can be made, and is not applied."""
    await local.push(built(100), "v1")
    await local.parts.maintenance.switch({"mode": "read_only"})
    plan = await local.parts.images.plan(APP, ALL)
    with pytest.raises(RegistryError) as caught:
        await local.parts.images.apply(plan, BY)
    assert caught.value.status == 503
    assert await local.tags() == ["v1"]


# -- bulk deletion ------------------------------------------------------------------------------------------


async def _bulk(parts: Rig, **payload: Any) -> None:
    """Promise a bulk deletion and do it."""
    task = Task(1, KIND, APP, payload, "alice", datetime.now(UTC), 0)
    await parts.parts.tasks._handlers[KIND].do(task)


async def test_a_bulk_deletion(images: Rig) -> None:
    """The task of the REST API removes by its rules, and the log says who ordered it."""
    for name, age in {"latest": 100, "v1": 100, "v2": 50, "v3": 2, "kept": 100}.items():
        await images.push(built(age), name)
    number = (await record(images)).id
    rules = {"name_regex_delete": ".*", "name_regex_keep": "kept", "keep_n": 1, "older_than": 30 * 86400}
    await _bulk(images, repository=number, **rules)
    assert await images.tags() == ["kept", "latest", "v3"]
    assert {(line["how"], line["subject"]) for line in images.deleted} == {("bulk delete", "alice")}


BULKS = [
    pytest.param({"name_regex": "v1"}, ["v2"], id="by the older name"),
    pytest.param({"name_regex_delete": "v2", "name_regex": "v1"}, ["v1"], id="the newer name wins"),
    pytest.param({"name_regex_delete": "", "name_regex": "v1"}, ["v1", "v2"], id="also where it is empty"),
    pytest.param({}, ["v1", "v2"], id="without a pattern"),
    pytest.param({"name_regex_delete": "["}, ["v1", "v2"], id="no pattern: nothing is deleted"),
    pytest.param({"name_regex_delete": ".*", "repository": 0}, ["v1", "v2"], id="of a repository that is no more"),
]


@pytest.mark.parametrize(("payload", "left"), BULKS)
async def test_what_a_bulk_deletion_goes_by(local: Rig, payload: dict[str, Any], left: list[str]) -> None:
    """As GitLab's: `name_regex_delete` wins, and an empty pattern fits nothing."""
    for name in ("v1", "v2"):
        await local.push(built(100), name)
    await _bulk(local, **payload)
    assert await local.tags() == left


async def test_a_bulk_deletion_that_is_late(local: Rig) -> None:
    """Tags are as old as they were when it was ordered, however late it is done."""
    await local.push(built(7.01), "v1")
    await local.push(built(6.99), "v2")
    payload = {"name_regex_delete": ".*", "older_than": 7 * 86400}
    task = Task(1, KIND, APP, payload, "alice", NOW, 0)
    await local.parts.tasks._handlers[KIND].do(task)
    assert await local.tags() == ["v2"]


# -- before another registry ----------------------------------------------------------------------------------


async def test_tags_that_move_past_the_gateway(tmp_path: Path, template: Path) -> None:
    """Where others write to the registry, a tag that they moved since is left alone, whatever was believed of it."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with distribution(folder) as registry:
        there = Wire(registry.url)
        for name in ("v1", "v2", "v3"):
            there.push_image(APP, name, small_image(name.encode()))
        backend = {"use": "backend_distribution", "url": registry.url, "tag_freshness": "1h"}
        async with opened(tmp_path / "gateway", template, backend=backend) as parts:
            store = await parts.store()
            plan = await parts.parts.images.plan(APP, CleanupRules("v[12]"))
            assert len(plan.tags) == 3
            assert await store.manifest(APP, Tag("v1")) is not None
            moved = small_image(b"moved")
            there.push_image(APP, "v1", moved)
            state = await parts.parts.images.apply(plan, By("", "cleanup policy"))
            assert state == Applied(planned=2, removed=1, stayed=1, finished=True)
        assert there.manifest(APP, "v1").expect(200).header("Docker-Content-Digest") == moved.manifest.digest
        there.manifest(APP, "v2").expect(404)
        assert there.get(f"/v2/{APP}/tags/list").json()["tags"] == ["v1", "v3"]


async def test_an_image_that_was_pushed_by_another_digest(tmp_path: Path, template: Path) -> None:
    """A registry that knows the manifest by sha256 alone does not make a tag look as if it had moved."""
    folder = tmp_path / "registry"
    folder.mkdir()
    pushed = image(algorithm="sha512")
    with distribution(folder) as registry:
        backend = {"use": "backend_distribution", "url": registry.url}
        async with opened(tmp_path / "gateway", template, backend=backend) as parts:
            await parts.push(pushed, "v1")
            plan = await parts.parts.images.plan(APP, ALL)
            assert plan.removed["v1"].digest == Digest(pushed.digest)
            assert (await parts.parts.images.apply(plan, BY)).removed == 1
            assert await parts.tags() == []


async def test_a_deletion_that_broke_off(tmp_path: Path, template: Path) -> None:
    """A registry that fails between two requests loses the newest image nothing, and the deletion is completed."""
    folder = tmp_path / "registry"
    folder.mkdir()
    rules = CleanupRules(".*", None, 1, 7 * DAY)
    with ForwardProxy() as proxy, distribution(folder) as registry:
        there = Wire(registry.url)
        for name, age in {"v1": 100, "v2": 50, "v3": 3}.items():
            there.push_image(APP, name, aged(name, age))
        backend = {"use": "backend_distribution", "url": registry.url, "proxy": proxy.url}
        async with opened(tmp_path / "gateway", template, backend=backend) as parts:
            plan = await parts.parts.images.plan(APP, rules)
            proxy.last = f"PUT {registry.url}/v2/{APP}/manifests/v1 "
            with pytest.raises(RegistryError):
                await parts.parts.images.apply(plan, BY)
            proxy.last = None
            assert await parts.parts.images.tag(ALICE, APP, Tag("v1")) is not None
            plan = await parts.parts.images.plan(APP, rules)
            assert {tag.name: tag.rule for tag in plan.tags} == {"v1": "interrupted", "v2": "matched", "v3": "newest"}
            assert (await parts.parts.images.apply(plan, BY)).removed == 2
        assert there.get(f"/v2/{APP}/tags/list").json()["tags"] == ["v3"]


async def test_a_tag_that_the_registry_keeps(tmp_path: Path, template: Path) -> None:
    """What the registry refuses to delete is named, and stands in the way of no other tag."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with RefusingProxy(b"manifests/v1 ") as proxy, distribution(folder) as registry:
        backend = {"use": "backend_distribution", "url": registry.url, "proxy": proxy.url}
        async with opened(tmp_path / "gateway", template, backend=backend) as parts:
            for name in ("v1", "v2", "v3"):
                await parts.push(built(100), name)
            proxy.refusing = True
            plan = await parts.parts.images.plan(APP, ALL)
            # Its time is over at once, but it has got nowhere yet.
            state = await parts.parts.images.apply(plan, BY, seconds=0)
            assert state == Applied(planned=3, removed=1, stayed=0, finished=False, refused=["v1"])
            await _bulk(parts, name_regex_delete=".*")
            assert await parts.tags() == ["v1"]
            (said,) = [line for line in parts.lines if line["event"] == "tags deleted in bulk"]
            assert (said["removed"], said["why"]) == (1, "could not delete tags: v1")


def test_many_tags_that_the_registry_keeps() -> None:
    """GitLab cuts their names after 1000 characters (semantics 6)."""
    assert Applied(0).trouble == ""
    assert len(Applied(0, refused=["v" * 100] * 20).trouble) == 1000
