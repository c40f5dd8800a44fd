"""Finds out what an upstream can, by questions that change nothing, and says what the gateway adds."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from gateway.plugins import Capability, Digest
from plugins.backend_distribution.answers import Answer, UpstreamError
from plugins.backend_distribution.client import RegistryClient

_Found = tuple[str, bool | None]
_LONG: Final = 1024 * 1024
_UNTOLD: Final = "can't be told"


class Probe:
    """Questions about one repository: *there* is the upstream's name for it, which need not exist."""

    def __init__(self, client: RegistryClient, there: str) -> None:
        self._client = client
        self._base = f"{client.url}/v2/{there}"
        self._scope = f"repository:{there}"
        # Nobody has this, so nobody misses it.
        self._nothing = Digest.of(uuid.uuid4().bytes)

    async def run(self) -> AsyncIterator[Capability]:
        """Ask, one after the other. Raises UpstreamError where the upstream can't be asked at all."""
        base = await self._client.fetch("GET", f"{self._client.url}/v2/")
        if base.status != 200:  # noqa: PLR2004
            raise UpstreamError(502, f"{base.summary} to GET /v2/; is `url` that of a registry?")
        version = base.headers.get("Docker-Distribution-Api-Version", "no version header")
        yield Capability("protocol", f"answers 200 ({version[:60]})", good=True)
        rows: tuple[tuple[str, Callable[[], Awaitable[_Found]], str], ...] = (
            ("catalog", self._catalog, "its own, of what passed through and was crawled by name"),
            ("pages of tags", self._paging, "sorts and cuts the list itself"),
            ("referrers API", self._referrers, "its own index, and the fallback tags that are there"),
            ("malformed digests", self._malformed, "refuses them itself"),
            ("pushing", self._pushing, ""),
            ("order of chunks", self._chunks, "knows how far each upload is and refuses what does not continue it"),
            ("deleting manifests", self._deletes, "nothing: switch it on there (Distribution: storage.delete.enabled)"),
            ("deleting a tag alone", self._untags, "moves the tag to an empty manifest and deletes that"),
        )
        for name, ask, added in rows:
            try:
                found, good = await ask()
            except UpstreamError as error:
                found, good = str(error), False
            yield Capability(name, found, good, "" if good else added)
        yield Capability(
            "manifests by sha512",
            f"{_UNTOLD}: that takes a push",
            None,
            "stores them by sha256, and finds them by either",
        )

    async def _ask(self, method: str, path: str, actions: str, *, limit: int = _LONG) -> Answer:
        scopes = (f"{self._scope}:{actions}",)
        return await self._client.fetch(method, f"{self._base}/{path}", scopes, limit=limit, repeat=False)

    async def _catalog(self) -> _Found:
        answer = await self._client.fetch(
            "GET", f"{self._client.url}/v2/_catalog?n=1", ("registry:catalog:*",), limit=_LONG
        )
        return _said(answer), answer.status == 200  # noqa: PLR2004

    async def _paging(self) -> _Found:
        answer = await self._ask("GET", "tags/list?n=1", "pull")
        if answer.status != 200:  # noqa: PLR2004
            return f"{_UNTOLD}: {_said(answer)}; name a repository with two tags (--repository)", None
        document = answer.document()
        tags = document.get("tags") if isinstance(document, dict) else None
        if not isinstance(tags, list) or not tags:
            return f"{_UNTOLD}: the repository has no tags", None
        if len(tags) == 1 and answer.next_page() is None:
            return f"{_UNTOLD}: the repository has one tag, or is said to", None
        return f"{len(tags)} tags where 1 was asked for", len(tags) == 1

    async def _referrers(self) -> _Found:
        answer = await self._ask("GET", f"referrers/{self._nothing}", "pull")
        return _said(answer), answer.status == 200  # noqa: PLR2004

    async def _malformed(self) -> _Found:
        answer = await self._ask("GET", "manifests/sha256:totallywrong", "pull")
        return _said(answer), answer.status in {400, 404}

    async def _pushing(self) -> _Found:
        answer = await self._ask("POST", "blobs/uploads/", "pull,push")
        if answer.status == 202:  # noqa: PLR2004
            await self._client.fetch("DELETE", self._client.location(answer), (f"{self._scope}:pull,push",))
        return _said(answer), answer.status == 202  # noqa: PLR2004

    async def _chunks(self) -> _Found:
        scopes = (f"{self._scope}:pull,push",)
        begun = await self._ask("POST", "blobs/uploads/", "pull,push")
        if begun.status != 202:  # noqa: PLR2004
            return f"{_UNTOLD}: {_said(begun)}", None
        where = self._client.location(begun)
        headers = {"Content-Range": "10-19", "Content-Type": "application/octet-stream"}
        answer = await self._client.fetch("PATCH", where, scopes, headers=headers, body=b"0123456789", repeat=False)
        if answer.status == 202:  # noqa: PLR2004
            where = self._client.location(answer)
        await self._client.fetch("DELETE", where, scopes)
        refused = answer.status == 416  # noqa: PLR2004
        return f"a chunk at the wrong place is {'refused' if refused else 'taken'} ({_said(answer)})", refused

    async def _deletes(self) -> _Found:
        answer = await self._ask("DELETE", f"manifests/{self._nothing}", "pull,delete")
        return _said(answer), answer.status in {202, 404}

    async def _untags(self) -> _Found:
        answer = await self._ask("DELETE", f"manifests/probe-{uuid.uuid4().hex}", "pull,delete")
        return _said(answer), answer.status in {202, 404}


def _said(answer: Answer) -> str:
    words = answer.said()
    return f"answers {answer.status}{f' ({words})' if words else ''}"


async def probe(client: RegistryClient, there: str) -> list[Capability]:
    """What the upstream can, found out about the repository that it calls *there*."""
    return [item async for item in Probe(client, there).run()]
