"""What an upstream answers, read with suspicion: every number, digest and URL in it may be nonsense. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from multidict import CIMultiDictProxy

from gateway.plugins import ByteRange, Digest, ErrorCode, RegistryError

_MESSAGES: Final = {
    502: "the registry behind this one can't be reached, or fails",
    503: "the registry behind this one is busy",
    504: "the registry behind this one does not answer in time",
}
RETRY_AFTER: Final = "5"
"""Seconds after which a client shall try again where the upstream does not say."""
_LONGEST_URL: Final = 16 * 1024
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_URL: Final = re.compile(r"[!-~]+")
_UPLOAD_RANGE: Final = re.compile(r"(?:bytes=)?0-(?P<last>[0-9]{1,18})")
_CONTENT_RANGE: Final = re.compile(r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?P<size>[0-9]{1,18}|\*)")
_NEXT: Final = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?')


class UpstreamError(RegistryError):
    """The upstream can't serve this now. *why* is for operators; *again*: the same request may go well in a moment.

    *answer* is what the upstream said, if it said anything.
    """

    def __init__(
        self,
        status: int,
        why: str,
        *,
        again: bool = False,
        retry_after: str = RETRY_AFTER,
        answer: Answer | None = None,
    ) -> None:
        super().__init__(
            ErrorCode.UNAVAILABLE, _MESSAGES[status], status=status, headers={"Retry-After": retry_after}, why=why
        )
        self.again = again
        self.answer = answer

    def __str__(self) -> str:
        return self.why or self.message


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end. *url* is the one that gave it."""

    url: str
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes = b""

    @property
    def host(self) -> str:
        """Who gave it, for the log."""
        return host(self.url)

    def length(self) -> int:
        """The ``Content-Length``. UpstreamError where there is none, or garbage."""
        text = self.headers.get("Content-Length", "")
        if not _NUMBER.fullmatch(text):
            raise self.wrong(f"the Content-Length {text[:40]!r}")
        return int(text)

    def digest(self) -> Digest | None:
        """The ``Docker-Content-Digest`` where there is one. UpstreamError where it is garbage."""
        text = self.headers.get("Docker-Content-Digest")
        try:
            return None if text is None else Digest.parse(text)
        except ValueError as error:
            raise self.wrong(f"the Docker-Content-Digest {text[:100]!r}" if text else "an empty digest") from error

    def media_type(self) -> str:
        """The ``Content-Type`` without its parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def held(self) -> int | None:
        """How many bytes an upload holds, by its ``Range``, which is 0-0 for none and for one; None: not said."""
        text = self.headers.get("Range")
        if text is None:
            return None
        match = _UPLOAD_RANGE.fullmatch(text.strip())
        if match is None:
            raise self.wrong(f"the Range {text[:40]!r}")
        return int(match["last"]) + 1 if int(match["last"]) else 0

    def document(self) -> Any:
        """The body as JSON. UpstreamError where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise self.wrong("a body that is no JSON") from error

    def errors(self) -> Sequence[Mapping[str, Any]]:
        """The entries of the specification's ``errors``; empty where there are none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return ()
        found = document.get("errors") if isinstance(document, dict) else None
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else ()

    def has(self, *codes: str) -> bool:
        """Whether one of *codes* is among the errors."""
        return any(item.get("code") in codes for item in self.errors())

    @property
    def summary(self) -> str:
        """Who answered what, for the log."""
        said = self.said()
        return f"{self.host} answers {self.status}" + (f" ({said})" if said else "")

    def said(self) -> str:
        """What the upstream says is wrong, in printable words and at most 200 characters; or nothing."""
        words = "; ".join(str(item.get("message") or item.get("code") or "") for item in self.errors()[:5])
        return "".join(letter for letter in words if letter.isprintable())[:200]

    def may_refuse_layers(self) -> bool:
        """Whether this may be how Distribution 2.8 refuses layers that lie elsewhere.

        Unless its ``validation.manifests.urls`` allows their URLs it answers 500, and gives no reason but UNKNOWN.
        """
        codes = {item.get("code") for item in self.errors()}
        known = {ErrorCode.UNKNOWN.name, ErrorCode.MANIFEST_BLOB_UNKNOWN.name}
        return self.status == HTTPStatus.INTERNAL_SERVER_ERROR and bool(codes) and codes <= known

    def missing(self) -> list[Digest]:
        """The digests that the upstream doesn't have, by its MANIFEST_BLOB_UNKNOWN errors."""
        found: set[Digest] = set()
        for item in self.errors():
            if item.get("code") == ErrorCode.MANIFEST_BLOB_UNKNOWN.name:
                found |= _digests(item.get("detail"))
        return sorted(found)

    def next_page(self) -> str | None:
        """The URL of the next page (RFC 8288), at the same server; UpstreamError where it is elsewhere."""
        match = _NEXT.search(self.headers.get("Link", ""))
        if match is None:
            return None
        found = resolved(self.url, match[1])
        if found is None or origin(found) != origin(self.url):
            raise self.wrong("a next page that is not its own")
        return found

    def wrong(self, what: str) -> UpstreamError:
        """The error for an answer that makes no sense."""
        return UpstreamError(502, f"{self.host} answers {self.status} with {what}")


def content_range(text: str, part: ByteRange, size: int) -> bool:
    """Whether a ``Content-Range`` header (RFC 9110 section 14.4) is that of *part* of *size* bytes."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    return (
        match is not None
        and int(match["first"]) == part.first
        and int(match["last"]) == part.stop - 1
        and match["size"] in {"*", str(size)}
    )


def retry_after(text: str | None) -> str:
    """The seconds of a ``Retry-After`` header if that is a sensible number of them."""
    return text if text and _NUMBER.fullmatch(text) and len(text) <= len("3600") else RETRY_AFTER


def resolved(base: str, location: str) -> str | None:
    """*location* as seen from *base*, letter by letter; None where it is no http(s) URL."""
    if not _URL.fullmatch(location) or len(location) > _LONGEST_URL:
        return None
    try:
        if location.startswith("/") and not location.startswith("//"):
            # Put together by hand: a library would make another path of `..` or `%2F`.
            parts = urlsplit(base)
            found = f"{parts.scheme}://{parts.netloc}{location}"
        else:
            found = location if "://" in location.partition("?")[0] else urljoin(base, location)
        parts = urlsplit(found)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None
        return found.partition("#")[0] if usable and parts.port != 0 else None
    except ValueError:
        return None


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: who must be the same to be given the same credential."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def host(url: str) -> str:
    """Host and port as they stand in *url*, which is all of it that a log may hold."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _digests(detail: object, depth: int = 3) -> set[Digest]:
    """Every digest that an error's ``detail`` is, or has in a list or as a member."""
    if isinstance(detail, str):
        try:
            return {Digest.parse(detail)}
        except ValueError:
            return set()
    values = detail.values() if isinstance(detail, dict) else detail if isinstance(detail, list) else ()
    return {digest for value in values for digest in _digests(value, depth - 1)} if depth else set()
