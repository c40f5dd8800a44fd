"""What clients of the gateway hear when the registry behind it is faulty, slow or gone."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from gateway.oci import Digest
from gateway.plugins.testing import content
from tests.fakes.upstream import CLOSES, HANGS, RESETS, FaultyUpstream, Turn, answer, error
from tests.support.distribution import distribution
from tests.support.gateway import GatewayProcess
from tests.support.images import image
from tests.support.peers import eventually
from tests.support.people import ALICE, MALLORY, PRIVATE, PUBLIC
from tests.support.wire import Answer, Wire, authorization

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOB = content(3_000_000)
DIGEST = Digest.of(BLOB)
BLOB_PATH = f"/v2/{PRIVATE}/blobs/{DIGEST}"
TAG_PATH = f"/v2/{PRIVATE}/manifests/latest"
UPLOADS_PATH = f"/v2/{PRIVATE}/blobs/uploads/"
HEAD = answer(200, BLOB)


@contextmanager
def over(folder: Path, url: str, **keys: object) -> Iterator[GatewayProcess]:
    """Serve what is behind a URL."""
    process = GatewayProcess(folder, backend={"use": "backend_distribution", "url": url, **keys})
    process.start()
    try:
        yield process
    finally:
        process.end()


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyUpstream]:
    """Run a registry that answers what a test tells it."""
    with FaultyUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Stand before it, with little patience."""
    keys = {"connect_timeout": "500ms", "read_timeout": "500ms", "attempts": 2}
    with over(tmp_path_factory.mktemp("faulty"), upstream.url, **keys) as process:
        yield process


LOOP = answer(302)
"""To where it came from."""
FAULTS = [
    pytest.param(HANGS, 504, id="hangs before the headers"),
    pytest.param(RESETS, 502, id="resets"),
    pytest.param(CLOSES, 502, id="closes"),
    pytest.param(answer(429), 503, id="429"),
    pytest.param(answer(500), 502, id="500"),
    pytest.param(answer(503), 503, id="503"),
    pytest.param(error(401, "UNAUTHORIZED"), 502, id="401"),
    pytest.param(error(403, "DENIED"), 502, id="403"),
    pytest.param(LOOP, 502, id="redirect loop"),
    pytest.param(Turn(b"\x15\x03\x01 nonsense\r\n\r\n", "close"), 502, id="no HTTP"),
]
ASKED = [
    pytest.param("GET", TAG_PATH, "GET", TAG_PATH, id="manifest"),
    pytest.param("GET", BLOB_PATH, "HEAD", BLOB_PATH, id="blob"),
    pytest.param("HEAD", BLOB_PATH, "HEAD", BLOB_PATH, id="head of a blob"),
    pytest.param("GET", f"/v2/{PRIVATE}/tags/list", "GET", f"/v2/{PRIVATE}/tags/list", id="tags"),
    pytest.param("POST", UPLOADS_PATH, "POST", UPLOADS_PATH, id="upload"),
]


def failed(heard: Answer, status: int, method: str) -> None:
    """Check that it is the upstream's failure, in the specification's form, with a time to try again."""
    heard.expect(status)
    assert int(heard.header("Retry-After")) > 0
    if method != "HEAD":
        (one,) = json.loads(heard.body)["errors"]
        assert one["code"] == "UNAVAILABLE"
        assert "registry behind this one" in one["message"]


@pytest.mark.parametrize(("fault", "status"), FAULTS)
@pytest.mark.parametrize(("method", "path", "asked", "there"), ASKED)
def test_a_fault_is_no_missing_image(  # noqa: PLR0917 - one row
    gateway: GatewayProcess,
    upstream: FaultyUpstream,
    method: str,
    path: str,
    asked: str,
    there: str,
    fault: Turn,
    status: int,
) -> None:
    """Whatever goes wrong behind the gateway is 502, 503 or 504 in OCI form, and never a 404."""
    upstream.on(asked, there, answer(302, headers={"Location": there}) if fault is LOOP else fault)
    failed(gateway.wire(ALICE).send(method, path), status, method)


BEFORE_THE_FIRST = [
    pytest.param(HANGS, 504, id="hangs"),
    pytest.param(answer(500), 502, id="500"),
    pytest.param(answer(200, BLOB[:10]), 502, id="another length"),
]


@pytest.mark.parametrize(("fault", "status"), BEFORE_THE_FIRST)
def test_a_blob_that_never_comes_is_an_error(
    gateway: GatewayProcess, upstream: FaultyUpstream, fault: Turn, status: int
) -> None:
    """Where the upstream fails after it said how large the blob is, a client still hears so, not a broken body."""
    upstream.on("HEAD", BLOB_PATH, HEAD)
    upstream.on("GET", BLOB_PATH, fault)
    failed(gateway.wire(ALICE).get(BLOB_PATH), status, "GET")


AFTER_THE_FIRST = [
    pytest.param("close", id="closes"),
    pytest.param("reset", id="resets"),
    pytest.param("hang", id="hangs"),
]


@pytest.mark.parametrize("after", AFTER_THE_FIRST)
def test_a_blob_that_breaks_off_is_never_short(gateway: GatewayProcess, upstream: FaultyUpstream, after: str) -> None:
    """An upstream that dies in the middle of a blob ends in a dropped connection, short of what was announced."""
    upstream.on("HEAD", BLOB_PATH, HEAD)
    upstream.on("GET", BLOB_PATH, answer(200, BLOB[:2_000_000], length=len(BLOB), after=after))  # type: ignore[arg-type]
    connection = gateway.wire(ALICE).connect()
    connection.request("GET", BLOB_PATH, headers=authorization(ALICE))
    response = connection.getresponse()
    assert (response.status, response.getheader("Content-Length")) == (200, str(len(BLOB)))
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    connection.close()


def test_a_client_that_leaves_ends_the_transfer(gateway: GatewayProcess, upstream: FaultyUpstream) -> None:
    """A client that closes its connection in the middle of a blob closes the one to the upstream."""
    upstream.on("HEAD", BLOB_PATH, HEAD)
    upstream.on("GET", BLOB_PATH, answer(200, BLOB[:100_000], length=len(BLOB), after="hang"))
    left = upstream.left
    with socket.create_connection((urlsplit(gateway.base_url).hostname or "", gateway.port), timeout=10) as client:
        lines = [f"GET {BLOB_PATH} HTTP/1.1", f"Host: {gateway.host}"]
        lines += [f"{name}: {value}" for name, value in authorization(ALICE).items()]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        assert client.recv(100_000).startswith(b"HTTP/1.1 200")
    eventually(lambda: upstream.left > left, "the upstream's connection was closed", within=10)


@pytest.mark.parametrize("exclusive", [False, True])
def test_what_is_kept_is_served_while_the_registry_is_down(tmp_path: Path, *, exclusive: bool) -> None:
    """Manifests and blobs that passed through are served while the upstream is down; the rest waits for it."""
    pulled, other = image(b"pulled before"), image(b"never pulled")
    folder = tmp_path / "registry"
    folder.mkdir()
    cache = {"path": str(tmp_path / "blobs"), "size": "64MiB"}
    keys = {"blob_cache": cache, "exclusive": exclusive, "attempts": 1}
    with distribution(folder) as registry, over(tmp_path / "gateway", registry.url, **keys) as gateway:
        alice = gateway.wire(ALICE)
        alice.push_image(PRIVATE, "pulled", pulled)
        alice.push_image(PRIVATE, "other", other)
        layer = f"/v2/{PRIVATE}/blobs/{pulled.layers[0].digest}"
        assert alice.get(layer).expect(200).body == pulled.layers[0].content
        alice.manifest(PRIVATE, "pulled").expect(200)
        registry.peer.kill()
        for reference in ("pulled", pulled.manifest.digest):
            heard = alice.manifest(PRIVATE, reference).expect(200)
            assert heard.body == pulled.manifest.content
        assert alice.get(layer).expect(200).body == pulled.layers[0].content
        failed(alice.manifest(PRIVATE, "nobody-pushed-this"), 502, "GET")
        failed(alice.get(f"/v2/{PRIVATE}/blobs/{other.layers[0].digest}"), 502, "GET")
        failed(alice.send("POST", UPLOADS_PATH), 502, "POST")
        port = int(registry.host.rpartition(":")[2])
        with distribution(folder, port=port):
            assert alice.get(f"/v2/{PRIVATE}/blobs/{other.layers[0].digest}").expect(200).body
            alice.manifest(PRIVATE, "nobody-pushed-this").expect(404)


def test_a_signed_url_is_for_those_whom_the_rule_names(tmp_path: Path, upstream: FaultyUpstream) -> None:
    """By rule a client is sent to the URL that the registry signed; elsewhere the gateway follows it itself."""
    signed = f"{upstream.url}/bucket/object?X-Signature=secret"
    open_path = f"/v2/{PUBLIC}/blobs/{DIGEST}"
    for path in (BLOB_PATH, open_path):
        upstream.on("HEAD", path, HEAD)
        upstream.on("GET", path, answer(307, headers={"Location": signed}))
    upstream.on("GET", "/bucket/object", answer(200, BLOB))
    with over(tmp_path, upstream.url, redirects=[f"{PRIVATE}/**", PRIVATE]) as gateway:
        sent = gateway.wire(ALICE).get(BLOB_PATH).expect(307)
        assert (sent.location, sent.header("Cache-Control")) == (signed, "no-store")
        assert gateway.wire(ALICE).get(open_path).expect(200).body == BLOB
        gateway.wire(MALLORY).get(BLOB_PATH).expect(403)
        assert "X-Signature" not in gateway.log


def test_registries_stand_side_by_side(tmp_path: Path) -> None:
    """A rule on the name chooses the registry; what is in one is not in the other, and a mount across is an upload."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    made = image(b"side by side")
    with distribution(folders[0]) as one, distribution(folders[1]) as two:
        items: list[dict[str, Any]] = [
            {"use": "backend_distribution", "name": "open", "url": one.url, "repositories": [PUBLIC, f"{PUBLIC}/**"]},
            {"use": "backend_distribution", "name": "rest", "url": two.url},
        ]
        local = [{"use": "auth_local", "directory": str(tmp_path / "gateway/directory.yaml")}]
        process = GatewayProcess(
            tmp_path / "gateway", sources=[*local, {"use": "naming"}, {"use": "visibility"}, items[0]], backend=items[1]
        )
        process.start()
        try:
            alice = process.wire(ALICE)
            alice.push_image(PUBLIC, "1", made)
            alice.manifest(PUBLIC, "1").expect(200)
            alice.manifest(PRIVATE, "1").expect(404)
            mount = f"{UPLOADS_PATH}?mount={made.layers[0].digest}&from={PUBLIC}"
            alice.send("POST", mount).expect(202)
            alice.push_image(PRIVATE, "2", made)
            there = [Wire(one.url), Wire(two.url)]
            assert [wire.get(f"/v2/{PUBLIC}/tags/list").status for wire in there] == [200, 404]
            assert [wire.get(f"/v2/{PRIVATE}/tags/list").status for wire in there] == [404, 200]
            assert alice.get("/v2/_catalog").expect(200).json()["repositories"] == [PRIVATE, PUBLIC]
        finally:
            process.end()
