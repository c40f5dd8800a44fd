"""A disk that is really full: a small file system of its own under the store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import GatewayFactory
from tests.support import images
from tests.support.gateway import GatewayProcess
from tests.support.people import CAROL, PRIVATE
from tests.support.wire import Answer, Wire

SIZE = 24_000_000
"""Bytes: more than the store wants to see free before it calls itself ready."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few megabytes; where this machine does not let us, that is one skip."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts no file system for us: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, small_disk: Path) -> GatewayProcess:
    """Serve with the blobs on the small disk."""
    return gateway_factory(backend={"use": "backend_local", "root": str(small_disk / "registry")})


def post_whole(carol: Wire, content: bytes) -> Answer:
    """Push a blob by one POST."""
    digest = images.sha256(content)
    target = f"/v2/{PRIVATE}/blobs/uploads/?digest={digest}"
    return carol.send("POST", target, content, {"Content-Type": "application/octet-stream"})


@pytest.mark.parametrize("way", ["post", "patch"])
def test_full_disk(gateway: GatewayProcess, small_disk: Path, way: str) -> None:
    """What doesn't fit is refused and not served; what was acknowledged stays, and what fits then is taken."""
    carol = gateway.wire(CAROL)
    kept, large, small = os.urandom(1_000_000), os.urandom(2 * SIZE), os.urandom(1_000_000)
    post_whole(carol, kept).expect(201)
    if way == "post":
        refused = post_whole(carol, large).expect(507)
    else:
        location = carol.start_upload(PRIVATE)
        refused = carol.send("PATCH", location, large).expect(507)
        carol.send("DELETE", location).expect(204)
    assert refused.json()["errors"][0]["code"] == "UNAVAILABLE"
    assert list((small_disk / "registry" / "uploads").iterdir()) == []
    carol.get(f"/v2/{PRIVATE}/blobs/{images.sha256(large)}").expect(404)
    assert carol.get(f"/v2/{PRIVATE}/blobs/{images.sha256(kept)}").expect(200).body == kept
    post_whole(carol, small).expect(201)
    assert "Traceback" not in gateway.log
