"""A plugin of another distribution is installed and works without a line of the gateway changed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.gateway import PROGRAM, GatewayProcess
from tests.support.images import image
from tests.support.peers import missing, run
from tests.support.people import ALICE, MALLORY
from tests.support.wire import Account

if TYPE_CHECKING:
    from collections.abc import Iterator

STRANGER = Path(__file__).parents[1] / "stranger"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the stranger's wheel and install it into a folder of its own."""
    if importlib.util.find_spec("hatchling") is None:
        missing("hatchling is not installed, and without it no wheel is built")
    folder = tmp_path_factory.mktemp("stranger")
    # Built from a copy: a build leaves files behind.
    source = shutil.copytree(STRANGER, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source])
    (wheel,) = folder.glob("*.whl")
    run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel])
    return folder / "site"


@pytest.fixture(scope="module")
def served(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve with the stranger enabled, and two tags in an open repository."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    sections = yaml.safe_load(process.config.read_text())
    sections["plugins"].append({"use": "hello", "closed": "conf/other"})
    process.config.write_text(yaml.safe_dump(sections, sort_keys=False))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(installed))
        process.start()
    try:
        wire = process.wire(ALICE)
        for tag in ("open", "secret-plan"):
            wire.push_image("conf/project", tag, image(tag.encode()))
        yield process
    finally:
        process.end()


def test_an_installed_stranger_is_listed_with_its_distribution(installed: Path) -> None:
    """``registry-gateway plugins`` says whose plugin it is, and what it answers."""
    listed = run([PROGRAM, "plugins"], environment={**os.environ, "PYTHONPATH": str(installed)}).stdout
    (row,) = [line for line in listed.splitlines() if "hello" in line]
    for word in ("registry-gateway-hello", "3.2.1", "admit_request", "filter_tags"):
        assert word in row


def test_a_stranger_that_is_not_installed_is_not_listed() -> None:
    """The gateway knows nothing of the stranger by itself."""
    assert "registry-gateway-hello" not in run([PROGRAM, "plugins"]).stdout


def test_a_stranger_vetoes_over_http(served: GatewayProcess) -> None:
    """The caller hears the stranger's own reason, with a password and with a token alike."""
    wire = served.wire(ALICE)
    token = wire.token("repository:conf/other:pull")
    for caller in (wire, wire.acting_as(token)):
        (error,) = caller.get("/v2/conf/other/tags/list").expect(403).json()["errors"]
        assert error["code"] == "DENIED"
        assert error["detail"]["reason"] == "closed"
        assert "hello alice, this repository is closed" in error["message"]


def test_a_stranger_hides_tags_over_http(served: GatewayProcess) -> None:
    """A hidden tag is neither listed nor pulled."""
    wire = served.wire(ALICE)
    assert wire.get("/v2/conf/project/tags/list").expect(200).json()["tags"] == ["open"]
    wire.manifest("conf/project", "open").expect(200)
    wire.manifest("conf/project", "secret-plan").expect(404)


def test_a_stranger_has_commands_of_its_own(installed: Path, served: GatewayProcess) -> None:
    """They stand under its name, and find the plugin as the configuration has it."""
    own = {**os.environ, "PYTHONPATH": str(installed)}
    done = run([PROGRAM, "hello", "which", "--config", served.config], environment=own)
    assert done.stdout == "hello, conf/other is closed\n"
    assert "which" in run([PROGRAM, "hello", "--help"], environment=own).stdout
    assert "No such command 'hello'" in run([PROGRAM, "hello", "which"], fails=True).stderr
    assert "No such command 'naming'" in run([PROGRAM, "naming", "plan"], environment=own, fails=True).stderr


ENDPOINTS = [
    pytest.param(None, "", "/hello", 200, id="public, nobody"),
    pytest.param(None, "", "/hello/project", 401, id="nobody is challenged"),
    pytest.param(MALLORY, "", "/hello/project", 403, id="a stranger may not push"),
    pytest.param(ALICE, "", "/hello/project", 200, id="the owner's password"),
    pytest.param(ALICE, "pull", "/hello/project", 403, id="a token is no more than it grants"),
    pytest.param(ALICE, "pull,push", "/hello/project", 200, id="a token that grants push"),
    pytest.param(ALICE, "", "/hello/other", 403, id="vetoed, with a password"),
    pytest.param(ALICE, "push", "/hello/other", 403, id="vetoed, under a token"),
    pytest.param(ALICE, "", "/hello/project/more", 404, id="no such page"),
]


@pytest.mark.parametrize(("who", "actions", "path", "status"), ENDPOINTS)
def test_an_endpoint_asks_before_it_answers(
    served: GatewayProcess, who: Account | None, actions: str, path: str, status: int
) -> None:
    """An endpoint runs only for who has the access that it names, as a token or the hooks grant it, unless vetoed."""
    wire = served.wire(who)
    if actions:
        wire = wire.acting_as(wire.token(*(f"repository:conf/{name}:{actions}" for name in ("project", "other"))))
    wire.get(path).expect(status)
