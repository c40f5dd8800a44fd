"""nginx as operators put it in front: it ends TLS and may serve the gateway under a sub-path."""

from __future__ import annotations

import datetime as dt
import ipaddress
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.peers import Peer, accepts, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""The folders that nginx makes where the distribution wants them, unless told."""
CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    client_max_body_size 0;
    location {sub_path}/ {{
      proxy_pass http://{upstream}{target};
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
"""


def self_signed(folder: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 and localhost, and name the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def tls_in_front(folder: Path, *, port: int, upstream: str, sub_path: str = "") -> Iterator[Path]:
    """Serve an upstream `host:port` over TLS on a port, under a sub-path if one is named; gives the certificate."""
    certificate = self_signed(folder)
    config = folder / "nginx.conf"
    config.write_text(
        CONFIGURATION.format(
            # A target with a path makes nginx cut the sub-path off; without one it passes the raw path through.
            folder=folder,
            port=port,
            upstream=upstream,
            sub_path=sub_path,
            target="/" if sub_path else "",
        )
    )
    with _serving(folder, config, port):
        yield certificate


@contextmanager
def configured(folder: Path, text: str, *, port: int) -> Iterator[None]:
    """Run nginx with a whole configuration of an operator's, once nginx itself finds nothing wrong with it."""
    config = folder / "nginx.conf"
    for name in TEMPORARY:
        text = text.replace("http {", f"http {{\n  {name}_temp_path {folder}/{name};", 1)
    config.write_text(f"daemon off;\nmaster_process off;\n{text}")
    tested = run(["nginx", "-t", "-e", "stderr", "-p", folder, "-c", config])
    assert "[warn]" not in tested.said, tested.said
    with _serving(folder, config, port):
        yield


@contextmanager
def _serving(folder: Path, config: Path, port: int) -> Iterator[None]:
    command: list[str | Path] = ["nginx", "-e", "stderr", "-p", folder, "-c", config]
    with Peer(command, log=folder / "nginx.log") as peer:
        peer.wait_ready(lambda: accepts(port))
        yield
