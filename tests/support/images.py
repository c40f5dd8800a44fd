"""Images out of nothing: small, valid, and different wherever their text differs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def sha256(content: bytes) -> str:
    """Name bytes as registries do."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Blob:
    """Bytes with a media type."""

    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        """The digest of the bytes."""
        return sha256(self.content)

    @property
    def descriptor(self) -> dict[str, Any]:
        """How a manifest refers to them."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


@dataclass(frozen=True)
class Image:
    """A manifest with all that it refers to."""

    config: Blob
    layers: tuple[Blob, ...]
    manifest: Blob
    architecture: str

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything that a layout must hold."""
        return (self.config, *self.layers, self.manifest)


@dataclass(frozen=True)
class Index:
    """Images of several architectures under one digest."""

    images: tuple[Image, ...]
    manifest: Blob

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything that a layout must hold."""
        return (*(blob for image in self.images for blob in image.blobs), self.manifest)


def _document(media_type: str, fields: dict[str, Any]) -> Blob:
    return Blob(media_type, json.dumps(fields, separators=(",", ":")).encode())


def noise(size: int) -> bytes:
    """Make bytes that no compression shrinks, the same each time."""
    return random.Random(size).randbytes(size)  # noqa: S311 - no secret


def archive(name: str, content: bytes) -> bytes:
    """Make a tar with one file in it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def image(content: bytes, *, architecture: str = "amd64") -> Image:
    """Make an image of one layer that holds one file, `content.txt`."""
    tar = archive("content.txt", content)
    layer = Blob(LAYER, gzip.compress(tar, compresslevel=1, mtime=0))
    config = _document(
        CONFIG,
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/content.txt"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar)]},
        },
    )
    manifest = _document(
        MANIFEST,
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor, "layers": [layer.descriptor]},
    )
    return Image(config, (layer,), manifest, architecture)


def index(text: str) -> Index:
    """Make an index of an amd64 and an arm64 image."""
    images = tuple(image(f"{text} {cpu}".encode(), architecture=cpu) for cpu in ("amd64", "arm64"))
    entries = [
        {**each.manifest.descriptor, "platform": {"architecture": each.architecture, "os": "linux"}} for each in images
    ]
    return Index(images, _document(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))


def layout(folder: Path, tag: str, content: Image | Index) -> str:
    """Write an OCI layout and give its name as skopeo, podman and buildah spell it."""
    store = folder / "blobs" / "sha256"
    store.mkdir(parents=True)
    for blob in content.blobs:
        (store / blob.digest.removeprefix("sha256:")).write_bytes(blob.content)
    entry = {**content.manifest.descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return f"oci:{folder}:{tag}"
