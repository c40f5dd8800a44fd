"""Tokens: what was signed comes back, and nothing else is believed."""

from __future__ import annotations

import base64
import hmac
import json
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.keys import Keys, Sealer
from gateway.core.tokens import ExpiredTokenError, InvalidTokenError, Tokens
from gateway.oci import Action, RepositoryName
from gateway.plugins import (
    Access,
    CredentialKind,
    Identity,
    Project,
    Repository,
    Step,
    Verdict,
    Visibility,
)
from gateway.plugins.chain import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOW = 1_800_000_000
ISSUER = "registry-gateway"
SERVICE = "container_registry"
KEYS = Keys(ec.generate_private_key(ec.SECP256R1()))
STRANGER = Keys(ec.generate_private_key(ec.SECP256R1()))
ALICE = Identity("auth_local", CredentialKind.PERSONAL_ACCESS_TOKEN, "alice", "7", frozenset({Action.PULL}), admin=True)
PUSHED = Access("repository", "acme/app", ("pull", "push"))
PULL = Verdict(frozenset({Action.PULL}))


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        """Tell it."""
        return self.now


def _tokens(keys: Keys = KEYS, clock: Callable[[], float] | None = None) -> Tokens:
    return Tokens(keys, issuer=ISSUER, service=SERVICE, ttl=300, clock=clock or Clock())


def _answers(*pairs: tuple[Access, Verdict]) -> list[Answer]:
    return [Answer.of(ALICE, access, verdict) for access, verdict in pairs]


def _claims(**changed: Any) -> dict[str, Any]:
    token, _ = _tokens().sign(ALICE, _answers((PUSHED, PULL)))
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    claims.update(changed)
    return {name: value for name, value in claims.items() if value is not None}


def _signed(keys: Keys = KEYS, kid: object = None, **changed: Any) -> str:
    header = {"kid": keys.key_id if kid is None else kid}
    return jwt.encode(_claims(**changed), keys.signing, keys.algorithm, headers=header)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _by_hand(header: Mapping[str, object], sign: Callable[[bytes], bytes]) -> str:
    """Put a token together that the library would not make."""
    text = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(_claims()).encode())}"
    return f"{text}.{_encoded(sign(text.encode()))}"


def _public_pem() -> bytes:
    return KEYS.signing.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _hs256(text: bytes) -> bytes:
    return hmac.digest(_public_pem(), text, "sha256")


def _nothing(_text: bytes) -> bytes:
    return b""


def _changed_body() -> str:
    head, _, signature = _signed().split(".")
    body = _claims(
        gateway={"source": "auth_local", "subject": "root", "id": "1", "ceiling": ["*"], "admin": True, "refused": {}}
    )
    return f"{head}.{_encoded(json.dumps(body).encode())}.{signature}"


ATTACKS: dict[str, Callable[[], str]] = {
    "alg-none": lambda: _by_hand({"alg": "none", "kid": KEYS.key_id}, _nothing),
    "alg-none-in-capitals": lambda: _by_hand({"alg": "NONE", "kid": KEYS.key_id}, _nothing),
    "no-alg": lambda: _by_hand({"kid": KEYS.key_id}, _nothing),
    "hs256-with-the-public-key": lambda: _by_hand({"alg": "HS256", "kid": KEYS.key_id}, _hs256),
    "unsigned": lambda: _by_hand({"alg": "ES256", "kid": KEYS.key_id}, _nothing),
    "zero-signature": lambda: _by_hand({"alg": "ES256", "kid": KEYS.key_id}, lambda _: bytes(64)),
    "other-body": _changed_body,
    "other-audience": lambda: _signed(aud="dependency_proxy"),
    "no-audience": lambda: _signed(aud=None),
    "other-issuer": lambda: _signed(iss="somebody-else"),
    "no-issuer": lambda: _signed(iss=None),
    "issued-in-the-future": lambda: _signed(iat=NOW + 60),
    "not-yet-valid": lambda: _signed(nbf=NOW + 60),
    "no-end": lambda: _signed(exp=None),
    "endless": lambda: _signed(exp=float("inf")),
    "begins-never": lambda: _signed(nbf=float("nan")),
    "no-id": lambda: _signed(jti=None),
    "no-claim-of-ours": lambda: _signed(gateway=None),
    "unknown-kind": lambda: _signed(auth_type="cookie"),
    "access-is-text": lambda: _signed(access="repository:acme/app:push"),
    "other-key": lambda: _signed(STRANGER),
    "other-key-under-our-id": lambda: _signed(STRANGER, kid=KEYS.key_id),
    "kid-is-a-path": lambda: _signed(STRANGER, kid="../../dev/null"),
    "kid-is-a-url": lambda: _signed(STRANGER, kid="https://evil.example/jwks.json"),
    "kid-is-a-list": lambda: _by_hand({"alg": "ES256", "kid": [KEYS.key_id]}, _nothing),
    "no-kid": lambda: _by_hand({"alg": "ES256"}, _nothing),
    "truncated": lambda: _signed()[:-1],
    "half": lambda: _signed()[: len(_signed()) // 2],
    "two-parts": lambda: _signed().rpartition(".")[0],
    "four-parts": lambda: f"{_signed()}.{_encoded(b'more')}",
    "huge": lambda: "A" * 1_000_000,
    "huge-parts": lambda: ".".join(["A" * 300_000] * 3),
    "deep-header": lambda: f"{_encoded(b'[' * 100_000)}.e30.e30",
    "garbage": lambda: "garbage",
    "empty": lambda: "",
    "dots": lambda: "..",
    "not-ascii": lambda: "t\u00f6ken.\u00e4.\u00fc",
    "surrogates": lambda: "\udcff.\udcff.\udcff",
}


@pytest.mark.parametrize(
    "keys",
    [KEYS, Keys(rsa.generate_private_key(65537, 2048))],
    ids=["ES256", "RS256"],
)
def test_what_was_signed_comes_back(keys: Keys) -> None:
    """Verifying gives the identity, grants, projects and refusals that the token was signed for."""
    project = Project("Acme/App", Visibility.PRIVATE, id=9)
    app = Access("repository", "acme/app", ("push", "pull"), Repository(RepositoryName("acme/app"), project))
    other = Access("repository", "acme/other", ("pull",))
    role = Step("role", passed=False, finding="you are a reporter", remedy="ask")
    answers = _answers(
        (app, Verdict(frozenset({Action.PULL, Action.PUSH}), lambda: (role,))),
        (other, Verdict()),
        (Access("repository", "acme/open", ("pull",), Repository(RepositoryName("acme/open"), project)), PULL),
    )
    token, issued = _tokens(keys).sign(ALICE, answers)
    claims = _tokens(keys).verify(token)
    assert claims.identity == ALICE
    assert claims.grants == {"repository:acme/app": frozenset({"pull"}), "repository:acme/open": frozenset({"pull"})}
    assert claims.projects == {"repository:acme/app": "acme/app", "repository:acme/open": "acme/app"}
    assert claims.refusals == {"repository:acme/app": answers[0].reason, "repository:acme/other": None}
    assert answers[0].reason is not None
    assert (issued, claims.expires) == (NOW, NOW + 300)


def test_a_token_lists_actions_as_they_were_asked_for() -> None:
    """Order and repetitions of the question stay in ``access``, as GitLab keeps them."""
    asked = Access("registry", "catalog", ("pull", "fly", "pull"))
    token, _ = _tokens().sign(ALICE, _answers((asked, PULL)))
    access = jwt.decode(token, options={"verify_signature": False})["access"]
    assert access == [{"type": "registry", "name": "catalog", "actions": ["pull", "pull"]}]


def test_every_token_has_an_id_of_its_own() -> None:
    """Two tokens for one question differ."""
    ids = {_tokens().verify(_tokens().sign(ALICE, [])[0]).token_id for _ in range(10)}
    assert len(ids) == 10


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_no_token(attack: Callable[[], str]) -> None:
    """Whatever this registry did not sign for this service and this moment is refused as such."""
    with pytest.raises(InvalidTokenError) as caught:
        _tokens().verify(attack())
    assert type(caught.value) is InvalidTokenError


@given(token=st.text(st.characters()))
def test_any_text_is_no_token(token: str) -> None:
    """No text raises anything but an InvalidTokenError."""
    with pytest.raises(InvalidTokenError):
        _tokens().verify(token)


@pytest.mark.parametrize("known", [False, True], ids=["first-seen", "seen-before"])
def test_a_token_ends_on_the_second(*, known: bool) -> None:
    """A token is good until its end and expired from then on, also where its signature is remembered."""
    clock = Clock()
    tokens = _tokens(clock=clock)
    token, _ = tokens.sign(ALICE, _answers((PUSHED, PULL)))
    clock.now = NOW + 299.9
    if known:
        tokens.verify(token)
    clock.now = NOW + 300
    with pytest.raises(ExpiredTokenError) as caught:
        tokens.verify(token)
    assert caught.value.claims.identity == ALICE


def test_an_expired_token_of_somebody_else_is_no_token() -> None:
    """Only a genuine token counts as expired: a forged one never says what it claimed."""
    with pytest.raises(InvalidTokenError) as caught:
        _tokens().verify(_signed(STRANGER, kid=KEYS.key_id, exp=NOW - 60))
    assert type(caught.value) is InvalidTokenError


def test_a_little_future_is_the_clock_of_another_replica() -> None:
    """Five seconds ahead are taken."""
    assert _tokens().verify(_signed(iat=NOW + 5, nbf=NOW + 5)).identity == ALICE


def test_a_retiring_key_still_verifies() -> None:
    """Tokens of the key that was replaced are good as long as its public half is configured."""
    token, _ = _tokens(STRANGER).sign(ALICE, [])
    rotated = Keys(KEYS.signing, (STRANGER.signing.public_key(),))
    assert _tokens(rotated).verify(token).identity == ALICE


def test_the_key_set_holds_no_private_part() -> None:
    """What anybody may fetch has the public members of each key alone."""
    rotated = Keys(rsa.generate_private_key(65537, 2048), (KEYS.signing.public_key(),))
    found = rotated.jwks()["keys"]
    assert isinstance(found, list)
    assert {name for key in found for name in key} == {"alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"}


def test_derived_keys_differ_by_label_and_by_key() -> None:
    """Each purpose has a secret of its own, the same wherever the signing key is."""
    secrets = [KEYS.derive("uploads"), KEYS.derive("plugin a"), KEYS.derive("plugin b"), STRANGER.derive("uploads")]
    assert len(set(secrets)) == 4
    assert {len(secret) for secret in secrets} == {32}
    assert Keys(KEYS.signing, (STRANGER.signing.public_key(),)).derive("uploads") == secrets[0]


@given(text=st.binary(), binding=st.text())
def test_a_sealed_text_opens_for_its_binding(text: bytes, binding: str) -> None:
    """What was sealed comes back, and its seal can stand in a URL."""
    sealer = Sealer(bytes(32))
    sealed = sealer.seal(text, binding)
    assert set(sealed) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert sealer.open(sealed, binding) == text


def test_a_sealed_text_opens_for_no_other_binding_or_key() -> None:
    """A seal is good for one place and one key."""
    sealed = Sealer(bytes(32)).seal(b"text", "acme/app 1")
    assert Sealer(bytes(32)).open(sealed, "acme/app 2") is None
    assert Sealer(b"\1" * 32).open(sealed, "acme/app 1") is None


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_tampered_seal_does_not_open(place: int, bit: int) -> None:
    """One bit changed anywhere, and nothing is read."""
    sealer = Sealer(bytes(32))
    raw = bytearray(base64.urlsafe_b64decode(sealer.seal(b"x" * 14, "here")))
    raw[place % len(raw)] ^= 1 << bit
    assert sealer.open(_encoded(bytes(raw)), "here") is None


@given(sealed=st.text(st.characters()))
def test_any_text_is_no_seal(sealed: str) -> None:
    """Text that nobody sealed is answered by None."""
    assert Sealer(bytes(32)).open(sealed, "here") is None
