"""Registry levels that are set through the API: kept beside the directory's file, in one truth for all replicas."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.config import DatabaseConfig
from gateway.core.database import Database, migrate
from gateway.core.documents import DatabaseDocuments
from gateway.plugins import (
    ANONYMOUS,
    Document,
    ErrorCode,
    Group,
    Identity,
    Project,
    RegistryError,
    RegistryLevel,
    Visibility,
)
from tests.plugins.auth_local.conftest import Kept, Local, content, write
from tests.plugins.auth_local.test_facts import user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SHUT = "robot/shut"
"""A public project whose registry is enabled in the file."""


class Pair:
    """Two replicas on one directory and one database."""

    def __init__(self, path: Path, first: Kept | DatabaseDocuments, second: Kept | DatabaseDocuments) -> None:
        write(path, content())
        self.first, self.second = Local(path, first), Local(path, second)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Run both over documents in memory."""
    kept = Kept()
    pair = Pair(tmp_path / "directory.yaml", kept, kept)
    async with pair.first.running(), pair.second.running():
        yield pair


async def found(local: Local, path: str = SHUT) -> Project:
    """Ask for a project."""
    project = await local.plugin.gateway_find_project(path)
    assert project is not None
    return project


async def keep(local: Local, level: RegistryLevel, path: str = SHUT) -> None:
    """Set a level; what is asked afterwards comes in a later turn of the event loop."""
    assert await local.plugin.gateway_set_registry_level(user("alice"), await found(local, path), level) is level
    await asyncio.sleep(0)


async def listed(local: Local, identity: Identity) -> set[str]:
    """List the projects that somebody may perhaps see, for the catalog."""
    return {project.path for project, _ in await local.plugin.gateway_projects(identity)}


async def test_every_question_hears_of_it(pair: Pair) -> None:
    """In another replica too each way to a project's facts has the new level, and all else as the file says."""
    as_written = await found(pair.second)
    await keep(pair.first, RegistryLevel.PRIVATE)
    plugin = pair.second.plugin
    group = Group("robot", Visibility.PRIVATE, 1)
    ways = [
        await found(pair.second),
        await plugin.gateway_find_project(as_written.id or 0),
        await plugin.gateway_project((f"{SHUT}/a", SHUT)),
        *(project for project in await plugin.gateway_group_projects(group) if project.path == SHUT),
        *(project for project, _ in await plugin.gateway_projects(user("robot")) if project.path == SHUT),
    ]
    assert len(ways) == 5
    expected = Project(SHUT, as_written.visibility, RegistryLevel.PRIVATE, as_written.archived, as_written.id)
    assert all(way == expected for way in ways)


async def test_the_catalog_follows(pair: Pair) -> None:
    """A project that is closed or opened leaves or joins what strangers are shown."""
    assert SHUT in await listed(pair.second, ANONYMOUS)
    await keep(pair.first, RegistryLevel.PRIVATE)
    assert SHUT not in await listed(pair.second, ANONYMOUS)
    deep = "acme/sub/deep"
    assert deep not in await listed(pair.second, ANONYMOUS)
    await keep(pair.first, RegistryLevel.ENABLED, deep)
    assert deep in await listed(pair.second, ANONYMOUS)


async def test_it_wins_over_the_file(pair: Pair) -> None:
    """What was set counts for more than what the file says now, until it is set again."""
    await keep(pair.first, RegistryLevel.PRIVATE)
    changed = content()
    next(item for item in changed["projects"] if item["path"] == SHUT)["container_registry_access_level"] = "disabled"
    await pair.second.edit(changed)
    assert (await found(pair.second)).registry is RegistryLevel.PRIVATE


async def test_what_the_file_says_too_is_forgotten(pair: Pair) -> None:
    """Set to what the file says, the file counts again."""
    await keep(pair.first, RegistryLevel.PRIVATE)
    await keep(pair.second, RegistryLevel.ENABLED)
    changed = content()
    next(item for item in changed["projects"] if item["path"] == SHUT)["container_registry_access_level"] = "disabled"
    await pair.first.edit(changed)
    assert (await found(pair.first)).registry is RegistryLevel.DISABLED


async def test_the_file_is_never_written(pair: Pair) -> None:
    """The directory stays as its operator wrote it."""
    before = pair.first.path.read_bytes()
    await keep(pair.first, RegistryLevel.DISABLED)
    assert pair.first.path.read_bytes() == before


async def test_two_replicas_set_at_once(pair: Pair) -> None:
    """No change is lost where two projects are set at the same time."""
    await asyncio.gather(
        *(
            keep(local, RegistryLevel.DISABLED, path)
            for local, path in ((pair.first, SHUT), (pair.second, "robot/own"), (pair.first, "acme/app"))
        )
    )
    levels = [(await found(pair.first, path)).registry for path in (SHUT, "robot/own", "acme/app")]
    assert levels == [RegistryLevel.DISABLED] * 3


async def test_a_project_of_another_source(local: Local) -> None:
    """A project that the directory has not is nothing to keep."""
    other = Project("else/where", Visibility.PUBLIC)
    kept = await local.plugin.gateway_set_registry_level(user("alice"), other, RegistryLevel.DISABLED)
    assert kept is None


async def test_a_project_that_is_gone(pair: Pair) -> None:
    """A level that was kept for a project that the file has no more harms nobody."""
    await keep(pair.first, RegistryLevel.PRIVATE)
    changed = content()
    changed["projects"] = [item for item in changed["projects"] if item["path"] != SHUT]
    await pair.first.edit(changed)
    assert await pair.first.plugin.gateway_find_project(SHUT) is None
    assert SHUT not in await listed(pair.first, ANONYMOUS)


async def test_many_questions_in_one_turn_read_once(tmp_path: Path) -> None:
    """However many questions are asked in one turn of the event loop, what is kept is read once for them."""
    kept = Counting()
    write(tmp_path / "directory.yaml", content())
    local = Local(tmp_path / "directory.yaml", kept)
    async with local.running():
        await asyncio.gather(*(found(local) for _ in range(50)))
    assert kept.reads == 1


class Counting(Kept):
    """Documents in memory that count how often they are read."""

    reads = 0

    async def get(self, kind: str, key: str) -> None:
        """Count one more."""
        del kind, key
        self.reads += 1


async def test_it_outlives_the_process(tmp_path: Path) -> None:
    """In the database it is found by whoever starts later, and by another process at once."""
    config = DatabaseConfig.model_validate({"url": f"sqlite:///{tmp_path / 'gateway.db'}"})
    await migrate(config)
    databases = Database(config), Database(config)
    for database in databases:
        await database.open()
    try:
        pair = Pair(tmp_path / "directory.yaml", *(DatabaseDocuments(one, "auth_local") for one in databases))
        async with pair.first.running():
            await keep(pair.first, RegistryLevel.DISABLED)
        async with pair.second.running():
            assert (await found(pair.second)).registry is RegistryLevel.DISABLED
            await keep(pair.second, RegistryLevel.ENABLED)
            assert (await found(pair.first)).registry is RegistryLevel.ENABLED
    finally:
        for database in databases:
            await database.close()


async def test_a_database_that_fails_answers_nobody(tmp_path: Path) -> None:
    """While what was set can't be read nobody is told a level, and afterwards everybody is."""
    kept = Failing()
    write(tmp_path / "directory.yaml", content())
    local = Local(tmp_path / "directory.yaml", kept)
    async with local.running():
        asked = await asyncio.gather(*(found(local) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(answer, RegistryError) for answer in asked)
        kept.fails = False
        assert (await found(local)).registry is RegistryLevel.ENABLED


class Failing(Kept):
    """Documents that can't be read."""

    fails = True

    async def get(self, kind: str, key: str) -> Document | None:
        """Fail, after a wait."""
        await asyncio.sleep(0)
        if self.fails:
            raise RegistryError(ErrorCode.UNAVAILABLE)
        return await super().get(kind, key)


class Slow(Kept):
    """Documents whose first reader hears of what it read when it is told to go on, as over a network."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.go_on = asyncio.Event(), asyncio.Event()

    async def get(self, kind: str, key: str) -> Document | None:
        """Read now, answer later."""
        found = await super().get(kind, key)
        if not self.read.is_set():
            self.read.set()
            await self.go_on.wait()
        return found


async def test_nobody_is_answered_by_a_read_that_began_before(tmp_path: Path) -> None:
    """Who asks while somebody else's read is under way hears of what was set since it began."""
    kept = Slow()
    pair = Pair(tmp_path / "directory.yaml", kept, kept)
    async with pair.first.running(), pair.second.running():
        early = asyncio.create_task(found(pair.first))
        await kept.read.wait()
        project = Project(SHUT, Visibility.PUBLIC)
        await pair.second.plugin.gateway_set_registry_level(user("alice"), project, RegistryLevel.DISABLED)
        late = [asyncio.create_task(found(pair.first)) for _ in range(20)]
        # Each has asked once the event loop has turned.
        await asyncio.sleep(0)
        kept.go_on.set()
        assert (await early).registry is RegistryLevel.ENABLED
        assert {(await one).registry for one in late} == {RegistryLevel.DISABLED}
        assert (await found(pair.first)).registry is RegistryLevel.DISABLED
