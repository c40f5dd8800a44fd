"""Other servers whose tokens are believed, such as the GitLab that this registry is configured in.

Each is known by its issuer and audience, and by one certificate, one key, or a set of keys at a URL that is read again
when a token names a key that is not known yet.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.config import TrustedIssuer
from gateway.core.keys import VerificationKey, key_ids, public_half, read_key, verification_key
from gateway.errors import ConfigError

_REFRESH: Final = 600.0
"""Seconds after which a set of keys is read again though nobody asked."""
_AGAIN: Final = 10.0
"""Seconds between two readings, however many tokens name unknown keys."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_MAX_SET: Final = 1024 * 1024


class Issuer:
    """One server's name, audience and keys by id."""

    def __init__(self, name: str, audience: str, keys: Sequence[VerificationKey] = ()) -> None:
        self.name = name
        self.audience = audience
        self.take(keys)

    def take(self, keys: Sequence[VerificationKey]) -> None:
        """These are its keys from now on."""
        self._alone = keys[0] if len(keys) == 1 else None
        self._keys = {key_id: key for key in keys for key_id in key_ids(key)}

    def key(self, key_id: object) -> VerificationKey | None:
        """The key that a token's header names; of a server with one key, also where it names none."""
        if key_id is None:
            return self._alone
        return self._keys.get(key_id) if isinstance(key_id, str) else None


class Issuers:
    """Every trusted issuer, by name. Those with a URL are read in the background while ``watched``."""

    def __init__(self, configured: Iterable[TrustedIssuer], log: Any = None) -> None:
        self._log = log
        self._issuers: dict[str, Issuer] = {}
        self._remote: list[tuple[Issuer, str]] = []
        self._wanted = asyncio.Event()
        wrong: list[str] = []
        for place, item in enumerate(configured):
            keys: list[VerificationKey] = []
            where = f"tokens.trusted_issuers.{place}"
            if item.certificate_file is not None:
                keys += _certificate(item.certificate_file, f"{where}.certificate_file", wrong)
            elif item.key_file is not None:
                found = read_key(item.key_file, f"{where}.key_file", wrong)
                if found is not None:
                    keys.append(verification_key(public_half(found)))
            issuer = Issuer(item.issuer, item.audience, keys)
            self._issuers[item.issuer] = issuer
            if item.jwks_url is not None:
                self._remote.append((issuer, item.jwks_url))
        if wrong:
            raise ConfigError(wrong)

    def get(self, name: object) -> Issuer | None:
        """The issuer that a token claims to come from."""
        return self._issuers.get(name) if isinstance(name, str) else None

    def unknown_key(self, issuer: Issuer) -> None:
        """A token named a key that *issuer* is not known to have: read its set again, soon."""
        if any(issuer is remote for remote, _ in self._remote):
            self._wanted.set()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Read the sets of keys once, and again while the block runs."""
        if not self._remote:
            yield
            return
        async with aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            await self._read(session)
            task = asyncio.create_task(self._watch(session))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            try:
                async with asyncio.timeout(_REFRESH):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self._read(session)

    async def _read(self, session: aiohttp.ClientSession) -> None:
        for issuer, url in self._remote:
            try:
                issuer.take(await _key_set(session, url))
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
                # The keys that were read before stay good.
                self._log.error("the keys of a trusted issuer cannot be read", issuer=issuer.name, why=repr(error))


async def _key_set(session: aiohttp.ClientSession, url: str) -> list[VerificationKey]:
    async with session.get(url, allow_redirects=False) as answer:
        answer.raise_for_status()
        document = json.loads(await answer.content.read(_MAX_SET))
    return _from_set(document)


def _from_set(document: Mapping[str, Any]) -> list[VerificationKey]:
    """The keys of a JSON Web Key Set that we can verify with; others are left out (RFC 7517 section 5)."""
    found = []
    for item in document["keys"]:
        try:
            key = jwt.PyJWK.from_dict(item).key
        except jwt.PyJWTError:
            continue
        if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            found.append(verification_key(key, item.get("kid")))
    return found


def _certificate(path: Path, where: str, wrong: list[str]) -> list[VerificationKey]:
    """The keys of every certificate in a PEM file, as Distribution's ``rootcertbundle``."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        wrong.append(f"{where}: cannot read {path}: {error.strerror}")
        return []
    except ValueError:
        wrong.append(f"{where}: {path} holds no PEM certificate")
        return []
    keys = [certificate.public_key() for certificate in certificates]
    return [verification_key(key) for key in keys if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)]
