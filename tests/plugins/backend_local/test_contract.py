"""The local store keeps every promise of a backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.plugins.testing import BackendContract
from plugins.backend_local.store import LocalStore


class TestLocalStore(BackendContract):
    """Two stores over one folder, as two workers have it."""

    @pytest.fixture
    async def backend(self, tmp_path: Path) -> AsyncIterator[LocalStore]:
        """A store over an empty folder."""
        store = LocalStore(tmp_path / "registry", 3600)
        store.open()
        yield store
        store.close()

    @pytest.fixture
    async def other(self, backend: LocalStore, tmp_path: Path) -> AsyncIterator[LocalStore]:
        """A second store over the same folder."""
        del backend
        store = LocalStore(tmp_path / "registry", 3600)
        store.open()
        yield store
        store.close()
