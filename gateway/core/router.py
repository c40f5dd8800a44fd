"""Method and raw path in, Route out. Pure; reads the path from the right, since names may hold any of its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, unquote

from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Action, Digest, Reference, RepositoryName, Tag


class Kind(StrEnum):
    """The resources of the OCI distribution specification, "Endpoints"."""

    BASE = "base"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    REFERRERS = "referrers"


# What Distribution asks for (registry/handlers/app.go, appendAccessRecords): a write needs pull as well.
_READ: Final = (Action.PULL,)
_WRITE: Final = (Action.PULL, Action.PUSH)
_DELETE: Final = (Action.DELETE,)

NEEDS: Final[Mapping[Kind, Mapping[str, tuple[Action, ...]]]] = {
    Kind.BASE: {"GET": (), "HEAD": ()},
    Kind.CATALOG: {"GET": ()},
    Kind.TAGS: {"GET": _READ, "HEAD": _READ},
    Kind.MANIFEST: {"GET": _READ, "HEAD": _READ, "PUT": _WRITE, "DELETE": _DELETE},
    Kind.BLOB: {"GET": _READ, "HEAD": _READ, "DELETE": _DELETE},
    Kind.UPLOADS: {"POST": _WRITE},
    Kind.UPLOAD: {"GET": _WRITE, "HEAD": _WRITE, "PATCH": _WRITE, "PUT": _WRITE, "DELETE": _WRITE},
    Kind.REFERRERS: {"GET": _READ, "HEAD": _READ},
}
"""Each resource's methods, and the actions on its repository that each needs."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a request is about.

    *reference* is the tag or digest of a manifest, None where the text is neither (nothing can be there); *digest* is
    that of a blob or subject; *session* is the sealed part of an upload's Location. *query* keeps repeated parameters.
    """

    kind: Kind
    method: str
    name: RepositoryName | None = None
    reference: Reference | None = None
    digest: Digest | None = None
    session: str = ""
    query: tuple[tuple[str, str], ...] = ()

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions on the repository that the request needs."""
        return NEEDS[self.kind][self.method]

    def parameter(self, key: str) -> str | None:
        """The first value of a query parameter, or None."""
        return next((value for name, value in self.query if name == key), None)

    def parameters(self, key: str) -> list[str]:
        """Every value of a query parameter."""
        return [value for name, value in self.query if name == key]


@lru_cache(maxsize=4096)
def parse(method: str, raw_path: str) -> Route:
    """Read a request line under ``/v2/``.

    Raises RegistryError: NAME_INVALID, DIGEST_INVALID and MANIFEST_INVALID for text that can't be what its place asks
    for, UNSUPPORTED for a method that the resource doesn't have, 404 for a path that is no resource.
    """
    path, _, query = raw_path.partition("?")
    segments = [_decoded(part) for part in path.removeprefix("/v2").removeprefix("/").split("/")]
    kind, name, last = _resource(method, segments)
    if method not in NEEDS[kind]:
        allowed = ", ".join(NEEDS[kind])
        raise RegistryError(
            ErrorCode.UNSUPPORTED, f"{kind} does not have {method}; it has {allowed}", headers={"Allow": allowed}
        )
    route_name = None if kind in {Kind.BASE, Kind.CATALOG} else _name(name)
    return Route(
        kind,
        method,
        route_name,
        reference=_reference(method, last) if kind is Kind.MANIFEST else None,
        digest=_digest(last) if kind in {Kind.BLOB, Kind.REFERRERS} else None,
        session=last if kind is Kind.UPLOAD else "",
        query=_query(query) if query else (),
    )


def _decoded(segment: str) -> str:
    if "%" not in segment:
        return segment
    text = unquote(segment, errors="strict") if _is_utf8(segment) else "/"
    if "/" in text or text in {".", ".."} or not text.isprintable():
        raise RegistryError(ErrorCode.NAME_INVALID, "the path holds an encoded character that no name can have")
    return text


def _is_utf8(segment: str) -> bool:
    try:
        unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _query(text: str) -> tuple[tuple[str, str], ...]:
    try:
        query = parse_qsl(text, keep_blank_values=True, max_num_fields=1000)
    except ValueError as error:
        raise RegistryError(ErrorCode.UNSUPPORTED, "the query has too many parameters", status=400) from error
    # No name holds a null character, and PostgreSQL takes none in text.
    return tuple((key, value.replace("\0", "\ufffd")) for key, value in query)


def _resource(  # noqa: PLR0911 - one return for each resource
    method: str, segments: list[str]
) -> tuple[Kind, list[str], str]:
    """Which resource, the components of its repository's name, and the last segment."""
    match segments:
        case [""]:
            return Kind.BASE, [], ""
        case ["_catalog"]:
            return Kind.CATALOG, [], ""
        case [_, *_, "tags", "list"]:
            return Kind.TAGS, segments[:-2], ""
        case [_, *_, "manifests", last]:
            return Kind.MANIFEST, segments[:-2], last
        case [_, *_, "referrers", last]:
            return Kind.REFERRERS, segments[:-2], last
        case [_, *_, "blobs", "uploads", ""]:
            return Kind.UPLOADS, segments[:-3], ""
        case [_, *_, "blobs", "uploads"] if method == "POST":
            return Kind.UPLOADS, segments[:-2], ""
        case [_, *_, "blobs", "uploads", last]:
            return Kind.UPLOAD, segments[:-3], last
        case [_, *_, "blobs", last]:
            return Kind.BLOB, segments[:-2], last
        case _:
            raise RegistryError(ErrorCode.NAME_UNKNOWN, "no such endpoint", detail={"path": "/".join(segments)[:255]})


def _name(components: list[str]) -> RepositoryName:
    try:
        return RepositoryName.parse("/".join(components))
    except ValueError as error:
        raise RegistryError(ErrorCode.NAME_INVALID, str(error)) from error


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise RegistryError(ErrorCode.DIGEST_INVALID, str(error)) from error


def _reference(method: str, text: str) -> Reference | None:
    if ":" in text:
        return _digest(text)
    try:
        return Tag.parse(text)
    except ValueError as error:
        if method == "PUT":
            raise RegistryError(ErrorCode.MANIFEST_INVALID, str(error)) from error
        return None
