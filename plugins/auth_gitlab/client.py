"""GitLab's token endpoint as we ask it (semantics 3 and 14): a question, and a believable answer or an exception."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from yarl import URL

from gateway.plugins import ApiCall, ConfigError, Credential, InvalidCredentialError
from plugins.auth_gitlab.config import Config

T = TypeVar("T")

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of an answer of GitLab's; a token for 50 scopes has some 10 KiB."""
MAX_RELAYED: Final = 8 * 1024 * 1024
"""Bytes of an answer that is for a client: a page of 100 projects has some 500 KiB."""
_FAILURES: Final = 5
"""Failures in a row after which GitLab is left alone for a while."""
_CHOSEN: Final = ("projects/", "groups/")
"""What lies below these in the REST API, some client chose."""
_KEYS_AGAIN: Final = 10.0
_REST: Final = 5.0
"""Seconds of that while; then one question tries again."""


class UnavailableError(LookupError):
    """GitLab can't be asked now: it is slow, down, overloaded or answers nonsense. *why* is for operators."""


class UnansweredError(UnavailableError):
    """GitLab answers this one question with what is no answer. That says nothing of others."""


class ThrottledError(UnansweredError):
    """GitLab has heard too much of this caller (429). *retry_after* is its header; *address* is where they are."""

    def __init__(self, where: str, retry_after: str | None, address: str) -> None:
        super().__init__(f"it answers 429 at {where}")
        self.retry_after = retry_after
        self.address = address


class MisconfiguredError(UnavailableError):
    """GitLab answers that it is not the authority for a registry: its integration is off, or the service is another."""


@dataclass(frozen=True, slots=True)
class Reply:
    """GitLab's answer.

    *status* is 200 or 403, or 401 and others for a credential or question that is no good. *claims* are those of the
    token (empty unless 200), *message* that of a refusal.
    """

    status: int
    claims: dict[str, Any]
    message: str = ""


class GitLab:
    """Asks one GitLab server, a bounded number of questions at once, and rests when it fails."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None = None
        self._at_once = asyncio.Semaphore(config.concurrency)
        self._failures = 0
        self._rest_until = 0.0
        self._session: aiohttp.ClientSession | None = None
        self.root = urlsplit(config.url).path
        """The path behind which GitLab lies; mostly none."""
        self._id_keys: Mapping[object, rsa.RSAPublicKey] = {}
        self._id_keys_again = 0.0
        self.trouble = ""
        """What operators should know of its last answer; empty where all is well."""
        self.mistrust = ""
        """Why its last token was not believed; empty where it was."""
        self.skew = 0.0
        """Seconds by which its clock was ahead of ours when it answered last."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Read the certificate, and hold connections while the block runs. Nothing is asked yet."""
        self._key = certificate_key(self._config)
        context = ssl.create_default_context(cafile=str(self._config.ca_file) if self._config.ca_file else None)
        connector = aiohttp.TCPConnector(limit=self._config.concurrency, ssl=context)
        # A cookie of one client must never come back for another, nor a credential follow a redirection.
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as self._session:
            yield
        self._session = None

    async def ask(self, credential: Credential | None, scopes: Sequence[str], address: str) -> Reply:
        """Relay *credential* (None: nobody) and *scopes*. Raises UnavailableError where there is no answer."""
        query = [("service", self._config.service), *(("scope", scope) for scope in scopes)]
        headers = {"X-Forwarded-For": address, "Accept-Encoding": "identity", "User-Agent": "registry-gateway"}
        if credential is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(
                credential.username, credential.password.get_secret_value(), "utf-8"
            )
        return await self._guarded(self._get(query, headers))

    async def rest(
        self, method: str, path: str, headers: Mapping[str, str], body: object = None
    ) -> tuple[int, Mapping[str, str], Any]:
        """Ask GitLab's REST API: status, headers, and the JSON (None where there is none). Raises UnavailableError."""
        return await self._guarded(self._rest(method, path, headers, body))

    async def relay(self, call: ApiCall, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Put a client's request to the REST API: status, headers and body. Raises UnavailableError where it fails.

        That GitLab has heard too much of them (429) is an answer.
        """
        return await self._guarded(self._relay(call, headers))

    async def _guarded(self, question: Coroutine[Any, Any, T]) -> T:
        if time.monotonic() < self._rest_until:
            question.close()
            raise UnavailableError(self.trouble or "GitLab failed a moment ago")
        try:
            async with self._at_once, asyncio.timeout(self._config.timeout.total_seconds()):
                answer = await question
        except UnansweredError:
            # A page that a client chose, or one that they have asked for too often, is no reason to leave GitLab alone.
            raise
        except MisconfiguredError as error:
            self.trouble = str(error)
            raise
        except (UnavailableError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self.trouble = f"GitLab can't be asked: {str(error) or type(error).__name__}"
            self._failures += 1
            if self._failures >= _FAILURES:
                self._rest_until = time.monotonic() + _REST
            raise UnavailableError(self.trouble) from error
        finally:
            # Where the time was over before its turn came, it never began.
            question.close()
        self._failures, self.trouble = 0, ""
        return answer

    async def _rest(
        self, method: str, path: str, headers: Mapping[str, str], body: object
    ) -> tuple[int, Mapping[str, str], Any]:
        assert self._session is not None
        url = URL(
            f"{self._config.url}/api/v4/{path}" if not path.startswith("/") else self._config.url + path, encoded=True
        )
        sent = {"Accept-Encoding": "identity", "User-Agent": "registry-gateway", **headers}
        async with self._session.request(
            method, url, headers=sent, json=body, proxy=self._config.proxy, allow_redirects=False
        ) as answer:
            text = await _read(answer.content, MAX_ANSWER)
            self.skew = skew(answer.headers.get("Date"), time.time())
            status, found = answer.status, answer.headers
        where = path.partition("?")[0]
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _throttled(where, found, headers)
        failure = UnansweredError if path.startswith(_CHOSEN) else UnavailableError
        _require_answer(status, text, MAX_ANSWER, where, failure)
        try:
            return status, found, json.loads(text) if text else None
        except ValueError as error:
            if status == HTTPStatus.OK:
                raise failure(f"its answer at {where} is not JSON") from error
            return status, found, None

    async def _relay(self, call: ApiCall, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None
        url = URL(f"{self._config.url}/api/v4/{call.path}", encoded=True)
        sent = {"Accept-Encoding": "identity", "User-Agent": "registry-gateway", **headers}
        if call.content_type:
            sent["Content-Type"] = call.content_type
        async with self._session.request(
            call.method, url, headers=sent, data=call.body or None, proxy=self._config.proxy, allow_redirects=False
        ) as answer:
            body = await _read(answer.content, MAX_RELAYED)
            self.skew = skew(answer.headers.get("Date"), time.time())
        if answer.status != HTTPStatus.TOO_MANY_REQUESTS:
            _require_answer(answer.status, body, MAX_RELAYED, "its REST API", UnansweredError)
        return answer.status, answer.headers, body

    async def id_token(self, token: str, audience: str, issuer: str) -> Mapping[str, Any]:
        """The claims of a CI ID token of this GitLab. InvalidCredentialError says what is wrong with it."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise InvalidCredentialError("it is no ID token") from error
        if kid not in self._id_keys and time.monotonic() >= self._id_keys_again:
            await self._read_id_keys()
        if not self._id_keys:
            raise UnavailableError("GitLab's OIDC keys could not be read a moment ago")
        key = self._id_keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise InvalidCredentialError("the ID token is signed with a key that GitLab does not publish")
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=audience,
                issuer=issuer,
                leeway=5,
                options={"require": ["exp", "iat", "sub", "aud", "iss"]},
            )
        except jwt.InvalidTokenError as error:
            raise InvalidCredentialError(f"the ID token is not good: {error}") from error
        return claims

    async def _read_id_keys(self) -> None:
        """Read GitLab's OIDC keys; at most each ten seconds, however many tokens name unknown ones."""
        assert self._session is not None
        self._id_keys_again = time.monotonic() + _KEYS_AGAIN
        url = URL(f"{self._config.url}/oauth/discovery/keys")
        try:
            async with (
                self._at_once,
                asyncio.timeout(self._config.timeout.total_seconds()),
                self._session.get(url, proxy=self._config.proxy, allow_redirects=False) as answer,
            ):
                answer.raise_for_status()
                document = _document(await _read(answer.content, MAX_ANSWER))
            keys = {item["kid"]: jwt.PyJWK.from_dict(item).key for item in document["keys"] if item.get("kty") == "RSA"}
        except (
            aiohttp.ClientError,
            OSError,
            TimeoutError,
            LookupError,
            TypeError,
            AttributeError,
            jwt.PyJWTError,
        ) as error:
            if self._id_keys:
                return
            raise UnavailableError(f"GitLab's OIDC keys can't be read: {str(error) or type(error).__name__}") from error
        self._id_keys = {kid: key for kid, key in keys.items() if isinstance(key, rsa.RSAPublicKey)}

    async def _get(self, query: Sequence[tuple[str, str]], headers: dict[str, str]) -> Reply:
        assert self._session is not None
        url = URL(f"{self._config.url}/jwt/auth").with_query(query)
        async with self._session.get(url, headers=headers, proxy=self._config.proxy, allow_redirects=False) as answer:
            body = await _read(answer.content, MAX_ANSWER)
            status, found = answer.status, answer.headers
            self.skew = skew(answer.headers.get("Date"), time.time())
        if len(body) > MAX_ANSWER:
            raise UnavailableError("its answer has no end")
        if status == HTTPStatus.OK:
            return Reply(status, self._claims(_document(body).get("token")))
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return Reply(status, {}, _message(_document(body)))
        if status == HTTPStatus.NOT_FOUND:
            said = _message(_document(body)) if body.startswith(b"{") else "no such service"
            raise MisconfiguredError(
                f"GitLab answers 404 at {self._config.url}/jwt/auth ({said}): enable its container registry "
                f"(gitlab_rails['registry_enabled']) and check `url` and `service` ({self._config.service})"
            )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _throttled("/jwt/auth", found, headers)
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            # It takes the question for malformed, whatever came from the client: no reason to leave GitLab alone.
            return Reply(status, {})
        failure = (
            UnansweredError if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST else UnavailableError
        )
        raise failure(f"it answers {status} at /jwt/auth")

    def _claims(self, token: object) -> dict[str, Any]:
        if not isinstance(token, str):
            raise UnavailableError("its answer holds no token")
        try:
            if self._key is None:
                # It came straight from the server that was asked, over TLS or from this machine.
                claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
            else:
                algorithm = "ES256" if isinstance(self._key, ec.EllipticCurvePublicKey) else "RS256"
                claims = jwt.decode(token, self._key, algorithms=[algorithm], audience=self._config.service, leeway=60)
        except jwt.InvalidTokenError as error:
            self.mistrust = f"GitLab's token can't be believed: {error}; is certificate_file that of its registry key?"
            raise UnavailableError(self.mistrust) from error
        self.mistrust = ""
        if not isinstance(claims.get("access", []), list):
            raise UnavailableError("its token is not one for a registry")
        return claims


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    """The whole body, or where it has no end a little more than *most* bytes of it."""
    found = b""
    async for part in content.iter_chunked(64 * 1024):
        found += part
        if len(found) > most:
            break
    return found


def _require_answer(status: int, body: bytes, most: int, where: str, failure: type[UnavailableError]) -> None:
    """Raise *failure* for a page that is none, and UnansweredError for a redirection, which is never followed."""
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise UnansweredError(f"it answers {status} at {where}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or len(body) > most:
        raise failure(f"it answers {status} at {where}")


def _throttled(where: str, found: Mapping[str, str], sent: Mapping[str, str]) -> UnansweredError:
    address = sent.get("X-Forwarded-For")
    if address is None:
        # No client's question: GitLab has heard too much of the service token.
        return UnansweredError(f"it answers 429 to the service token at {where}")
    return ThrottledError(where, found.get("Retry-After"), address)


@contextmanager
def shaped(where: str) -> Iterator[None]:
    """Raises UnansweredError where the block can't make anything of the answer of GitLab that it reads."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnansweredError(f"its answer at {where} has another shape than GitLab's: {error!r}") from error


def skew(date: str | None, now: float) -> float:
    """Seconds by which the clock behind a ``Date`` header (RFC 9110 section 6.6.1) is ahead; 0 where it is none."""
    try:
        return parsedate_to_datetime(date).timestamp() - now if date else 0.0
    except ValueError:
        return 0.0


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UnavailableError("its answer is not JSON")
    return document


def _message(document: dict[str, Any]) -> str:
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    return str(first.get("message", ""))[:500]


def certificate_key(config: Config) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None:
    """The key that GitLab signs with, where the operator gave its certificate. ConfigError where that is none."""
    if config.certificate_file is None:
        return None
    try:
        key = x509.load_pem_x509_certificate(config.certificate_file.read_bytes()).public_key()
    except OSError as error:
        raise ConfigError([f"certificate_file: cannot read {config.certificate_file}: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"certificate_file: {config.certificate_file} holds no PEM certificate"]) from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ConfigError([f"certificate_file: {config.certificate_file} has a key that GitLab does not sign with"])
    return key
