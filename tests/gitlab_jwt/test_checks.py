"""What is wrong with GitLab or its configuration is said at the start and by readiness, with the fix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_jwt.test_asking import PULL, asked, own
from tests.semantics import company
from tests.semantics.asking import ask
from tests.semantics.company import DEVELOPER, REPORTER
from tests.support.gateway import GatewayProcess
from tests.support.peers import eventually
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import GatewayFactory

__all__ = ["own"]

SERVANT = "registry-gateway"
VERSION = "/api/v4/version"
MISMATCH = "is certificate_file that of its registry key?"


class _Unready(GatewayProcess):
    """A gateway that need not be ready when it has started."""

    def ready(self) -> bool:
        """Tell whether it is there at all."""
        try:
            return Wire(self.admin_url).get("/livez").status == 200
        except OSError:
            return False


def sources(fake: FakeGitLab, **keys: Any) -> list[dict[str, Any]]:
    """Ask a GitLab."""
    return [{"use": "auth_gitlab", "url": fake.url, **keys}, {"use": "naming"}, {"use": "visibility"}]


def said(gateway: GatewayProcess) -> str:
    """Read what readiness says of it; empty where it is ready."""
    answer = Wire(gateway.admin_url).get("/readyz")
    return "" if answer.status == 200 else str(answer.json()["parts"]["auth_gitlab"])


@pytest.fixture
def other() -> FakeGitLab:
    """Make a GitLab with another key."""
    return FakeGitLab(company.directory())


@pytest.fixture
def certificates(own: FakeGitLab, other: FakeGitLab, tmp_path: Path) -> tuple[Path, Path]:
    """Write down the certificates of both."""
    paths = tmp_path / "own.crt", tmp_path / "other.crt"
    for path, fake in zip(paths, (own, other), strict=True):
        path.write_text(fake.certificate_pem)
    return paths


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """Start a gateway that need not be ready."""
    running: list[GatewayProcess] = []

    def start(fake: FakeGitLab, **keys: Any) -> GatewayProcess:
        running.append(_Unready(tmp_path / "unready", sources=sources(fake, **keys)))
        running[-1].start()
        return running[-1]

    yield start
    for gateway in running:
        gateway.end()


def test_another_signing_key_is_noticed_before_any_login(
    started: Any, own: FakeGitLab, other: FakeGitLab, certificates: tuple[Path, Path]
) -> None:
    """With a service token readiness and log name the wrong certificate at the start, until GitLab signs by it."""
    gateway = started(own, service_token=own.service_token, certificate_file=str(certificates[1]))
    assert MISMATCH in said(gateway)
    assert MISMATCH in gateway.log
    own.sign_as(other)
    eventually(lambda: said(gateway) == "", "the key is the right one now")
    ask(gateway, DEVELOPER, PULL).expect(200)
    assert own.service_token not in gateway.log


@pytest.mark.parametrize("servant", [True, False])
def test_another_signing_key_is_noticed_later(
    gateway_factory: GatewayFactory,
    own: FakeGitLab,
    other: FakeGitLab,
    certificates: tuple[Path, Path],
    *,
    servant: bool,
) -> None:
    """A key that changed is noticed at the next login, and forgiven when a token is believed again."""
    token = {"service_token": own.service_token} if servant else {}
    gateway = gateway_factory(sources=sources(own, certificate_file=str(certificates[0]), **token))
    first = FakeGitLab(company.directory())
    first.sign_as(own)
    own.sign_as(other)
    ask(gateway, DEVELOPER, PULL).expect(503)
    assert MISMATCH in said(gateway)
    own.sign_as(first)
    if not servant:
        eventually(lambda: ask(gateway, REPORTER, PULL).status == 200, "GitLab is asked again")
    eventually(lambda: said(gateway) == "", "the key is the right one again")


def test_a_gitlab_that_is_too_old(started: Any, own: FakeGitLab) -> None:
    """With a service token a GitLab older than 14 is named with its version, and the fix; an upgrade is noticed."""
    own.version = "13.12.15-ee"
    gateway = started(own, service_token=own.service_token)
    assert said(gateway) == "GitLab 13.12.15-ee is too old: upgrade it to 14 or newer"
    assert said(gateway) in gateway.log
    own.version = "14.0.0-ee"
    eventually(lambda: said(gateway) == "", "GitLab is new enough now")


def test_readiness_asks_once_for_what_does_not_change(
    gateway_factory: GatewayFactory, own: FakeGitLab, certificates: tuple[Path, Path]
) -> None:
    """However often readiness is probed, version and signing key are asked for once when they are good."""
    keys = {"service_token": own.service_token, "certificate_file": str(certificates[0])}
    gateway = gateway_factory(sources=sources(own, **keys))
    assert [said(gateway) for _ in range(5)] == [""] * 5
    assert own.count(VERSION) == 1
    assert asked(own, SERVANT) == [[]]


def test_a_service_token_that_is_wrong_is_no_failed_login(
    gateway_factory: GatewayFactory, own: FakeGitLab, certificates: tuple[Path, Path]
) -> None:
    """GitLab bans who fails to log in: a service token that it does not know is never a password, and no fault."""
    keys = {"service_token": "glpat-of-yesterday", "certificate_file": str(certificates[0])}
    gateway = gateway_factory(sources=sources(own, **keys))
    assert said(gateway) == ""
    assert asked(own, SERVANT) == []
    assert "GitLab answers 401 to the service token: it needs the scope read_api" in gateway.log
    assert "glpat-of-yesterday" not in gateway.log


def test_without_a_service_token_nobody_asks_for_the_version(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """GitLab tells nobody its version: without a service token it is not asked for, and not wrong."""
    gateway = gateway_factory(sources=sources(own))
    own.version = "13.12.15"
    assert said(gateway) == ""
    assert own.count(VERSION) == 0
