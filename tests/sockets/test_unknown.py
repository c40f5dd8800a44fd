"""A source that has no opinion may say what it asked: the next one is asked all the same, and operators read it."""

from __future__ import annotations

import pytest

from gateway.plugins import (
    Client,
    Credential,
    CredentialKind,
    Identity,
    InvalidCredentialError,
    Project,
    Step,
    Unknown,
    Visibility,
    hookimpl,
)
from tests.sockets.samples import Sample, asked
from tests.sockets.test_manager import CLIENT, CREDENTIAL

APP = Project("acme/app", Visibility.PRIVATE)


class Asks(Sample):
    """Asked elsewhere, and knows nothing."""

    @hookimpl
    async def gateway_authenticate(self, credential: Credential, client: Client) -> Unknown:
        """Say where."""
        del credential, client
        return Unknown(lambda: [Step("elsewhere", passed=True, finding="nobody there")])

    @hookimpl
    async def gateway_project(self) -> Unknown:
        """Say where."""
        return Unknown(lambda: [Step("elsewhere", passed=True, finding="nothing there")])


class Knows(Sample):
    """Knows everybody and everything."""

    @hookimpl
    async def gateway_authenticate(self) -> Identity:
        """Call them alice."""
        return Identity("p1", CredentialKind.PASSWORD, "alice", "1")

    @hookimpl
    async def gateway_project(self) -> Project:
        """Have the project."""
        return APP


async def test_the_next_source_is_asked() -> None:
    """Unknown ends no search, neither for a credential nor for a project."""
    plugins = asked(Asks, Knows)
    assert (await plugins.authenticate(CREDENTIAL, CLIENT)).subject == "alice"
    assert await plugins.project(["acme/app"]) == APP


async def test_what_every_source_asked_is_kept() -> None:
    """Where nobody knows, what each source asked stands in its order."""
    plugins = asked(Asks, Sample, Asks)
    with pytest.raises(InvalidCredentialError) as refused:
        await plugins.authenticate(CREDENTIAL, CLIENT)
    assert [step.finding for step in refused.value.steps()] == ["nobody there"] * 2
    found = await plugins.project(["acme/app"])
    assert [step.finding for step in found.steps()] == ["nothing there"] * 2
