"""A registry level that is set while the gateway runs counts at once, in every worker and after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.plugins import Project, RegistryLevel
from tests.journeys.test_explain import explain
from tests.semantics.abilities import Deciding, private
from tests.semantics.asking import may
from tests.support.gateway import GatewayProcess
from tests.support.people import BOB, DAVE_API, PRIVATE, PUBLIC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import GatewayFactory

DAVE = private(DAVE_API.password)


@pytest.fixture
def gateway(gateway_factory: GatewayFactory) -> GatewayProcess:
    """Run two workers."""
    return gateway_factory(workers=2)


@pytest.fixture
def replica(gateway: GatewayProcess, tmp_path: Path) -> Iterator[Deciding]:
    """Join them on their database, as another replica that somebody changes settings through."""
    local = {"use": "auth_local", "directory": str(gateway.directory)}
    sources = [local, {"use": "naming"}, {"use": "visibility"}]
    with Deciding(tmp_path / "replica", sources, database=gateway.data / "gateway.db") as found:
        yield found


def keep(replica: Deciding, level: RegistryLevel, path: str = PRIVATE) -> Project:
    """Have a maintainer set a level."""
    project = replica.project(DAVE, path)
    assert project is not None
    identity = replica.identity(DAVE)
    assert replica.run(replica.plugins.set_registry_level(identity, project, level))
    return project


def test_it_counts_at_once_everywhere(gateway: GatewayProcess, replica: Deciding) -> None:
    """From the moment that it is set every worker's tokens and Basic requests, and the explanation, have it."""
    for level, pulls in (
        (RegistryLevel.DISABLED, ""),
        (RegistryLevel.PRIVATE, "pull"),
        (RegistryLevel.ENABLED, "pull"),
    ):
        keep(replica, level)
        assert {may(gateway, BOB, PRIVATE, "pull") for _ in range(10)} == {pulls}
        statuses = {gateway.wire(BOB).get(f"/v2/{PRIVATE}/tags/list").status for _ in range(10)}
        assert statuses == ({404} if pulls else {403})
        assert explain(gateway, BOB, "pull", PRIVATE)["granted"] == bool(pulls)


def test_strangers_are_shut_out(gateway: GatewayProcess, replica: Deciding) -> None:
    """A public project's registry that becomes private is its members' alone."""
    assert may(gateway, None, PUBLIC, "pull") == "pull"
    keep(replica, RegistryLevel.PRIVATE, PUBLIC)
    assert {may(gateway, None, PUBLIC, "pull") for _ in range(10)} == {"403"}
    assert may(gateway, BOB, PUBLIC, "pull") == "pull"


def test_it_outlives_a_restart(gateway: GatewayProcess, replica: Deciding) -> None:
    """What was set is kept in the database; the directory's file is as it was."""
    before = gateway.directory.read_bytes()
    keep(replica, RegistryLevel.DISABLED)
    gateway.restart()
    assert may(gateway, BOB, PRIVATE, "pull") == ""
    assert gateway.directory.read_bytes() == before


def test_an_explanation_before_the_first_start(tmp_path: Path) -> None:
    """Where no database is there yet the file's levels are explained, and none is made: that is the gateway's to do."""
    unborn = GatewayProcess(tmp_path / "unborn")
    assert explain(unborn, BOB, "pull", PRIVATE)["granted"]
    assert not (unborn.data / "gateway.db").exists()
