"""How the gateway shows the upstream who it is: not at all, by password, or by tokens of its token server.

Docker's token authentication specification: the challenge names a realm, which gives a token for scopes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import aiohttp
from cachetools import LRUCache

from plugins.backend_distribution.answers import Answer, UpstreamError, host
from plugins.backend_distribution.config import Config, is_private

T = TypeVar("T")
Scopes = tuple[str, ...]
"""Such as ``repository:acme/app:pull``; two for a cross-repository mount."""

_KEPT: Final = 10_000
_LIFE: Final = 60.0
"""Seconds that a token is good where its server does not say (the specification's default)."""
_SCHEME: Final = re.compile(r"(?:^|,)\s*(?P<scheme>basic|bearer)(?=\s|$)", re.IGNORECASE)
_PARAMETER: Final = re.compile(
    r'(?P<name>[a-z_]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s",]+))', re.IGNORECASE
)
_TOKEN: Final = re.compile(r"[!-~]{1,65536}")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a ``WWW-Authenticate`` header wants: ``basic``, ``bearer``, or nothing that we know."""

    scheme: str = ""
    realm: str = ""
    service: str = ""
    scopes: Scopes = ()


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, and the second until which it is good; *life* is how many it had."""

    value: str
    until: float
    life: float

    def good(self, now: float, *, lasting: bool) -> bool:
        """Whether it is good for a request now; *lasting*: for one that can't be repeated."""
        left = self.until - now
        return left > (min(60.0, self.life / 2) if lasting else min(10.0, self.life / 5))


class Shared:
    """Questions of which many come at once; each is asked once, and whoever asks it meanwhile gets its answer."""

    def __init__(self) -> None:
        self._running: dict[object, asyncio.Task[Any]] = {}

    async def ask(self, key: object, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to *question*, or to the one that is under way for *key*."""
        if key not in self._running:
            task = asyncio.ensure_future(question())
            self._running[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        answer: T = await asyncio.shield(self._running[key])
        return answer

    def _done(self, key: object, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            # Whoever waited may be gone when it fails.
            task.exception()

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Credentials:
    """Makes ``Authorization`` headers for one upstream, which is asked once what it wants to see.

    *ask* sends a GET to any URL, with no credential but what stands in the headers that it is given.
    """

    def __init__(
        self,
        config: Config,
        ask: Callable[[str, Mapping[str, str]], Awaitable[Answer]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._ask = ask
        self._clock = clock
        self._challenge: Challenge | None = None
        self._tokens: LRUCache[Scopes, _Token] = LRUCache(_KEPT)
        self._shared = Shared()

    async def close(self) -> None:
        """End what is under way."""
        await self._shared.close()

    async def header(self, scopes: Scopes, *, lasting: bool = False) -> str | None:
        """What to send with a request that needs *scopes*; None: nothing. Raises UpstreamError."""
        wanted = self._challenge
        if wanted is None:
            wanted = await self._shared.ask("challenge", self._learn)
        if wanted.scheme == "bearer":
            token = self._tokens.get(scopes)
            if token is None or not token.good(self._clock(), lasting=lasting):
                token = await self._fetched(wanted, scopes, scopes)
            return f"Bearer {token.value}"
        return self._basic() if wanted.scheme == "basic" else None

    async def renewed(self, headers: Sequence[str], scopes: Scopes, refused: str | None) -> str | None:
        """What to send instead of *refused*, which was answered 401 with *headers*; None: there is nothing better."""
        wanted = challenge(headers)
        if wanted.scheme:
            self._challenge = wanted
        if wanted.scheme == "bearer":
            token = self._tokens.get(scopes)
            if token is None or f"Bearer {token.value}" == refused:
                # The upstream may call a repository otherwise in scopes than in paths.
                token = await self._fetched(wanted, scopes, wanted.scopes or scopes)
            return f"Bearer {token.value}"
        better = self._basic() if wanted.scheme == "basic" else None
        return better if better != refused else None

    async def _learn(self) -> Challenge:
        answer = await self._ask(f"{self._config.url}/v2/", {})
        unauthorized = answer.status == HTTPStatus.UNAUTHORIZED
        self._challenge = challenge(answer.headers.getall("WWW-Authenticate", ())) if unauthorized else Challenge()
        return self._challenge

    def _basic(self) -> str | None:
        if self._config.username is None or self._config.password is None:
            return None
        return aiohttp.encode_basic_auth(self._config.username, self._config.password.get_secret_value(), "utf-8")

    async def _fetched(self, wanted: Challenge, scopes: Scopes, asked: Scopes) -> _Token:
        return await self._shared.ask(scopes, lambda: self._fetch(wanted, scopes, asked))

    async def _fetch(self, wanted: Challenge, scopes: Scopes, asked: Scopes) -> _Token:
        realm = wanted.realm
        if not is_private(realm) and not self._config.allow_insecure:
            raise UpstreamError(
                502,
                f"{host(self._config.url)} has its token server at {realm.partition('?')[0][:200]!r}, to which nothing "
                "goes in clear: give it https, or set allow_insecure",
            )
        service = [("service", wanted.service)] if wanted.service else []
        query = urlencode([*service, *(("scope", scope) for scope in asked)])
        login = self._basic()
        asked_at = self._clock()
        answer = await self._ask(
            f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm,
            {"Authorization": login} if login else {},
        )
        if answer.status != HTTPStatus.OK:
            raise _refused(answer, has_login=login is not None)
        value, life = _read(answer, time.time())
        token = _Token(value, asked_at + life, life)
        self._tokens[scopes] = token
        return token


def challenge(headers: Sequence[str]) -> Challenge:
    """The best challenge for us, Bearer or Basic, of ``WWW-Authenticate`` headers (RFC 9110 section 11.6.1)."""
    found: dict[str, Mapping[str, str]] = {}
    for header in headers:
        places = list(_SCHEME.finditer(header))
        for number, place in enumerate(places):
            following = places[number + 1].start() if number + 1 < len(places) else len(header)
            parameters = {
                item["name"].lower(): item["bare"] or re.sub(r"\\(.)", r"\1", item["quoted"] or "")
                for item in _PARAMETER.finditer(header, place.end(), following)
            }
            found.setdefault(place["scheme"].lower(), parameters)
    bearer = found.get("bearer", {})
    if bearer.get("realm"):
        return Challenge("bearer", bearer["realm"], bearer.get("service", ""), tuple(bearer.get("scope", "").split()))
    return Challenge("basic") if "basic" in found else Challenge()


def _refused(answer: Answer, *, has_login: bool) -> UpstreamError:
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        return UpstreamError(502, f"the token server {answer.host} redirects; the password is not sent on")
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        mend = "it refuses username and password_file" if has_login else "set username and password_file"
        return UpstreamError(502, f"the token server {answer.summary}: {mend}")
    return UpstreamError(502, f"the token server {answer.summary}")


def _read(answer: Answer, now: float) -> tuple[str, float]:
    """The token of a token server's answer, and for how many seconds from now it is good."""
    document = answer.document()
    found = document if isinstance(document, dict) else {}
    value = found.get("token") or found.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise answer.wrong("no token")
    life = found.get("expires_in")
    if not isinstance(life, int | float) or isinstance(life, bool) or not 0 < life < 1e9:  # noqa: PLR2004 - sane
        life = _LIFE
    try:
        issued = dt.datetime.fromisoformat(str(found.get("issued_at"))).timestamp()
    except (ValueError, OverflowError):
        issued = now
    age = now - issued
    # A server may hand out a token that it made for somebody before; but where clocks differ its word is no use.
    return value, float(life - age if 0 < age < life else life)
