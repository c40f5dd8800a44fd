"""A token server for a registry, as Docker's token authentication specification has it, on a loopback socket."""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.gitlab import fingerprint
from tests.support.distribution import LOGIN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

SERVICE = "registry"
ISSUER = "token server"


class Asked(NamedTuple):
    """A question: the scopes, and the Authorization header it came with."""

    scopes: tuple[str, ...]
    authorization: str | None


class TokenServer:
    """Gives `LOGIN` a token for every scope, and whoever comes without a login none for what is not `pull`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.life = 300
        """Seconds that it says a token is good."""
        self.issued_ago = 0
        """Seconds that have passed since it made its tokens, as they say themselves."""
        self.withheld: set[str] = set()
        """Actions that it grants nobody."""
        self._key = rsa.generate_private_key(65537, 2048)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def realm(self) -> str:
        """Its URL, as a challenge names it."""
        return f"http://127.0.0.1:{self._server.server_port}/token?from=challenge"

    def section(self, folder: Path) -> Mapping[str, Any]:
        """Make the section `auth` of a registry that trusts its tokens."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        bundle = folder / "token-server.pem"
        bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return {
            "token": {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle)},
        }

    def _answer(self, query: str, authorization: str | None) -> tuple[int, Mapping[str, Any]]:
        parameters = parse_qsl(query)
        scopes = tuple(value for name, value in parameters if name == "scope")
        self.asked.append(Asked(scopes, authorization))
        pair = base64.b64encode(f"{LOGIN.username}:{LOGIN.password}".encode()).decode()
        if authorization not in {None, f"Basic {pair}"}:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong login"}]}
        if ("service", SERVICE) not in parameters:
            return 400, {"errors": [{"code": "UNSUPPORTED", "message": "no such service"}]}
        now = time.time() - self.issued_ago
        claims = {
            "iss": ISSUER,
            "sub": LOGIN.username if authorization else "",
            "aud": SERVICE,
            "iat": int(now),
            "nbf": int(now) - 10,
            "exp": int(now) + self.life,
            "jti": secrets.token_hex(8),
            "access": [self._granted(scope, anonymous=authorization is None) for scope in scopes],
        }
        token = jwt.encode(claims, self._key, "RS256", {"kid": fingerprint(self._key.public_key())})
        return 200, {"token": token, "expires_in": self.life}

    def _granted(self, scope: str, *, anonymous: bool) -> Mapping[str, Any]:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = {"pull"} if anonymous else {"pull", "push", "delete", "*"}
        granted = [action for action in actions.split(",") if action in allowed - self.withheld]
        return {"type": kind, "name": name, "actions": granted}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, document = answer(urlsplit(self.path).query, self.headers["Authorization"])
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
