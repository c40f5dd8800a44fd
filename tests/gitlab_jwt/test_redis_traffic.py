"""Redis that is lost and comes back while clients log in and pull without a pause."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_jwt.test_asking import PULL, PUSH, asked, own
from tests.gitlab_jwt.test_redis import PROMPT, down, redis, replicas
from tests.semantics.asking import ask, may
from tests.semantics.company import DEVELOPER, HOME, MAINTAINER, REPORTER, STRANGER, deploy, job, user
from tests.support import images
from tests.support import redis as peers
from tests.support.peers import eventually
from tests.support.traffic import Question, Traffic
from tests.support.wire import Account

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess
    from tests.support.wire import Credential

__all__ = ["own", "redis"]

IMAGE = images.image(b"pulled without a pause")
WORKERS = 2
LOST, BACK = "the cache is down", "the cache is back"


def questions(gateway: GatewayProcess) -> list[Question]:
    """Log in, ask for tokens and pull as people of all rights and of none (semantics 2 to 4).

    Where a number is part of the question, nobody has remembered the answer.
    """

    def grants(who: Credential) -> Question:
        return Question(f"a token for {who}", lambda _: may(gateway, who, HOME), RIGHTS[who])

    def fresh(who: Account, right: str) -> Question:
        return Question(f"another token for {who}", lambda number: may(gateway, who, f"{HOME}/{number}", "pull"), right)

    def basic(who: Account, status: int) -> Question:
        return Question(f"a pull of {who}", lambda _: gateway.wire(who).manifest(HOME, "1").status, status)

    def bearer(who: Account, status: int) -> Question:
        def pulled(_: int) -> int:
            token = ask(gateway, who, PULL).expect(200).json()["token"]
            return gateway.wire(token).manifest(HOME, "1").status

        return Question(f"a pull with a token of {who}", pulled, status)

    def guess(number: int) -> int:
        return ask(gateway, Account(DEVELOPER.username, f"guess-{number}"), PULL).status

    return [
        Question("a login", lambda _: ask(gateway, DEVELOPER).status, 200),
        Question("a guess", guess, 401),
        *(grants(who) for who in RIGHTS),
        fresh(DEVELOPER, "pull"),
        fresh(STRANGER, ""),
        basic(REPORTER, 200),
        basic(STRANGER, 403),
        bearer(DEVELOPER, 200),
        bearer(STRANGER, 403),
    ]


RIGHTS: dict[Credential, str] = {
    DEVELOPER: "pull,push",
    REPORTER: "pull",
    user("guest"): "",
    STRANGER: "",
    job("stranger"): "pull,push,delete",
    deploy("project", "read_registry"): "pull",
    job("developer", status="success"): "401",
    Account("developer", "wrong"): "401",
    None: "403",
}
"""What each may do in the private project `HOME`, or the status of the refusal."""


def test_redis_fails_amid_traffic(gateway_factory: GatewayFactory, own: FakeGitLab, redis: peers.RedisServer) -> None:
    """While Redis dies, hangs, and comes back, every answer is right and prompt, and each worker says each once."""
    source = {"use": "auth_gitlab", "url": own.url, "remember": "1s", "failed_logins": 1_000_000}
    gateway = gateway_factory(
        workers=WORKERS,
        sources=[source, {"use": "naming"}, {"use": "visibility"}],
        extra={"cache": {"url": redis.url, "timeout": "500ms"}},
    )
    gateway.wire(DEVELOPER).push_image(HOME, "1", IMAGE)

    def said(words: str, times: int) -> bool:
        return gateway.log.count(words) == times * WORKERS

    with Traffic(questions(gateway)) as traffic:
        for times, (fail, recover) in enumerate([(redis.kill, redis.start), (redis.pause, redis.resume)], 1):
            traffic.more(200)
            fail()
            eventually(partial(said, LOST, times), "each worker has lost Redis")
            assert down(gateway)
            traffic.more(200)
            recover()
            eventually(partial(said, BACK, times), "each worker has it back")
            # What is there from before says nothing.
            redis.command("FLUSHALL")
            eventually(redis.dump, "what is learnt is put there again")
        traffic.more(200)
    assert traffic.wrong == []
    assert traffic.slowest < PROMPT
    assert not down(gateway)
    assert said(LOST, 2)
    assert said(BACK, 2)


def test_a_failover_amid_traffic(gateway_factory: GatewayFactory, own: FakeGitLab, tmp_path: Path) -> None:
    """When a master dies with a sentinel beside it, no answer is wrong or late, and the next one is shared through."""
    with peers.sentinel(tmp_path / "redis") as server:
        one, other = both = replicas(gateway_factory, own, server.url, cache={"timeout": "1s"}, failed_logins=1_000_000)
        for gateway in both:
            gateway.wire(DEVELOPER).push_image(HOME, "1", IMAGE)
        with Traffic([*questions(one), *questions(other)]) as traffic:
            traffic.more(200)
            old = server.current
            server.sentinels[0].kill()
            server.master.kill()
            eventually(lambda: server.current not in {None, old}, "another master", within=30)
            eventually(lambda: all(BACK in gateway.log for gateway in both), "both share again")
            traffic.more(200)
        assert traffic.wrong == []
        assert traffic.slowest < PROMPT
        ask(one, MAINTAINER, PUSH).expect(200)
        ask(other, MAINTAINER, PUSH).expect(200)
        assert asked(own, MAINTAINER.username) == [[], [PUSH]]
