"""TLS, client certificates, proxies and redirects: whom the gateway believes, and what it shows to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from gateway.oci import Digest
from gateway.plugins import RegistryError
from gateway.plugins.testing import NAME, content, read_blob, upload_blob
from tests.fakes.proxy import ForwardProxy
from tests.fakes.upstream import FaultyUpstream, answer
from tests.support.distribution import distribution, tls
from tests.support.redis import certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.backend_distribution.conftest import Make

BLOB = content(300_000)
DIGEST = Digest.of(BLOB)
PATH = f"/v2/{NAME}/blobs/{DIGEST}"
LOGIN = {"username": "gateway", "password": SecretStr("a password")}
BASIC = answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})


async def test_an_authority_of_ones_own(workers: Make, tmp_path: Path) -> None:
    """A registry whose certificate `ca_file` signed is believed."""
    authority = certificates(tmp_path)
    with distribution(tmp_path, tls=tls(tmp_path)) as registry:
        backend = await workers(url=registry.url, ca_file=authority)
        assert await read_blob(backend, await upload_blob(backend, BLOB)) == BLOB


async def test_nobodys_authority(workers: Make, tmp_path: Path) -> None:
    """Without it nothing is sent, and the operator hears which key may be missing."""
    certificates(tmp_path)
    with distribution(tmp_path, tls=tls(tmp_path)) as registry:
        backend = await workers(url=registry.url)
        with pytest.raises(RegistryError) as caught:
            await upload_blob(backend, BLOB)
    assert caught.value.status == 502
    assert "is ca_file that of its authority?" in (caught.value.why or "")


async def test_client_certificates(workers: Make, tmp_path: Path) -> None:
    """A registry that wants a certificate is shown one."""
    authority = certificates(tmp_path)
    with distribution(tmp_path, tls=tls(tmp_path, client_authority=authority)) as registry:
        shown = {"client_certificate_file": tmp_path / "certificate.pem", "client_key_file": tmp_path / "key.pem"}
        backend = await workers(url=registry.url, ca_file=authority, **shown)
        assert await read_blob(backend, await upload_blob(backend, BLOB)) == BLOB
        without = await workers(url=registry.url, ca_file=authority, attempts=1)
        with pytest.raises(RegistryError) as caught:
            await upload_blob(without, BLOB)
        assert caught.value.status == 502


@pytest.fixture
def proxy() -> Iterator[ForwardProxy]:
    """Run a proxy."""
    with ForwardProxy() as running:
        yield running


async def test_through_a_proxy(workers: Make, tmp_path: Path, proxy: ForwardProxy) -> None:
    """With `proxy` everything goes through it, in absolute form."""
    with distribution(tmp_path) as registry:
        backend = await workers(url=registry.url, proxy=proxy.url)
        assert await read_blob(backend, await upload_blob(backend, BLOB)) == BLOB
    assert f"PATCH {registry.url}/v2/{NAME}/blobs/uploads/" in "\n".join(proxy.asked)
    assert f"GET {registry.url}{PATH} HTTP/1.1" in proxy.asked


async def test_through_a_tunnel(workers: Make, tmp_path: Path, proxy: ForwardProxy) -> None:
    """TLS goes through the proxy as a tunnel, of which it sees the host alone."""
    authority = certificates(tmp_path)
    with distribution(tmp_path, tls=tls(tmp_path)) as registry:
        backend = await workers(url=registry.url, ca_file=authority, proxy=proxy.url)
        assert await read_blob(backend, await upload_blob(backend, BLOB)) == BLOB
    assert set(proxy.asked) == {f"CONNECT {registry.host} HTTP/1.1"}


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses(workers: Make, proxy: ForwardProxy, scheme: str) -> None:
    """A proxy that lets nobody through is a failure of the way, not of the client."""
    proxy.refuses = True
    backend = await workers(url=f"{scheme}://127.0.0.1:1", proxy=proxy.url)
    with pytest.raises(RegistryError) as caught:
        await upload_blob(backend, BLOB)
    assert caught.value.status == 502


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    """Run a registry that answers what a test tells it, and wants a password."""
    with FaultyUpstream() as running:
        running.on("GET", "/v2/", BASIC)
        yield running


@pytest.fixture
def store() -> Iterator[FaultyUpstream]:
    """Run an object store that has the blob."""
    with FaultyUpstream() as running:
        for method in ("HEAD", "GET"):
            running.on(method, "/bucket/blob", answer(200, BLOB))
        yield running


def _send_away(upstream: FaultyUpstream, store: FaultyUpstream, status: int = 307) -> str:
    signed = f"{store.url}/bucket/blob?X-Signature=a%2Fb%7Ec..&x=%C3%BC"
    for method in ("HEAD", "GET"):
        upstream.on(method, PATH, answer(status, b"<a>Moved</a>" * (method == "GET"), {"Location": signed}))
    return signed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_without_the_credential(
    workers: Make, upstream: FaultyUpstream, store: FaultyUpstream, status: int
) -> None:
    """The signed URL is asked letter by letter, and never hears the password; the registry's connection is kept."""
    _send_away(upstream, store, status)
    backend = await workers(url=upstream.url, **LOGIN)
    assert await read_blob(backend, DIGEST) == BLOB
    asked = store.requests("GET", "/bucket/blob")
    assert [one.target for one in asked] == ["/bucket/blob?X-Signature=a%2Fb%7Ec..&x=%C3%BC"]
    assert all("authorization" not in one.headers for one in store.asked)
    assert all("authorization" in one.headers for one in upstream.asked[1:])
    assert upstream.connections == 1


async def test_a_client_is_sent_away_where_that_is_allowed(
    workers: Make, upstream: FaultyUpstream, store: FaultyUpstream
) -> None:
    """With `redirects` the client gets the signed URL, for repositories that fit, and no byte goes through here."""
    signed = _send_away(upstream, store)
    for patterns, location in ((["acme/*"], signed), (["other/**"], None)):
        backend = await workers(url=upstream.url, redirects=patterns, **LOGIN)
        async with backend.open_blob(NAME, DIGEST) as blob:
            assert blob.location == location
            assert blob.size == len(BLOB)
    assert store.requests("GET", "/bucket/blob") == []


SERVED = [
    pytest.param(answer(206, BLOB[:1], {"Content-Range": f"bytes 0-0/{len(BLOB)}"}), id="a part"),
    pytest.param(answer(416), id="an empty blob"),
]


@pytest.mark.parametrize("turn", SERVED)
async def test_a_registry_that_serves_blobs_itself(workers: Make, upstream: FaultyUpstream, turn: object) -> None:
    """Where the registry sends nobody away, with `redirects` too the blob comes through here."""
    upstream.on("HEAD", PATH, answer(200, BLOB))
    upstream.on("GET", PATH, turn, answer(200, BLOB))  # type: ignore[arg-type]
    backend = await workers(url=upstream.url, redirects=["**"], **LOGIN)
    async with backend.open_blob(NAME, DIGEST) as blob:
        assert blob.location is None
    assert await read_blob(backend, DIGEST) == BLOB


async def test_a_refused_signature(workers: Make, upstream: FaultyUpstream, store: FaultyUpstream) -> None:
    """An object store that refuses a signed URL is no fault of the password's, and the log has no signature."""
    _send_away(upstream, store)
    store.on("HEAD", "/bucket/blob", answer(403))
    backend = await workers(url=upstream.url, **LOGIN)
    with pytest.raises(RegistryError) as caught:
        await read_blob(backend, DIGEST)
    why = caught.value.why or ""
    assert "clocks" in why
    assert "Signature" not in why
    assert "a password" not in why
