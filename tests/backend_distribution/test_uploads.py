"""Uploads through the gateway: no byte that came is lost, and where one is lost the client hears it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from gateway.oci import Digest
from gateway.plugins import (
    DigestMismatchError,
    ErrorCode,
    OffsetError,
    Progress,
    RegistryError,
    UploadUnknownError,
)
from gateway.plugins.testing import (
    NAME,
    OTHER_NAME,
    BrokenBodyError,
    Stalled,
    broken,
    chunks,
    content,
    new_upload,
    read_blob,
)
from tests.fakes.upstream import RESETS, FaultyUpstream, Turn, answer, error
from tests.support.distribution import Distribution, distribution

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from gateway.core.uploadrecords import DatabaseUploads
    from plugins.backend_distribution.backend import DistributionBackend
    from tests.backend_distribution.conftest import Make

    Records = tuple[DatabaseUploads, DatabaseUploads]

WHOLE = content(3_000_000)
NOW = Progress("", 0)
BEGIN = f"/v2/{NAME}/blobs/uploads/"
STATE = f"/v2/{NAME}/blobs/uploads/1"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Distribution]:
    """Run a registry that asks nobody."""
    with distribution(tmp_path) as running:
        yield running


@pytest.fixture
async def backend(workers: Make, registry: Distribution) -> DistributionBackend:
    """Stand before it."""
    return await workers(url=registry.url)


async def _begun(backend: DistributionBackend) -> str:
    upload = new_upload()
    assert await backend.begin_upload(NAME, upload) == NOW
    return upload


async def _behind_our_back(records: Records, upload: str, method: str, body: bytes, query: str = "") -> None:
    """Do upstream what a gateway did that was killed before it could record it."""
    state = (await records[0].progress(upload)).state
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(state + query, encoded=True), data=body) as reply,
    ):
        assert reply.status in {201, 202}


def _left_upstream(folder: Path) -> list[Path]:
    """Give the uploads that hold bytes; Distribution leaves their folders behind."""
    return list((folder / "store/docker/registry/v2/repositories" / NAME / "_uploads").glob("*/data"))


# -- a client or a gateway that breaks off ------------------------------------------------------------------


async def test_what_came_before_a_break_is_kept(backend: DistributionBackend) -> None:
    """Every byte that came before a client's connection broke is held, and the next request goes on after it."""
    upload = await _begun(backend)
    with pytest.raises(BrokenBodyError):
        await backend.write_upload(NAME, upload, NOW, broken(WHOLE[:1_000_000]), at=0)
    assert (await backend.upload_progress(NAME, upload, NOW)).offset == 1_000_000
    await backend.write_upload(NAME, upload, NOW, chunks(WHOLE[1_000_000:]), at=1_000_000)
    assert await backend.finish_upload(NAME, upload, NOW, Digest.of(WHOLE)) == len(WHOLE)
    assert await read_blob(backend, Digest.of(WHOLE)) == WHOLE


async def test_what_came_before_a_cancellation_is_kept(backend: DistributionBackend) -> None:
    """Every byte that came before the request was cancelled is held."""
    upload = await _begun(backend)
    body = Stalled(WHOLE[:1_000_000])
    writing = asyncio.create_task(backend.write_upload(NAME, upload, NOW, body.chunks(), at=0))
    await body.reached.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (await backend.upload_progress(NAME, upload, NOW)).offset == 1_000_000


async def test_a_gateway_that_was_killed_while_it_wrote(backend: DistributionBackend, records: Records) -> None:
    """Bytes that nobody recorded are gone: the upload says 0, begins anew, and can be completed."""
    upload = await _begun(backend)
    await backend.write_upload(NAME, upload, NOW, chunks(b"12345"), at=0)
    await _behind_our_back(records, upload, "PATCH", b"678")
    assert (await backend.upload_progress(NAME, upload, NOW)).offset == 0
    await backend.write_upload(NAME, upload, NOW, chunks(WHOLE), at=0)
    assert await backend.finish_upload(NAME, upload, NOW, Digest.of(WHOLE)) == len(WHOLE)


async def test_going_on_blindly_after_that(backend: DistributionBackend, records: Records) -> None:
    """Whoever goes on without asking is told that nothing is held, and then may."""
    upload = await _begun(backend)
    await backend.write_upload(NAME, upload, NOW, chunks(b"12345"), at=0)
    await _behind_our_back(records, upload, "PATCH", b"678")
    with pytest.raises(OffsetError) as caught:
        await backend.write_upload(NAME, upload, NOW, chunks(WHOLE), at=5)
    assert caught.value.offset == 0
    await backend.write_upload(NAME, upload, NOW, chunks(WHOLE), at=0)
    assert await backend.finish_upload(NAME, upload, NOW, Digest.of(WHOLE)) == len(WHOLE)


async def test_finishing_after_that(backend: DistributionBackend, records: Records) -> None:
    """Bytes that are not those of the record are never made a blob: the upload is gone."""
    upload = await _begun(backend)
    await backend.write_upload(NAME, upload, NOW, chunks(b"12345"), at=0)
    await _behind_our_back(records, upload, "PATCH", b"678")
    with pytest.raises(UploadUnknownError):
        await backend.finish_upload(NAME, upload, NOW, Digest.of(b"12345678"))
    with pytest.raises(UploadUnknownError):
        await backend.upload_progress(NAME, upload, NOW)


async def test_a_gateway_that_was_killed_while_it_finished(backend: DistributionBackend, records: Records) -> None:
    """An upload whose end was done and never recorded ends well when it is ended again."""
    upload = await _begun(backend)
    await backend.write_upload(NAME, upload, NOW, chunks(b"12345"), at=0)
    await _behind_our_back(records, upload, "PUT", b"", f"&digest={Digest.of(b'12345')}")
    assert await backend.finish_upload(NAME, upload, NOW, Digest.of(b"12345")) == 5


# -- what is left upstream ----------------------------------------------------------------------------------


async def test_nothing_is_left_upstream(backend: DistributionBackend, tmp_path: Path) -> None:
    """A mismatch, a mount that can't be done and a cancellation leave no upload upstream."""
    upload = await _begun(backend)
    await backend.write_upload(NAME, upload, NOW, chunks(b"right"), at=0)
    assert len(_left_upstream(tmp_path)) == 1
    with pytest.raises(DigestMismatchError):
        await backend.finish_upload(NAME, upload, NOW, Digest.of(b"wrong"))
    assert not await backend.mount_blob(OTHER_NAME, NAME, Digest.of(b"nobody pushed this"))
    upload = await _begun(backend)
    await backend.cancel_upload(NAME, upload, NOW)
    assert _left_upstream(tmp_path) == []


# -- an upstream that breaks off ----------------------------------------------------------------------------


@pytest.fixture
def faulty() -> Iterator[FaultyUpstream]:
    """Run a registry that begins uploads, and else answers what a test tells it."""
    with FaultyUpstream() as running:
        running.on("POST", BEGIN, answer(202, headers={"Location": f"{STATE}?_state=a"}))
        yield running


@pytest.fixture
async def before(workers: Make, faulty: FaultyUpstream) -> DistributionBackend:
    """Stand before it, with short time-outs."""
    return await workers(url=faulty.url, read_timeout="500ms")


def _taken(size: int, state: str = "b") -> Turn:
    return answer(202, headers={"Location": f"{STATE}?_state={state}", "Range": f"0-{max(0, size - 1)}"})


async def _endless() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0)
        yield WHOLE


@pytest.mark.parametrize(
    ("turn", "status", "why"),
    [
        pytest.param(answer(500, early=True, after="close"), 502, "", id="500 at once"),
        pytest.param(Turn(after="stuck", early=True), 504, "took no byte", id="takes no byte"),
        pytest.param(Turn(after="reset", early=True), 502, "", id="resets"),
        pytest.param(error(400, "SIZE_INVALID", "too big"), 400, "", id="400"),
    ],
)
async def test_an_upload_that_can_not_go_on(
    before: DistributionBackend, faulty: FaultyUpstream, turn: Turn, status: int, why: str
) -> None:
    """A client that sends on and on hears of the upstream's failure, and not after its last byte."""
    faulty.on("PATCH", STATE, turn)
    upload = await _begun(before)
    body = _endless() if turn.early else chunks(WHOLE)
    with pytest.raises(RegistryError) as caught:
        await asyncio.wait_for(before.write_upload(NAME, upload, NOW, body, at=0), 20)
    assert caught.value.status == status
    assert why in (caught.value.why or "")
    assert len(faulty.requests("PATCH", STATE)) == 1


async def test_an_upload_goes_where_the_upstream_says(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """Each request goes to the latest Location, in chunks, and the last names the digest."""
    faulty.on("PATCH", STATE, _taken(5, "b"), _taken(8, "c"))
    faulty.on("PUT", STATE, answer(201))
    upload = await _begun(before)
    await before.write_upload(NAME, upload, NOW, chunks(b"12345"), at=None)
    await before.write_upload(NAME, upload, NOW, chunks(b"678"), at=5)
    digest = Digest.of(b"12345678")
    assert await before.finish_upload(NAME, upload, NOW, digest) == 8
    sent = [(one.method, one.target, one.body) for one in faulty.asked if one.target.startswith(STATE)]
    assert sent == [
        ("PATCH", f"{STATE}?_state=a", b"12345"),
        ("PATCH", f"{STATE}?_state=b", b"678"),
        ("PUT", f"{STATE}?_state=c&digest={digest.replace(':', '%3A')}", b""),
    ]
    assert faulty.requests("PATCH", STATE)[0].headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("told", ["0-6", "0-2", "garbage", "bytes=0--1"])
async def test_an_upstream_that_counts_otherwise(
    before: DistributionBackend, faulty: FaultyUpstream, told: str
) -> None:
    """Where the upstream holds another number of bytes than it was sent, that is a failure and no success."""
    faulty.on("PATCH", STATE, answer(202, headers={"Location": STATE, "Range": told}))
    upload = await _begun(before)
    with pytest.raises(RegistryError) as caught:
        await before.write_upload(NAME, upload, NOW, chunks(b"12345"), at=0)
    assert caught.value.status == 502


async def test_one_byte(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """The range 0-0 is of no byte and of one."""
    faulty.on("PATCH", STATE, _taken(1))
    faulty.on("GET", STATE, answer(204, headers={"Location": STATE, "Range": "0-0"}))
    upload = await _begun(before)
    assert (await before.upload_progress(NAME, upload, NOW)).offset == 0
    assert (await before.write_upload(NAME, upload, NOW, chunks(b"1"), at=0)).offset == 1
    assert (await before.upload_progress(NAME, upload, NOW)).offset == 1


async def test_an_upload_that_the_upstream_forgot(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """An upload that was purged upstream begins anew."""
    faulty.on("GET", STATE, error(404, "BLOB_UPLOAD_UNKNOWN"))
    upload = await _begun(before)
    assert (await before.upload_progress(NAME, upload, NOW)).offset == 0
    assert len(faulty.requests("POST", BEGIN)) == 2


async def test_a_failure_is_no_loss(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """While the upstream can't be asked, nothing is begun anew: the upload goes on afterwards."""
    faulty.on("PATCH", STATE, _taken(5))
    faulty.on("GET", STATE, RESETS)
    upload = await _begun(before)
    await before.write_upload(NAME, upload, NOW, chunks(b"12345"), at=0)
    with pytest.raises(RegistryError):
        await before.upload_progress(NAME, upload, NOW)
    faulty.on("GET", STATE, answer(204, headers={"Location": STATE, "Range": "0-4"}))
    assert (await before.upload_progress(NAME, upload, NOW)).offset == 5
    assert len(faulty.requests("POST", BEGIN)) == 1


@pytest.mark.parametrize(
    "location", ["", "ftp://x/y", "http://elsewhere.example/v2/x", "http://\u0663/", "http://a:b@c/"]
)
async def test_an_upload_never_goes_elsewhere_in_clear(
    before: DistributionBackend, faulty: FaultyUpstream, location: str
) -> None:
    """A Location that is none, or to which bytes would go in clear, is refused before a byte is sent."""
    faulty.on("POST", BEGIN, answer(202, headers={"Location": location.encode().decode("latin-1")}))
    with pytest.raises(RegistryError) as caught:
        await _begun(before)
    assert caught.value.status == 502


async def test_a_registry_that_does_not_know_its_scheme(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """A Location at the same host with the other scheme is taken for ours: the registry stands behind a proxy."""
    faulty.on("POST", BEGIN, answer(202, headers={"Location": f"{faulty.url.replace('http', 'https')}{STATE}"}))
    faulty.on("PATCH", STATE, _taken(5))
    upload = await _begun(before)
    assert (await before.write_upload(NAME, upload, NOW, chunks(b"12345"), at=0)).offset == 5


async def test_a_mount_needs_no_upload(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """A registry that mounts is asked once; one that can't, in whatever words, makes it an ordinary upload."""
    digest = Digest.of(b"blob")
    faulty.on("POST", BEGIN, answer(201), answer(404), error(405, "UNSUPPORTED"))
    assert [await before.mount_blob(OTHER_NAME, NAME, digest) for _ in range(3)] == [True, False, False]
    query = f"mount={digest}&from={OTHER_NAME}".replace(":", "%3A").replace("/", "%2F")
    assert {one.target for one in faulty.asked[1:]} == {f"{BEGIN}?{query}"}


async def test_a_repository_that_can_not_be(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """Where the upstream has no such project, a push hears its words."""
    faulty.on("POST", BEGIN, error(404, "NAME_UNKNOWN", "project acme not found"))
    with pytest.raises(RegistryError, match="project acme not found") as caught:
        await _begun(before)
    assert caught.value.code is ErrorCode.NAME_UNKNOWN
