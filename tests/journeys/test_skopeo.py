"""Copying images with skopeo: who may, and whether each byte arrives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import images, people
from tests.support.peers import run
from tests.support.people import (
    ALICE_API,
    ALICE_EXPIRED,
    ALICE_OAUTH,
    ALICE_READ,
    ALICE_READ_WRITE,
    ALICE_REVOKED,
    BOB,
    CAROL,
    DAVE,
    DEPLOY_READ,
    DEPLOY_READ_WRITE,
    EVE,
    GROUP_READ,
    HIDDEN,
    INTERNAL,
    JOB,
    JOB_ELSEWHERE,
    JOB_FINISHED,
    MALLORY,
    PRIVATE,
    PROJECT_DEVELOPER,
    PUBLIC,
    ROOT,
)
from tests.support.wire import Account

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.containers import Containers
    from tests.support.gateway import GatewayProcess


@pytest.fixture
def tools(containers: Containers, gateway: GatewayProcess) -> Containers:
    """Let the tools talk plain HTTP to the gateway."""
    containers.allow_http(gateway.host)
    return containers


def document(text: str) -> dict[str, Any]:
    """Parse what skopeo printed."""
    parsed = json.loads(text)
    assert isinstance(parsed, dict)
    return parsed


def tags(tools: Containers, repository: str) -> Any:
    """List a repository's tags as skopeo shows them."""
    return document(tools.skopeo("list-tags", f"docker://{repository}").stdout)["Tags"]


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(CAROL, id="account password"),
        pytest.param(MALLORY, id="member of nothing"),
        pytest.param(ALICE_API, id="personal access token"),
        pytest.param(Account("whoever", ALICE_API.password), id="personal access token under any username"),
        pytest.param(PROJECT_DEVELOPER, id="project access token"),
        pytest.param(GROUP_READ, id="group access token"),
        pytest.param(ALICE_OAUTH, id="OAuth access token"),
        pytest.param(DEPLOY_READ, id="deploy token under its own username"),
        pytest.param(JOB, id="job token"),
    ],
)
def test_login_accepts(tools: Containers, gateway: GatewayProcess, account: Account) -> None:
    """Whoever GitLab recognises can log in, whatever they may do afterwards."""
    assert "Login Succeeded" in tools.login(gateway.host, account).said
    assert gateway.host in tools.logins


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(Account("carol", "wrong"), id="wrong password"),
        pytest.param(Account("nobody", CAROL.password), id="unknown user"),
        pytest.param(Account("carol", DEPLOY_READ.password), id="deploy token under another username"),
        pytest.param(Account("carol", BOB.password), id="somebody else's password"),
        pytest.param(Account("bob", JOB.password), id="job token under its user's name"),
        pytest.param(JOB_FINISHED, id="token of a job that is over"),
        pytest.param(ALICE_EXPIRED, id="token that expires today"),
        pytest.param(ALICE_REVOKED, id="revoked token"),
        pytest.param(EVE, id="blocked user"),
    ],
)
def test_login_refuses(tools: Containers, gateway: GatewayProcess, account: Account) -> None:
    """A credential that GitLab does not recognise logs nobody in."""
    assert "invalid username/password" in tools.login(gateway.host, account, fails=True).said
    assert gateway.host not in tools.logins


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(ALICE_API, id="token with scope api"),
        pytest.param(ALICE_READ_WRITE, id="token with both registry scopes"),
        pytest.param(CAROL, id="developer"),
        pytest.param(DAVE, id="maintainer"),
        pytest.param(DEPLOY_READ_WRITE, id="deploy token with both scopes"),
        pytest.param(ROOT, id="administrator"),
        pytest.param(PROJECT_DEVELOPER, id="project token with role developer"),
        pytest.param(ALICE_OAUTH, id="OAuth token with scope api"),
        pytest.param(JOB, id="job in its own project, of a reporter"),
    ],
)
def test_push_is_allowed(tools: Containers, gateway: GatewayProcess, account: Account, tmp_path: Path) -> None:
    """Developers and above push, with credentials whose scopes allow it."""
    source = images.layout(tmp_path / "layout", "1", images.image(str(account).encode()))
    tools.login(gateway.host, account)
    tools.skopeo("copy", source, f"docker://{gateway.host}/{PRIVATE}/allowed:1")


@pytest.mark.parametrize(
    ("account", "project"),
    [
        pytest.param(BOB, PRIVATE, id="reporter"),
        pytest.param(ALICE_READ, PRIVATE, id="token without write_registry"),
        pytest.param(DEPLOY_READ, PRIVATE, id="deploy token without write_registry"),
        pytest.param(DEPLOY_READ_WRITE, PUBLIC, id="deploy token of another project"),
        pytest.param(MALLORY, PUBLIC, id="stranger"),
        pytest.param(GROUP_READ, PRIVATE, id="group token without write_registry"),
        pytest.param(PROJECT_DEVELOPER, PUBLIC, id="project token in another project"),
        pytest.param(JOB, PUBLIC, id="job in another project"),
        pytest.param(JOB, INTERNAL, id="job in another project that its user may read"),
    ],
)
def test_push_is_refused(
    tools: Containers, gateway: GatewayProcess, account: Account, project: str, tmp_path: Path
) -> None:
    """Below developer, or without the scope, a push fails and leaves no tag behind."""
    source = images.layout(tmp_path / "layout", "1", images.image(b"refused"))
    tools.login(gateway.host, account)
    refusal = tools.skopeo("copy", source, f"docker://{gateway.host}/{project}/refused:1", fails=True)
    assert "denied" in refusal.said
    assert gateway.wire(ROOT).manifest(f"{project}/refused", "1").status == 404


def test_refused_push_names_the_role(tools: Containers, gateway: GatewayProcess, tmp_path: Path) -> None:
    """A reporter whose push is refused reads which role it takes."""
    source = images.layout(tmp_path / "layout", "1", images.image(b"refused"))
    tools.login(gateway.host, BOB)
    target = f"docker://{gateway.host}/{PRIVATE}/refused-skopeo:1"
    assert "developer" in tools.skopeo("copy", source, target, fails=True).said.lower()


@pytest.mark.parametrize(
    ("account", "project"),
    [
        pytest.param(None, PUBLIC, id="public, nobody"),
        pytest.param(MALLORY, INTERNAL, id="internal, signed in"),
        pytest.param(BOB, PRIVATE, id="private, reporter"),
        pytest.param(DEPLOY_READ, PRIVATE, id="private, deploy token"),
        pytest.param(GROUP_READ, PRIVATE, id="private, group token"),
        pytest.param(PROJECT_DEVELOPER, PRIVATE, id="private, project token"),
        pytest.param(ALICE_OAUTH, PRIVATE, id="private, OAuth token"),
        pytest.param(JOB, PRIVATE, id="private, job of the project"),
        pytest.param(JOB_ELSEWHERE, INTERNAL, id="internal, job of another project"),
        pytest.param(JOB, PUBLIC, id="public, job of another project"),
        pytest.param(DEPLOY_READ, PUBLIC, id="public, deploy token of another project"),
    ],
)
def test_pull_is_allowed(tools: Containers, gateway: GatewayProcess, account: Account | None, project: str) -> None:
    """A project's visibility and the caller's role open its images for pulling."""
    image = images.image(b"pulled")
    gateway.wire(CAROL).push_image(f"{project}/pulled", "1", image)
    if account:
        tools.login(gateway.host, account)
    found = tools.skopeo("inspect", "--raw", f"docker://{gateway.host}/{project}/pulled:1").stdout
    assert images.sha256(found.encode()) == image.manifest.digest


@pytest.mark.parametrize(
    ("account", "project"),
    [
        pytest.param(None, PRIVATE, id="private, nobody"),
        pytest.param(None, INTERNAL, id="internal, nobody"),
        pytest.param(MALLORY, PRIVATE, id="private, stranger"),
        pytest.param(DEPLOY_READ, INTERNAL, id="internal, deploy token of another project"),
        pytest.param(JOB_ELSEWHERE, PRIVATE, id="private, job of another project and of a stranger"),
        pytest.param(PROJECT_DEVELOPER, HIDDEN, id="private, project token of another project"),
    ],
)
def test_refused_pull_tells_nothing(
    tools: Containers, gateway: GatewayProcess, account: Account | None, project: str
) -> None:
    """Who may not pull reads the same words whether the image exists or not."""
    gateway.wire(CAROL).push_image(f"{project}/existing", "1", images.image(b"hidden"))
    if account:
        tools.login(gateway.host, account)
    said = [
        tools.skopeo("inspect", f"docker://{gateway.host}/{project}/{name}:1", fails=True)
        .said.partition("level=")[2]
        .replace(name, "NAME")
        for name in ("existing", "missing")
    ]
    assert said[0] == said[1] != ""


@pytest.mark.parametrize("format_", ["oci", "v2s2"])
def test_copy_up_and_down(tools: Containers, gateway: GatewayProcess, format_: str, tmp_path: Path) -> None:
    """An image keeps its digest on the way up, down, and up again."""
    source = images.layout(tmp_path / "layout", "1", images.image(format_.encode()))
    repository = f"docker://{gateway.host}/{PRIVATE}/copied-{format_}"
    digest = tmp_path / "digest"
    tools.login(gateway.host, CAROL)
    tools.skopeo("copy", "--format", format_, "--digestfile", digest, source, f"{repository}:1")
    tools.skopeo("copy", f"{repository}:1", f"dir:{tmp_path / 'down'}")
    tools.skopeo("copy", f"dir:{tmp_path / 'down'}", f"{repository}:2")
    again = tools.skopeo("inspect", "--format", "{{.Digest}}", f"{repository}:2").stdout.strip()
    assert digest.read_text() == images.sha256((tmp_path / "down" / "manifest.json").read_bytes()) == again


def test_copy_of_all_architectures(tools: Containers, gateway: GatewayProcess, tmp_path: Path) -> None:
    """An index and the images of both architectures arrive and return under their digests."""
    index = images.index("all architectures")
    source = images.layout(tmp_path / "up", "1", index)
    target = f"docker://{gateway.host}/{PRIVATE}/multi:1"
    tools.login(gateway.host, CAROL)
    tools.skopeo("copy", "--all", source, target)
    tools.skopeo("copy", "--all", target, f"oci:{tmp_path / 'down'}:1")
    stored = {path.name for path in (tmp_path / "down" / "blobs" / "sha256").iterdir()}
    assert stored == {blob.digest.removeprefix("sha256:") for blob in index.blobs}


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_choice_of_architecture(tools: Containers, gateway: GatewayProcess, architecture: str, tmp_path: Path) -> None:
    """A client that wants one architecture finds it through the index."""
    source = images.layout(tmp_path / "layout", "1", images.index("one architecture"))
    target = f"docker://{gateway.host}/{PRIVATE}/chosen:1"
    tools.login(gateway.host, CAROL)
    tools.skopeo("copy", "--all", source, target)
    found = document(tools.skopeo("inspect", "--override-arch", architecture, target).stdout)
    assert found["Architecture"] == architecture


def test_list_tags(tools: Containers, gateway: GatewayProcess) -> None:
    """Tags are listed in ASCII order, as the specification has it."""
    image = images.image(b"many names")
    for tag in ("b", "9", "a", "10"):
        gateway.wire(CAROL).push_image(f"{PRIVATE}/listed", tag, image)
    tools.login(gateway.host, BOB)
    assert tags(tools, f"{gateway.host}/{PRIVATE}/listed") == ["10", "9", "a", "b"]


def test_inspect(tools: Containers, gateway: GatewayProcess) -> None:
    """Inspecting shows the digest, the platform, the layers and the tags of what was pushed."""
    image = images.image(b"inspected")
    gateway.wire(CAROL).push_image(f"{PRIVATE}/inspected", "1", image)
    tools.login(gateway.host, BOB)
    found = document(tools.skopeo("inspect", f"docker://{gateway.host}/{PRIVATE}/inspected:1").stdout)
    assert found["Digest"] == image.manifest.digest
    assert (found["Os"], found["Architecture"]) == ("linux", "amd64")
    assert found["Layers"] == [layer.digest for layer in image.layers]
    assert found["RepoTags"] == ["1"]


def test_delete_by_tag(tools: Containers, gateway: GatewayProcess) -> None:
    """A maintainer deletes one image by its tag, and the others stay."""
    for tag in ("keep", "drop"):
        gateway.wire(CAROL).push_image(f"{PRIVATE}/deleted", tag, images.image(tag.encode()))
    tools.login(gateway.host, DAVE)
    tools.skopeo("delete", f"docker://{gateway.host}/{PRIVATE}/deleted:drop")
    assert tags(tools, f"{gateway.host}/{PRIVATE}/deleted") == ["keep"]


def test_delete_needs_a_maintainer(tools: Containers, gateway: GatewayProcess) -> None:
    """A developer's deletion is refused, and the tag stays."""
    gateway.wire(CAROL).push_image(f"{PRIVATE}/kept", "1", images.image(b"kept"))
    tools.login(gateway.host, CAROL)
    tools.skopeo("delete", f"docker://{gateway.host}/{PRIVATE}/kept:1", fails=True)
    assert tags(tools, f"{gateway.host}/{PRIVATE}/kept") == ["1"]


def test_sync(tools: Containers, gateway: GatewayProcess) -> None:
    """A repository with two tags is synchronised into another project."""
    pushed = {tag: images.image(tag.encode()) for tag in ("one", "two")}
    for tag, image in pushed.items():
        gateway.wire(CAROL).push_image(f"{PRIVATE}/synced", tag, image)
    tools.login(gateway.host, CAROL)
    source, target = f"{gateway.host}/{PRIVATE}/synced", f"{gateway.host}/{PUBLIC}"
    tools.skopeo("sync", "--src", "docker", "--dest", "docker", source, target)
    found = {
        tag: gateway.wire().manifest(f"{PUBLIC}/synced", tag).header("Docker-Content-Digest")
        for tag in tags(tools, f"{target}/synced")
    }
    assert found == {tag: image.manifest.digest for tag, image in pushed.items()}


# What GitLab's documentation tells people to write into .gitlab-ci.yml, but for --tls-verify.
SCRIPT = """
echo "$CI_REGISTRY_PASSWORD" |
    skopeo login --tls-verify=false --username "$CI_REGISTRY_USER" --password-stdin "$CI_REGISTRY"
skopeo copy --dest-tls-verify=false "$SOURCE" "docker://$CI_REGISTRY_IMAGE:job-skopeo"
skopeo copy --src-tls-verify=false "docker://$CI_REGISTRY_IMAGE:job-skopeo" "oci:$PWD/down:1"
skopeo inspect --tls-verify=false --format "{{.Digest}}" "docker://$CI_REGISTRY_IMAGE:job-skopeo"
"""


def test_ci_job(tools: Containers, gateway: GatewayProcess, tmp_path: Path) -> None:
    """A CI job pushes its project's image and pulls it again, with nothing but the variables that GitLab gives it."""
    image = images.image(b"made by a job")
    job = people.ci_variables(gateway.host, PRIVATE, JOB)
    environment = {**tools.environment, **job, "SOURCE": images.layout(tmp_path / "up", "1", image)}
    ended = run(["sh", "-eu", "-c", SCRIPT], environment=environment, folder=tmp_path)
    assert ended.stdout.splitlines()[-1] == image.manifest.digest
    stored = {path.name for path in (tmp_path / "down" / "blobs" / "sha256").iterdir()}
    assert stored == {blob.digest.removeprefix("sha256:") for blob in image.blobs}
