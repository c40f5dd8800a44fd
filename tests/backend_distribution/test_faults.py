"""Whatever the upstream does wrong, a client gets an answer that says what it is, and never a wrong or short body."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gateway.oci import ByteRange, Digest, Tag
from gateway.plugins import ErrorCode, Manifest, RegistryError, TagQuery
from gateway.plugins.testing import NAME, content
from tests.fakes.upstream import (
    CLOSES,
    HANGS,
    RESETS,
    FaultyUpstream,
    Turn,
    answer,
    endless,
    error,
    manifest_headers,
)
from tests.support.peers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugins.backend_distribution.backend import DistributionBackend
    from tests.backend_distribution.conftest import Make

BLOB = content(100_000)
DIGEST = Digest.of(BLOB)
BLOB_PATH = f"/v2/{NAME}/blobs/{DIGEST}"
TAG_PATH = f"/v2/{NAME}/manifests/latest"
TEXT = b'{"schemaVersion": 2}'
SIZES = {"Docker-Content-Digest": Digest.of(TEXT)}
GOOD = answer(200, TEXT, manifest_headers())
QUICK = {"connect_timeout": "500ms", "read_timeout": "500ms"}


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    """Run a registry that answers what a test tells it."""
    with FaultyUpstream() as running:
        yield running


@pytest.fixture
async def backend(workers: Make, upstream: FaultyUpstream) -> DistributionBackend:
    """Stand before it, with short time-outs."""
    return await workers(url=upstream.url, **QUICK)


@dataclass(frozen=True)
class Row:
    """A fault, and what it becomes: a status, words for the operator, and how often the upstream was asked."""

    turn: Turn
    status: int
    why: str
    asked: int = 3
    retry_after: str = "5"


HEAD = b"HTTP/1.1 200 OK\r\n"
FAULTS = [
    pytest.param(Row(HANGS, 504, "did not answer in time", 1), id="hangs before the headers"),
    pytest.param(Row(Turn(HEAD, "hang"), 504, "in time", 1), id="hangs in the headers"),
    pytest.param(
        Row(answer(200, b"{", manifest_headers(), length=99, after="hang"), 504, "in time", 1), id="hangs mid-body"
    ),
    pytest.param(Row(RESETS, 502, "", 6), id="resets"),
    pytest.param(Row(CLOSES, 502, "closed the connection", 6), id="closes"),
    pytest.param(
        Row(answer(200, b"{", manifest_headers(), length=99, after="reset"), 502, "broke off"), id="resets mid-body"
    ),
    pytest.param(
        Row(answer(200, b"{", manifest_headers(), length=99, after="close"), 502, "broke off"), id="is shorter"
    ),
    pytest.param(Row(answer(429), 503, "answers 429", 1), id="429"),
    pytest.param(Row(answer(429, headers={"Retry-After": "17"}), 503, "answers 429", 1, "17"), id="429 with a time"),
    pytest.param(Row(answer(429, headers={"Retry-After": "99999"}), 503, "429", 1), id="429 with a silly time"),
    pytest.param(Row(answer(500), 502, "answers 500"), id="500"),
    pytest.param(Row(error(500, "UNKNOWN", "disk\x1b[2J on fire"), 502, "(disk[2J on fire)"), id="500 with words"),
    pytest.param(Row(answer(502), 502, "answers 502"), id="502"),
    pytest.param(Row(answer(503, headers={"Retry-After": "9"}), 503, "answers 503", 3, "9"), id="503"),
    pytest.param(Row(answer(504), 504, "answers 504"), id="504"),
    pytest.param(Row(answer(507), 502, "answers 507"), id="507"),
    pytest.param(Row(answer(401), 502, "set username and password_file", 1), id="401 without a challenge"),
    pytest.param(
        Row(answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'}), 502, "set username", 1), id="401 Basic"
    ),
    pytest.param(Row(error(403, "DENIED", "not you"), 502, "(not you): set username", 1), id="403"),
    pytest.param(Row(answer(400), 502, "which is no answer", 1), id="400"),
    pytest.param(Row(answer(204), 502, "which is no answer", 1), id="204"),
    pytest.param(Row(answer(302), 502, "no URL", 1), id="redirect to nowhere"),
    pytest.param(
        Row(answer(302, headers={"Location": "ftp://a/b"}), 502, "no URL", 1), id="redirect to another protocol"
    ),
    pytest.param(
        Row(answer(302, headers={"Location": "http://a.example/"}), 502, "in clear", 1), id="redirect in clear"
    ),
    pytest.param(Row(answer(302, headers={"Location": TAG_PATH}), 502, "redirects more than 5", 6), id="redirect loop"),
    pytest.param(Row(Turn(b"\x15\x03\x01 nonsense\r\n\r\n", "close"), 502, "not HTTP", 3), id="no HTTP"),
    pytest.param(Row(answer(200, TEXT, {"Content-Type": "text/html"}), 502, "'text/html'", 1), id="wrong content type"),
    pytest.param(Row(answer(200, TEXT, {}), 502, "the type ''", 1), id="no content type"),
    pytest.param(
        Row(answer(200, TEXT, manifest_headers(**{"Docker-Content-Digest": Digest.of(b"x")})), 502, "is meant", 1),
        id="wrong digest",
    ),
    pytest.param(
        Row(answer(200, TEXT, manifest_headers(**{"Docker-Content-Digest": "md5:1"})), 502, "Docker-Content-Digest", 1),
        id="odd digest",
    ),
    pytest.param(
        Row(answer(200, TEXT, manifest_headers(**{"Content-Encoding": "gzip"})), 502, "packs", 1), id="packed"
    ),
    pytest.param(
        Row(answer(200, b"", manifest_headers(), length=5 << 20, after="hang"), 502, "more than 4194304", 1),
        id="too large",
    ),
    pytest.param(
        Row(
            endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
            502,
            "more than",
            1,
        ),
        id="endless body",
    ),
    pytest.param(Row(endless(HEAD, b"X-Header: 1\r\n" * 100), 502, "not HTTP", 3), id="endless headers"),
    pytest.param(Row(endless(HEAD + b"X-Header: ", b"x" * 4096), 502, "not HTTP", 3), id="endless header"),
]


@pytest.mark.parametrize("row", FAULTS)
async def test_a_fault_is_an_answer(backend: DistributionBackend, upstream: FaultyUpstream, row: Row) -> None:
    """A manifest that can't be had is a status, a time to come back and a reason for the log."""
    upstream.on("GET", TAG_PATH, row.turn)
    with pytest.raises(RegistryError) as caught:
        await backend.manifest(NAME, Tag("latest"))
    refusal = caught.value
    assert (refusal.status, refusal.code) == (row.status, ErrorCode.UNAVAILABLE)
    assert refusal.headers == {"Retry-After": row.retry_after}
    assert row.why in (refusal.why or "")
    assert len(upstream.requests("GET", TAG_PATH)) == row.asked


# -- no connection ------------------------------------------------------------------------------------------


async def _manifest_failure(backend: DistributionBackend) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        await backend.manifest(NAME, Tag("latest"))
    return caught.value


async def test_nobody_listens(workers: Make) -> None:
    """A refused connection is 502 and says so."""
    refusal = await _manifest_failure(await workers(url=f"http://127.0.0.1:{free_port()}", **QUICK))
    assert (refusal.status, refusal.headers) == (502, {"Retry-After": "5"})
    assert "refused" in (refusal.why or "").lower()


async def test_nobody_has_the_name(workers: Make) -> None:
    """A host name that does not exist is 502 and says so."""
    refusal = await _manifest_failure(await workers(url="https://registry.invalid", **QUICK))
    assert (refusal.status, refusal.why) == (502, "registry.invalid: no address is known by this name")


async def test_no_tls(workers: Make, upstream: FaultyUpstream) -> None:
    """TLS with somebody who does not speak it is 502 and says so."""
    refusal = await _manifest_failure(await workers(url=upstream.url.replace("http", "https"), **QUICK))
    assert refusal.status in {502, 504}


# -- it recovers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [answer(500), answer(502), answer(503), answer(504), RESETS, CLOSES])
async def test_a_moment_of_weakness_is_waited_out(
    backend: DistributionBackend, upstream: FaultyUpstream, fault: Turn
) -> None:
    """What fails once and then goes well was never a failure."""
    upstream.on("GET", TAG_PATH, fault, GOOD)
    found = await backend.manifest(NAME, Tag("latest"))
    assert found is not None
    assert found.content == TEXT


async def test_a_manifest_that_broke_off_is_fetched_again(
    backend: DistributionBackend, upstream: FaultyUpstream
) -> None:
    """A body that was never handed on may be asked for again."""
    upstream.on("GET", TAG_PATH, answer(200, TEXT[:5], manifest_headers(), length=len(TEXT), after="reset"), GOOD)
    found = await backend.manifest(NAME, Tag("latest"))
    assert found is not None
    assert found.content == TEXT


async def test_attempts_are_the_operators_choice(workers: Make, upstream: FaultyUpstream) -> None:
    """With `attempts: 1` nothing is asked twice."""
    upstream.on("GET", TAG_PATH, answer(500), GOOD)
    await _manifest_failure(await workers(url=upstream.url, attempts=1))
    assert len(upstream.requests("GET", TAG_PATH)) == 1


async def test_a_head_without_a_digest_is_a_get(backend: DistributionBackend, upstream: FaultyUpstream) -> None:
    """Where the head does not say which manifest it is, the whole manifest does."""
    upstream.on("HEAD", TAG_PATH, answer(200, b"", manifest_headers(), length=len(TEXT)))
    upstream.on("GET", TAG_PATH, GOOD)
    found = await backend.manifest(NAME, Tag("latest"), head=True)
    assert found == Manifest(Digest.of(TEXT), manifest_headers()["Content-Type"], len(TEXT))


async def test_schema_1_is_refused_in_words(backend: DistributionBackend, upstream: FaultyUpstream) -> None:
    """An image in Docker's first format can't be pulled, and the client hears why."""
    upstream.on(
        "GET",
        TAG_PATH,
        answer(200, TEXT, {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}),
    )
    refusal = await _manifest_failure(backend)
    assert (refusal.status, refusal.code) == (404, ErrorCode.MANIFEST_UNKNOWN)
    assert "schema 1" in refusal.message


@pytest.mark.parametrize("fault", [answer(404), error(404, "MANIFEST_UNKNOWN"), error(404, "NAME_UNKNOWN")])
async def test_what_is_not_there_is_not_there(
    backend: DistributionBackend, upstream: FaultyUpstream, fault: Turn
) -> None:
    """A 404 is no failure, and nothing else is a 404."""
    for method in ("GET", "HEAD"):
        upstream.on(method, TAG_PATH, fault)
    assert await backend.manifest(NAME, Tag("latest")) is None
    assert await backend.manifest(NAME, Tag("latest"), head=True) is None
    assert not await backend.delete_manifest(NAME, Tag("latest"))


# -- what is sent -------------------------------------------------------------------------------------------


async def test_nothing_is_sent_that_changes_the_answer(backend: DistributionBackend, upstream: FaultyUpstream) -> None:
    """The upstream hears what is wanted, and is asked to pack nothing; its cookies do not come back."""
    upstream.on("GET", TAG_PATH, answer(200, TEXT, manifest_headers(**{"Set-Cookie": "a=b; Path=/"})))
    for _ in range(2):
        await backend.manifest(NAME, Tag("latest"))
    for asked in upstream.requests("GET", TAG_PATH):
        assert set(asked.headers) == {"host", "accept", "accept-encoding", "user-agent"}
        assert asked.headers["accept-encoding"] == "identity"
        assert asked.headers["user-agent"] == "registry-gateway"
        assert "application/vnd.oci.image.index.v1+json" in asked.headers["accept"]
    assert upstream.connections == 1


# -- blobs --------------------------------------------------------------------------------------------------


def _blob_head(upstream: FaultyUpstream) -> None:
    upstream.on("HEAD", BLOB_PATH, answer(200, b"", length=len(BLOB)))


async def _read(backend: DistributionBackend, part: ByteRange | None = None) -> bytes:
    read = b""
    async with backend.open_blob(NAME, DIGEST) as blob, aclosing(blob.read(part or ByteRange(0, blob.size))) as chunks:
        async for chunk in chunks:
            read += chunk
    return read


def _part(first: int, stop: int, said: str | None = None) -> Turn:
    said = f"bytes {first}-{stop - 1}/{len(BLOB)}" if said is None else said
    return answer(206, BLOB[first:stop], {"Content-Range": said})


async def test_a_range_that_is_ignored_is_cut_here(backend: DistributionBackend, upstream: FaultyUpstream) -> None:
    """Where the upstream sends the whole blob for a part of it, the client gets the part."""
    _blob_head(upstream)
    upstream.on("GET", BLOB_PATH, answer(200, BLOB))
    for first, stop in ((0, 1), (1, 99_999), (70_000, 70_001), (99_999, 100_000)):
        assert await _read(backend, ByteRange(first, stop)) == BLOB[first:stop]
        assert upstream.requests("GET", BLOB_PATH)[-1].headers["range"] == f"bytes={first}-{stop - 1}"


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BEFORE = [
    pytest.param(answer(404), 404, "", id="gone since"),
    pytest.param(answer(200, BLOB[:-1]), 502, "another length", id="another length"),
    pytest.param(answer(200, BLOB + b"x"), 502, "another length", id="too long"),
    pytest.param(answer(200, BLOB, length=-1), 502, "", id="negative length"),
    pytest.param(answer(204), 502, "no blob", id="204"),
    pytest.param(answer(200, BLOB, {"Content-Encoding": "gzip"}), 502, "packs", id="packed"),
    pytest.param(answer(500), 502, "answers 500", id="500"),
    pytest.param(Turn(CHUNKED + b"nonsense\r\n", "close"), 502, "", id="chunks are nonsense"),
    pytest.param(answer(429), 503, "answers 429", id="429"),
    pytest.param(HANGS, 504, "in time", id="hangs"),
    pytest.param(answer(200, b"", length=len(BLOB), after="hang"), 504, "in time", id="hangs before the first byte"),
    pytest.param(answer(200, b"", length=len(BLOB), after="reset"), 502, "broke off", id="resets before it"),
]


@pytest.mark.parametrize(("turn", "status", "why"), BEFORE)
async def test_a_blob_that_fails_before_its_first_byte(
    backend: DistributionBackend, upstream: FaultyUpstream, turn: Turn, status: int, why: str
) -> None:
    """While nothing was handed on, the client can still be told what is wrong."""
    _blob_head(upstream)
    upstream.on("GET", BLOB_PATH, turn)
    with pytest.raises(RegistryError) as caught:
        await _read(backend)
    assert caught.value.status == status
    assert why in (caught.value.why or "")


AFTER = [
    pytest.param(answer(200, BLOB[:5000], length=len(BLOB), after="close"), id="shorter than it said"),
    pytest.param(answer(200, BLOB[:5000], length=len(BLOB), after="reset"), id="resets"),
    pytest.param(answer(200, BLOB[:5000], length=len(BLOB), after="hang"), id="hangs"),
    pytest.param(Turn(CHUNKED + b"1000\r\n" + BLOB[:4096] + b"\r\n0\r\n\r\n"), id="shorter, in chunks"),
    pytest.param(Turn(HEAD + b"Connection: close\r\n\r\n" + BLOB[:5000], "close"), id="shorter, without a length"),
]


@pytest.mark.parametrize("turn", AFTER)
async def test_a_blob_that_fails_after_its_first_byte(
    backend: DistributionBackend, upstream: FaultyUpstream, turn: Turn
) -> None:
    """A body that can't be completed ends with an error, never with fewer bytes than were asked for."""
    _blob_head(upstream)
    upstream.on("GET", BLOB_PATH, turn)
    with pytest.raises((OSError, RegistryError)):
        await _read(backend)
    assert len(upstream.requests("GET", BLOB_PATH)) == 1


PARTS = [
    pytest.param(_part(10, 20, "bytes 11-20/100000"), id="another part"),
    pytest.param(_part(10, 20, "bytes 10-19/100001"), id="of another size"),
    pytest.param(_part(10, 20, "bytes 10-18/100000"), id="a shorter part"),
    pytest.param(_part(10, 20, "bytes garbage"), id="garbage"),
    pytest.param(_part(10, 20, ""), id="nothing"),
    pytest.param(answer(206, BLOB[10:21], {"Content-Range": "bytes 10-19/100000"}), id="more bytes than it says"),
]


@pytest.mark.parametrize("turn", PARTS)
async def test_another_part_is_not_passed_off(
    backend: DistributionBackend, upstream: FaultyUpstream, turn: Turn
) -> None:
    """A part that is not the one that was asked for is no part of the answer."""
    _blob_head(upstream)
    upstream.on("GET", BLOB_PATH, turn)
    with pytest.raises(RegistryError) as caught:
        await _read(backend, ByteRange(10, 20))
    assert caught.value.status == 502


async def test_bytes_beyond_the_length_harm_nobody(
    workers: Make, backend: DistributionBackend, upstream: FaultyUpstream
) -> None:
    """What comes unasked after an answer is never taken for the next one."""
    forged = answer(200, b"forged", manifest_headers()).content
    _blob_head(upstream)
    upstream.on("GET", BLOB_PATH, Turn(answer(200, BLOB).content + forged))
    upstream.on("GET", TAG_PATH, GOOD)
    assert await _read(backend) == BLOB
    with FaultyUpstream() as elsewhere:
        # While this goes to and fro, what was sent before has come.
        await (await workers(url=elsewhere.url)).tags(NAME, TagQuery())
    found = await backend.manifest(NAME, Tag("latest"))
    assert found is not None
    assert found.content == TEXT


@pytest.mark.parametrize("length", ["", "x", "-5", "1e3", "9" * 30, "\u0663".encode().decode("latin-1")])
async def test_a_length_that_is_no_number(backend: DistributionBackend, upstream: FaultyUpstream, length: str) -> None:
    """A blob whose size is garbage can't be opened."""
    upstream.on("HEAD", BLOB_PATH, Turn(HEAD + f"Content-Length: {length}\r\n\r\n".encode("latin-1"), "close"))
    with pytest.raises(RegistryError) as caught:
        await _read(backend)
    assert caught.value.status == 502


async def test_a_reader_that_leaves_ends_the_transfer(backend: DistributionBackend, upstream: FaultyUpstream) -> None:
    """A client that goes away costs the upstream nothing more, and its half-read connection serves nobody else."""
    _blob_head(upstream)
    upstream.on("GET", BLOB_PATH, endless(answer(200, b"", length=10**9).content, b"x" * 65536))
    upstream.on("HEAD", BLOB_PATH, answer(200, b"", length=10**9))
    async with backend.open_blob(NAME, DIGEST) as blob, aclosing(blob.read(ByteRange(0, blob.size))) as chunks:
        await anext(chunks)
    await upstream.wait_left()


async def test_a_reader_that_is_cancelled_ends_the_transfer(
    backend: DistributionBackend, upstream: FaultyUpstream
) -> None:
    """A request that is cancelled while it waits for bytes lets go of the upstream."""
    upstream.on("HEAD", BLOB_PATH, answer(200, b"", length=len(BLOB)))
    upstream.on("GET", BLOB_PATH, answer(200, BLOB[:10], length=len(BLOB), after="hang"))
    began = asyncio.Event()

    async def read() -> None:
        async with backend.open_blob(NAME, DIGEST) as blob, aclosing(blob.read(ByteRange(0, blob.size))) as chunks:
            async for _ in chunks:
                began.set()

    reading = asyncio.create_task(read())
    await began.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await upstream.wait_left()
