"""What operators see: commands, errors, metrics, health, logs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import GatewayFactory
from tests.support import images
from tests.support.gateway import PROGRAM, GatewayProcess
from tests.support.peers import eventually
from tests.support.people import ALICE, CAROL, PRIVATE
from tests.support.wire import Wire

PLUGINS = """
plugins:
  - {{use: auth_local, directory: {folder}/directory.yaml}}
  - {{use: naming}}
  - {{use: visibility}}
  - {{use: backend_local, root: {folder}/registry}}
"""


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False)


def written(folder: Path, text: str, directory: str = "users: [{username: a, password: hunter2hunter2}]\n") -> Path:
    """Write a configuration and its directory."""
    (folder / "directory.yaml").write_text(directory)
    (folder / "gateway.yaml").write_text(text + PLUGINS.format(folder=folder))
    return folder / "gateway.yaml"


def test_good_configuration(tmp_path: Path) -> None:
    """A good configuration is exit status 0."""
    assert command("check-config", "--config", written(tmp_path, "")).returncode == 0


def test_every_problem_is_one_line(tmp_path: Path) -> None:
    """All that is wrong is said at once, one line each with its dotted path, and no secret is in any."""
    text = "server: {listen: nowhere, color: blue}\ntokens: {ttl: soon}\ndatabase: {url: 'mysql://u:hunter2@h/d'}\n"
    done = command("check-config", "--config", written(tmp_path, text))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert {line.partition(": ")[0] for line in lines} == {
        "server.listen",
        "server.color",
        "tokens.ttl",
        "database.url",
    }
    assert "hunter2" not in done.stderr + done.stdout


def test_plugins_keys_are_checked_with_the_rest(tmp_path: Path) -> None:
    """A misspelt key of the core and one of a plugin are said in one run."""
    config = tmp_path / "gateway.yaml"
    config.write_text("server: {lisen: x}\nplugins: [{use: naming, colour: blue}, {use: nonsense}]\n")
    lines = command("check-config", "--config", config).stderr.splitlines()
    assert lines[0] == "server.lisen: unknown key"
    assert "plugins.naming.colour: unknown key" in lines
    assert any(line.startswith("plugins.nonsense: no such plugin is installed") for line in lines)


def test_directory_is_checked_too(tmp_path: Path) -> None:
    """check-config reads the directory that the configuration names."""
    directory = "tokens: [{kind: personal_access_token, user: nobody, token: hunter2, scopes: [api]}]\n"
    done = command("check-config", "--config", written(tmp_path, "", directory))
    assert done.returncode == 1
    assert "directory.yaml" in done.stderr
    assert "nobody" in done.stderr
    assert "hunter2" not in done.stderr


def test_show_masks_secrets(tmp_path: Path) -> None:
    """The effective configuration comes without the database's password."""
    key = "tokens: {signing_key_file: key.pem}\ndatabase: {url: 'postgresql://u:hunter2@127.0.0.1/d'}\n"
    done = command("check-config", "--config", written(tmp_path, key), "--show")
    assert "hunter2" not in done.stdout + done.stderr


def test_schema_knows_the_plugins(tmp_path: Path) -> None:
    """The schema for editors has the plugins' own keys."""
    done = command("check-config", "--config", written(tmp_path, ""), "--schema")
    assert '"directory"' in json.dumps(json.loads(done.stdout)["properties"]["plugins"])


def test_plugins_are_listed(tmp_path: Path) -> None:
    """The list has each bundled plugin with its distribution, hooks and whether it is enabled."""
    done = command("plugins", "--config", written(tmp_path, ""))
    assert done.returncode == 0
    for name in ("auth_local", "naming", "visibility", "backend_local"):
        row = next(line for line in done.stdout.splitlines() if name in line)
        assert "registry-gateway" in row
        assert "yes" in row


def test_init_touches_nothing_that_is_there(tmp_path: Path) -> None:
    """The first start makes a random token, readable by its owner alone; the second leaves all as it is."""
    config = tmp_path / "gateway.yaml"
    config.write_text(f"plugins: [{{use: auth_local, directory: {tmp_path}/data/directory.yaml}}]\n")
    assert command("init", "--config", config).returncode == 0
    token = tmp_path / "data" / "root-token"
    first = token.read_text()
    assert token.stat().st_mode & 0o077 == 0
    assert command("init", "--config", config).returncode == 0
    assert token.read_text() == first
    assert first.strip() not in (tmp_path / "data" / "directory.yaml").read_text()


def test_taken_port_is_one_line(gateway: GatewayProcess, tmp_path: Path) -> None:
    """A port that somebody else has is one line, not a traceback."""
    text = f"server: {{listen: '{gateway.host}'}}\ntokens: {{signing_key_file: {tmp_path}/key.pem}}\n"
    done = command("serve", "--config", written(tmp_path, text))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"cannot listen on {gateway.host}: Address already in use"]


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/startupz"])
def test_admin_listener_is_not_public(gateway: GatewayProcess, path: str) -> None:
    """Metrics and health answer on the admin port and nowhere else."""
    Wire(gateway.admin_url).get(path).expect(200)
    gateway.wire(ALICE).get(path).expect(404)


def test_metrics_are_those_of_all_workers(gateway_factory: GatewayFactory) -> None:
    """Requests that different workers answered are counted together, with their bytes."""
    gateway = gateway_factory(workers=2)
    for _ in range(40):
        gateway.wire(ALICE).get("/v2/").expect(200)
    labels = 'method="GET",route="base"'
    lines = (
        f'registry_gateway_requests_total{{{labels},status="200"}} 40.0',
        f"registry_gateway_request_duration_seconds_count{{{labels}}} 40.0",
        f'registry_gateway_request_duration_seconds_bucket{{le="+Inf",{labels}}} 40.0',
        "registry_gateway_requests_in_flight 0.0",
    )

    def counted() -> bool:
        said = Wire(gateway.admin_url).get("/metrics").body.decode()
        return all(line in said for line in lines)

    eventually(counted, "all are counted")


def test_request_line(gateway: GatewayProcess) -> None:
    """Each request is one JSON line with its id, route, caller and status, and without the credential."""
    image = images.image(b"logged")
    gateway.wire(CAROL).push_image(PRIVATE, "logged", image)
    answer = gateway.wire(CAROL).manifest(PRIVATE, "logged")
    wanted = answer.header("X-Request-Id")
    line = eventually(
        lambda: next((text for text in gateway.log.splitlines() if wanted in text), None), "the line is written"
    )
    said = json.loads(line)
    assert (said["route"], said["status"], said["subject"]) == ("manifest", 200, "carol")
    assert CAROL.password not in gateway.log


FORGED = {
    "X-Forwarded-For": "192.0.2.77",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/evil",
}


def test_forwarded_headers_of_strangers_count_for_nothing(gateway: GatewayProcess) -> None:
    """Who is not a trusted proxy changes neither the challenge nor the address in the log."""
    answer = gateway.wire().get("/v2/", **FORGED).expect(401)
    assert answer.header("WWW-Authenticate").startswith(f'Bearer realm="{gateway.base_url}/jwt/auth"')
    wanted = answer.header("X-Request-Id")
    line = eventually(lambda: next((t for t in gateway.log.splitlines() if wanted in t), None), "the line is written")
    assert json.loads(line)["client"] == "127.0.0.1"


def test_broken_directory_keeps_its_old_content(gateway_factory: GatewayFactory) -> None:
    """A broken edit changes nothing but readiness, which says where it is broken."""
    gateway = gateway_factory()
    gateway.directory.write_text("users: [{username: alice}, {username: alice}]\n")
    gateway.wire(ALICE).get("/v2/").expect(200)
    answer = Wire(gateway.admin_url).get("/readyz").expect(503)
    assert "directory.yaml" in answer.json()["parts"]["auth_local"]
