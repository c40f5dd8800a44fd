"""What another registry has is seen when somebody looks, and what is recorded already is not asked for again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.errors import RegistryError
from gateway.oci import Digest, Tag
from gateway.plugins import CleanupRules, TagSearch
from tests.contracts.oci.content import KINDS, image
from tests.images.conftest import ALICE, APP, BY, Rig, rig
from tests.support.distribution import Distribution, distribution
from tests.support.images import Blob
from tests.support.images import image as small_image
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Distribution]:
    """A registry that others write to."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with distribution(folder) as running:
        yield running


@pytest.fixture(params=[False, True], ids=["shared", "exclusive"])
async def images(request: pytest.FixtureRequest, tmp_path: Path, registry: Distribution) -> AsyncIterator[Rig]:
    """The parts of a gateway before it, which may or may not believe that nobody else writes."""
    backend = {"use": "backend_distribution", "url": registry.url, "exclusive": request.param}
    async with rig(tmp_path / "gateway", backend=backend) as opened:
        yield opened


@pytest.fixture
async def shared(tmp_path: Path, registry: Distribution) -> AsyncIterator[Rig]:
    """The parts of a gateway before a registry that others write to as well."""
    async with rig(tmp_path / "gateway", backend={"use": "backend_distribution", "url": registry.url}) as opened:
        yield opened


def _asked(registry: Distribution) -> int:
    return registry.peer.log.count("http.request.method=GET") + registry.peer.log.count("http.request.method=HEAD")


async def test_what_was_there_before_is_listed(images: Rig, registry: Distribution) -> None:
    """The first look reads what the registry has, with digests, sizes and dates."""
    Wire(registry.url).push_image(APP, "old", small_image(b"pushed around the gateway"))
    await images.push(image(), "new")
    found, total = await images.parts.images.tags(ALICE, APP, TagSearch(dated=True))
    assert [tag.name for tag in found] == ["new", "old"]
    assert total == 2
    assert [tag.pushed_by for tag in found] == ["alice", ""]
    assert found[1].platforms == ("linux/amd64",)
    assert await images.parts.images.has_tags(["acme/app"])


async def test_tags_that_are_recorded_are_not_asked_for(images: Rig, registry: Distribution) -> None:
    """A page costs the registry one list of tags at most, and none where nobody else writes to it."""
    for place in range(5):
        await images.push(image(), f"v{place}")
    search = TagSearch(order="created", dated=True)
    await images.parts.images.tags(ALICE, APP, search)
    before = _asked(registry)
    assert before
    await images.parts.images.tags(ALICE, APP, search)
    exclusive = images.parts.plugins.upstreams()[0].exclusive
    assert _asked(registry) - before <= (0 if exclusive else 2)


async def test_what_others_change_is_seen(shared: Rig, registry: Distribution) -> None:
    """A tag that somebody pushed or deleted past the gateway comes and goes with the next look."""
    there = Wire(registry.url)
    await shared.push(image(), "mine")
    assert await shared.tags() == ["mine"]
    there.push_image(APP, "theirs", small_image(b"theirs"))
    assert await shared.tags() == ["mine", "theirs"]
    digest = there.manifest(APP, "theirs").header("Docker-Content-Digest")
    there.send("DELETE", f"/v2/{APP}/manifests/{digest}").expect(202)
    assert await shared.tags() == ["mine"]


async def test_one_tag_is_what_it_is_now(shared: Rig, registry: Distribution) -> None:
    """The details of a tag that was moved past the gateway are those of what it points at now."""
    digest = await shared.push(image(), "v1")
    first = await shared.parts.images.tag(ALICE, APP, Tag("v1"))
    assert first is not None
    assert first.digest == digest
    moved = small_image(b"moved")
    Wire(registry.url).push_image(APP, "v1", moved)
    second = await shared.parts.images.tag(ALICE, APP, Tag("v1"))
    assert second is not None
    assert second.digest == moved.manifest.digest
    assert await shared.parts.images.tag(ALICE, APP, Tag("v2")) is None


@pytest.mark.parametrize("moved", [False, True], ids=["pushed", "moved"])
async def test_a_signature_stays_for_a_tag_that_came_past_the_gateway(
    shared: Rig, registry: Distribution, *, moved: bool
) -> None:
    """The last recorded tag of an image is not the last where somebody pushed or moved another past the gateway."""
    subject = small_image(b"pushed by two ways")
    there = Wire(registry.url)
    there.push_image(APP, "mine", subject)
    if moved:
        there.push_image(APP, "theirs", small_image(b"something else"))
    await shared.tags()
    companion = f"sha256-{subject.manifest.digest.partition(':')[2]}.sig"
    await shared.push(image(), companion)
    there.push_image(APP, "theirs", subject)
    assert await shared.parts.images.delete_tag(APP, Tag("mine"), BY)
    assert await shared.tags() == [companion, "theirs"]


async def test_a_plan_is_about_where_tags_point(shared: Rig, registry: Distribution) -> None:
    """A tag that was moved past the gateway is planned as what it is now, and not as what it was."""
    there = Wire(registry.url)
    for tag in ("older", "newer"):
        there.push_image(APP, tag, small_image(tag.encode()))
    rules = CleanupRules(".*", None, None, None)
    before = await shared.parts.images.plan(APP, rules)
    moved = small_image(b"moved")
    there.push_image(APP, "older", moved)
    after = await shared.parts.images.plan(APP, rules)
    assert before.removed["older"].digest != moved.manifest.digest
    assert after.removed["older"].digest == moved.manifest.digest
    assert after.removed["newer"] == before.removed["newer"]


async def test_a_build_cache_that_others_pushed(shared: Rig, registry: Distribution) -> None:
    """BuildKit's index of layers, of which the registry fails to say that they are no manifests, is listed and goes."""
    there, cache = Wire(registry.url), KINDS["index-of-build-cache"]()
    for blob in cache.blobs:
        there.push_blob(APP, Blob(blob.media_type, blob.content))
    there.put_manifest(APP, "cache", Blob(cache.media_type, cache.content)).expect(201)
    assert await shared.tags() == ["cache"]
    assert await shared.parts.images.deletion.remove(APP, Digest(cache.digest), BY)
    assert await shared.tags() == []


async def test_tags_whose_manifest_is_lost(shared: Rig, registry: Distribution, tmp_path: Path) -> None:
    """They are undated tags to a cleanup, and go where the pattern fits and no date is asked for (semantics 7.2)."""
    there = Wire(registry.url)
    for tag in ("good", "broken"):
        there.push_image(APP, tag, small_image(tag.encode()))
    digest = small_image(b"broken").manifest.digest
    revisions = tmp_path / "registry/store/docker/registry/v2/repositories" / APP / "_manifests/revisions/sha256"
    (revisions / digest.partition(":")[2] / "link").unlink()
    there.get(f"/v2/{APP}/manifests/broken").expect(404)
    images = shared.parts.images
    for rules, rule in (
        (CleanupRules(".*", None, 2, None), "newest"),
        (CleanupRules(".*", None, None, timedelta(days=7)), "undated"),
        (CleanupRules("go.*", None, None, None), "no_match"),
        (CleanupRules(".*", None, None, None), "matched"),
    ):
        plan = await images.plan(APP, rules)
        assert {tag.name: tag.rule for tag in plan.tags}["broken"] == rule
    plan = await images.plan(APP, CleanupRules("broken", None, None, None))
    assert list(plan.removed) == ["broken"]
    done = await images.apply(plan, BY)
    assert (done.removed, done.finished) == (1, True)
    assert there.get(f"/v2/{APP}/tags/list").expect(200).json()["tags"] == ["good"]
    assert [tag.name for tag in (await images.plan(APP, CleanupRules(".*", None, None, None))).tags] == ["good"]


async def test_a_registry_that_is_down(shared: Rig, registry: Distribution) -> None:
    """Trap 31: repositories are listed without the registry, tags are not."""
    await shared.push(image(), "v1")
    registry.peer.stop()
    found, _ = await shared.parts.images.repositories(ALICE, ["acme/app"])
    assert [record.path for record in found] == [APP]
    with pytest.raises(RegistryError) as caught:
        await shared.parts.images.tags(ALICE, APP, TagSearch())
    assert caught.value.status >= 500
