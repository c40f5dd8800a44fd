"""Forged tokens and hostile requests, over the wire: what was not granted is not given, and nothing breaks or leaks."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import GatewayFactory
from tests.support.gateway import GatewayProcess
from tests.support.people import ALICE, ALICE_API, ALICE_NO_REGISTRY, CAROL, DAVE, INTERNAL, PRIVATE, PUBLIC
from tests.support.wire import SERVICE, Account, Answer, Credential, Wire, authorization

Sign = Callable[[bytes], bytes]
FUTURE = 3600
ES256 = jwt.get_algorithm_by_name("ES256")
STRANGER = ec.generate_private_key(ec.SECP256R1())


def encoded(raw: bytes) -> str:
    """Write bytes as a JWT does."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unsigned(_text: bytes) -> bytes:
    """Sign nothing."""
    return b""


class Forge:
    """Makes tokens out of a genuine one, with the gateway's own key or with others."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.genuine = gateway.wire(CAROL).token(f"repository:{PRIVATE}:pull,push")
        self.header: dict[str, object] = dict(jwt.get_unverified_header(self.genuine))
        self.claims: dict[str, Any] = jwt.decode(self.genuine, options={"verify_signature": False})
        pem = (gateway.data / "signing-key.pem").read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._public = key.public_key()

    def ours(self, text: bytes) -> bytes:
        """Sign with the gateway's key."""
        return bytes(ES256.sign(text, self._key))

    def theirs(self, text: bytes) -> bytes:
        """Sign with a key that the gateway never saw."""
        return bytes(ES256.sign(text, STRANGER))

    def with_public_pem(self, text: bytes) -> bytes:
        """Sign by HMAC with the public key, as PEM, for a secret."""
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        return hmac.digest(self._public.public_bytes(serialization.Encoding.PEM, info), text, "sha256")

    def with_public_point(self, text: bytes) -> bytes:
        """Sign by HMAC with the public key, as a point, for a secret."""
        point = self._public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        return hmac.digest(point, text, "sha256")

    def token(self, sign: Sign | None = None, *, header: dict[str, object] | None = None, **claims: object) -> str:
        """Sign the genuine header and claims with some changed, and those without a value left out."""
        return self.raw(json.dumps({**self.claims, **claims}).encode(), sign, header=header)

    def raw(self, body: bytes, sign: Sign | None = None, *, header: dict[str, object] | None = None) -> str:
        """Sign any body."""
        head = {name: value for name, value in {**self.header, **(header or {})}.items() if value is not None}
        text = f"{encoded(json.dumps(head).encode())}.{encoded(body)}"
        return f"{text}.{encoded((sign or self.ours)(text.encode()))}"

    def without(self, claim: str) -> str:
        """Leave a claim out."""
        return self.raw(json.dumps({name: value for name, value in self.claims.items() if name != claim}).encode())

    def with_body_of(self, **claims: object) -> str:
        """Put other claims behind the genuine header, under the genuine signature."""
        head, _, signature = self.genuine.split(".")
        return f"{head}.{encoded(json.dumps({**self.claims, **claims}).encode())}.{signature}"

    def flipped(self) -> str:
        """Change one bit of the genuine signature."""
        text, _, signature = self.genuine.rpartition(".")
        raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
        raw[0] ^= 1
        return f"{text}.{encoded(bytes(raw))}"

    def jwk(self) -> dict[str, object]:
        """Describe the stranger's key as a header may carry it."""
        return {**jwt.algorithms.ECAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True), "alg": "ES256"}


def now() -> int:
    """Tell the second."""
    return int(time.time())


EVERYTHING = [{"type": "repository", "name": PRIVATE, "actions": ["*"]}]

ATTACKS: dict[str, Callable[[Forge], str]] = {
    "alg-none": lambda forge: forge.token(unsigned, header={"alg": "none"}),
    "alg-none-in-capitals": lambda forge: forge.token(unsigned, header={"alg": "NONE"}),
    "alg-none-under-our-signature": lambda forge: forge.token(header={"alg": "none"}),
    "no-alg": lambda forge: forge.token(unsigned, header={"alg": None}),
    "alg-is-a-list": lambda forge: forge.token(header={"alg": ["ES256"]}),
    "hs256-with-the-public-key": lambda forge: forge.token(forge.with_public_pem, header={"alg": "HS256"}),
    "hs256-with-the-public-point": lambda forge: forge.token(forge.with_public_point, header={"alg": "HS256"}),
    "unsigned": lambda forge: forge.token(unsigned),
    "zero-signature": lambda forge: forge.token(lambda _text: bytes(64)),
    "one-bit-of-the-signature": lambda forge: forge.flipped(),
    "truncated": lambda forge: forge.genuine[:-4],
    "other-audience": lambda forge: forge.token(aud="dependency_proxy"),
    "no-audience": lambda forge: forge.without("aud"),
    "other-issuer": lambda forge: forge.token(iss="gitlab-issuer"),
    "no-issuer": lambda forge: forge.without("iss"),
    "expired": lambda forge: forge.token(exp=now() - 1, iat=now() - 301, nbf=now() - 306),
    "never-expires": lambda forge: forge.without("exp"),
    "issued-in-the-future": lambda forge: forge.token(iat=now() + FUTURE, exp=now() + 2 * FUTURE),
    "not-valid-before-the-future": lambda forge: forge.token(nbf=now() + FUTURE, exp=now() + 2 * FUTURE),
    "other-key": lambda forge: forge.token(forge.theirs, header={"kid": "another-key"}),
    "other-key-under-our-id": lambda forge: forge.token(forge.theirs),
    "other-key-in-the-header": lambda forge: forge.token(forge.theirs, header={"jwk": forge.jwk()}),
    "other-key-alone-in-the-header": lambda forge: forge.token(forge.theirs, header={"jwk": forge.jwk(), "kid": None}),
    "other-key-at-a-url": lambda forge: forge.token(forge.theirs, header={"jku": "http://127.0.0.1:9/jwks.json"}),
    "kid-is-a-path": lambda forge: forge.token(unsigned, header={"kid": "../../../../dev/null"}),
    "kid-is-a-url": lambda forge: forge.token(forge.theirs, header={"kid": "http://127.0.0.1:9/jwks.json"}),
    "kid-is-a-list": lambda forge: forge.token(header={"kid": [forge.header["kid"]]}),
    "kid-is-an-object": lambda forge: forge.token(header={"kid": {"kid": forge.header["kid"]}}),
    "no-kid": lambda forge: forge.token(header={"kid": None}),
    "more-access": lambda forge: forge.with_body_of(access=EVERYTHING),
    "longer-life": lambda forge: forge.with_body_of(exp=now() + 10 * FUTURE),
    "another-subject": lambda forge: forge.with_body_of(sub="root"),
    "the-token-inside-a-token": lambda forge: str(forge.claims["user"]),
    "body-is-a-list": lambda forge: forge.raw(b"[]"),
    "body-is-text": lambda forge: forge.raw(b'"registry"'),
    "body-is-empty": lambda forge: forge.raw(b""),
    "body-is-no-json": lambda forge: forge.raw(b"\xff\x00{"),
    "access-is-text": lambda forge: forge.token(access=f"repository:{PRIVATE}:push"),
    "times-are-text": lambda forge: forge.token(exp="tomorrow"),
    "huge": lambda _: "A" * 60_000,
    "huge-parts": lambda _: ".".join(["A" * 20_000] * 3),
    "deep-header": lambda _: f"{encoded(b'[' * 40_000)}.e30.e30",
    "deep-body": lambda forge: forge.raw(b'{"a":' * 8_000),
    "many-parts": lambda _: "." * 10_000,
    "two-parts": lambda forge: forge.genuine.rpartition(".")[0],
    "four-parts": lambda forge: f"{forge.genuine}.e30",
    "twice": lambda forge: f"{forge.genuine} {forge.genuine}",
    "garbage": lambda _: "garbage",
    "dots": lambda _: "..",
    "empty": lambda _: "",
    "latin-1": lambda _: "t\xf6ken.\xe4.\xfc",
    "not-utf-8": lambda _: "\xff\xfe.\xc3\x28.\xed\xa0\x80",
    "the-credential-itself": lambda _: ALICE_API.password,
}

REQUESTS = {
    "base": ("GET", "/v2/", ""),
    "tags": ("GET", f"/v2/{PRIVATE}/tags/list", f'scope="repository:{PRIVATE}:pull",'),
    "uploads": ("POST", f"/v2/{PRIVATE}/blobs/uploads/", f'scope="repository:{PRIVATE}:pull,push",'),
}


@pytest.fixture(scope="module")
def forge(gateway: GatewayProcess) -> Forge:
    """Get the means of forging."""
    return Forge(gateway)


def refused(answer: Answer, code: str, status: int) -> None:
    """Hold an answer to a refusal in OCI form."""
    answer.expect(status)
    assert answer.header("Content-Type").startswith("application/json")
    assert [error["code"] for error in answer.json()["errors"]] == [code]


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_forged_token_is_challenged(
    gateway: GatewayProcess, forge: Forge, attack: Callable[[Forge], str], request_: tuple[str, str, str]
) -> None:
    """Whatever this registry did not sign for this moment is 401, with one challenge that calls the token invalid."""
    method, path, scope = request_
    answer = gateway.wire(attack(forge)).send(method, path)
    refused(answer, "UNAUTHORIZED", 401)
    assert answer.headers.get_all("WWW-Authenticate") == [
        f'Bearer realm="{gateway.base_url}/jwt/auth",service="{SERVICE}",{scope}error="invalid_token"'
    ]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/", 200), ("POST", REQUESTS["uploads"][1], 202)])
def test_the_forge_makes_good_tokens(
    gateway: GatewayProcess, forge: Forge, method: str, path: str, status: int
) -> None:
    """The same means, with nothing changed, make a token that opens: each attack fails for what it changes."""
    gateway.wire(forge.genuine).send(method, path).expect(status)
    gateway.wire(forge.token()).send(method, path).expect(status)


def test_a_token_longer_than_any_header_is_no_failure(gateway: GatewayProcess) -> None:
    """A token over the limit of headers never becomes a request, and is refused in OCI form."""
    refused(gateway.wire("A" * 100_000).get("/v2/"), "UNSUPPORTED", 400)


# -- the token endpoint ------------------------------------------------------------------------------------------

WRONG = Account("carol", "this-is-not-carols-password")
LONG = "x" * 10_000


def unmentioned(who: str | Account | None) -> list[str]:
    """List what of a credential may stand in no log: the secret, and the header that it came in."""
    if not isinstance(who, Account):
        return []
    return [who.password, authorization(who)["Authorization"].removeprefix("Basic ")]


def control_characters(text: str) -> set[str]:
    """Find the characters that would let a caller write lines of their own, or move a terminal's cursor."""
    return {character for character in text if unicodedata.category(character) in {"Cc", "Zl", "Zp"}} - {"\n"}


class Watch:
    """Sends requests to the token endpoint, and remembers what may stand in no log."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.secrets: list[str] = []
        self._before = len(gateway.log)

    def ask(self, who: Credential, query: str) -> Answer:
        """Send a query just as it stands."""
        self.secrets += unmentioned(who)
        return self.gateway.wire(who).get(f"/jwt/auth?{query}")

    def ask_by_header(self, header: str, query: str) -> Answer:
        """Send any Authorization header, one byte for each character."""
        self.secrets += [part for part in header.split(" ") if len(part) > len("Basic")]
        return self.gateway.wire().get(f"/jwt/auth?{query}", Authorization=header)

    def end(self) -> None:
        """Check that the gateway still works, and what it wrote down."""
        assert granted(self.ask(CAROL, scoped(f"repository:{PRIVATE}:pull"))) == [(PRIVATE, ["pull"])]
        written = self.gateway.log[self._before :]
        assert [secret[:60] for secret in self.secrets if secret in written] == []
        assert control_characters(written) == set()
        assert "Traceback" not in written
        assert "unexpected failure" not in written


@pytest.fixture
def watch(gateway: GatewayProcess) -> Iterator[Watch]:
    """Watch the gateway's log for what this test sends."""
    watch = Watch(gateway)
    yield watch
    watch.end()


def scoped(*scopes: str) -> str:
    """Write a query, escaping only what would end a parameter or the request line."""
    return "&".join([f"service={SERVICE}", *(f"scope={quote(scope, safe=':/,*')}" for scope in scopes)])


def granted(answer: Answer) -> list[tuple[str, list[str]]]:
    """Read what a token grants."""
    claims = jwt.decode(answer.expect(200).json()["token"], options={"verify_signature": False})
    return [(entry["name"], entry["actions"]) for entry in claims["access"]]


BEFORE, AFTER = f"repository:{PUBLIC}:pull", f"repository:{PRIVATE}:pull,push"
OTHERS = ((PUBLIC, ["pull"]), (PRIVATE, ["pull", "push"]))

NOTHING: dict[str, str] = {
    "empty": "",
    "blank": "%20%20+",
    "colons": "%3A%3A%3A",
    "two-parts": "repository:acme/internal",
    "no-action": "repository:acme/internal:",
    "no-type": ":acme/internal:pull",
    "no-name": "repository::pull",
    "nul-in-the-name": "repository:acme/internal%00:pull",
    "nul-in-the-type": "repository%00:acme/internal:pull",
    "nul-in-the-action": "repository:acme/internal:pu%00ll",
    "nul-alone": "%00",
    "escape-in-the-name": "repository:acme/%1b%5B31mred:pull",
    "escape-in-the-action": "repository:acme/internal:%1b%5B2J",
    "line-feed-in-the-name": "repository:acme/in%0aternal:pull",
    "a-log-line-in-the-name": "repository:acme/x%0d%0a%7B%22event%22%3A%22forged%22%7D:pull",
    "a-log-line-in-the-action": "repository:acme/internal:x%0d%0a%7B%22event%22%3A%22forged%22%7D",
    "delete-character": "repository:acme/internal%7f:pull",
    "c1-control": "repository:acme/internal%c2%9b31m:pull",
    "line-separator": "repository:acme/internal%e2%80%a8:pull",
    "right-to-left": "repository:acme/%e2%80%aelanretni:pull",
    "not-utf-8": "repository:acme/internal%ff:pull",
    "half-a-character": "repository:acme/internal%c3:pull",
    "overlong-slash": "repository:acme%c0%afinternal:pull",
    "surrogate": "repository:acme/internal%ed%a0%80:pull",
    "not-utf-8-in-the-action": "repository:acme/internal:%ff%fe",
    "broken-escape": "repository:acme/internal%zz:pull",
    "unfinished-escape": "repository:acme/internal:p%",
    "double-quote": "repository:acme/%22internal%22:pull",
    "single-quote": "repository:acme/internal'--:pull",
    "backslash": "repository:acme%5Cinternal:pull",
    "traversal": "repository:acme/app/../internal:pull",
    "empty-component": "repository:acme//internal:pull",
    "slash-at-the-end": "repository:acme/internal/:pull",
    "plugin-class": "repository(plugin):acme/internal:pull",
    "another-type": "group:acme/internal:pull",
    "the-catalog": "registry:catalog:*",
    "full-width": "repository:acme/%ef%bd%89nternal:pull",
    "kelvin-sign": "repository:acme/%e2%84%aa:pull",
    "long-name": f"repository:acme/{LONG}:pull",
    "long-name-of-many-parts": f"repository:{'/'.join(['acme'] * 2_000)}:pull",
    "long-type": f"{LONG}:acme/internal:pull",
    "long-action": f"repository:acme/internal:{LONG}",
    "many-unknown-actions": f"repository:acme/internal:{','.join(['x'] * 5_000)}",
    "many-commas": f"repository:acme/internal:{',' * 10_000}",
    "many-colons": ":" * 10_000,
}
"""Scopes as they stand in the query, of which nothing can be granted to a developer of `acme`."""


@pytest.mark.parametrize("scope", NOTHING.values(), ids=NOTHING)
def test_an_odd_scope_is_dropped(watch: Watch, scope: str) -> None:
    """A scope that stands for nothing leaves the others untouched, and is no way around a refusal."""
    others = [scoped(BEFORE), f"scope={scope}", scoped(AFTER).partition("&")[2]]
    assert granted(watch.ask(CAROL, "&".join(others))) == list(OTHERS)
    refused(watch.ask(WRONG, "&".join(others)), "UNAUTHORIZED", 401)
    refused(watch.ask(None, f"service={SERVICE}&scope={scope}"), "DENIED", 403)
    refused(watch.ask(None, f"{scoped(AFTER)}&scope={scope}"), "DENIED", 403)


KEPT: dict[str, tuple[str, list[str]]] = {
    "capitals": (f"repository:{INTERNAL.upper()}:pull", ["pull"]),
    "actions-in-capitals": (f"repository:{INTERNAL}:PULL,pull,Push", ["pull"]),
    "unknown-actions": (f"repository:{INTERNAL}:pull\x1b,levitate,\x00,push", ["push"]),
    "long-unknown-action": (f"repository:{INTERNAL}:{LONG},pull", ["pull"]),
    "colons-in-the-actions": (f"repository:{INTERNAL}:pull:push,push", ["push"]),
    "empty-actions": (f"repository:{INTERNAL}:,,pull,,", ["pull"]),
    "repeated-actions": (f"repository:{INTERNAL}:{','.join(['pull'] * 2_000)}", ["pull"] * 2_000),
}


@pytest.mark.parametrize(("scope", "actions"), KEPT.values(), ids=KEPT)
def test_what_can_be_granted_of_an_odd_scope_is(watch: Watch, scope: str, actions: list[str]) -> None:
    """Unknown actions are dropped, order and repetitions stay, and the other scopes are untouched."""
    found = granted(watch.ask(CAROL, scoped(BEFORE, scope, AFTER)))
    assert found == [OTHERS[0], (INTERNAL, actions), OTHERS[1]]


@pytest.mark.parametrize("joint", ["&scope=", "%20", "+"], ids=["repeated", "spaces", "pluses"])
@pytest.mark.parametrize("name", ["acme/nothing", "%22", INTERNAL])
def test_a_thousand_scopes(watch: Watch, joint: str, name: str) -> None:
    """A thousand scopes, however they are joined, are answered like one."""
    scope = f"repository:{name}:pull"
    scopes = joint.join([BEFORE, *([scope] * 998), AFTER])
    expected = [OTHERS[0], *([(INTERNAL, ["pull"])] if name == INTERNAL else []), OTHERS[1]]
    found = granted(watch.ask(CAROL, f"service={SERVICE}&scope={scopes}"))
    assert [(name, sorted(set(actions))) for name, actions in found] == expected
    refused(watch.ask(WRONG, f"service={SERVICE}&scope={scopes}"), "UNAUTHORIZED", 401)
    refused(watch.ask(None, f"service={SERVICE}&scope={joint.join([scope] * 1000)}"), "DENIED", 403)


def test_a_thousand_pushes_are_granted(gateway_factory: GatewayFactory) -> None:
    """A maintainer who asks push on a thousand images below one project is granted all of them."""
    gateway = gateway_factory()
    names = [f"{PRIVATE}/{number}" for number in range(1000)]
    query = scoped(*(f"repository:{name}:push" for name in names))
    assert granted(gateway.wire(DAVE).get(f"/jwt/auth?{query}")) == [(name, ["push"]) for name in names]


def test_repeated_scopes_push_nothing_out(gateway: GatewayProcess) -> None:
    """However often a scope stands there, the one behind it is heard."""
    query = f"service={SERVICE}&scope={'+'.join(['repository:x/y:pull'] * 2000)}+repository:{PRIVATE}:pull"
    assert granted(gateway.wire(DAVE).get(f"/jwt/auth?{query}")) == [(PRIVATE, ["pull"])]


def test_more_than_a_thousand_names_are_refused_in_a_sentence(gateway: GatewayProcess) -> None:
    """A request that no client makes is refused as a whole rather than answered in part."""
    query = scoped(*(f"repository:x/{number}:pull" for number in range(1001)))
    error = gateway.wire(DAVE).get(f"/jwt/auth?{query}").expect(400).json()["errors"][0]
    assert "at most 1000 different scopes" in error["message"]


@pytest.mark.parametrize(
    "service", ["", "%00", f"{SERVICE}%00", f"{SERVICE}%0a", f"%20{SERVICE}", SERVICE.upper(), "%ff", "x" * 10_000]
)
def test_an_odd_service_is_404(watch: Watch, service: str) -> None:
    """What is not the name of our service is 404 with an empty body, after the credential was checked."""
    assert watch.ask(CAROL, f"service={service}").expect(404).body == b""
    refused(watch.ask(WRONG, f"service={service}"), "UNAUTHORIZED", 401)


CREDENTIALS = {
    "long-password": Account("carol", LONG),
    "long-username": Account(LONG, "some-secret-of-theirs"),
    "both-long": Account(LONG, LONG[::-1] + "y"),
    "control-characters": Account("ca\x1b[31mrol\r\nx", "secret-\x00\x1b[2J\r\nforged"),
    "nul": Account("carol\x00", f"{CAROL.password}\x00"),
    "quotes": Account("carol' OR '1'='1", 'secret" OR ""="'),
    "other-script": Account("кароль", "пароль-тайный"),
    "emoji": Account("carol\U0001f600", "\U0001f511-is-the-secret"),
    "line-separators": Account("carol\u2028\u0085", "secret\u2028\u0085line"),
    "colons": Account("carol", f":{CAROL.password}:"),
    "space-behind": Account("carol", f"{CAROL.password} "),
    "no-password": Account("carol", ""),
    "a-hash": Account("carol", "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g"),
}
"""Credentials that are nobody's."""


@pytest.mark.parametrize("account", CREDENTIALS.values(), ids=CREDENTIALS)
def test_an_odd_credential_is_refused(watch: Watch, account: Account) -> None:
    """A credential that is nobody's is 401 with GitLab's words, on `/v2/` with the challenge, and is in no log."""
    answer = watch.ask(account, scoped(BEFORE))
    refused(answer, "UNAUTHORIZED", 401)
    assert answer.json()["errors"][0]["message"].startswith("HTTP Basic: Access denied.")
    assert watch.gateway.wire(account).get("/v2/").expect(401).headers.get_all("WWW-Authenticate") == [
        f'Bearer realm="{watch.gateway.base_url}/jwt/auth",service="{SERVICE}"'
    ]
    if not account.password:
        watch.secrets.remove("")


@pytest.mark.parametrize("username", ["", LONG, "\x00\x1b[31m\r\n", "c\u00e4rol", "a\u2028b"])
def test_an_odd_username_before_a_good_token(watch: Watch, username: str) -> None:
    """The username before a personal token is ignored, whatever it holds."""
    account = Account(username, ALICE_API.password)
    assert granted(watch.ask(account, scoped(BEFORE, AFTER))) == list(OTHERS)


def _basic(pair: bytes) -> str:
    return f"Basic {base64.b64encode(pair).decode()}"


HEADERS = {
    "no-base64": "Basic ~~carol:carol-develops~~",
    "plain": "Basic carol:carol-develops",
    "bad-padding": _basic(b"carol:carol-develops!").rstrip("=") + "===",
    "no-colon": _basic(b"carol-develops"),
    "not-utf-8": _basic(b"carol:\xff\xfe-secret-of-carol"),
    "latin-1": _basic("c\u00e4rol:gehe\u00edm-f\u00fcr-alle".encode("latin-1")),
    "surrogate": _basic(b"carol:\xed\xa0\x80-secret-of-carol"),
    "raw-latin-1": "Basic c\xe4rol:geheim-f\xfcr-alle",
    "empty-pair": "Basic Og==",
    "two-values": f"{_basic(b'carol:not-her-password')} {_basic(b'carol:carol-develops')}",
    "huge": f"Basic {'QUFB' * 15_000}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_an_odd_header_is_no_credential(watch: Watch, header: str) -> None:
    """A Basic header that holds no credential is a bad credential, never a failure and never nobody."""
    refused(watch.ask_by_header(header, scoped(BEFORE)), "UNAUTHORIZED", 401)
    answer = watch.gateway.wire().get(f"/v2/{PUBLIC}/tags/list", Authorization=header)
    refused(answer, "UNAUTHORIZED", 401)
    watch.secrets += ["carol-develops", "secret-of-carol", "not-her-password"]


@pytest.mark.parametrize("header", ["Bearer x", "Negotiate YII=", "Digest username=carol", "x", "\xff\xfe", "Basicx x"])
def test_another_scheme_is_nobody(watch: Watch, header: str) -> None:
    """What is not Basic is no way in, and no obstacle to what is public."""
    assert granted(watch.ask_by_header(header, scoped(BEFORE, AFTER))) == [OTHERS[0]]
    refused(watch.ask_by_header(header, scoped(AFTER)), "DENIED", 403)


def test_a_token_without_a_registry_scope_is_403(watch: Watch) -> None:
    """A good token that has no scope of the registry is refused as a whole, even for what is public."""
    for query in (scoped(), scoped(BEFORE), scoped(BEFORE, AFTER)):
        refused(watch.ask(ALICE_NO_REGISTRY, query), "DENIED", 403)


def test_a_good_login_stays_out_of_the_log(watch: Watch) -> None:
    """Neither a password, nor a token of GitLab's, nor a token of ours is written down."""
    for account in (ALICE, ALICE_API):
        answer = watch.ask(account, scoped(AFTER))
        token = answer.expect(200).json()["token"]
        watch.secrets += [token, *token.split(".")[1:]]
        Wire(watch.gateway.base_url, token).get(f"/v2/{PRIVATE}/tags/none").expect(404)


def test_requests_with_secrets_in_the_query(watch: Watch) -> None:
    """A secret that somebody puts into a query, by mistake, is not written down either."""
    secret = "pasted-by-mistake"
    for path in (f"/jwt/auth?{scoped(BEFORE)}&password={secret}", f"/v2/?token={secret}", f"/nothing?token={secret}"):
        assert watch.gateway.wire().get(path).status < 500
    watch.secrets.append(secret)


def test_the_log_is_one_object_a_line(watch: Watch) -> None:
    """What callers send can't begin a line of its own: each line that was written is one JSON object."""
    before = len(watch.gateway.log)
    watch.ask(Account('x\r\n{"event":"forged"}', "y\r\nz"), scoped('repository:a\n{"event":"forged"}/b:pull\n{}'))
    watch.ask(CAROL, scoped('repository:a\n{"event":"forged"}/b:pull\n{}'))
    watch.ask(CAROL, scoped())
    for line in watch.gateway.log[before:].splitlines():
        assert isinstance(json.loads(line), dict)
        assert not re.fullmatch(r'\{"event": ?"forged"\}', line)
