"""A registry behind the gateway keeps what the protocols promise, where Distribution 2.8 can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway.oci import Digest, Tag
from gateway.plugins import ANONYMOUS, Manifest, TagPage, TagQuery
from gateway.plugins.testing import NAME, BackendContract, upload_blob
from tests.sketches.registry import RegistryBackend
from tests.support.distribution import distribution
from tests.support.images import image

_CANNOT = {
    "test_wrong_offset": "Distribution 2.8 ignores Content-Range, so the sketch sends none",
    "test_digest_mismatch": "Distribution 2.8 keeps the upload after a mismatch",
    "test_busy": "Distribution 2.8 does not lock uploads",
    "test_broken_body": "aiohttp's own error stands for the body's",
    "test_cancelled_write": "the state to go on with is lost with the cancelled request",
}


@pytest.fixture(name="over_registry")
async def _over_registry(tmp_path: Path) -> AsyncIterator[RegistryBackend]:
    """Stand in front of an empty registry."""
    idle = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
    with distribution(tmp_path) as upstream:
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=jar, timeout=idle) as session:
            yield RegistryBackend(upstream.url, session)


class TestRegistry(BackendContract):
    """The contract over a real registry."""

    @pytest.fixture(autouse=True)
    def _possible(self, request: pytest.FixtureRequest) -> None:
        if request.node.originalname in _CANNOT:
            pytest.skip(_CANNOT[request.node.originalname])

    @pytest.fixture
    async def backend(self, over_registry: RegistryBackend) -> RegistryBackend:
        """Take the backend of this module."""
        return over_registry


async def test_manifests_and_tags(over_registry: RegistryBackend) -> None:
    """A manifest comes back as it was put, its tags are paged, and it can be deleted by digest."""
    backend = over_registry
    made = image(b"sketch")
    for blob in (made.config, *made.layers):
        await upload_blob(backend, blob.content)
    digest = Digest(made.manifest.digest)
    content = made.manifest.content
    put = Manifest(digest, made.manifest.media_type, len(content), content)
    await backend.put_manifest(NAME, [Tag("a"), Tag("b")], put, ANONYMOUS)
    assert await backend.manifest(NAME, Tag("a")) == put
    head = await backend.manifest(NAME, digest, head=True)
    assert head == Manifest(digest, made.manifest.media_type, len(content))
    assert await backend.tags(NAME, TagQuery(1)) == TagPage((Tag("a"),), more=True)
    assert await backend.tags(NAME, TagQuery(1, "a")) == TagPage((Tag("b"),))
    assert await backend.delete_manifest(NAME, digest)
    assert await backend.manifest(NAME, digest) is None
