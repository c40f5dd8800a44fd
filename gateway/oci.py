"""The values of the OCI distribution specification 1.1, as types that can't hold a wrong one.

Pure: nothing here does I/O. Names are the specification's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

MAX_NAME: Final = 255
"""Characters of a repository name (Distribution's limit, which every client keeps to)."""
MAX_TAG: Final = 128
"""Characters of a tag (specification, "Pulling manifests")."""
MAX_MANIFEST: Final = 4 * 1024 * 1024
"""Bytes of a manifest (specification, "Pushing manifests": at least 4 megabytes)."""

ALGORITHMS: Final[Mapping[str, int]] = {"sha256": 64, "sha512": 128}
"""The registered digest algorithms and how many hexadecimal characters each encodes to."""

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_NAME_CHARACTERS = re.compile(r"[a-z0-9._-]+")
_SEPARATORS = re.compile(r"[._-]+")
_SEPARATOR = re.compile(r"\.|__?|-+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<encoded>[A-Za-z0-9=_-]+)")
_HEX = re.compile(r"[a-f0-9]+")
_RANGE = re.compile(r"bytes\s*=\s*(?P<first>[0-9]*)\s*-\s*(?P<last>[0-9]*)\s*", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})")


class MediaType(StrEnum):
    """The manifest media types that a registry stores, and those that it has to tell apart."""

    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    OCI_INDEX = "application/vnd.oci.image.index.v1+json"
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
    DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

    @property
    def is_index(self) -> bool:
        """Whether a manifest of this type names manifests rather than layers."""
        return self in {MediaType.OCI_INDEX, MediaType.DOCKER_LIST}

    @property
    def is_schema1(self) -> bool:
        """Whether this is Docker's first image format, which registries no longer take."""
        return self in {MediaType.DOCKER_SCHEMA1, MediaType.DOCKER_SCHEMA1_SIGNED}


class RepositoryName(str):
    """A repository's name, such as ``acme/app``: legal, at most 255 characters."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read *text* as a repository name; ValueError says which component breaks which rule."""
        if len(text) > MAX_NAME:
            raise ValueError(f"a repository name has at most {MAX_NAME} characters, this one has {len(text)}")
        if not _NAME.fullmatch(text):
            problems = ((place, part, _component_problem(part)) for place, part in enumerate(text.split("/"), start=1))
            raise ValueError(
                next(
                    f"component {place} ({part!r}) of the repository name {rule}"
                    for place, part, rule in problems
                    if rule
                )
            )
        return cls(text)


def _component_problem(part: str) -> str:
    """The rule that one component of a repository name breaks; empty where it breaks none."""
    if not part:
        return "is empty"
    if part != part.lower() and part.isascii():
        return f"has a capital letter: write {part.lower()!r}"
    if not _NAME_CHARACTERS.fullmatch(part):
        return "has a character other than a small letter, a digit, '.', '_' and '-'"
    ends = [f"begins with {part[0]!r}"] * (part[0] in "._-") + [f"ends with {part[-1]!r}"] * (part[-1] in "._-")
    if ends:
        # GitLab still has such paths, from before it forbade them (semantics 5.2); no client can name their images.
        return f"{ends[0]}: a project with such a path can't hold images until it is renamed"
    wrong = next((run for run in _SEPARATORS.findall(part) if not _SEPARATOR.fullmatch(run)), None)
    return f"has {wrong!r} between two words: use one '.', one or two '_', or dashes" if wrong else ""


class Tag(str):
    """A tag, such as ``latest``: legal, at most 128 characters."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read *text* as a tag; ValueError says which rule it breaks."""
        if len(text) > MAX_TAG:
            raise ValueError(f"a tag has at most {MAX_TAG} characters, this one has {len(text)}")
        if not _TAG.fullmatch(text):
            raise ValueError("a tag has letters, digits, '_', '.' and '-', and begins with a letter, digit or '_'")
        return cls(text)


class Digest(str):
    """A content digest, ``algorithm:encoded``, of an algorithm that the gateway can compute."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read *text* as a digest; ValueError says which rule it breaks (image specification, "Digests")."""
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise ValueError("a digest is an algorithm, a colon and the encoded hash")
        algorithm, encoded = match["algorithm"], match["encoded"]
        length = ALGORITHMS.get(algorithm)
        if length is None:
            raise ValueError(f"digest algorithm {algorithm!r} is not supported; use sha256 or sha512")
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise ValueError(f"a {algorithm} digest has {length} lower-case hexadecimal characters")
        return cls(text)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        """Compute the digest of *content*."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The hash, in hexadecimal."""
        return self.partition(":")[2]


Reference = Tag | Digest


class Action(StrEnum):
    """What a caller may be allowed to do with a repository (Docker token specification; GitLab's ``/jwt/auth``)."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    ALL = "*"


@dataclass(frozen=True, slots=True)
class Scope:
    """One access that is asked for, as in ``repository:acme/app:pull,push``.

    *actions* keep the order and the repetitions of the request, and may hold words nobody knows (GitLab keeps
    ``push,push`` twice and drops what it does not know).
    """

    type: str
    name: str
    actions: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read one scope string; None where it has fewer than three parts."""
        parts = text.split(":", 2)
        if len(parts) < 3:  # noqa: PLR2004 - type, name and actions
            return None
        return cls(parts[0], parts[1], tuple(action for action in parts[2].split(",") if action))

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(self.actions)}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of something that it refers to (image specification, "Content Descriptors")."""

    media_type: str
    digest: Digest
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] | None = None

    def as_json(self) -> dict[str, object]:
        """The descriptor as it stands in an image index."""
        answer: dict[str, object] = {"mediaType": self.media_type, "size": self.size, "digest": self.digest}
        if self.artifact_type:
            answer["artifactType"] = self.artifact_type
        if self.annotations:
            answer["annotations"] = dict(self.annotations)
        return answer


@dataclass(frozen=True, slots=True)
class ManifestDetails:
    """What a manifest says: its config, layers and child manifests, its subject, and how it presents itself.

    *required* are the digests that a repository must have before it takes the manifest: all but those of layers that
    nobody fetches from a registry.
    """

    artifact_type: str | None
    annotations: Mapping[str, str]
    subject: Digest | None
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    required: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes *first* up to but not including *stop*."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


class UnsatisfiableRangeError(ValueError):
    """A well-formed range of which no byte exists (RFC 9110 section 14.1.2)."""


def parse_range(header: str, size: int) -> ByteRange | None:
    """Read a ``Range`` header for content of *size* bytes (RFC 9110 section 14.2).

    None where the header is malformed, in another unit or asks for several ranges: a server may ignore those and
    answer with the whole. Raises UnsatisfiableRangeError where no byte of the range exists.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or len(header) > 64:  # noqa: PLR2004 - two numbers need no more
        return None
    first, last = match["first"], match["last"]
    if first == "":
        if last == "":
            return None
        length = int(last)
        if length == 0 or size == 0:
            raise UnsatisfiableRangeError(header)
        return ByteRange(max(0, size - length), size)
    start = int(first)
    if start >= size or (last != "" and int(last) < start):
        raise UnsatisfiableRangeError(header)
    return ByteRange(start, size if last == "" else min(int(last) + 1, size))


def parse_content_range(header: str) -> ByteRange:
    """Read the ``Content-Range`` of a chunk, ``first-last`` with both included; ValueError where it is not that.

    Specification, "Pushing a blob in chunks": it must match ``^[0-9]+-[0-9]+$``.
    """
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None or int(match["last"]) < int(match["first"]):
        raise ValueError("Content-Range of a chunk is FIRST-LAST, both included")
    return ByteRange(int(match["first"]), int(match["last"]) + 1)
