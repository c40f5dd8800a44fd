"""How secrets are compared: passwords beside the event loop and few at a time, tokens by their hash alone."""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any, NoReturn

import pytest

from plugins.auth_local import directory, passwords
from tests.plugins.auth_local.conftest import Local, content, write

MANY = 8 * passwords.AT_ONCE
PATIENCE = 60
"""Seconds after which something that should happen never will."""


class Hashing:
    """Stands in for argon2: each call stays until it is let go, and is written down."""

    def __init__(self) -> None:
        self.full = asyncio.Event()
        """As many run as may."""
        self.threads: list[threading.Thread] = []
        self.running = 0
        self.most = 0
        self._loop = asyncio.get_running_loop()
        self._own = threading.current_thread()
        self._go = threading.Event()
        self._lock = threading.Lock()

    def matches(self, stored: str, given: bytes) -> bool:
        """Take as long as the test wants, and match nothing."""
        del stored, given
        with self._lock:
            self.threads.append(threading.current_thread())
            if threading.current_thread() is self._own:
                # Whoever waited here would wait for themselves.
                self.full.set()
                return False
            self.running += 1
            self.most = max(self.most, self.running)
            if self.running == passwords.AT_ONCE:
                self._loop.call_soon_threadsafe(self.full.set)
        assert self._go.wait(PATIENCE)
        with self._lock:
            self.running -= 1
        return False

    def let_go(self) -> None:
        """Let all calls end, those that have not begun too."""
        self._go.set()


@pytest.fixture
async def hashing(monkeypatch: pytest.MonkeyPatch) -> Hashing:
    """Put a hash that can be stopped in the place of argon2."""
    hashing = Hashing()
    monkeypatch.setattr(passwords, "matches", hashing.matches)
    return hashing


@pytest.fixture
async def logins(local: Local, hashing: Hashing) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Start more logins with passwords than may be hashed at once, of accounts of every sort, and end them."""
    names = ("nobody", "alice", "bob", "robot")
    tasks = [asyncio.create_task(local.login(names[count % 4], f"wrong {count}")) for count in range(MANY)]
    try:
        async with asyncio.timeout(PATIENCE):
            await hashing.full.wait()
        yield tasks
    finally:
        hashing.let_go()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_hashes_run_beside_the_loop(hashing: Hashing, logins: list[asyncio.Task[Any]]) -> None:
    """No hash is computed on the event loop's thread."""
    hashing.let_go()
    assert await asyncio.gather(*logins) == [None] * MANY
    assert len(hashing.threads) == MANY
    assert threading.current_thread() not in hashing.threads


async def test_few_hashes_run_at_once(hashing: Hashing, logins: list[asyncio.Task[Any]]) -> None:
    """However many log in, no more hashes are computed at the same time than there is memory for."""
    assert hashing.running == passwords.AT_ONCE
    hashing.let_go()
    await asyncio.gather(*logins)
    assert (hashing.most, len(hashing.threads)) == (passwords.AT_ONCE, MANY)


async def test_the_loop_answers_while_hashes_run(
    local: Local, hashing: Hashing, logins: list[asyncio.Task[Any]]
) -> None:
    """Those who come with a token or a plain password need not wait for those whose password is hashed."""
    async with asyncio.timeout(PATIENCE):
        assert await local.login("", "pat-api") is not None
        assert await local.login("alice", "plain-secret") is not None
        assert await local.plugin.gateway_project(["acme/app"]) is not None
    assert not any(task.done() for task in logins)
    assert hashing.running == passwords.AT_ONCE


async def test_a_login_that_gives_up_holds_no_other_back(hashing: Hashing, logins: list[asyncio.Task[Any]]) -> None:
    """A client that goes away while it waits for its hash takes nothing from those who stay."""
    for task in logins[1::2]:
        task.cancel()
    hashing.let_go()
    found = await asyncio.gather(*logins, return_exceptions=True)
    assert found[::2] == [None] * (MANY // 2)
    assert all(isinstance(each, asyncio.CancelledError) for each in found[1::2])


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """Write down what is compared in constant time."""
    calls: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def record(first: bytes, second: bytes) -> bool:
        calls.append((first, second))
        return compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", record)
    return calls


@pytest.mark.parametrize("given", ["plain-secret", "plain-secreT", "p", "", "plain-secret and more", "pl\u00e4in"])
async def test_plain_passwords_are_compared_in_constant_time(
    local: Local, compared: list[tuple[bytes, bytes]], given: str
) -> None:
    """How long a wrong password is right can't be told from the time that its comparison takes."""
    found = await local.login("alice", given)
    assert (found is not None) is (given == "plain-secret")
    assert compared == [(b"plain-secret", given.encode())]


async def test_no_other_comparison_decides(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the constant-time comparison says is what counts."""
    monkeypatch.setattr(hmac, "compare_digest", lambda _first, _second: False)
    assert await local.login("alice", "plain-secret") is None


class Untouchable(str):
    """A secret that fails the test if anything looks at its characters other than by hashing all of them."""

    __slots__ = ()

    def _touched(self, *_: object) -> NoReturn:
        pytest.fail("the secret itself was compared")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __contains__ = __iter__ = __getitem__ = _touched
    startswith = endswith = find = index = count = _touched


def _hashed() -> dict[str, Any]:
    """Write each token of the company as its hash."""
    changed = content()
    for token in changed["tokens"]:
        token["token_sha256"] = sha256(token.pop("token").encode()).hexdigest().upper()
    return changed


@pytest.mark.parametrize("hashed", [False, True], ids=["token", "token_sha256"])
@pytest.mark.parametrize(
    ("username", "secret"),
    [
        ("", "pat-api"),
        ("deploy-app", "dt-app"),
        ("any", "prj"),
        ("any", "grp"),
        ("oauth2", "oauth"),
        ("gitlab-ci-token", "job"),
    ],
)
async def test_tokens_are_looked_up_by_their_hash(
    local: Local, compared: list[tuple[bytes, bytes]], username: str, secret: str, *, hashed: bool
) -> None:
    """A token of any kind is found by the SHA-256 of its secret, which no comparison sees."""
    if hashed:
        write(local.path, _hashed())
    assert await local.login(username, Untouchable(secret)) is not None
    assert compared == []


async def test_the_hash_is_no_secret(local: Local) -> None:
    """The hash that a token is found by, or that stands in the directory, does not log in."""
    write(local.path, _hashed())
    for digest in (sha256(b"pat-api").hexdigest(), sha256(b"pat-api").hexdigest().upper()):
        assert await local.login("alice", digest) is None


@pytest.mark.parametrize("secret", ["pat-ap", "pat-apj", "Pat-api", "pat-api ", "pat-api\x00", "pat-api\ud800"])
async def test_a_token_that_is_almost_right_is_wrong(local: Local, secret: str) -> None:
    """A secret that differs from a token's in one place is not recognised."""
    assert await local.login("", secret) is None


def test_the_index_knows_tokens_by_hash(local: Local) -> None:
    """What tokens are found by is the SHA-256 of their secrets, in hexadecimal."""
    secrets = [token["token"] for token in content()["tokens"]]
    assert set(directory.read(local.path).tokens) == {sha256(secret.encode()).hexdigest() for secret in secrets}
