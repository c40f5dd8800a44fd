"""Random images, indexes and artifacts to push: new bytes, and so new digests, at every call."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

OCI_IMAGE: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_FOREIGN_LAYER_GZIP: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
DOCKER_IMAGE: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OCTET_STREAM: Final = "application/octet-stream"
SBOM: Final = "application/vnd.example.sbom.v1+json"
SIGNATURE: Final = "application/vnd.example.signature.v1"

MEBIBYTE: Final = 1024 * 1024

Document = dict[str, Any]


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """Give the digest of *content*."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def random_digest(algorithm: str = "sha256") -> str:
    """Give a digest that nothing in the registry has."""
    return digest_of(os.urandom(32), algorithm)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with a media type and the algorithm that names them."""

    content: bytes
    media_type: str = OCTET_STREAM
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        """The name of these bytes."""
        return digest_of(self.content, self.algorithm)

    def descriptor(self, **fields: Any) -> Document:
        """Refer to this blob as a manifest does."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content), **fields}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The exact bytes of a manifest, and everything that has to be pushed before it."""

    content: bytes
    media_type: str
    blobs: tuple[Blob, ...] = ()
    children: tuple[Manifest, ...] = ()
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        """The name of these bytes."""
        return digest_of(self.content, self.algorithm)

    @property
    def document(self) -> Document:
        """The parsed manifest."""
        document: Document = json.loads(self.content)
        return document

    @property
    def foreign(self) -> bool:
        """Whether some of its layers are on somebody else's server."""
        return any("urls" in item for item in self.document.get("layers") or ())

    @property
    def family(self) -> tuple[Manifest, ...]:
        """This manifest and all below it, children first."""
        return (*(member for child in self.children for member in child.family), self)

    def descriptor(self, **fields: Any) -> Document:
        """Refer to this manifest as an index or a subject field does."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content), **fields}

    def referrer(self) -> Document:
        """Describe this manifest as a referrers list has to (spec: listing referrers)."""
        document = self.document
        descriptor = self.descriptor()
        artifact_type = document.get("artifactType") or document.get("config", {}).get("mediaType")
        if artifact_type:
            descriptor["artifactType"] = artifact_type
        if document.get("annotations"):
            descriptor["annotations"] = document["annotations"]
        return descriptor


def encode(document: Document) -> bytes:
    """Write *document* in the shortest way, leaving out the fields that are None."""
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def random_blob(size: int = 512, media_type: str = OCTET_STREAM, algorithm: str = "sha256") -> Blob:
    """Make *size* random bytes."""
    return Blob(os.urandom(size), media_type, algorithm)


def layer(media_type: str = OCI_LAYER_GZIP, algorithm: str = "sha256") -> Blob:
    """Make a file system layer with one small file in it, compressed if its type says so."""
    buffer = io.BytesIO()
    content = os.urandom(64)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("random.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    plain = buffer.getvalue()
    return Blob(gzip.compress(plain) if media_type.endswith("gzip") else plain, media_type, algorithm)


def config(media_type: str = OCI_CONFIG, algorithm: str = "sha256", architecture: str = "amd64") -> Blob:
    """Make the configuration of an image."""
    document = {
        "architecture": architecture,
        "os": "linux",
        "author": os.urandom(8).hex(),
        "rootfs": {"type": "layers", "diff_ids": [random_digest()]},
    }
    return Blob(encode(document), media_type, algorithm)


def empty(algorithm: str = "sha256") -> Blob:
    """Make the well-known empty JSON blob."""
    return Blob(b"{}", OCI_EMPTY, algorithm)


def image(
    layers: Sequence[Blob | Document] | None = None,
    settings: Blob | None = None,
    *,
    media_type: str = OCI_IMAGE,
    algorithm: str = "sha256",
    **fields: Any,
) -> Manifest:
    """Make an image or artifact; *fields* are added to its document, None takes one away."""
    contents = [layer(algorithm=algorithm), layer(algorithm=algorithm)] if layers is None else layers
    settings = settings or config(algorithm=algorithm)
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": settings.descriptor(),
        "layers": [item.descriptor() if isinstance(item, Blob) else item for item in contents],
        **fields,
    }
    blobs = {blob.digest: blob for blob in (settings, *contents) if isinstance(blob, Blob)}
    return Manifest(encode(document), media_type, tuple(blobs.values()), algorithm=algorithm)


def index(
    children: Sequence[Manifest],
    *,
    media_type: str = OCI_INDEX,
    algorithm: str = "sha256",
    **fields: Any,
) -> Manifest:
    """Make an index over *children*; *fields* are added to its document."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [
            child.descriptor(platform={"os": "linux", "architecture": architecture})
            for child, architecture in zip(children, ("amd64", "arm64", "s390x"), strict=False)
        ],
        **fields,
    }
    return Manifest(encode(document), media_type, (), tuple(children), algorithm)


def artifact(artifact_type: str = SBOM, *, algorithm: str = "sha256", **fields: Any) -> Manifest:
    """Make an artifact with the empty configuration and one blob of its own type."""
    return image(
        [random_blob(media_type=artifact_type, algorithm=algorithm)],
        empty(algorithm),
        algorithm=algorithm,
        artifactType=artifact_type,
        **fields,
    )


def platforms(*, algorithm: str = "sha256", **fields: Any) -> Manifest:
    """Make an index over two images."""
    return index([image(algorithm=algorithm), image(algorithm=algorithm)], algorithm=algorithm, **fields)


def padded(size: int) -> Manifest:
    """Make an image whose manifest has exactly *size* bytes."""
    layers, settings = [layer()], config()
    bare = image(layers, settings, annotations={"padding": ""})
    return image(layers, settings, annotations={"padding": "A" * (size - len(bare.content))})


def foreign_layer(media_type: str = OCI_FOREIGN_LAYER_GZIP) -> Document:
    """Refer to a layer that stays on somebody else's server."""
    url = f"https://layers.example.com/{os.urandom(8).hex()}"
    return {"mediaType": media_type, "digest": random_digest(), "size": 123456, "urls": [url]}


def _large() -> Manifest:
    return image(annotations={f"org.example.large-{number}": "A" * 10_000 for number in range(390)})


def _docker_image() -> Manifest:
    return image([layer(DOCKER_LAYER)], config(DOCKER_CONFIG), media_type=DOCKER_IMAGE)


def _docker_foreign() -> Manifest:
    layers: list[Blob | Document] = [foreign_layer(DOCKER_FOREIGN_LAYER), layer(DOCKER_LAYER)]
    return image(layers, config(DOCKER_CONFIG), media_type=DOCKER_IMAGE)


def _docker_list() -> Manifest:
    return index([_docker_image(), _docker_image()], media_type=DOCKER_LIST)


def _inline() -> Manifest:
    settings, content = config(), layer()
    plain = image([content], settings)
    document = plain.document
    document["config"]["data"] = b64encode(settings.content).decode()
    document["layers"][0]["data"] = b64encode(content.content).decode()
    return Manifest(encode(document), plain.media_type, plain.blobs)


def _foreign() -> Manifest:
    return image([foreign_layer(), foreign_layer(OCI_FOREIGN_LAYER), layer()])


def _unknown_fields() -> Manifest:
    settings = config()
    extra: Document = {f"org.example.{os.urandom(4).hex()}": {"nested": [1, None, "ä"]}}
    return image(settings=settings, config=settings.descriptor(newUnspecifiedField="aGVsbG8="), **extra)


def _unknown_fields_index() -> Manifest:
    extra: Document = {f"org.example.{os.urandom(4).hex()}": [True, 1.5]}
    return index([_unknown_fields(), image()], **extra)


def _own_spelling() -> Manifest:
    plain = image(annotations={"org.example.text": "ä \\ / \U0001f600"})
    spelled = json.dumps(plain.document, indent=3, ensure_ascii=False) + "\n \t\r\n"
    return Manifest(spelled.encode(), plain.media_type, plain.blobs)


def _repeated_layer() -> Manifest:
    content = layer()
    return image([content, content, layer(), content])


def _repeated_child() -> Manifest:
    child = image()
    return index([child, child])


def _build_cache() -> Manifest:
    content, settings = layer(), random_blob(media_type="application/vnd.buildkit.cacheconfig.v0")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [content.descriptor(), settings.descriptor()],
    }
    return Manifest(encode(document), OCI_INDEX, (content, settings))


def _attested() -> Manifest:
    subject = image()
    statement = image([random_blob(media_type="application/vnd.in-toto+json")])
    attestation = statement.descriptor(
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject.digest,
        },
    )
    return index([subject, statement], manifests=[subject.descriptor(), attestation])


def _chart() -> Manifest:
    return image(
        [random_blob(media_type="application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
        config("application/vnd.cncf.helm.config.v1+json"),
    )


def _artifact_index() -> Manifest:
    return index([artifact(), artifact()], artifactType=SBOM)


def _nested_index() -> Manifest:
    return index([platforms(), platforms()])


KINDS: Final[dict[str, Callable[[], Manifest]]] = {
    "image": image,
    "image-uncompressed": lambda: image([layer(OCI_LAYER), layer(OCI_LAYER)]),
    "image-without-media-type": lambda: image(mediaType=None),
    "image-without-layers": lambda: image([]),
    "image-without-layers-and-media-type": lambda: image([], mediaType=None),
    "image-with-a-large-manifest": _large,
    "image-of-exactly-4-mebibytes": lambda: padded(4 * MEBIBYTE),
    "image-with-inline-data": _inline,
    "image-with-foreign-layers": _foreign,
    "image-with-unknown-fields": _unknown_fields,
    "image-in-its-own-spelling": _own_spelling,
    "image-with-a-repeated-layer": _repeated_layer,
    "docker-image": _docker_image,
    "docker-image-with-a-foreign-layer": _docker_foreign,
    "docker-manifest-list": _docker_list,
    "index": platforms,
    "index-without-media-type": lambda: platforms(mediaType=None),
    "index-nested": _nested_index,
    "index-empty": lambda: index([], annotations={"org.example.random": os.urandom(8).hex()}),
    "index-with-unknown-fields": _unknown_fields_index,
    "index-with-a-repeated-child": _repeated_child,
    "index-with-attestation": _attested,
    "index-of-build-cache": _build_cache,
    "artifact": artifact,
    "artifact-without-layers": lambda: image([empty()], empty(), artifactType=SBOM, annotations={"r": random_digest()}),
    "artifact-typed-by-its-config": lambda: image([empty()], random_blob(media_type=SBOM)),
    "artifact-index": _artifact_index,
    "artifact-with-unknown-subject": lambda: artifact(subject=image().descriptor()),
    "helm-chart": _chart,
}
