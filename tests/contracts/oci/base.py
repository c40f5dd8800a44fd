"""What all parts of the suite are given."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from .client import Client, Registry
from .content import random_blob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Contract:
    """A part of the suite; the backend's own test class overrides ``registry``."""

    @pytest.fixture
    def registry(self) -> Registry:
        """Say where the registry under test listens."""
        raise NotImplementedError("override the fixture `registry` in the class of your backend")

    @pytest.fixture
    async def client(self, registry: Registry) -> AsyncIterator[Client]:
        """Give a client of that registry, closed afterwards."""
        async with Client.connect(registry) as client:
            yield client

    @pytest.fixture
    def repo(self, registry: Registry) -> str:
        """Name a repository that nobody has used."""
        return f"{registry.namespace}/r{uuid4().hex}"

    @pytest.fixture(scope="class")
    @classmethod
    def standing_repos(cls) -> list[str]:
        """Give what `standing_repo` made."""
        return []

    @pytest.fixture
    async def standing_repo(self, client: Client, repo: str, standing_repos: list[str]) -> str:
        """Name a repository that exists, the same in all tests, for requests that are to change nothing in it."""
        if not standing_repos:
            await client.push_blob(repo, random_blob())
            standing_repos.append(repo)
        return standing_repos[0]

    @pytest.fixture
    def other_repo(self, registry: Registry) -> str:
        """Name a repository of another project that nobody has used."""
        return f"{registry.other_namespace}/r{uuid4().hex}"
