"""An existing registry as the gateway's backend: its own answers decide what exists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from gateway.plugins import Capability, Metadata, RepositoryName, UploadRecords
from plugins.backend_distribution import catalog
from plugins.backend_distribution.blobs import Blobs
from plugins.backend_distribution.client import RegistryClient
from plugins.backend_distribution.config import Config
from plugins.backend_distribution.manifests import Manifests
from plugins.backend_distribution.names import Names
from plugins.backend_distribution.probe import probe
from plugins.backend_distribution.spool import Spool


class DistributionBackend(Blobs, Manifests):
    """An Upstream over the OCI distribution protocol. *client* and *spool* are to be opened by whoever made them."""

    metadata: Literal["truth", "index"] = "index"

    def __init__(
        self,
        config: Config,
        client: RegistryClient,
        uploads: UploadRecords,
        log: Any,
        *,
        recorded: Metadata | None = None,
        spool: Spool | None = None,
    ) -> None:
        names = Names(config.path_prefix, config.paths)
        Blobs.__init__(
            self,
            client,
            names,
            uploads,
            log,
            redirects=config.redirects,
            recorded=recorded,
            spool=spool,
            exclusive=config.exclusive,
        )
        Manifests.__init__(self, client, names)
        self.exclusive = config.exclusive
        self.tag_freshness = config.tag_freshness.total_seconds()
        self._rest = (client, names)

    def repositories(self) -> AsyncIterator[RepositoryName]:
        """Every repository of the upstream's catalog that has a name here. Raises RegistryError where it has none."""
        return catalog.repositories(*self._rest)

    async def probe(self, name: RepositoryName) -> Sequence[Capability]:
        """What the upstream can; nothing in *name* is changed. Raises UpstreamError."""
        client, names = self._rest
        return await probe(client, names.upstream(name))
