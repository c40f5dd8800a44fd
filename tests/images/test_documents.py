"""What plugins keep is the same for every worker, and nobody overwrites what they have not seen."""

from __future__ import annotations

from gateway.core.documents import DatabaseDocuments
from tests.images.conftest import Rig


def _documents(rig: Rig, plugin: str = "mine") -> DatabaseDocuments:
    return DatabaseDocuments(rig.parts.database, plugin)


async def test_what_is_kept_is_found(local: Rig) -> None:
    """Any JSON comes back as it was, with who kept it."""
    value = {"text": "ünïcode", "list": [1, None, True]}
    assert await _documents(local).put("note", "acme/app", value, "alice")
    found = await _documents(local).get("note", "acme/app")
    assert found is not None
    assert (found.key, found.value, found.version, found.changed_by) == ("acme/app", value, 1, "alice")
    assert await _documents(local).get("note", "acme/other") is None
    assert await _documents(local).get("other", "acme/app") is None


async def test_plugins_keep_apart(local: Rig) -> None:
    """Two plugins may use the same words."""
    await _documents(local, "one").put("note", "k", 1, "")
    await _documents(local, "two").put("note", "k", 2, "")
    found = await _documents(local, "one").get("note", "k")
    assert found is not None
    assert found.value == 1


async def test_a_newer_version_is_not_overwritten(local: Rig) -> None:
    """Who names the version they have seen changes that one and no other; version 0 is none yet."""
    mine = _documents(local)
    assert await mine.put("note", "k", "first", "alice", version=0)
    assert not await mine.put("note", "k", "second", "bob", version=0)
    assert await mine.put("note", "k", "second", "bob", version=1)
    assert not await mine.put("note", "k", "third", "alice", version=1)
    assert await mine.put("note", "k", "third", "carol")
    found = await mine.get("note", "k")
    assert found is not None
    assert (found.value, found.version, found.changed_by) == ("third", 3, "carol")


async def test_all_come_by_key(local: Rig) -> None:
    """Every document of a kind, sorted; what is removed is gone."""
    mine = _documents(local)
    for key in ("b", "a", "c"):
        await mine.put("note", key, key, "")
    await mine.remove("note", "b")
    assert [document.value for document in await mine.all("note")] == ["a", "c"]
