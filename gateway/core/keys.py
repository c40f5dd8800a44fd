"""The gateway's keys: the one that signs tokens, those that still verify, and the secrets derived from the first."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.config import TokensConfig
from gateway.errors import ConfigError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_MIN_RSA_BITS: Final = 2048
_NONCE: Final = 12


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, the one algorithm that it is used with, and its JWK."""

    algorithm: str
    public: PublicKey
    jwk: Mapping[str, str]


class Keys:
    """The signing key with its id, and every key by which a token may be verified, by id.

    The ids are libtrust's, as GitLab's tokens have them: Distribution 2.8 looks for no other.
    """

    def __init__(self, signing: PrivateKey, retiring: tuple[PublicKey, ...] = ()) -> None:
        self.signing = signing
        own = verification_key(signing.public_key())
        self.key_id = own.jwk["kid"]
        self.algorithm = own.algorithm
        self.verification = {own.jwk["kid"]: own}
        for public in retiring:
            key = verification_key(public)
            self.verification.setdefault(key.jwk["kid"], key)
        secret = signing.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._secret = secret

    def derive(self, label: str) -> bytes:
        """Thirty-two secret bytes for *label*, the same wherever the signing key is (HKDF, RFC 5869)."""
        return HKDF(hashes.SHA256(), 32, salt=None, info=b"registry-gateway " + label.encode()).derive(self._secret)

    def jwks(self) -> dict[str, object]:
        """The public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [dict(key.jwk) for key in self.verification.values()]}


class Sealer:
    """Seals short texts so that clients can carry them and neither read nor change them (AES-256-GCM)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, text: bytes, bound_to: str) -> str:
        """Seal *text*; it opens only together with *bound_to*. URL-safe, without padding."""
        nonce = secrets.token_bytes(_NONCE)
        return (
            base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, text, bound_to.encode())).decode().rstrip("=")
        )

    def open(self, sealed: str, bound_to: str) -> bytes | None:
        """The text, or None where *sealed* is not ours or not for *bound_to*."""
        try:
            raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], bound_to.encode())
        except (ValueError, InvalidTag):
            return None


def load(config: TokensConfig, *, shared: bool, create: bool = True) -> Keys:
    """Read the keys that the configuration names, and make the signing key on first start (EC P-256, mode 0600).

    Raises ConfigError for a key that can't be used, and for a missing one where the state is *shared* with other
    machines: a new key would lock them out.
    """
    path = config.signing_key_file
    if not path.exists() and create:
        if shared:
            problem = (
                f"tokens.signing_key_file: {path} is missing, and the database is shared: copy the key of the other "
                "replicas, or make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
            )
            raise ConfigError([problem])
        _create(path)
    wrong: list[str] = []
    signing = read_key(path, "tokens.signing_key_file", wrong)
    retiring = [read_key(item, "tokens.verification_key_files", wrong) for item in config.verification_key_files]
    if signing is not None and not isinstance(signing, PrivateKey):
        wrong.append(f"tokens.signing_key_file: {path} is a public key; tokens are signed with a private one")
    if wrong:
        raise ConfigError(wrong)
    assert isinstance(signing, PrivateKey)
    return Keys(signing, tuple(public_half(key) for key in retiring if key is not None))


def public_half(key: PrivateKey | PublicKey) -> PublicKey:
    """The public key of a pair, or the key itself where it is one."""
    return key.public_key() if isinstance(key, PrivateKey) else key


def ephemeral() -> Keys:
    """Keys for checking a configuration before the real ones exist; nothing is signed with them."""
    return Keys(ec.generate_private_key(ec.SECP256R1()))


def _create(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and linked, so that of two first starts one key wins and neither reads half of it.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        finally:
            draft.unlink()
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError([f"tokens.signing_key_file: cannot write {path}: {error.strerror}"]) from error


def read_key(path: Path, where: str, wrong: list[str]) -> PrivateKey | PublicKey | None:
    """The key in a PEM file; where it can't be used, a line for *where* is added to *wrong*."""
    try:
        pem = path.read_bytes()
        key: Any = (
            serialization.load_pem_private_key(pem, None)
            if b"PRIVATE KEY" in pem
            else serialization.load_pem_public_key(pem)
        )
    except OSError as error:
        wrong.append(f"{where}: cannot read {path}: {error.strerror}")
        return None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        wrong.append(f"{where}: {path} holds no PEM key that can be read without a passphrase")
        return None
    if isinstance(key, PrivateKey | PublicKey):
        curve = getattr(key, "curve", None)
        if (curve is None and key.key_size >= _MIN_RSA_BITS) or isinstance(curve, ec.SECP256R1):
            return key
    wrong.append(f"{where}: {path} is neither an EC P-256 key nor an RSA key of at least {_MIN_RSA_BITS} bits")
    return None


def verification_key(public: PublicKey, key_id: str | None = None) -> VerificationKey:
    """*public* with the one algorithm that it is used with, under its own id or the one that its owner gave it."""
    algorithm, jwk = (
        ("ES256", ECAlgorithm.to_jwk(public, as_dict=True))
        if isinstance(public, ec.EllipticCurvePublicKey)
        else ("RS256", RSAAlgorithm.to_jwk(public, as_dict=True))
    )
    kept: dict[str, str] = {name: str(jwk[name]) for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    return VerificationKey(
        algorithm, public, {**kept, "use": "sig", "alg": algorithm, "kid": key_id or _libtrust(public)}
    )


def key_ids(key: VerificationKey) -> tuple[str, ...]:
    """The ids that a token's header may name a key by: its own, RFC 7638's, and libtrust's (Distribution, GitLab)."""
    jwk = {name: key.jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in key.jwk}
    return key.jwk["kid"], _thumbprint(jwk), _libtrust(key.public)


def _libtrust(public: PublicKey) -> str:
    """The first 240 bits of the key's hash, in base32, in groups of four (docker/libtrust, "Key ID")."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    text = base64.b32encode(digest.finalize()[:30]).decode()
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


def _thumbprint(jwk: Mapping[str, str]) -> str:
    """The key id of RFC 7638: the hash of the required members, in lexical order, without white space."""
    text = "{" + ",".join(f'"{name}":"{jwk[name]}"' for name in sorted(jwk)) + "}"
    digest = hashes.Hash(hashes.SHA256())
    digest.update(text.encode())
    return base64.urlsafe_b64encode(digest.finalize()).decode().rstrip("=")
