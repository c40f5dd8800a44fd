"""Library defaults that break registries, and clients that stall: on raw sockets."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import GatewayFactory
from tests.support import images
from tests.support.gateway import GatewayProcess
from tests.support.peers import eventually
from tests.support.people import ALICE, BOB, CAROL, MALLORY, PRIVATE
from tests.support.wire import Account, authorization


def head(gateway: GatewayProcess, line: str, who: Account, *headers: str) -> bytes:
    """Write the head of a request."""
    fields = [f"Host: {gateway.host}", f"Authorization: {authorization(who)['Authorization']}", *headers]
    return "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode()


def answer(gateway: GatewayProcess, request: bytes) -> bytes:
    """Send bytes and read the answer until the gateway closes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("size", [12_000, 60_000])
def test_long_headers_are_legal(gateway: GatewayProcess, size: int) -> None:
    """A header as long as a token for many scopes is read, not refused by the parser."""
    assert answer(gateway, head(gateway, "GET /v2/", ALICE, "X-Long: " + "a" * size)).startswith(b"HTTP/1.1 200 ")


def test_parser_errors_quote_nothing(gateway: GatewayProcess) -> None:
    """A request that the parser refuses is answered in OCI form, and its bytes stand in no answer and no log."""
    said = answer(gateway, head(gateway, "GET /v2/", Account("alice", "s3cr3t" * 20_000)))
    assert said.split(b" ")[1] == b"400"
    assert b'"errors"' in said
    secret = authorization(Account("alice", "s3cr3t" * 20_000))["Authorization"][30:60]
    assert secret.encode() not in said
    assert secret not in gateway.log


def test_refused_upload_is_not_asked_for_its_body(gateway: GatewayProcess) -> None:
    """A client that waits for 100 Continue hears its refusal instead, before it sends a byte."""
    line = f"POST /v2/{PRIVATE}/blobs/uploads/?digest={images.sha256(b'x')}"
    said = answer(gateway, head(gateway, line, MALLORY, "Expect: 100-continue", "Content-Length: 1"))
    assert said.startswith(b"HTTP/1.1 403 ")


def test_stalled_reader_is_dropped(gateway_factory: GatewayFactory) -> None:
    """A client that takes no byte for the stall time-out loses its connection, as one line with status 499."""
    gateway = gateway_factory(extra={"server": {"stall_timeout": "1s"}})
    blob = images.Blob("application/octet-stream", images.noise(30_000_000))
    gateway.wire(CAROL).push_blob(PRIVATE, blob)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(head(gateway, f"GET /v2/{PRIVATE}/blobs/{blob.digest}", BOB))
        eventually(lambda: '"status":499' in gateway.log, "the connection is dropped")


def test_stalled_writer_is_told(gateway_factory: GatewayFactory) -> None:
    """A client that sends no byte of its body for the stall time-out hears 408; what it sent is kept."""
    gateway = gateway_factory(extra={"server": {"stall_timeout": "1s"}})
    carol = gateway.wire(CAROL)
    location = carol.start_upload(PRIVATE)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        line = f"PATCH {location.removeprefix(gateway.base_url)}"
        connection.sendall(head(gateway, line, CAROL, "Content-Length: 100") + b"half of it")
        assert connection.recv(1024).startswith(b"HTTP/1.1 408 ")
    assert carol.get(location).expect(204).header("Range") == "0-9"
