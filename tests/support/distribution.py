"""Docker Distribution: the registry that most gateways would stand in front of."""

from __future__ import annotations

import datetime as dt
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.peers import Peer, accepts, free_port
from tests.support.wire import SERVICE, Account

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.gateway import GatewayProcess

LOGIN = Account("gateway", "a pass word: ünïcode")
"""Who may do everything where there is an htpasswd."""
_HTPASSWD = "gateway:$2b$04$oCuxNYeC.bCCylWYZ2dudu.CoQi1NubvpyKcqhHxQ7J2JnXNk0z/C\n"


@dataclass(frozen=True)
class Distribution:
    """A running registry."""

    host: str
    peer: Peer
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Its address for a configuration file."""
        return f"{self.scheme}://{self.host}"


def htpasswd(folder: Path) -> Mapping[str, Any]:
    """Make the section `auth` of a registry that wants `LOGIN` by Basic."""
    path = folder / "htpasswd"
    path.write_text(_HTPASSWD)
    return {"htpasswd": {"realm": "registry", "path": str(path)}}


def tls(folder: Path, *, client_authority: Path | None = None) -> Mapping[str, Any]:
    """Make the section `http.tls` of `key.pem` and `certificate.pem`; with an authority, clients show one of its."""
    section: dict[str, Any] = {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}
    if client_authority is not None:
        section["clientcas"] = [str(client_authority)]
    return section


def certificate_of(key_file: Path) -> Path:
    """Make a certificate of the key that tokens are signed with, for `auth.token.rootcertbundle`."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry-gateway")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = key_file.with_suffix(".certificate")
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def notifying(url: str, token: str) -> Mapping[str, Any]:
    """Make the section `notifications` of a registry that tells one endpoint of everything, and soon tries again."""
    endpoint = {
        "name": "gateway",
        "url": url,
        "headers": {"X-Notifications-Token": [token]},
        "timeout": "2s",
        "threshold": 100,
        "backoff": "100ms",
    }
    return {"endpoints": [endpoint]}


def trusting(gateway: GatewayProcess) -> Mapping[str, Any]:
    """Make the section `auth` of a registry that trusts the tokens of a gateway, whose signing key is there."""
    return {
        "token": {
            "realm": f"{gateway.base_url}/jwt/auth",
            "service": SERVICE,
            "issuer": "registry-gateway",
            "rootcertbundle": str(certificate_of(gateway.data / "signing-key.pem")),
        }
    }


@contextmanager
def distribution(
    folder: Path,
    *,
    auth: Mapping[str, Any] | None = None,
    tls: Mapping[str, Any] | None = None,
    delete: bool = True,
    port: int | None = None,
    notifications: Mapping[str, Any] | None = None,
) -> Iterator[Distribution]:
    """Serve a folder: to everybody unless *auth* says otherwise, with deletion on unless it is off."""
    port = port or free_port()
    config = folder / "distribution.yml"
    sections: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": delete}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "one process needs no shared secret"},
    }
    if auth is not None:
        sections["auth"] = dict(auth)
    if tls is not None:
        sections["http"]["tls"] = dict(tls)
    if notifications is not None:
        sections["notifications"] = dict(notifications)
    config.write_text(yaml.safe_dump(sections))
    # It takes each REGISTRY_ variable for a key of its own, and the clients' REGISTRY_AUTH_FILE is none.
    own = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    with Peer(["docker-registry", "serve", config], log=folder / "distribution.log", environment=own) as peer:
        peer.wait_ready(lambda: accepts(port))
        yield Distribution(f"127.0.0.1:{port}", peer, "http" if tls is None else "https")
