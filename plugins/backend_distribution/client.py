"""Everything HTTP between the gateway and the registry behind it: an answer, or an UpstreamError that says why none."""

from __future__ import annotations

import asyncio
import io
import os
import random
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from gateway.plugins import ConfigError
from plugins.backend_distribution.answers import Answer, UpstreamError, host, origin, resolved, retry_after
from plugins.backend_distribution.config import Config, is_private
from plugins.backend_distribution.tokens import Credentials, Scopes

T = TypeVar("T")
Body = bytes | AsyncIterable[bytes] | None

MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer that is neither blob nor manifest nor list."""
_READ_BUFFER: Final = 256 * 1024
"""Bytes of a body that wait to be read: with four times as many the processor's cache no longer holds them."""
_MAX_HEADER: Final = 64 * 1024
"""Bytes of a header: the URLs that object stores sign are longer than aiohttp's default."""
_IDLE: Final = 30.0
"""Seconds that an unused connection is kept: less than load balancers keep theirs."""
_REDIRECTS: Final = 5
_PAUSE: Final = 0.1
"""Seconds before the first repetition; twice that before the next."""
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_SAFE: Final = frozenset({"GET", "HEAD", "DELETE"})
_LOST: Final = (aiohttp.ClientError, OSError, TimeoutError)
"""What aiohttp raises where there is no answer, or not all of it."""


class _Connector(aiohttp.TCPConnector):
    """Gives out no idle connection on which bytes came: they would be taken for the answer to the next request."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the method's own
    ) -> Connection:
        """Wait for a connection that is new, or has been silent since its last answer."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


@dataclass(frozen=True, slots=True)
class _Request:
    """A request before it is sent; *patience* is how many seconds no byte of its answer may come."""

    method: str
    url: str
    scopes: Scopes
    headers: Mapping[str, str]
    body: Body
    follow: bool
    patience: float

    @property
    def once(self) -> bool:
        """Whether its body is gone once it was sent."""
        return self.body is not None and not isinstance(self.body, bytes)


class RegistryClient:
    """Asks one upstream. It keeps connections, knows its credential, and repeats what can be repeated.

    *clock* counts seconds, for the life of tokens.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._credentials = Credentials(config, self._ask, clock)
        self._idle = config.read_timeout.total_seconds()
        self._session: aiohttp.ClientSession | None = None
        self._own_tls = self._other_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    @property
    def url(self) -> str:
        """Where the upstream is, without a slash at the end."""
        return self._config.url

    def at(self, there: str, path: str) -> str:
        """The URL of *path* in the upstream's repository *there*."""
        return f"{self.url}/v2/{there}/{path}"

    @property
    def patience(self) -> float:
        """How long no byte may come (seconds)."""
        return self._idle

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Read the certificates, and hold connections while the block runs. Nothing is asked yet."""
        self._own_tls, self._other_tls = contexts(self._config)
        connector = _Connector(limit=self._config.connections, keepalive_timeout=_IDLE)
        async with aiohttp.ClientSession(
            connector=connector,
            # A cookie of one client must never come back for another.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
        ) as self._session:
            try:
                yield
            finally:
                await self._credentials.close()
        self._session = None

    def location(self, answer: Answer) -> str:
        """Where *answer* says to go on. Raises UpstreamError where that is nowhere that we may go to."""
        return self._reachable(answer.url, answer.headers.get("Location", ""))

    async def fetch(
        self,
        method: str,
        url: str,
        scopes: Scopes = (),
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        limit: int = MAX_ANSWER,
        follow: bool = False,
        repeat: bool | None = None,
        patience: float | None = None,
    ) -> Answer:
        """The whole answer, whatever its status is below 500 and but for 401, 403 and 429. Raises UpstreamError.

        *url* is absolute and sent as it stands; *scopes* is what the request needs the right for. Redirects are
        answers unless *follow*. *repeat* says whether it may be sent again where it failed (by default GET, HEAD and
        DELETE); *patience* is how many seconds no byte may come. A body of more than *limit* bytes is an error.
        """
        request = _Request(method, url, scopes, headers or {}, body, follow, patience or self._idle)

        async def once() -> Answer:
            answer = await self._answered(request)
            try:
                return await self._whole(answer, limit)
            finally:
                answer.release()

        return await self._repeated(once, may=method in _SAFE if repeat is None else repeat)

    async def pages(self, url: str, scopes: Scopes, *, limit: int, most: int) -> AsyncIterator[Answer]:
        """The answers to a GET and to those that its ``Link`` headers name, each of at most *limit* bytes.

        Raises UpstreamError; also for a list that has no end after *most* pages.
        """
        page = url
        for _ in range(most):
            answer = await self.fetch("GET", page, scopes, limit=limit)
            yield answer
            following = answer.next_page()
            if following is None:
                return
            page = following
        raise UpstreamError(502, f"{host(url)} has a list without an end")

    @asynccontextmanager
    async def stream(
        self, url: str, scopes: Scopes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a GET, redirects followed, its body still to be read. Raises UpstreamError.

        Leaving the block before the body's end closes the connection.
        """
        request = _Request("GET", url, scopes, headers, None, follow=True, patience=self._idle)
        answer = await self._repeated(lambda: self._answered(request), may=True)
        try:
            yield answer
        except _LOST as error:
            raise self._failure(str(answer.url), error) from error
        finally:
            answer.release()

    async def _repeated(self, once: Callable[[], Awaitable[T]], *, may: bool) -> T:
        attempts = self._config.attempts if may else 1
        for attempt in range(1, attempts):
            try:
                return await once()
            except UpstreamError as error:
                if not error.again:
                    raise
            # Distribution 2.8 fails for the moment in which it rewrites a link; all workers at once shall not return.
            await asyncio.sleep(random.uniform(0.5, 1.5) * _PAUSE * 2 ** (attempt - 1))  # noqa: S311 - only a spread
        return await once()

    async def _answered(self, request: _Request) -> aiohttp.ClientResponse:
        """One answer that is no failure, its body unread."""
        answer = await self._authorized(request)
        for _ in range(_REDIRECTS if request.follow else 0):
            if answer.status not in _MOVED:
                break
            await self._put_away(answer)
            target = self._reachable(str(answer.url), answer.headers.get("Location", ""))
            answer = await self._authorized(replace(request, url=target))
        failure = await self._failed(answer, request)
        if failure is not None:
            answer.close()
            raise failure
        return answer

    async def _authorized(self, request: _Request) -> aiohttp.ClientResponse:
        """The answer to a request, with our credential if it goes to the upstream itself."""
        if not self._is_own(request.url):
            return await self._sent(request, None)
        shown = await self._credentials.header(request.scopes, lasting=request.once)
        answer = await self._sent(request, shown)
        if answer.status != HTTPStatus.UNAUTHORIZED:
            return answer
        await self._put_away(answer)
        better = await self._credentials.renewed(answer.headers.getall("WWW-Authenticate", ()), request.scopes, shown)
        if better is None:
            return answer
        if request.once:
            raise UpstreamError(503, f"{host(request.url)} refused a token while an upload went on; the next is new")
        return await self._sent(request, better)

    async def _sent(self, request: _Request, authorization: str | None) -> aiohttp.ClientResponse:
        """The answer, as it is. Raises UpstreamError where there is none."""
        assert self._session is not None
        connecting = self._config.connect_timeout.total_seconds()
        sent = {"User-Agent": "registry-gateway", "Accept-Encoding": "identity", **request.headers}
        if authorization is not None:
            sent["Authorization"] = authorization
        try:
            return await self._session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=sent,
                # aiohttp hands a file on in pieces, and large bytes at once.
                data=io.BytesIO(request.body) if isinstance(request.body, bytes) else request.body,
                allow_redirects=False,
                proxy=self._config.proxy,
                ssl=self._own_tls if self._is_own(request.url) else self._other_tls,
                # No limit to the whole: a blob takes as long as it takes. A connection of the pool is waited for too.
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=connecting + self._idle, sock_connect=connecting, sock_read=request.patience
                ),
            )
        except (*_LOST, ValueError) as error:
            raise self._failure(request.url, error) from error

    def _is_own(self, url: str) -> bool:
        return origin(url) == origin(self.url)

    def _reachable(self, here: str, location: str) -> str:
        """*location*, which the answer of *here* named. Raises UpstreamError where we may not go there."""
        target = resolved(here, location)
        if target is None:
            raise UpstreamError(502, f"{host(here)} names a Location of {len(location)} characters that is no URL")
        scheme, rest = target.split("://", 1)
        if host(target) == host(self.url):
            # A registry behind a proxy that ends TLS may not know that its own URLs are https.
            scheme = self.url.partition("://")[0]
        target = f"{scheme}://{rest}"
        if not is_private(target) and not self._config.allow_insecure:
            raise UpstreamError(502, f"{host(here)} sends us on to {host(target)}, in clear; allow_insecure lets us go")
        return target

    async def _put_away(self, answer: aiohttp.ClientResponse) -> None:
        """Be done with an answer that has at most some words in it, and keep its connection."""
        with suppress(UpstreamError):
            await self._whole(answer, MAX_ANSWER)
        answer.release()

    async def _ask(self, url: str, headers: Mapping[str, str]) -> Answer:
        """A GET without redirects, with no credential but what *headers* has."""

        async def once() -> Answer:
            async with asyncio.timeout(self._idle + self._config.connect_timeout.total_seconds()):
                answer = await self._sent(
                    _Request("GET", url, (), headers, None, follow=False, patience=self._idle), None
                )
                try:
                    whole = await self._whole(answer, MAX_ANSWER)
                finally:
                    answer.release()
            if whole.status >= HTTPStatus.INTERNAL_SERVER_ERROR or whole.status == HTTPStatus.TOO_MANY_REQUESTS:
                raise _down(whole)
            return whole

        try:
            return await self._repeated(once, may=True)
        except TimeoutError as error:
            raise self._failure(url, error) from error

    async def _whole(self, answer: aiohttp.ClientResponse, limit: int) -> Answer:
        """*answer* with its body, which has at most *limit* bytes."""
        url = str(answer.url)
        too_long = UpstreamError(502, f"{host(url)} answers {answer.status} with more than {limit} bytes")
        if answer.method != "HEAD" and (answer.content_length or 0) > limit:
            answer.close()
            raise too_long
        parts: list[bytes] = []
        length = 0
        try:
            async for chunk in answer.content.iter_any():
                length += len(chunk)
                if length > limit:
                    answer.close()
                    raise too_long
                parts.append(chunk)
        except _LOST as error:
            raise self._failure(url, error) from error
        return Answer(url, answer.status, answer.headers, b"".join(parts))

    async def _failed(self, answer: aiohttp.ClientResponse, request: _Request) -> UpstreamError | None:
        """What is wrong where *answer* is none for a client: the upstream fails, or refuses the gateway itself."""
        status = answer.status
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            return UpstreamError(502, f"{host(request.url)} packs its answers ({encoding[:40]!r}): we ask it not to")
        if request.follow and status in _MOVED:
            return UpstreamError(502, f"{host(request.url)} redirects more than {_REDIRECTS} times")
        refused = status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        if not refused and status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
            return None
        try:
            whole = await self._whole(answer, MAX_ANSWER)
        except UpstreamError:
            whole = Answer(str(answer.url), status, answer.headers)
        return UpstreamError(502, f"{whole.summary}: {self._mend(whole, request)}") if refused else _down(whole)

    def _mend(self, refusal: Answer, request: _Request) -> str:
        """What an operator can do about a 401 or 403."""
        if not self._is_own(refusal.url):
            return "it takes the URL that the registry signed for no good; are their clocks right?"
        if self._config.username is None:
            return "set username and password_file"
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            return "it does not accept username and password_file"
        return f"give {self._config.username!r} (username) the right for {' '.join(request.scopes) or 'this'}"

    def _failure(self, url: str, error: Exception) -> UpstreamError:
        """What *error* means for a client, and for the log without the query of *url*."""
        if isinstance(error, TimeoutError):
            return UpstreamError(504, f"{host(url)} did not answer in time (connect_timeout, read_timeout)")
        final = isinstance(error, (aiohttp.ClientSSLError, aiohttp.ClientHttpProxyError, ValueError))
        return UpstreamError(502, f"{host(url)}: {_reason(error, self._config.proxy)}", again=not final)


def contexts(config: Config) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """How TLS is spoken with the upstream, and with others that it names. ConfigError says which file is no good.

    Both trust the system's authorities and ``ca_file``; the client certificate is shown to the upstream alone.
    """
    problems = []
    own, other = ssl.create_default_context(), ssl.create_default_context()
    if config.ca_file is not None:
        try:
            for context in (own, other):
                context.load_verify_locations(cafile=str(config.ca_file))
        except ssl.SSLError:
            problems.append(f"ca_file: {config.ca_file} holds no PEM certificate")
        except OSError as error:
            problems.append(f"ca_file: cannot read {config.ca_file}: {error.strerror}")
    if config.client_certificate_file is not None:
        key = config.client_key_file or config.client_certificate_file
        try:
            # A key with a passphrase would ask for it at the terminal.
            own.load_cert_chain(str(config.client_certificate_file), str(key), password="")
        except ssl.SSLError:
            problems.append(
                f"client_certificate_file: {config.client_certificate_file} and {key} are no PEM certificate and its "
                "key without a passphrase"
            )
        except OSError as error:
            problems.append(f"client_certificate_file: cannot read it or client_key_file: {error.strerror}")
    if problems:
        raise ConfigError(problems)
    return own, other


def _down(answer: Answer) -> UpstreamError:
    """The error for an upstream's 429 or 5xx, which is never taken for a 404."""
    busy = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
    status = 503 if answer.status in busy else 504 if answer.status == HTTPStatus.GATEWAY_TIMEOUT else 502
    return UpstreamError(
        status,
        answer.summary,
        again=answer.status != HTTPStatus.TOO_MANY_REQUESTS,
        retry_after=retry_after(answer.headers.get("Retry-After")),
        answer=answer,
    )


def _reason(error: Exception, proxy: str | None) -> str:
    """What went wrong, in words that hold no URL: aiohttp's own quote signed queries."""
    reasons: Mapping[type[Exception], str] = {
        aiohttp.ClientConnectorDNSError: "no address is known by this name",
        aiohttp.ClientConnectorCertificateError: "its certificate is not trusted; is ca_file that of its authority?",
        aiohttp.ClientSSLError: "it does not speak TLS with us; does it want client_certificate_file?",
        aiohttp.ClientProxyConnectionError: f"the proxy {host(proxy or '')} can't be reached",
        aiohttp.ClientHttpProxyError: f"the proxy {host(proxy or '')} refuses to connect to it",
        aiohttp.ServerDisconnectedError: "it closed the connection",
        aiohttp.ClientPayloadError: "its answer broke off",
        aiohttp.ClientResponseError: "what it answers is not HTTP",
    }
    for kind, words in reasons.items():
        if isinstance(error, kind):
            return words
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else type(error).__name__
