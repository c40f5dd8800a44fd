"""The one path of a request. Read ``serve`` first."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiohttp import HttpVersion10, web
from aiohttp.web_protocol import RequestHandler

from gateway.config import Config
from gateway.core.handlers import Exchange, answer
from gateway.core.handlers.base import Core
from gateway.core.history import History, told
from gateway.core.logs import RequestLog, Trace
from gateway.core.metrics import PLUGIN_FAILURES, Meter
from gateway.core.rendering import API_VERSION, error_response, json_response
from gateway.core.router import parse
from gateway.core.streaming import read_bounded
from gateway.core.tokenserver import TokenServer
from gateway.errors import ErrorCode, PluginFailedError, RegistryError
from gateway.oci import Action
from gateway.plugins import (
    Ability,
    About,
    Access,
    ApiEndpoint,
    Asking,
    Client,
    Endpoint,
    Public,
    Refusal,
    RequestFacts,
)


class Pipeline:
    """Takes every request of the public listener."""

    def __init__(self, config: Config, core: Core, token_server: TokenServer, history: History, log: Any) -> None:
        self._core = core
        self._history = history
        self._external = config.server.external_url
        self._realm = config.tokens.realm
        self._trusted = [ipaddress.ip_network(item, strict=False) for item in config.server.trusted_proxies]
        self._endpoints = [(endpoint, tuple(endpoint.path.split("/"))) for endpoint in core.plugins.endpoints()]
        self._areas = tuple({e.area.prefix: e.area for e, _ in self._endpoints if isinstance(e, ApiEndpoint)}.values())
        self._token_paths: Mapping[str, Callable[[web.BaseRequest, Client, Trace], Awaitable[web.Response]]] = {
            "/jwt/auth": token_server.auth,
            "/jwt/keys": token_server.keys,
        }
        self.meter = Meter()
        self._lines = RequestLog()
        # Unique among processes by chance, within one by counting: a random id for each request costs a system call.
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._ended: asyncio.Event | None = None
        self._log = log

    async def serve(self, request: web.BaseRequest, client: Client, trace: Trace) -> web.StreamResponse:
        """The one path of a ``/v2/`` request. If you read one function, read this one."""
        route = parse(request.method, request.raw_path)  # NAME_INVALID, DIGEST_INVALID, UNSUPPORTED
        trace.route, trace.repository = route.kind, route.name
        base = self._base(request)
        realm = self._realm or f"{base}/jwt/auth"
        access = self._core.access
        caller = await access.identify(request.headers.get("Authorization"), route, client, realm)  # UNAUTHORIZED
        trace.subject, trace.kind = caller.identity.subject, caller.identity.kind
        project = await access.admit(caller, route, client, realm)  # UNAUTHORIZED, DENIED
        exchange = Exchange(self._core, request, route, caller, client, project, base)
        return await answer(exchange)  # UNAVAILABLE where it would change something that may not be changed now

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens; count it and write its line."""
        started = time.perf_counter()
        client = Client(self._address(request), f"{self._prefix}{next(self._numbers):08x}")
        trace = Trace()
        self.meter.in_flight += 1
        status = 499
        try:
            response = await self._answer(request, client, trace)
            status = response.status
            if not response.prepared:
                response.headers["X-Request-Id"] = client.request_id
                if self._ended is not None:
                    response.force_close()
                await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            # The client is gone or stalls, or an answer broke off: the only honest end is to drop the connection.
            status = 499
            _drop(request)
            return web.Response(status=499)
        except asyncio.CancelledError:
            _drop(request)
            raise
        finally:
            self.meter.in_flight -= 1
            if self._ended is not None and not self.meter.in_flight:
                self._ended.set()
            self._tell(request, client, trace, status, time.perf_counter() - started)
        return response

    def retire(self) -> None:
        """From now on each answer is the last of its connection."""
        self._ended = asyncio.Event()

    async def drain(self, seconds: float) -> None:
        """Let running requests end, for at most *seconds*."""
        assert self._ended is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.meter.in_flight:
                    self._ended.clear()
                    await self._ended.wait()

    @property
    def draining(self) -> bool:
        """Whether this worker is on its way out."""
        return self._ended is not None

    async def _answer(self, request: web.BaseRequest, client: Client, trace: Trace) -> web.StreamResponse:
        path = request.raw_path
        registry = path.startswith("/v2/") or path == "/v2"
        try:
            _require_http(request)
            response = await (self.serve if registry else self._elsewhere)(request, client, trace)
        except RegistryError as error:
            self._note(error, client, trace)
            response = error_response(error)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - the border: whatever it is, the client hears 500 and the log the rest
            self._log.exception("unexpected failure", request_id=client.request_id, route=trace.route)
            response = error_response(RegistryError(ErrorCode.UNKNOWN))
        if request.writer.output_size > 0 and not (response.prepared and response.status < 400):  # noqa: PLR2004
            # Its first bytes are out: an error can't be said any more.
            raise ConnectionAbortedError("the response had begun")
        if registry and not response.prepared:
            response.headers.update(API_VERSION)
        return response

    def _note(self, error: RegistryError, client: Client, trace: Trace) -> None:
        """What the log and those who may ask afterwards hear of a refusal."""
        trace.denied = error.why or error.message if error.status in {401, 403} else None
        if error.told is not None:
            trace.told.append(error.told)
        if isinstance(error, PluginFailedError):
            PLUGIN_FAILURES.labels(error.where.partition(":")[0]).inc()
            self._log.error("a plugin failed", where=error.where, request_id=client.request_id)

    async def _elsewhere(self, request: web.BaseRequest, client: Client, trace: Trace) -> web.StreamResponse:
        """The token endpoint, and the endpoints of plugins."""
        path = request.raw_path.partition("?")[0]
        answer = self._token_paths.get(path)
        if answer is not None:
            trace.route = path
            return await answer(request, client, trace)
        if path.startswith(_EXPLAIN) and request.method == "GET":
            return await self._explain(path.removeprefix(_EXPLAIN), request, client, trace)
        area = next((area for area in self._areas if path.startswith(area.prefix)), None)
        if area is None:
            return await self._offered(path, request, client, trace)
        try:
            return await self._offered(path, request, client, trace)
        except RegistryError as error:
            self._note(error, client, trace)
            return area.render(error)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - the border, as below
            self._log.exception("unexpected failure", request_id=client.request_id, route=trace.route)
            return area.render(RegistryError(ErrorCode.UNKNOWN))

    async def _offered(self, path: str, request: web.BaseRequest, client: Client, trace: Trace) -> web.StreamResponse:
        """The endpoint of a plugin that fits *path*."""
        segments = tuple(path.split("/"))
        allowed = set()
        for endpoint, template in self._endpoints:
            parts = _fitting(template, segments)
            if parts is None:
                continue
            if endpoint.method == request.method:
                trace.route = endpoint.path
                if isinstance(endpoint, ApiEndpoint):
                    return await self._api(endpoint, parts, request, client, trace)
                return await self._endpoint(endpoint, parts, request, client, trace)
            allowed.add(endpoint.method)
        if allowed:
            raise RegistryError(ErrorCode.UNSUPPORTED, headers={"Allow": ", ".join(sorted(allowed))})
        raise RegistryError(ErrorCode.UNSUPPORTED, "no such page; the registry is under /v2/", status=404)

    async def _api(
        self, endpoint: ApiEndpoint, parts: Mapping[str, str], request: web.BaseRequest, client: Client, trace: Trace
    ) -> web.StreamResponse:
        """An endpoint of an area: the area recognises the caller, the one decision says what they may."""
        identity = await endpoint.area.identify(request, client)
        read = partial(read_bounded, request, stall=self._core.stall)
        asking = Asking(request, client, identity, parts, self._base(request), read)
        trace.subject, trace.kind = asking.identity.subject, asking.identity.kind
        needed = () if isinstance(endpoint.needs, Public) else tuple(await endpoint.needs(asking))
        answers = await self._core.access.decide(asking.identity, needed) if needed else ()
        if isinstance(answers, Refusal):
            raise RegistryError(ErrorCode.DENIED, answers.message, status=answers.status)
        asking = replace(asking, answers=answers)
        if any(answer.missing for answer in answers):
            trace.told += [told(answer) for answer in answers if answer.missing]
            raise endpoint.area.refusal(asking)
        about = await endpoint.about(asking) if endpoint.about is not None else None
        asking = replace(asking, about=about)
        reads = request.method in _READS
        in_registry = tuple(access for answer in answers for access in _in_registry(answer.access, about, reads=reads))
        repository = next((access.name for access in in_registry), None)
        tag = about.tag if about is not None else None
        facts = RequestFacts(request.method, endpoint.path, repository, tag, in_registry, client)
        self._core.access.veto(asking.identity, facts)
        if any(Action.DELETE in access.actions for access in in_registry):
            await self._core.maintenance.require_writable()
        return await endpoint.handler(asking)

    async def _explain(
        self, request_id: str, request: web.BaseRequest, client: Client, trace: Trace
    ) -> web.StreamResponse:
        """Why a past request was refused, for administrators and for maintainers of all that it asked for."""
        trace.route = f"{_EXPLAIN}{{id}}"
        access, route = self._core.access, parse("GET", "/v2/")
        realm = self._realm or f"{self._base(request)}/jwt/auth"
        caller = await access.identify(request.headers.get("Authorization"), route, client, realm)
        trace.subject, trace.kind = caller.identity.subject, caller.identity.kind
        if caller.identity.anonymous:
            raise access.challenge(route, realm)
        record = await self._history.recall(request_id)
        if record is None or not await access.may_read(caller, record["accesses"]):
            message = "no such request was refused lately, or you are no maintainer of what it asked for"
            raise RegistryError(ErrorCode.UNSUPPORTED, message, status=404)
        return json_response(record, {"Cache-Control": "no-store"})

    async def _endpoint(
        self, endpoint: Endpoint, parts: Mapping[str, str], request: web.BaseRequest, client: Client, trace: Trace
    ) -> web.StreamResponse:
        realm = self._realm or f"{self._base(request)}/jwt/auth"
        base_route = parse("GET", "/v2/")
        caller = await self._core.access.identify(request.headers.get("Authorization"), base_route, client, realm)
        trace.subject, trace.kind = caller.identity.subject, caller.identity.kind
        needed = () if isinstance(endpoint.access, Public) else (endpoint.access(parts),)
        repository = next((access.name for access in needed if access.type == "repository"), None)
        facts = RequestFacts(request.method, endpoint.path, repository, None, needed, client)
        await self._core.access.admit_endpoint(caller, facts, realm)
        return await endpoint.handler(request, caller.identity, parts)

    # -- where a request comes from ---------------------------------------------------------------------

    def _from_proxy(self, request: web.BaseRequest) -> bool:
        return bool(self._trusted) and _within(request.remote, self._trusted)

    def _address(self, request: web.BaseRequest) -> str:
        """The client's address: behind trusted proxies, the last one in X-Forwarded-For that isn't one of them."""
        if not self._from_proxy(request):
            return request.remote or ""
        hops = [hop.strip() for value in request.headers.getall("X-Forwarded-For", ()) for hop in value.split(",")]
        for hop in reversed(hops):
            if not _within(hop, self._trusted):
                return hop[:64]
        return request.remote or ""

    def _base(self, request: web.BaseRequest) -> str:
        """The URL by which the client reached us.

        A trusted proxy that names the host knows best; then ``external_url``; else what the request itself says.
        """
        headers = request.headers
        if self._from_proxy(request):
            host = _first(headers.get("X-Forwarded-Host"))
            if host or self._external is None:
                scheme = _first(headers.get("X-Forwarded-Proto")) or "http"
                port = _first(headers.get("X-Forwarded-Port"))
                host = host or headers.get("Host", "")
                if port.isdecimal() and ":" not in host.rpartition("]")[2] and port != _DEFAULT_PORTS.get(scheme):
                    host = f"{host}:{port}"
                prefix = _first(headers.get("X-Forwarded-Prefix")).strip("/")
                if not prefix and self._external is not None and host == urlsplit(self._external).netloc:
                    # The proxy serves us under the path that the operator wrote down.
                    return self._external
                if _is_clean(scheme + host + prefix) and scheme in _DEFAULT_PORTS:
                    return f"{scheme}://{host}" + (f"/{prefix}" if prefix else "")
        if self._external is not None:
            return self._external
        host = headers.get("Host", "")
        return f"http://{host}" if host and _is_clean(host) else ""

    # -- afterwards ---------------------------------------------------------------------------------------

    def _tell(self, request: web.BaseRequest, client: Client, trace: Trace, status: int, seconds: float) -> None:
        received = request.content.total_bytes if request.body_exists else 0
        sent = request.writer.output_size
        self.meter.count(trace.route, request.method, status, seconds=seconds, received=received, sent=sent)
        line: dict[str, Any] = {
            "request_id": client.request_id,
            "client": client.address,
            "method": request.method,
            "route": trace.route,
            "status": status,
            "seconds": round(seconds, 6),
            "received": received,
            "sent": sent,
        }
        if trace.repository:
            line["repository"] = trace.repository
        if trace.kind:
            line["subject"], line["credential"] = trace.subject, trace.kind
        if trace.denied:
            line["denied"] = trace.denied
        self._lines.write(line)
        if trace.told:
            kept = {name: line[name] for name in _KEPT if name in line}
            self._history.keep(client.request_id, {**kept, "accesses": trace.told})


_EXPLAIN = "/explain/"
_IN_REGISTRY = {
    Ability.READ_IMAGES: Action.PULL,
    Ability.DELETE_TAG: Action.DELETE,
    Ability.ADMIN_IMAGES: Action.DELETE,
}


_READS = frozenset({"GET", "HEAD"})


def _in_registry(access: Access, about: About | None, *, reads: bool) -> Iterable[Access]:
    """What an access of the REST API is in the registry's words, by which vetoes are written: one action."""
    if access.type not in {"project", "group"}:
        return (access,)
    # The last is what is done, unless it is only read: the others are what whoever does it must see.
    actions = [_IN_REGISTRY[word] for word in _IN_REGISTRY if word in access.actions]
    name = about.repository.path if about is not None else access.name
    return (Access("repository", name, (Action.PULL if reads else actions[-1],)),) if actions else ()


_KEPT = ("request_id", "method", "route", "status", "subject", "credential", "denied")


def _require_http(request: web.BaseRequest) -> None:
    if request.version < HttpVersion10:
        raise RegistryError(ErrorCode.UNSUPPORTED, "speak HTTP/1.0 or HTTP/1.1", status=505)


_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _first(value: str | None) -> str:
    return (value or "").partition(",")[0].strip()


def _is_clean(text: str) -> bool:
    """Whether *text* may stand in a header of ours, within quotes and in a URL."""
    return text.isascii() and text.isprintable() and not set(text) & set('"\\<>@?# ,;')


def _within(address: str | None, networks: Sequence[Any]) -> bool:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _fitting(template: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    if len(template) != len(segments):
        return None
    parts = {}
    for pattern, segment in zip(template, segments, strict=True):
        if pattern.startswith("{"):
            parts[pattern.strip("{}")] = segment
        elif pattern != segment:
            return None
    return parts


def _drop(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


class Protocol(RequestHandler):
    """aiohttp's connection, but what its parser refuses is answered in OCI form and quoted nowhere."""

    __slots__ = ()

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered or waits to be."""
        return self._request_count > 0 and (bool(self._messages) or self._waiter is None)

    def close_if_idle(self) -> None:
        """Close a connection that waits for its next request; one that serves a request goes on."""
        if not self._busy:
            self.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """The client has no more to send, and may still wait for its answer (RFC 9112 section 9.6 allows that)."""
        if not self._busy or self._parser is None:
            return False
        try:
            self._parser.feed_eof()
        except Exception as error:  # noqa: BLE001 - whatever the parser says of it, the body ended early
            body = self._messages[-1][1] if self._messages else getattr(self._current_request, "content", None)
            if body is not None:
                body.set_exception(web.RequestPayloadError(str(error)))
        self.close()
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never became a request."""
        del exc, message
        if request.writer.output_size > 0:
            raise ConnectionError
        too_long = "the request's line or headers are malformed or longer than 64 KiB"
        response = error_response(RegistryError(ErrorCode.UNSUPPORTED, too_long, status=status))
        response.force_close()
        return response


class Server(web.Server):
    """aiohttp's low-level server with our Protocol: no router, no second application, nothing before our handler."""

    def __call__(self) -> RequestHandler:
        """One connection."""
        return Protocol(self, loop=self._loop, **self._kwargs)
