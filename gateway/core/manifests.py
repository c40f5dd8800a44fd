"""Reading manifests: hostile bytes in, ManifestDetails out. Pure.

Image specification 1.1, "Image Manifest" and "Image Index"; Docker "Image Manifest V2, Schema 2" and manifest lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Descriptor, Digest, ManifestDetails, MediaType

MAX_DESCRIPTORS: Final = 20_000
"""Descriptors of one manifest; 4 MiB of the shortest that are legal hold no more."""

_NOT_FETCHED: Final = (
    "application/vnd.oci.image.layer.nondistributable.v1.",
    "application/vnd.docker.image.rootfs.foreign.",
)
_WORD: Final = re.compile(r"[A-Za-z0-9]{1,32}")
EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"


def read(content: bytes, content_type: str | None) -> tuple[str, ManifestDetails]:
    """The media type of a manifest, and what it says. Raises RegistryError MANIFEST_INVALID with what is wrong."""
    document = _document(content)
    media_type = _media_type(document, content_type)
    if document.get("schemaVersion") != 2:  # noqa: PLR2004 - the only schema there is
        raise _invalid("schemaVersion must be 2")
    if MediaType(media_type).is_index:
        return media_type, _index(document)
    return media_type, _image(document)


def platforms(index: bytes) -> Sequence[str]:
    """The platforms of an index's children, such as ``linux/arm64/v8``, each once; what is no platform is left out."""
    children = _document(index).get("manifests")
    named = (
        [child.get("platform") for child in children if isinstance(child, dict)] if isinstance(children, list) else []
    )
    return list(dict.fromkeys(filter(None, map(platform, named))))


def platform(document: object) -> str:
    """The platform that *document* (an image config, or the ``platform`` of a descriptor) names; empty: none.

    BuildKit says of its attestations that their platform is unknown/unknown.
    """
    if not isinstance(document, dict):
        return ""
    parts = [document.get("os"), document.get("architecture"), document.get("variant")]
    words = [part for part in parts if isinstance(part, str) and _WORD.fullmatch(part)]
    return "/".join(words).lower() if words[:2] == parts[:2] and words[:1] != ["unknown"] else ""


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _invalid("the manifest is not JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise _invalid("the manifest is not a JSON object")
    return document


def _media_type(document: Mapping[str, Any], content_type: str | None) -> str:
    header = (content_type or "").partition(";")[0].strip().lower()
    own = document.get("mediaType")
    if own is not None and not isinstance(own, str):
        raise _invalid("mediaType is not a string")
    if header in {"", "application/octet-stream"} or (header == "application/json" and own):
        header = own or _guessed(document)
    if own and own != header:
        raise _invalid(f"mediaType is {own[:255]!r} and Content-Type {header[:255]!r}; they must be the same")
    if header in set(MediaType):
        if MediaType(header).is_schema1:
            raise _invalid("Docker's image format schema 1 is not supported; push with Docker 1.10 or newer")
        return header
    if document.get("schemaVersion") == 1:
        raise _invalid("Docker's image format schema 1 is not supported; push with Docker 1.10 or newer")
    known = ", ".join(item for item in MediaType if not item.is_schema1)
    raise _invalid(f"manifests of type {header[:255]!r} are not supported; send one of {known}")


def _guessed(document: Mapping[str, Any]) -> str:
    """OCI documents may leave out their mediaType; what they hold tells which they are."""
    if isinstance(document.get("manifests"), list):
        return MediaType.OCI_INDEX
    return MediaType.OCI_MANIFEST if "config" in document else ""


def _image(document: Mapping[str, Any]) -> ManifestDetails:
    if "manifests" in document:
        raise _invalid("an image manifest has no `manifests`; this looks like an index")
    config = _descriptor(document.get("config"), "config")
    layers = _descriptors(document, "layers")
    artifact_type = _artifact_type(document)
    if artifact_type is None:
        artifact_type = config.media_type
    fetched = {
        layer.digest
        for layer, raw in zip(layers, document["layers"], strict=True)
        if not (raw.get("urls") or layer.media_type.startswith(_NOT_FETCHED))
    }
    return ManifestDetails(
        artifact_type,
        _annotations(document),
        _subject(document),
        config,
        layers,
        (),
        frozenset(fetched | {config.digest}),
    )


def _index(document: Mapping[str, Any]) -> ManifestDetails:
    if "layers" in document or "config" in document:
        raise _invalid("an index has neither `layers` nor `config`; this looks like an image manifest")
    children = _descriptors(document, "manifests")
    return ManifestDetails(
        _artifact_type(document),
        _annotations(document),
        _subject(document),
        None,
        (),
        children,
        frozenset(child.digest for child in children),
    )


def _descriptors(document: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    raw = document.get(key)
    if not isinstance(raw, list):
        raise _invalid(f"{key} is not a list")
    if len(raw) > MAX_DESCRIPTORS:
        raise _invalid(f"{key} has more than {MAX_DESCRIPTORS} descriptors")
    return tuple(_descriptor(item, f"{key}[{index}]") for index, item in enumerate(raw))


def _descriptor(raw: object, where: str) -> Descriptor:
    if not isinstance(raw, dict):
        raise _invalid(f"{where} is not a descriptor")
    media_type, digest, size = raw.get("mediaType"), raw.get("digest"), raw.get("size")
    if not _is_media_type(media_type):
        raise _invalid(f"{where}.mediaType is missing or is no media type")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise _invalid(f"{where}.size is missing or is no number of bytes")
    if not isinstance(digest, str):
        raise _invalid(f"{where}.digest is missing")
    try:
        return Descriptor(str(media_type), Digest.parse(digest), size)
    except ValueError as error:
        raise _invalid(f"{where}.digest: {error}") from error


def _subject(document: Mapping[str, Any]) -> Digest | None:
    raw = document.get("subject")
    return None if raw is None else _descriptor(raw, "subject").digest


def _artifact_type(document: Mapping[str, Any]) -> str | None:
    raw = document.get("artifactType")
    if raw is None or raw == "":
        return None
    if not _is_media_type(raw):
        raise _invalid("artifactType is no media type")
    return str(raw)


def _annotations(document: Mapping[str, Any]) -> Mapping[str, str]:
    raw = document.get("annotations")
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise _invalid("annotations is not a map of strings")
    return raw


def _is_media_type(raw: object) -> bool:
    return isinstance(raw, str) and raw.isascii() and raw.isprintable() and len(raw) <= 255  # noqa: PLR2004 - RFC 6838


def _invalid(message: str) -> RegistryError:
    return RegistryError(ErrorCode.MANIFEST_INVALID, message)
