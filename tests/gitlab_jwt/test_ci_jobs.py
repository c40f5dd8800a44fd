"""Python code of a CI job, in a process of its own that has what GitLab gives a job and nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import GatewayFactory
from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_api.conftest import directory
from tests.semantics.company import DEVELOPER, HOME, job, other, user
from tests.support import images
from tests.support.peers import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateway import GatewayProcess
    from tests.support.peers import Finished
    from tests.support.wire import Account

CODE = Path(__file__).parent / "ci_job.py"
SKOPEO_CODE = Path(__file__).parent / "ci_job_skopeo.py"
COMMIT = "1ecfd275763eff1d6b4844ea3168962458c9f27a"
SLUG = "feature-my-feature"


@pytest.fixture(scope="module", params=["jwt", "api"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Put a gateway before a GitLab, which it asks in each of the ways."""
    factory = GatewayFactory(tmp_path_factory.mktemp("ci-jobs"))
    with FakeGitLab(directory()) as fake:
        item: dict[str, Any] = {"use": "auth_gitlab", "url": fake.url, "mode": request.param}
        if request.param == "api":
            # That mode is for a GitLab whose registry integration is off.
            fake.registry_enabled = False
            item["service_token"] = fake.service_token
        yield factory(sources=[item, {"use": "naming"}, {"use": "visibility"}])
        factory.close()


def python(gateway: GatewayProcess, who: Account, *words: str | Path, fails: bool = False) -> Finished:
    """Run code as a job of `HOME` (semantics 2.4)."""
    variables = {
        "PATH": os.environ["PATH"],
        "CI": "true",
        "CI_COMMIT_REF_SLUG": SLUG,
        "CI_COMMIT_SHA": COMMIT,
        "CI_JOB_TOKEN": who.password,
        "CI_PROJECT_PATH": HOME,
        "CI_REGISTRY": gateway.host,
        "CI_REGISTRY_IMAGE": f"{gateway.host}/{HOME}",
        "CI_REGISTRY_PASSWORD": who.password,
        "CI_REGISTRY_USER": "gitlab-ci-token",
    }
    return run([sys.executable, "-I", *words], environment=variables, fails=fails)


@pytest.mark.parametrize("whose", ["developer", "guest"])
def test_pushes_and_pulls(gateway: GatewayProcess, whose: str) -> None:
    """A job's code pushes to its project and pulls again with the standard library, whatever its user's role."""
    digest = python(gateway, job(whose), CODE).stdout.strip()
    assert gateway.wire(DEVELOPER).manifest(HOME, SLUG).expect(200).header("Docker-Content-Digest") == digest


def test_drives_skopeo(gateway: GatewayProcess, tmp_path: Path) -> None:
    """A job's code pushes by calling skopeo with the job's token."""
    image = images.image(b"pushed by skopeo, called by Python")
    said = python(gateway, job("developer"), SKOPEO_CODE, images.layout(tmp_path / "layout", "1", image)).stdout
    assert said.splitlines()[-1] == image.manifest.digest


ABROAD = [
    pytest.param("mx/private-enabled", "owner", id="where its user is a developer"),
    pytest.param("mx/public-enabled", "owner", id="public"),
    pytest.param(other("private-enabled"), "courier", id="where its user is nobody"),
]


@pytest.mark.parametrize(("project", "member"), ABROAD)
def test_does_not_push_to_another_project(gateway: GatewayProcess, project: str, member: str) -> None:
    """A job pushes to no project but its own, whatever its user may do there, and hears that it is denied."""
    said = python(gateway, job("developer"), CODE, f"{gateway.host}/{project}", fails=True).stderr
    assert said.startswith("403 requested access to the resource is denied: ")
    gateway.wire(user(member)).manifest(project, SLUG).expect(404)


@pytest.mark.parametrize("status", ["success", "failed", "canceled"])
def test_is_over_with_the_job(gateway: GatewayProcess, status: str) -> None:
    """The token of a job that ended is 401, with the words that GitLab has for a wrong password."""
    said = python(gateway, job("developer", status=status), CODE, fails=True).stderr
    assert said.startswith("401 HTTP Basic: Access denied.")
