"""The registry behind the gateway keeps what every backend promises, however it asks who is there."""

from __future__ import annotations

import pytest

from gateway.plugins.testing import BackendContract
from plugins.backend_distribution.backend import DistributionBackend


class TestDistribution(BackendContract):
    """The contract over Distribution 2.8, in each of its modes."""

    @pytest.fixture
    async def backend(self, backend: DistributionBackend) -> DistributionBackend:
        """Take that of the modes."""
        return backend

    @pytest.fixture
    async def other(self, other: DistributionBackend) -> DistributionBackend:
        """Take that of the modes."""
        return other
