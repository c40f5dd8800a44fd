"""A plugin that relays to another server's token endpoint grants what that server grants, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from gateway.errors import InvalidCredentialError, PluginFailedError
from gateway.plugins import (
    ANONYMOUS,
    Access,
    Action,
    Client,
    Credential,
    Identity,
    Project,
    Refusal,
    Repository,
    RepositoryName,
    Services,
    Visibility,
)
from gateway.plugins.manager import Plugins
from tests.sketches.relay import Relay
from tests.support import people
from tests.support.gateway import GatewayProcess
from tests.support.peers import free_port
from tests.support.wire import SERVICE, Account

CLIENT = Client("192.0.2.1")
PULL_PUSH = ("pull", "push")


@asynccontextmanager
async def _relaying(base_url: str) -> AsyncIterator[Plugins]:
    plugins = Plugins(10)
    services = Services("relay", plugins, Mock(), Mock(), bytes(32))
    relay = Relay(Relay.Config(url=f"{base_url}/jwt/auth", service=SERVICE), services)
    assert list(plugins.register([("relay", relay)])) == []
    async with relay.gateway_lifespan():
        yield plugins


@pytest.fixture
async def plugins(gateway: GatewayProcess) -> AsyncIterator[Plugins]:
    """Relay to the gateway of the tests."""
    async with _relaying(gateway.base_url) as plugins:
        yield plugins


def _credential(account: Account) -> Credential:
    return Credential(account.username, SecretStr(account.password))


async def _allowed(plugins: Plugins, identity: Identity, *names: str) -> list[set[str]]:
    # The other server alone knows projects; that there is one behind each name is the gateway's question before this.
    places = [Repository(RepositoryName(name), Project(name, Visibility.PRIVATE)) for name in names]
    answers = await plugins.authorize(identity, [Access("repository", it.name, PULL_PUSH, it) for it in places])
    assert not isinstance(answers, Refusal)
    return [set(answer.allowed) for answer in answers]


async def _identity(plugins: Plugins, account: Account) -> Identity:
    identity = await plugins.authenticate(_credential(account), CLIENT)
    assert identity is not None
    return identity


async def test_reporter_pulls_and_does_not_push(plugins: Plugins) -> None:
    """A reporter may pull and not push, as the other server says."""
    bob = await _identity(plugins, people.BOB)
    assert bob.subject == people.BOB.username
    assert await _allowed(plugins, bob, people.PRIVATE) == [{Action.PULL}]


async def test_several_accesses_are_one_question(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several accesses are asked for together, and answered each in its place."""
    mallory = await _identity(plugins, people.MALLORY)
    asked: list[int] = []
    claims = Relay._claims

    async def counted(self: Relay, credential: Credential | None, accesses: Any) -> dict[str, Any] | None:
        asked.append(len(accesses))
        return await claims(self, credential, accesses)

    monkeypatch.setattr(Relay, "_claims", counted)
    names = (people.PRIVATE, people.PUBLIC, people.HIDDEN)
    assert await _allowed(plugins, mallory, *names) == [set(), {Action.PULL}, set()]
    assert asked == [3]


async def test_wrong_password_is_nobody(plugins: Plugins) -> None:
    """A wrong password is refused, whoever says so."""
    try:
        answer = await plugins.authenticate(_credential(Account("bob", "wrong")), CLIENT)
    except InvalidCredentialError:
        return
    assert answer is None


async def test_anonymous(plugins: Plugins) -> None:
    """Nobody may pull what is public, and nothing else."""
    assert await _allowed(plugins, ANONYMOUS, people.PUBLIC, people.PRIVATE) == [{Action.PULL}, set()]


async def test_dead_server_never_grants(plugins: Plugins) -> None:
    """A server that can't be asked is a failure, for both questions."""
    bob = await _identity(plugins, people.BOB)
    async with _relaying(f"http://127.0.0.1:{free_port()}") as dead:
        with pytest.raises(PluginFailedError):
            await dead.authenticate(_credential(people.BOB), CLIENT)
        with pytest.raises(PluginFailedError):
            await _allowed(dead, bob, people.PRIVATE)
