"""A gateway that decides from the facts of the fake GitLab's REST API."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.semantics import company
from tests.semantics.abilities import Deciding
from tests.support.gateway import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


def directory() -> dict[str, Any]:
    """Give every user of the company a token that is spelt as their password: REST knows no account passwords."""
    # Of the test's own: it may be changed.
    known = copy.deepcopy(company.directory())
    everything = {"kind": "personal_access_token", "scopes": ["api"]}
    tokens = [
        {**everything, "user": person["username"], "token": person["password"]}
        for person in known["users"]
        if "password" in person
    ]
    return {**known, "tokens": [*known["tokens"], *tokens]}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Run a gateway before a GitLab whose registry integration is off."""
    folder = tmp_path_factory.mktemp("gitlab-api")
    with FakeGitLab(directory()) as fake:
        fake.registry_enabled = False
        (folder / "service-token").write_text(fake.service_token)
        source: dict[str, object] = {
            "use": "auth_gitlab",
            "url": fake.url,
            "mode": "api",
            "service_token_file": str(folder / "service-token"),
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
        fake.registry_enabled = False
        source = {
            "use": "auth_gitlab",
            "url": fake.url,
            "mode": "api",
            "service_token": fake.service_token,
            "failed_logins": 1_000_000,
        }
        with Deciding(tmp_path_factory.mktemp("deciding"), [source, {"use": "naming"}, {"use": "visibility"}]) as found:
            yield found
