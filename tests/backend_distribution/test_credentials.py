"""The gateway's own credential: shown to whom it is for, renewed in time, and never at the client's cost."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from gateway.oci import Digest, Tag
from gateway.plugins import Progress, RegistryError, TagQuery
from gateway.plugins.testing import NAME, OTHER_NAME, chunks, new_upload, push_image, read_blob, upload_blob
from plugins.backend_distribution.answers import Answer
from plugins.backend_distribution.tokens import Challenge, _read, challenge
from tests.fakes.registry_tokens import TokenServer
from tests.fakes.upstream import HANGS, FaultyUpstream, Turn, answer, endless, error, manifest_headers
from tests.support.distribution import LOGIN, Distribution, distribution, htpasswd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plugins.backend_distribution.backend import DistributionBackend
    from tests.backend_distribution.conftest import Make

KEYS = {"username": LOGIN.username, "password": SecretStr(LOGIN.password)}
WRONG = {"username": LOGIN.username, "password": SecretStr("a wrong-word")}
PULL, PUSH, DELETE = (f"repository:{NAME}:{actions}" for actions in ("pull", "pull,push", "delete"))
MANIFEST = f"/v2/{NAME}/manifests/latest"
STATE = f"/v2/{NAME}/blobs/uploads/1"
GOOD = answer(200, b"{}", manifest_headers())


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Say what time it is."""
        return self.now


@pytest.fixture
def server() -> Iterator[TokenServer]:
    """Run a token server of this test's own."""
    with TokenServer() as running:
        yield running


@pytest.fixture
def guarded(server: TokenServer, tmp_path: Path) -> Iterator[Distribution]:
    """Run a registry that trusts it."""
    with distribution(tmp_path, auth=server.section(tmp_path)) as running:
        yield running


async def _refusal(backend: DistributionBackend) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        await backend.manifest(NAME, Tag("latest"))
    assert caught.value.status in {502, 503, 504}
    assert "wrong-word" not in f"{caught.value.why} {caught.value!r} {caught.value.message}"
    return caught.value


# -- Bearer, over a real registry ---------------------------------------------------------------------------


async def test_each_action_has_its_scope(workers: Make, guarded: Distribution, server: TokenServer) -> None:
    """A token is asked for what a request needs and no more, once; a mount needs two repositories in one."""
    backend = await workers(url=guarded.url, **KEYS)
    put = await push_image(backend, lambda blob: upload_blob(backend, blob), "one", "latest")
    assert await backend.mount_blob(NAME, OTHER_NAME, Digest.of(b"layer one"))
    await read_blob(backend, Digest.of(b"layer one"), name=OTHER_NAME)
    await backend.tags(NAME, TagQuery())
    await backend.delete_manifest(NAME, put.digest)
    other = f"repository:{OTHER_NAME}"
    expected = [(PUSH,), (f"{other}:pull,push", PULL), (f"{other}:pull",), (PULL,), (DELETE,)]
    assert [one.scopes for one in server.asked] == expected


async def test_one_question_for_all_who_wait(workers: Make, guarded: Distribution, server: TokenServer) -> None:
    """However many need a token at once, it is asked for once."""
    backend = await workers(url=guarded.url, **KEYS)
    found = await asyncio.gather(*(backend.manifest(NAME, Tag("latest")) for _ in range(30)))
    assert found == [None] * 30
    assert [one.scopes for one in server.asked] == [(PULL,)]


async def test_a_token_that_ends_within_an_upload(workers: Make, guarded: Distribution, server: TokenServer) -> None:
    """An upload of many requests outlives many tokens: each is renewed before the request that would meet its end."""
    clock = Clock()
    server.life = 30
    backend = await workers(clock, url=guarded.url, **KEYS)
    upload, sent = new_upload(), b""
    progress = await backend.begin_upload(NAME, upload)
    for number in range(5):
        piece = str(number).encode() * 1000
        progress = await backend.write_upload(NAME, upload, progress, chunks(piece), at=len(sent))
        sent += piece
        clock.now += 20
    assert await backend.finish_upload(NAME, upload, progress, Digest.of(sent)) == len(sent)
    # A request that can't be repeated is begun with more than half of its token's life left, others with a fifth.
    assert [one.scopes for one in server.asked] == [(PUSH,)] * 5
    assert await read_blob(backend, Digest.of(sent)) == sent


async def test_a_token_that_is_refused_is_renewed(workers: Make, guarded: Distribution, server: TokenServer) -> None:
    """Where the registry takes a token for too old, the next attempt has a new one."""
    server.issued_ago = 1000
    backend = await workers(url=guarded.url, **KEYS)
    refusal = await _refusal(backend)
    assert len(server.asked) == 2
    assert "does not accept username and password_file" in (refusal.why or "")
    server.issued_ago = 0
    assert await backend.manifest(NAME, Tag("latest")) is None
    assert len(server.asked) == 3


async def test_without_a_login(workers: Make, guarded: Distribution, server: TokenServer) -> None:
    """Where strangers may pull, a gateway without a login is one of them; a push says what is missing."""
    backend = await workers(url=guarded.url)
    assert await backend.manifest(NAME, Tag("latest")) is None
    assert server.asked[0].authorization is None
    with pytest.raises(RegistryError) as caught:
        await backend.begin_upload(NAME, new_upload())
    assert caught.value.status == 502
    assert (caught.value.why or "").endswith("set username and password_file")


async def test_a_wrong_login(workers: Make, guarded: Distribution) -> None:
    """The token server's refusal is the operator's to mend, and no 401 of the client's."""
    refusal = await _refusal(await workers(url=guarded.url, **WRONG))
    assert "it refuses username and password_file" in (refusal.why or "")
    assert "wrong login" in (refusal.why or "")


async def test_an_account_that_may_not(workers: Make, guarded: Distribution, server: TokenServer) -> None:
    """An account without the right that a request needs is the operator's to mend."""
    server.withheld = {"delete"}
    backend = await workers(url=guarded.url, **KEYS)
    put = await push_image(backend, lambda blob: upload_blob(backend, blob), "one", "latest")
    for reference in (Tag("latest"), put.digest):
        with pytest.raises(RegistryError) as caught:
            await backend.delete_manifest(NAME, reference)
        assert caught.value.status == 502
    found = await backend.manifest(NAME, Tag("latest"))
    assert found is not None
    assert found.digest == put.digest


# -- Basic, over a real registry ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "mend"), [({}, "set username and password_file"), (WRONG, "does not accept username and password_file")]
)
async def test_basic(workers: Make, tmp_path: Path, keys: dict[str, Any], mend: str) -> None:
    """Without the right password the operator hears which key to mend, and the client that it is not its fault."""
    with distribution(tmp_path, auth=htpasswd(tmp_path)) as registry:
        refusal = await _refusal(await workers(url=registry.url, **keys))
    assert (refusal.why or "").endswith(mend)


# -- what a challenge may lead to ---------------------------------------------------------------------------


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    """Run a registry that answers what a test tells it, and is its own token server."""
    with FaultyUpstream() as running:
        running.on("GET", "/v2/", _challenge(f"{running.url}/token"))
        running.on("GET", "/token", _token("t1"), _token("t2"))
        running.on("GET", MANIFEST, GOOD)
        yield running


def _challenge(realm: str, more: str = "") -> Turn:
    said = f'Bearer realm="{realm}",service="a service"{more}'
    return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": said})


def _token(value: object, **more: Any) -> Turn:
    return answer(200, json.dumps({"token": value, **more}).encode())


def _shown(upstream: FaultyUpstream, method: str, path: str) -> list[str | None]:
    return [one.headers.get("authorization") for one in upstream.requests(method, path)]


async def test_the_scope_that_the_registry_names(workers: Make, upstream: FaultyUpstream) -> None:
    """A registry that calls a repository otherwise in its scopes is asked in its own words."""
    named = _challenge(f"{upstream.url}/token", ',scope="repository:mirror/acme/app:pull registry:x:y",error="z"')
    upstream.on("GET", MANIFEST, named, GOOD)
    backend = await workers(url=upstream.url, **KEYS)
    assert await backend.manifest(NAME, Tag("latest")) is not None
    assert _shown(upstream, "GET", MANIFEST) == ["Bearer t1", "Bearer t2"]
    first, second = (one.target for one in upstream.requests("GET", "/token"))
    assert first == "/token?service=a+service&scope=repository%3Aacme%2Fapp%3Apull"
    assert second.endswith("&scope=repository%3Amirror%2Facme%2Fapp%3Apull&scope=registry%3Ax%3Ay")


async def test_a_token_that_is_refused_within_an_upload(workers: Make, upstream: FaultyUpstream) -> None:
    """A body can't be sent twice: the client may come again, and finds a new token."""
    upstream.on("POST", f"/v2/{NAME}/blobs/uploads/", answer(202, headers={"Location": STATE}))
    upstream.on("PATCH", STATE, _challenge(f"{upstream.url}/token"), answer(202, headers={"Location": STATE}))
    backend = await workers(url=upstream.url, **KEYS)
    upload, now = new_upload(), Progress("", 0)
    await backend.begin_upload(NAME, upload)
    with pytest.raises(RegistryError) as caught:
        await backend.write_upload(NAME, upload, now, chunks(b"12345"), at=0)
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "5"})
    assert (await backend.write_upload(NAME, upload, now, chunks(b"12345"), at=0)).offset == 5
    assert _shown(upstream, "PATCH", STATE) == ["Bearer t1", "Bearer t2"]


async def test_the_password_goes_nowhere_in_clear(workers: Make, upstream: FaultyUpstream) -> None:
    """A realm that is plain HTTP on another machine is not asked."""
    upstream.on("GET", "/v2/", _challenge("http://tokens.example/token?x=secret"))
    refusal = await _refusal(await workers(url=upstream.url, **KEYS))
    assert "in clear" in (refusal.why or "")
    assert "secret" not in (refusal.why or "")


async def test_the_password_follows_no_redirect(workers: Make, upstream: FaultyUpstream) -> None:
    """A token server that sends the gateway elsewhere gets nowhere with that."""
    with FaultyUpstream() as elsewhere:
        upstream.on("GET", "/token", answer(307, headers={"Location": f"{elsewhere.url}/token"}))
        refusal = await _refusal(await workers(url=upstream.url, **KEYS))
        assert elsewhere.asked == []
    assert "the password is not sent on" in (refusal.why or "")


TOKENS = [
    pytest.param(answer(200, b"{"), 502, "no JSON", id="no JSON"),
    pytest.param(answer(200, b"[]"), 502, "no token", id="no object"),
    pytest.param(_token(None), 502, "no token", id="no token"),
    pytest.param(_token(["x"]), 502, "no token", id="no text"),
    pytest.param(_token("a\r\nX-Injected: 1"), 502, "no token", id="a header in the token"),
    pytest.param(answer(200, b"x" * 100_000), 502, "more than 65536 bytes", id="too long"),
    pytest.param(endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 9999), 502, "more than", id="endless"),
    pytest.param(answer(400), 502, "token server", id="400"),
    pytest.param(answer(403), 502, "it refuses username", id="403"),
    pytest.param(answer(429, headers={"Retry-After": "7"}), 503, "answers 429", id="429"),
    pytest.param(answer(500), 502, "answers 500", id="500"),
    pytest.param(HANGS, 504, "in time", id="hangs"),
]


@pytest.mark.parametrize(("turn", "status", "why"), TOKENS)
async def test_no_token(workers: Make, upstream: FaultyUpstream, turn: Turn, status: int, why: str) -> None:
    """Without a token nothing is asked of the registry, and the log says why there is none."""
    upstream.on("GET", "/token", turn)
    refusal = await _refusal(await workers(url=upstream.url, read_timeout="500ms", **KEYS))
    assert refusal.status == status
    assert why in (refusal.why or "")
    assert upstream.requests("GET", MANIFEST) == []


async def test_a_registry_that_can_not_be_asked_what_it_wants(workers: Make, upstream: FaultyUpstream) -> None:
    """While GET /v2/ fails nothing is believed of the registry; afterwards all is well."""
    upstream.on("GET", "/v2/", answer(503))
    backend = await workers(url=upstream.url, attempts=1, **KEYS)
    await _refusal(backend)
    upstream.on("GET", "/v2/", _challenge(f"{upstream.url}/token"))
    assert await backend.manifest(NAME, Tag("latest")) is not None


async def test_a_password_that_nobody_wants_is_not_shown(workers: Make, upstream: FaultyUpstream) -> None:
    """A registry that asks for nothing is told nothing."""
    upstream.on("GET", "/v2/", answer(200))
    await (await workers(url=upstream.url, **KEYS)).manifest(NAME, Tag("latest"))
    assert {one.headers.get("authorization") for one in upstream.asked} == {None}


CHALLENGES = [
    (['Bearer realm="https://a/t",service="s",scope="x y"'], Challenge("bearer", "https://a/t", "s", ("x", "y"))),
    (['bearer  Realm="https://a/t?x=1,2", Service=s'], Challenge("bearer", "https://a/t?x=1,2", "s")),
    (['Basic realm="a", Bearer realm="https://a/t"'], Challenge("bearer", "https://a/t")),
    (['Basic realm="a"', 'Bearer realm="https://a/t"'], Challenge("bearer", "https://a/t")),
    (['Bearer realm="a\\"b"'], Challenge("bearer", 'a"b')),
    (["Basic"], Challenge("basic")),
    (['Basic realm="Registry Realm"'], Challenge("basic")),
    (["Bearer"], Challenge()),
    (["Negotiate"], Challenge()),
    (["", "Bearer realm"], Challenge()),
    ([], Challenge()),
]


@pytest.mark.parametrize(("headers", "expected"), CHALLENGES)
def test_challenges(headers: list[str], expected: Challenge) -> None:
    """A challenge is understood in each of the forms that RFC 9110 allows and registries use."""
    assert challenge(headers) == expected


NOW = 1_700_000_000
LIVES = [
    ({}, 60),
    ({"expires_in": 300}, 300),
    ({"expires_in": "300"}, 60),
    ({"expires_in": 0}, 60),
    ({"expires_in": -5}, 60),
    ({"expires_in": True}, 60),
    ({"expires_in": 1e300}, 60),
    ({"expires_in": 300, "issued_at": "2023-11-14T22:11:40Z"}, 200),
    ({"expires_in": 300, "issued_at": "2023-11-14T22:11:40.123456789Z"}, 200),
    ({"expires_in": 300, "issued_at": "2023-11-14T23:13:20+01:00"}, 300),
    ({"expires_in": 300, "issued_at": "2023-11-14T22:00:00Z"}, 300),
    ({"expires_in": 300, "issued_at": "2023-11-14T23:00:00Z"}, 300),
    ({"expires_in": 300, "issued_at": "0001-01-01T00:00:00Z"}, 300),
    ({"expires_in": 300, "issued_at": "garbage"}, 300),
    ({"expires_in": 300, "issued_at": 7}, 300),
]


@pytest.mark.parametrize(("fields", "life"), LIVES)
def test_how_long_a_token_is_good(fields: dict[str, Any], life: float) -> None:
    """A token made for somebody before is good for what is left; a clock that is wrong makes none too old."""
    document = json.dumps({"access_token": "t", **fields}).encode()
    value, found = _read(Answer("https://a/t", 200, {}, document), NOW)  # type: ignore[arg-type]
    assert (value, round(found)) == ("t", life)
