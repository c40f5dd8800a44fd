"""What lies in `deploy/` is what an operator can run: as far as can be seen without an engine that pulls images."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.replicas.conftest import DEPLOY
from tests.support.gateway import PROGRAM
from tests.support.peers import run

if TYPE_CHECKING:
    from pathlib import Path

OPERATORS = {"tls_certificate", "tls_key"}
"""The secrets that nobody can make but the operator."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Read the compose file."""
    found = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Make the secrets as an operator does, in a copy of the folder."""
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("secrets"))
    run([folder / "make-secrets.sh"])
    return folder / "secrets"


def mentioned(text: str) -> set[str]:
    """Find the secrets that a configuration reads."""
    return set(re.findall(r"/run/secrets/(\w+)", text))


def test_gateway_configuration_is_good(secrets: Path, tmp_path: Path) -> None:
    """`check-config` finds nothing wrong with the gateways' configuration and the secrets that were made for it."""
    config = tmp_path / "gateway.yaml"
    config.write_text((DEPLOY / "gateway.yaml").read_text().replace("/run/secrets", str(secrets)))
    run([PROGRAM, "check-config", "--config", config])


def test_secrets_stay(secrets: Path) -> None:
    """Secrets are made once, in a folder that is its owner's alone, and kept ever after."""
    before = {file.name: file.read_bytes() for file in secrets.iterdir()}
    assert all(before.values())
    assert secrets.stat().st_mode & 0o777 == 0o700
    run([secrets.parent / "make-secrets.sh"])
    assert {file.name: file.read_bytes() for file in secrets.iterdir()} == before


def test_compose_names_what_exists(compose: dict[str, Any], secrets: Path) -> None:
    """Each secret, volume, network, file and service that the compose file names is there."""
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        assert set(service["networks"]) <= set(compose["networks"])
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), source
        for file in service.get("env_file", ()):
            assert (secrets.parent / file).is_file()
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"secrets/{name}"
        assert (secrets / name).is_file() or name in OPERATORS


def test_services_have_their_secrets(compose: dict[str, Any]) -> None:
    """Each service has the secrets that its configuration reads, and no others."""
    services = compose["services"]
    for name, file in {"gateway-1": "gateway.yaml", "gateway-2": "gateway.yaml", "nginx": "nginx.conf"}.items():
        assert set(services[name]["secrets"]) == mentioned((DEPLOY / file).read_text())
    for name in ("redis", "postgres", "registry"):
        assert set(services[name].get("secrets", ())) == mentioned(yaml.safe_dump(services[name]))


def test_registry_cannot_be_reached_around_the_gateways(compose: dict[str, Any]) -> None:
    """Only nginx is published, and it shares no network with what lies behind the gateways."""
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    behind = {network for name in ("redis", "postgres", "registry") for network in services[name]["networks"]}
    assert behind.isdisjoint(services["nginx"]["networks"])
    assert all(compose["networks"][network]["internal"] for network in behind)


def test_gateways_believe_nginx_alone(compose: dict[str, Any]) -> None:
    """The one proxy whose headers count is nginx, at the address that it has."""
    address = compose["services"]["nginx"]["networks"]["front"]["ipv4_address"]
    assert yaml.safe_load((DEPLOY / "gateway.yaml").read_text())["server"]["trusted_proxies"] == [address]


def test_gateways_may_finish(compose: dict[str, Any]) -> None:
    """Both gateways have longer to end than running transfers may take (`server.drain`, 10 minutes)."""
    for name in ("gateway-1", "gateway-2"):
        assert compose["services"][name]["stop_grace_period"] == "11m"


def test_compose_accepts_it(secrets: Path) -> None:
    """`docker compose config` finds nothing wrong, where there is a docker with compose."""
    docker = shutil.which("docker")
    if docker is None or "compose" not in run([docker, "--help"]).said:
        pytest.skip("this docker has no compose")
    for name in OPERATORS:
        (secrets / name).touch()
    run(["docker", "compose", "--file", secrets.parent / "compose.yaml", "config", "--quiet"])
