"""Tokens that another server signs, as GitLab does for the registry that it is configured with (semantics 3.4, 3.5)."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import json
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from jwt.algorithms import RSAAlgorithm

from tests.support import images
from tests.support.peers import eventually
from tests.support.people import CAROL, PRIVATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess

ISSUER = "omnibus-gitlab-issuer"
KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def libtrust(key: rsa.RSAPrivateKey) -> str:
    """Name a key as docker/libtrust does."""
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(sha256(der).digest()[:30]).decode()
    return ":".join(text[place : place + 4] for place in range(0, 48, 4))


def certificate() -> bytes:
    """Sign a certificate of the key by itself, as GitLab's package does."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    today = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .sign(KEY, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def claims(name: str = PRIVATE, *actions: str, **changed: Any) -> dict[str, Any]:
    """Say what GitLab's tokens say."""
    now = int(time.time())
    access = [{"type": "repository", "name": name, "actions": list(actions or ("pull",))}]
    said = {"iss": ISSUER, "aud": "container_registry", "sub": "carol", "iat": now, "nbf": now - 5, "exp": now + 300}
    return {**said, "jti": "1", "access": access, **changed}


def sign(body: dict[str, Any], key: Any = KEY, *, kid: str | None = None, algorithm: str = "RS256") -> str:
    """Sign a token as GitLab does, or nearly."""
    header = {"kid": libtrust(KEY) if kid is None else kid} if kid != "" else {}
    return jwt.encode(body, key, algorithm, headers=header)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Run a gateway that knows GitLab's certificate, with an image in it."""
    from tests.support.gateway import GatewayProcess  # noqa: PLC0415 - the type is imported above for checking alone

    folder = tmp_path_factory.mktemp("trusted")
    (folder / "gitlab.crt").write_bytes(certificate())
    trusted = {"issuer": ISSUER, "certificate_file": str(folder / "gitlab.crt")}
    gateway = GatewayProcess(folder / "gateway", extra={"tokens": {"trusted_issuers": [trusted]}})
    gateway.start()
    try:
        gateway.wire(CAROL).push_image(PRIVATE, "1", images.image(b"trusted"))
        gateway.wire(CAROL).push_image(f"{PRIVATE}/below", "1", images.image(b"trusted"))
        yield gateway
    finally:
        gateway.end()


OPENED = [
    pytest.param(lambda: sign(claims()), PRIVATE, 200, id="pull"),
    pytest.param(lambda: sign(claims(), kid=""), PRIVATE, 200, id="no kid, and one key"),
    pytest.param(lambda: sign(claims(PRIVATE, "*")), PRIVATE, 200, id="everything on a path"),
    pytest.param(lambda: sign(claims(f"{PRIVATE}/*")), f"{PRIVATE}/below", 200, id="below a path"),
    pytest.param(lambda: sign(claims(f"{PRIVATE}/*")), PRIVATE, 401, id="below a path is not the path"),
    pytest.param(lambda: sign(claims("acme/ap/*")), f"{PRIVATE}/below", 401, id="below another path"),
    pytest.param(lambda: sign(claims(f"{PRIVATE}*")), f"{PRIVATE}/below", 401, id="a star elsewhere is none"),
    pytest.param(lambda: sign(claims(PRIVATE, "push")), PRIVATE, 401, id="push alone does not pull"),
    pytest.param(lambda: sign(claims(access=[])), PRIVATE, 401, id="nothing granted"),
]


@pytest.mark.parametrize(("token", "name", "status"), OPENED)
def test_what_gitlab_signed_opens(registry: GatewayProcess, token: Callable[[], str], name: str, status: int) -> None:
    """A token of the trusted issuer opens what its access says, and nothing else."""
    registry.wire(token()).manifest(name, "1").expect(status)


def test_gitlab_deletes_by_its_own_token(registry: GatewayProcess) -> None:
    """GitLab's full access token pushes, lists and deletes, as its background jobs do."""
    wire = registry.wire(sign(claims(f"{PRIVATE}/jobs", "*")))
    wire.push_image(f"{PRIVATE}/jobs", "1", images.image(b"jobs"))
    assert wire.get(f"/v2/{PRIVATE}/jobs/tags/list").expect(200).json()["tags"] == ["1"]
    wire.send("DELETE", f"/v2/{PRIVATE}/jobs/manifests/1").expect(202)


def _by_hand(header: dict[str, Any], sign_: Callable[[bytes], bytes]) -> str:
    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims(PRIVATE, '*')).encode())}"
    return f"{text}.{part(sign_(text.encode()))}"


FORGED = {
    "other audience": lambda: sign(claims(aud="dependency_proxy")),
    "other issuer": lambda: sign(claims(iss="gitlab-issuer")),
    "our own issuer": lambda: sign(claims(iss="registry-gateway")),
    "no issuer": lambda: sign({key: value for key, value in claims().items() if key != "iss"}),
    "expired": lambda: sign(claims(exp=int(time.time()) - 60)),
    "never expires": lambda: sign({key: value for key, value in claims().items() if key != "exp"}),
    "not yet valid": lambda: sign(claims(nbf=int(time.time()) + 60)),
    "from the future": lambda: sign(claims(iat=int(time.time()) + 60)),
    "other key": lambda: sign(claims(), OTHER_KEY),
    "other key, no kid": lambda: sign(claims(), OTHER_KEY, kid=""),
    "unknown kid": lambda: sign(claims(), kid="AAAA:BBBB"),
    "kid is a path": lambda: sign(claims(), OTHER_KEY, kid="../../etc/passwd"),
    "swapped key type": lambda: sign(claims(), EC_KEY, algorithm="ES256"),
    "alg none": lambda: _by_hand({"alg": "none", "kid": libtrust(KEY)}, lambda _: b""),
    "HS256 with the public key": lambda: _by_hand(
        {"alg": "HS256", "kid": libtrust(KEY)}, lambda text: hmac.digest(PUBLIC_PEM, text, "sha256")
    ),
    "access is text": lambda: sign(claims(access="repository:acme/app:*")),
    "entry without actions": lambda: sign(claims(access=[{"type": "repository", "name": PRIVATE}])),
    "claims of ours": lambda: sign(
        {key: value for key, value in claims(gateway={"admin": True}).items() if key != "access"}
    ),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_what_gitlab_did_not_sign_opens_nothing(registry: GatewayProcess, forge: Callable[[], str]) -> None:
    """Anything but a genuine token of that issuer, for this service and moment, is refused as no token."""
    answer = registry.wire(forge()).manifest(PRIVATE, "1").expect(401)
    assert 'error="invalid_token"' in answer.header("WWW-Authenticate")


def test_claims_of_ours_mean_nothing_in_a_token_of_theirs(registry: GatewayProcess) -> None:
    """An issuer that is trusted for its grants can't make an admin or a catalog of somebody."""
    own = {
        "source": "auth_local",
        "subject": "root",
        "id": "user:root",
        "ceiling": ["*"],
        "admin": True,
        "external": False,
    }
    token = sign(claims(gateway={**own, "refused": {}}))
    assert registry.wire(token).get("/v2/_catalog").expect(200).json()["repositories"] == []


class _Keys(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer the set of keys."""
        document = json.dumps({"keys": [*self.server.keys]}).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(document)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


def published(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    """Write a key as a set of keys has it."""
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}


def test_keys_at_a_url_are_read_again(gateway_factory: GatewayFactory) -> None:
    """A key that appears in the set later is learnt when a token names it; junk beside it is no obstacle."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Keys)
    server.keys = [published(KEY, "first"), {"kty": "oct", "k": "c2VjcmV0", "kid": "junk"}]  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        trusted = {"issuer": ISSUER, "jwks_url": f"http://127.0.0.1:{server.server_port}/keys"}
        gateway = gateway_factory(extra={"tokens": {"trusted_issuers": [trusted]}})
        gateway.wire(CAROL).push_image(PRIVATE, "1", images.image(b"keys"))
        gateway.wire(sign(claims(), kid="first")).manifest(PRIVATE, "1").expect(200)
        gateway.wire(sign(claims(), OTHER_KEY, kid="second")).manifest(PRIVATE, "1").expect(401)
        server.keys = [published(OTHER_KEY, "second")]  # type: ignore[attr-defined]
        eventually(
            lambda: gateway.wire(sign(claims(), OTHER_KEY, kid="second")).manifest(PRIVATE, "1").status == 200,
            "the second key is known",
            within=40,
        )
        gateway.wire(sign(claims(), kid="first")).manifest(PRIVATE, "1").expect(401)
    finally:
        server.shutdown()
        server.server_close()
