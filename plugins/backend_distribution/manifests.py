"""Manifests, tags and referrers of the upstream. Nothing is remembered but what the upstream can do."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from gateway.plugins import (
    DELETION_BEGUN,
    Descriptor,
    Digest,
    ErrorCode,
    Identity,
    Manifest,
    MissingContentError,
    Reference,
    RegistryError,
    RepositoryName,
    Tag,
    TagPage,
    TagQuery,
)
from plugins.backend_distribution.answers import Answer, UpstreamError
from plugins.backend_distribution.blobs import begun, delete, finished, not_deleted, pull, push, unexpected
from plugins.backend_distribution.client import RegistryClient
from plugins.backend_distribution.names import Names

_OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_TYPES: Final = (
    _OCI_MANIFEST,
    _OCI_INDEX,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+"
_ACCEPT: Final = {"Accept": ", ".join(_TYPES)}
MAX_MANIFEST: Final = 4 * 1024 * 1024
"""Bytes of a manifest (specification, "Pushing manifests")."""
_MAX_PAGE: Final = 32 * 1024 * 1024
"""Bytes of a page of tags: Distribution 2.8 sends all of them in one."""
_MAX_PAGES: Final = 2000
_PAGE: Final = 1000
_AGAIN: Final = 600.0
"""Seconds after which an upstream that had no referrers API, or no deletion of tags, is asked anew."""
_DELETED: Final = frozenset({HTTPStatus.ACCEPTED, HTTPStatus.OK, HTTPStatus.NO_CONTENT})


class Manifests:
    """The manifests of one upstream: a ManifestStore. *clock* counts seconds."""

    def __init__(self, client: RegistryClient, names: Names, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._names = names
        self._clock = clock
        self._no_tag_deletion_until = 0.0
        self._no_referrers_until = 0.0

    # -- reading --------------------------------------------------------------------------------------

    async def manifest(self, name: RepositoryName, reference: Reference, *, head: bool = False) -> Manifest | None:
        """The manifest that *reference* stands for upstream now, or None. Its bytes are those of its digest."""
        there = self._names.upstream(name)
        if head:
            answer = await self._get("HEAD", there, reference)
            if answer is None:
                return None
            digest = answer.digest()
            if digest is not None and "Content-Length" in answer.headers:
                _same(answer, digest, reference)
                return Manifest(digest, _media_type(answer), answer.length())
        answer = await self._get("GET", there, reference)
        if answer is None:
            return None
        wanted = reference if isinstance(reference, Digest) else answer.digest()
        digest = Digest.of(answer.body, wanted.algorithm if wanted else "sha256")
        _same(answer, digest, wanted)
        return Manifest(digest, _media_type(answer), len(answer.body), None if head else answer.body)

    async def _get(self, method: str, there: str, reference: str) -> Answer | None:
        answer = await self._client.fetch(
            method,
            self._client.at(there, f"manifests/{reference}"),
            pull(there),
            # Without it Distribution 2.8 makes another manifest of it, in Docker's format schema 1.
            headers=_ACCEPT,
            limit=MAX_MANIFEST,
            follow=True,
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status != HTTPStatus.OK:
            raise unexpected(answer)
        return answer

    async def tags(self, name: RepositoryName, query: TagQuery) -> TagPage | None:
        """A page of tags sorted by byte; None where the repository does not exist.

        All of them are asked for: Distribution 2.8 does not page, and others do not sort by byte.
        """
        there = self._names.upstream(name)
        found: set[str] = set()
        async for answer in self._client.pages(
            self._client.at(there, f"tags/list?{urlencode({'n': _PAGE})}"),
            pull(there),
            limit=_MAX_PAGE,
            most=_MAX_PAGES,
        ):
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            if answer.status != HTTPStatus.OK:
                raise unexpected(answer)
            document = answer.document()
            listed = document.get("tags") if isinstance(document, dict) else ()
            if not isinstance(listed, list | None):
                raise answer.wrong("no list of tags")
            found.update(tag for tag in listed or () if _is_tag(tag))
        after = sorted(tag for tag in found if tag > query.last)
        page = after if query.limit is None else after[: query.limit]
        return TagPage(tuple(Tag(tag) for tag in page), more=len(page) < len(after))

    async def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None, last: str, limit: int
    ) -> Sequence[Descriptor]:
        """Manifests whose subject is *subject*, as the upstream's API has them, or the tag that stands for it."""
        there = self._names.upstream(name)
        listed = await self._listed(there, subject)
        if listed is None:
            fallback = await self._get("GET", there, _fallback(subject))
            listed = _descriptors([fallback.document()] if fallback else [])
        wanted = {
            item.digest: item for item in listed if item.digest > last and artifact_type in {None, item.artifact_type}
        }
        return [wanted[digest] for digest in sorted(wanted)[:limit]]

    async def _listed(self, there: str, subject: Digest) -> Iterable[Descriptor] | None:
        """What the upstream's referrers API says; None where it has none."""
        if self._clock() < self._no_referrers_until:
            return None
        documents = []
        async for answer in self._client.pages(
            self._client.at(there, f"referrers/{subject}"), pull(there), limit=MAX_MANIFEST, most=_MAX_PAGES
        ):
            if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
                if not answer.has(ErrorCode.NAME_UNKNOWN.name):
                    self._no_referrers_until = self._clock() + _AGAIN
                return None
            if answer.status != HTTPStatus.OK:
                raise unexpected(answer)
            if answer.media_type() != _OCI_INDEX:
                raise answer.wrong(f"the type {answer.media_type()[:100]!r} where referrers are asked for")
            documents.append(answer.document())
        return _descriptors(documents)

    # -- writing --------------------------------------------------------------------------------------

    async def put_manifest(
        self, name: RepositoryName, references: Sequence[Reference], manifest: Manifest, by: Identity
    ) -> None:
        """Put it under each reference in turn: an upstream has no way to take all or nothing.

        Raises MissingContentError; RegistryError with the upstream's words where it refuses the manifest.
        """
        del by
        assert manifest.content is not None
        there = self._names.upstream(name)
        for reference in references:
            try:
                await self._put_under(there, reference, manifest.media_type, manifest.content)
            except UpstreamError as error:
                elsewhere = _elsewhere(manifest)
                if not elsewhere or error.answer is None or not error.answer.may_refuse_layers():
                    raise
                raise MissingContentError(sorted({*elsewhere, *error.answer.missing()})) from error

    async def _put_under(self, there: str, reference: Reference, media_type: str, content: bytes) -> None:
        answer = await self._client.fetch(
            "PUT",
            self._client.at(there, f"manifests/{reference}"),
            push(there),
            headers={"Content-Type": media_type},
            body=content,
            # A tag that somebody moved meanwhile must not be moved back.
            repeat=isinstance(reference, Digest),
        )
        if answer.status in {HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.ACCEPTED}:
            return
        missing = answer.missing()
        if missing:
            raise MissingContentError(missing)
        raise unexpected(answer, ErrorCode.MANIFEST_INVALID)

    async def delete_manifest(self, name: RepositoryName, reference: Reference) -> bool:
        """Delete a tag alone, or a manifest with every tag that points at it; False where there was none."""
        there = self._names.upstream(name)
        if isinstance(reference, Digest):
            return await self._delete(there, reference)
        if await self._get("HEAD", there, reference) is None and not await self._lists(name, reference):
            return False
        if self._clock() >= self._no_tag_deletion_until:
            answer = await self._client.fetch("DELETE", self._client.at(there, f"manifests/{reference}"), delete(there))
            if answer.status in _DELETED:
                return True
            if answer.status == HTTPStatus.NOT_FOUND:
                return False
            if answer.status not in {HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED}:
                raise unexpected(answer, ErrorCode.DENIED)
            self._no_tag_deletion_until = self._clock() + _AGAIN
        await self._replace_and_delete(there, reference)
        return True

    async def _lists(self, name: RepositoryName, tag: Tag) -> bool:
        """Whether there is such a tag: there may be one though its manifest is lost."""
        last = ""
        while page := await self.tags(name, TagQuery(last=last)):
            if tag in page.tags or not page.more or not page.tags or page.tags[-1] > tag:
                return tag in page.tags
            last = page.tags[-1]
        return False

    async def _delete(self, there: str, digest: Digest) -> bool:
        answer = await self._client.fetch("DELETE", self._client.at(there, f"manifests/{digest}"), delete(there))
        if answer.status == HTTPStatus.NOT_FOUND:
            return False
        if answer.status not in _DELETED:
            raise not_deleted(answer)
        return True

    async def _replace_and_delete(self, there: str, tag: Tag) -> None:
        """Put a manifest that nothing else is under *tag*, and delete that: so the tag goes and its siblings stay.

        Distribution 2.8 deletes by digest alone, and with it every tag of the manifest. Where this is interrupted, the
        tag stands for a manifest that says so, and deleting the tag again completes it, as a cleanup does.
        """
        unique = json.dumps({"deleted": tag, "nonce": secrets.token_hex(16)}).encode()
        config = Digest.of(unique)
        # Whether deletion is on, and ours to do, is asked before anything is replaced.
        await self._delete(there, config)
        done = await finished(self._client, there, await begun(self._client, there), config, unique)
        if done.status != HTTPStatus.CREATED:
            raise unexpected(done)
        content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _OCI_MANIFEST,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": len(unique)},
                "layers": [],
                "annotations": dict(DELETION_BEGUN),
            }
        ).encode()
        await self._put_under(there, tag, _OCI_MANIFEST, content)
        await self._delete(there, Digest.of(content))
        with suppress(RegistryError):
            await self._client.fetch("DELETE", self._client.at(there, f"blobs/{config}"), delete(there))


def _elsewhere(manifest: Manifest) -> set[Digest]:
    """The layers that clients fetch from somewhere else."""
    details = manifest.details
    return set() if details is None else {layer.digest for layer in details.layers} - details.required


def _same(answer: Answer, found: Digest, wanted: Reference | None) -> None:
    """Raise UpstreamError where *answer* is another manifest than the one of *wanted*, if that is a digest."""
    if isinstance(wanted, Digest) and wanted.algorithm == found.algorithm and wanted != found:
        raise UpstreamError(502, f"{answer.host} answers with {found} where {wanted} is meant")


def _media_type(answer: Answer) -> str:
    """The media type of a manifest. RegistryError where it is none that we know."""
    found = answer.media_type()
    if found in _TYPES:
        return found
    if found.startswith(_SCHEMA_1):
        raise RegistryError(
            ErrorCode.MANIFEST_UNKNOWN,
            "it is stored in Docker's image format schema 1, which is not supported; push it with Docker 1.10 or newer",
        )
    raise answer.wrong(f"the type {found[:100]!r} where a manifest is asked for")


def _fallback(subject: Digest) -> Tag:
    """The tag under which clients list referrers where a registry doesn't (specification, "Referrers Tag Schema")."""
    return Tag(f"{subject.algorithm[:32]}-{subject.encoded[:64]}")


def _is_tag(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(Tag.parse(text))
    except ValueError:
        return False


def _descriptors(indexes: Iterable[object]) -> list[Descriptor]:
    """The descriptors of *indexes*, as far as they are well-formed."""
    found = []
    for index in indexes:
        listed = index.get("manifests") if isinstance(index, dict) else ()
        for item in listed if isinstance(listed, list) else ():
            with suppress(ValueError, KeyError, TypeError):
                found.append(_descriptor(item))
    return found


def _descriptor(item: Mapping[str, Any]) -> Descriptor:
    """One descriptor. Raises ValueError, KeyError or TypeError where it is none."""
    media_type, size, artifact_type = item["mediaType"], item["size"], item.get("artifactType") or None
    annotations = item.get("annotations") or {}
    if not isinstance(media_type, str) or not isinstance(size, int) or not isinstance(artifact_type, str | None):
        raise TypeError(item)
    words = {key: value for key, value in annotations.items() if isinstance(value, str)}
    return Descriptor(media_type, Digest.parse(item["digest"]), size, artifact_type, words or None)
