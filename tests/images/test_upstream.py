"""What another registry has is seen when somebody looks, and what is recorded already is not asked for again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from gateway.errors import RegistryError
from gateway.oci import Tag
from gateway.plugins import TagSearch
from tests.contracts.oci.content import image
from tests.images.conftest import ALICE, APP, BY, Rig, rig
from tests.support.distribution import Distribution, distribution
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


async def test_a_signature_stays_for_a_tag_that_came_past_the_gateway(shared: Rig, registry: Distribution) -> None:
    """The last recorded tag of an image is not the last where somebody has pushed another one past the gateway."""
    subject = small_image(b"pushed by two ways")
    there = Wire(registry.url)
    there.push_image(APP, "mine", subject)
    await shared.tags()
    companion = f"sha256-{subject.manifest.digest.partition(':')[2]}.sig"
    await shared.push(image(), companion)
    there.push_image(APP, "theirs", subject)
    assert await shared.parts.images.delete_tag(APP, Tag("mine"), BY)
    assert await shared.tags() == [companion, "theirs"]


async def test_a_registry_that_is_down(shared: Rig, registry: Distribution) -> None:
    """Trap 31: repositories are listed without the registry, tags are not."""
    await shared.push(image(), "v1")
    registry.peer.stop()
    found, _ = await shared.parts.images.repositories(ALICE, ["acme/app"])
    assert [record.path for record in found] == [APP]
    with pytest.raises(RegistryError) as caught:
        await shared.parts.images.tags(ALICE, APP, TagSearch())
    assert caught.value.status >= 500
