"""A gateway that asks the fake GitLab, in place of the one that the tables of the semantics were written against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_api.conftest import directory
from tests.semantics import company
from tests.semantics.abilities import Deciding
from tests.support.gateway import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def gitlab() -> Iterator[FakeGitLab]:
    """Run a GitLab over the company of the semantics."""
    fake = FakeGitLab(company.directory())
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture(scope="session")
def served(gitlab: FakeGitLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Run a gateway that asks it, and throttles nobody: the tables hold many wrong credentials."""
    folder = tmp_path_factory.mktemp("gitlab-jwt")
    (folder / "gitlab.crt").write_text(gitlab.certificate_pem)
    source = {
        "use": "auth_gitlab",
        "url": gitlab.url,
        "certificate_file": str(folder / "gitlab.crt"),
        "failed_logins": 1_000_000,
        "anonymous_questions": 1_000_000,
    }
    sources: list[dict[str, object]] = [source, {"use": "naming"}, {"use": "visibility"}]
    gateway = GatewayProcess(folder / "gateway", sources=sources, extra={"anonymous": "direct"})
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.end()


@pytest.fixture(scope="session")
def deciding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deciding]:
    """Ask the plugins about the company of a GitLab, in which every user has an `api` token too."""
    with FakeGitLab(directory()) as fake:
        source = {
            "use": "auth_gitlab",
            "url": fake.url,
            "mode": "jwt",
            "service_token": fake.service_token,
            "failed_logins": 1_000_000,
        }
        with Deciding(tmp_path_factory.mktemp("deciding"), [source, {"use": "naming"}, {"use": "visibility"}]) as found:
            yield found
