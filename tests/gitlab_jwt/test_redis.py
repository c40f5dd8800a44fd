"""What several gateways remember together in Redis, and what becomes of it when Redis falters."""

from __future__ import annotations

import copy
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_jwt.test_asking import PATH, PULL, PUSH, asked, own
from tests.journeys.test_explain import explain
from tests.semantics import company
from tests.semantics.asking import ask
from tests.semantics.company import DEVELOPER, HOME, REPORTER
from tests.support import images
from tests.support import redis as peers
from tests.support.peers import eventually
from tests.support.wire import Account, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess

__all__ = ["own"]

PROMPT = 2.0
"""Seconds that an answer may take while Redis fails: time-outs of the cache, and what a loaded machine adds."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[peers.RedisServer]:
    """Run a Redis of the test's own."""
    with peers.redis(tmp_path / "redis") as server:
        yield server


def replicas(
    factory: GatewayFactory,
    fake: FakeGitLab,
    url: str,
    *,
    count: int = 2,
    cache: Mapping[str, str] | None = None,
    **keys: Any,
) -> list[GatewayProcess]:
    """Put gateways with one signing key before one GitLab and one Redis."""
    sources = [{"use": "auth_gitlab", "url": fake.url, **keys}, {"use": "naming"}, {"use": "visibility"}]
    first = factory(sources=sources, extra={"cache": {"url": url, **(cache or {})}})
    key = {"signing_key_file": str(first.data / "signing-key.pem")}
    others = [
        factory(sources=sources, extra={"cache": {"url": url, **(cache or {})}, "tokens": key})
        for _ in range(count - 1)
    ]
    eventually(lambda: fake.count(PATH) >= count, "each readiness asked")
    fake.requests.clear()
    return [first, *others]


def down(gateway: GatewayProcess) -> bool:
    """Read the metric that says whether Redis is out of reach."""
    lines = Wire(gateway.admin_url).get("/metrics").body.decode().splitlines()
    return any(line.startswith("registry_gateway_cache_down") and line.endswith(" 1.0") for line in lines)


def test_two_gateways_ask_once_for_500_logins(
    gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer
) -> None:
    """Five hundred simultaneous identical logins at two gateways are one question to GitLab."""
    # A machine that is busy with all of these at once is no Redis that hangs.
    gateways = replicas(gateway_factory, own, redis.url, cache={"timeout": "5s"})
    own.mode, own.delay = "slow", 0.3
    with ThreadPoolExecutor(100) as pool:
        statuses = list(pool.map(lambda number: ask(gateways[number % 2], DEVELOPER).status, range(500)))
    assert set(statuses) == {200}
    assert asked(own, DEVELOPER.username) == [[]]


@pytest.mark.parametrize("kind", ["plain", "tls", "sentinel", "cluster"])
def test_what_one_learnt_the_other_knows(
    gateway_factory: GatewayFactory, own: FakeGitLab, kind: str, tmp_path: Path
) -> None:
    """Whichever way Redis is run, what one gateway heard another does not ask, and without it both answer promptly."""
    started = {"plain": peers.redis, "tls": peers.tls_redis, "sentinel": peers.sentinel, "cluster": peers.cluster}
    with started[kind](tmp_path / "redis") as server:  # type: ignore[operator]
        cache = {"timeout": "1s", **({"ca_file": str(server.ca_file)} if kind == "tls" else {})}
        one, other = replicas(gateway_factory, own, server.url, cache=cache)
        ask(one, DEVELOPER, PUSH).expect(200)
        ask(other, DEVELOPER, PUSH).expect(200)
        assert asked(own, DEVELOPER.username) == [[], [PUSH]]
        assert not down(one)
        for each in server.servers:
            each.kill()
        for gateway in (one, other):
            began = time.monotonic()
            ask(gateway, REPORTER, PULL).expect(200)
            assert time.monotonic() - began < PROMPT
            assert down(gateway)


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_redis_that_fails_refuses_nobody(
    gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer, fault: str
) -> None:
    """With Redis dead or hung each gateway remembers for itself, says so once, and shares again when Redis is back."""
    one, other = replicas(gateway_factory, own, redis.url)
    ask(one, DEVELOPER, PULL).expect(200)
    redis.kill() if fault == "kill" else redis.pause()
    for gateway in (one, other):
        for _ in range(3):
            ask(gateway, DEVELOPER, PULL).expect(200)
            ask(gateway, REPORTER, PULL).expect(200)
        ask(gateway, Account("developer", "wrong"), PULL).expect(401)
    assert len(asked(own, REPORTER.username)) == 4
    assert down(other)
    redis.start() if fault == "kill" else redis.resume()
    eventually(lambda: _tried(other) and not down(other), "the other gateway shares again")
    assert other.log.count("the cache is down") == 1
    assert other.log.count("the cache is back") == 1


def _tried(gateway: GatewayProcess) -> bool:
    """Make the gateway need its cache."""
    return ask(gateway, Account("developer", f"guess-{len(gateway.log)}"), PULL).status in {401, 429}


def test_explain_finds_what_the_replicas_share(
    gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer
) -> None:
    """The command says of an answer that it was remembered in Redis, and asks GitLab for nothing again."""
    (gateway,) = replicas(gateway_factory, own, redis.url, count=1)
    ask(gateway, DEVELOPER, PUSH).expect(200)
    said = explain(gateway, DEVELOPER, "push", HOME)
    step = next(one for one in said["steps"] if one["step"] == "gitlab")
    assert step["finding"].endswith("as GitLab said a moment ago (in Redis)")
    assert asked(own, DEVELOPER.username) == [[], [PUSH]]


def test_failed_logins_count_at_all_replicas(
    gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer
) -> None:
    """Who guesses at one gateway and then at another does not reach GitLab twice as often."""
    one, other = replicas(gateway_factory, own, redis.url, failed_logins=4)
    guesses = [ask(one, Account("developer", f"guess-{number}")).status for number in range(4)]
    more = [ask(other, Account("developer", f"more-{number}")).status for number in range(3)]
    assert (guesses, more) == ([401] * 4, [401, 429, 429])
    assert len(asked(own, "developer")) == 5


def test_every_count_of_failed_logins_ends(
    gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer
) -> None:
    """A counter that lost its end because Redis failed gets one at the next failure, and throttles nobody for ever."""
    (gateway,) = replicas(gateway_factory, own, redis.url, count=1)
    ask(gateway, Account("developer", "guess")).expect(401)
    [counter] = [key.decode() for key in redis.dump() if key.endswith(b":count")]
    redis.command("PERSIST", counter)
    ask(gateway, Account("developer", "another guess")).expect(401)
    assert redis.command("GET", counter) == b"2"
    left = redis.command("PTTL", counter)
    assert isinstance(left, int)
    assert 0 < left <= 60_000


def test_what_one_heard_is_not_revived_by_another(
    gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer
) -> None:
    """A credential that one gateway heard is bad is served from no other's memory while GitLab is down."""
    cache = {"timeout": "1s"}
    one, other = replicas(gateway_factory, own, redis.url, cache=cache, remember="1s", remember_refusals="1s")
    ask(other, DEVELOPER, PULL).expect(200)
    blocked = copy.deepcopy(company.directory())
    next(person for person in blocked["users"] if person["username"] == "developer")["state"] = "blocked"
    own.directory = blocked
    eventually(lambda: ask(one, DEVELOPER, PULL).status == 401, "one gateway heard that it is bad")
    own.mode = "down"
    eventually(lambda: ask(one, DEVELOPER, PULL).status == 503, "the refusal is over")
    ask(other, DEVELOPER, PULL).expect(503)


def test_redis_holds_no_secret(gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer) -> None:
    """After a session of traffic no key, value or log line holds a credential, a token, a name or a path."""
    one, other = replicas(gateway_factory, own, redis.url)
    token = ask(one, DEVELOPER, PUSH).expect(200).json()["token"]
    other.wire(DEVELOPER).push_image(HOME, "1", images.image(b"secret"))
    ask(one, Account("developer", "hunter2-hunter2"), PULL).expect(401)
    stored = redis.dump()
    assert stored
    assert all(key.startswith(b"registry-gateway:") for key in stored)
    everything = b"\n".join(key + b" " + value for key, value in stored.items())
    for word in (DEVELOPER.password, "hunter2", DEVELOPER.username, HOME, token):
        assert word.encode() not in everything
    for word in (DEVELOPER.password, "hunter2", token):
        assert word not in one.log + other.log


def test_what_somebody_writes_into_redis_is_not_believed(
    gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer
) -> None:
    """A value that was changed, made up or moved from another key is no answer: GitLab is asked."""
    one, other = replicas(gateway_factory, own, redis.url)
    ask(one, DEVELOPER, PUSH).expect(200)
    ask(one, REPORTER, PUSH).expect(200)
    stored = redis.dump()
    for key in stored:
        for value in stored.values():
            if value != stored[key]:
                redis.command("SET", key.decode(), value.decode())
    ask(other, REPORTER, PUSH).expect(200)
    assert asked(own, REPORTER.username) == [[], [PUSH], [], [PUSH]]
    for key in redis.dump():
        redis.command("SET", key.decode(), json.dumps({"status": 200}))
    third = replicas(gateway_factory, own, redis.url, count=1)[0]
    ask(third, Account("developer", "wrong"), PULL).expect(401)
