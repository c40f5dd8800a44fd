"""What an item may say, and what it is told when it says something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pydantic import SecretStr, ValidationError

from gateway.config import problems
from gateway.plugins import Services
from plugins.backend_distribution.config import Config
from plugins.backend_distribution.plugin import Plugin
from tests.fakes.upstream import HANGS, FaultyUpstream, Turn, answer, error
from tests.support.redis import certificates

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://registry.example.com"


def test_the_address_is_enough() -> None:
    """Everything else has a default that is safe."""
    config = Config(url=f"{URL}/")
    assert config.url == URL
    assert not config.exclusive
    assert config.redirects == ()
    assert config.tag_freshness.total_seconds() == 0


def test_all_keys(tmp_path: Path) -> None:
    """Secrets come from files, durations and sizes are written as everywhere."""
    (tmp_path / "secret").write_text("a password\n")
    config = Config.model_validate(
        {
            "url": URL,
            "username": "gateway",
            "password_file": tmp_path / "secret",
            "ca_file": tmp_path / "ca.pem",
            "client_certificate_file": tmp_path / "c.pem",
            "client_key_file": tmp_path / "k.pem",
            "proxy": "http://proxy.example.com:3128",
            "path_prefix": "/project/",
            "paths": {"acme": "teams/acme"},
            "exclusive": True,
            "tag_freshness": "5s",
            "blob_cache": {"path": "data/blobs", "size": "10GiB"},
            "redirects": ["acme/**"],
            "connections": 5,
            "connect_timeout": "1s",
            "read_timeout": "1m",
            "attempts": 1,
            "notifications_token_file": tmp_path / "secret",
        }
    )
    assert config.password == config.notifications_token == SecretStr("a password")
    assert config.path_prefix == "project"
    assert config.blob_cache is not None
    assert config.blob_cache.size == 10 * 1024**3


WRONG: list[Any] = [
    ({"url": "registry.example.com"}, "url: expected an http(s) URL"),
    ({"url": "https://a:b@registry.example.com"}, "url: expected an http(s) URL without login"),
    ({"url": "http://registry.example.com"}, "images would cross the network in clear"),
    ({"proxy": "socks://proxy"}, "proxy: expected an http(s) URL"),
    ({"username": "x"}, "username and password_file belong together"),
    ({"password": "secret-word"}, "username and password_file belong together"),
    ({"username": "a:b", "password": "secret-word"}, "username: a colon"),
    ({"client_key_file": "k.pem"}, "client_key_file: there is no client_certificate_file"),
    ({"path_prefix": "Project"}, "path_prefix: component 1 ('Project') of the repository name has a capital"),
    ({"paths": {"a": "../b"}}, "paths: component 1"),
    ({"paths": {"a/": "b"}}, "paths: component 2"),
    ({"paths": {"a": "x", "b": "x"}}, "two projects would share its images"),
    ({"tag_freshness": "soon"}, "tag_freshness: expected a duration"),
    ({"blob_cache": {"path": "x"}}, "blob_cache.size: Field required"),
    ({"connections": 0}, "connections: "),
    ({"attempts": 0}, "attempts: "),
    ({"read_timeout": "0s"}, "read_timeout: expected some time"),
    ({"pull_through": True}, "pull_through: unknown key"),
]


@pytest.mark.parametrize(("keys", "problem"), WRONG)
def test_what_is_wrong_is_one_line(keys: dict[str, Any], problem: str) -> None:
    """Each mistake is one line with its key, and none repeats a secret."""
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"url": URL, **keys})
    (line,) = problems(caught.value)
    assert problem in line
    assert "secret-word" not in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000", "http://localhost", "http://[::1]:5000"])
def test_in_clear_on_this_machine(url: str) -> None:
    """Nobody listens between two programs of one machine."""
    assert Config(url=url).url == url


def test_in_clear_where_it_is_allowed() -> None:
    """An operator may say that the network is theirs."""
    assert Config(url="http://registry.internal", allow_insecure=True).allow_insecure


def _plugin(**keys: Any) -> Plugin:
    facts: Any = None
    return Plugin(Config(**keys), Services("registry", facts, facts, structlog.get_logger(), b"k" * 32))


def _broken(folder: Path) -> list[tuple[dict[str, Any], str]]:
    certificates(folder)
    (folder / "no.pem").write_text("no certificate")
    good, key, none, gone = (folder / name for name in ("certificate.pem", "key.pem", "no.pem", "gone.pem"))
    return [
        ({}, ""),
        ({"ca_file": folder / "ca.pem", "client_certificate_file": good, "client_key_file": key}, ""),
        ({"ca_file": gone}, "ca_file: cannot read"),
        ({"ca_file": none}, "ca_file: "),
        ({"client_certificate_file": gone, "client_key_file": key}, "client_certificate_file: cannot read"),
        ({"client_certificate_file": good, "client_key_file": gone}, "client_certificate_file: cannot read"),
        ({"client_certificate_file": good}, "are no PEM certificate and its key"),
        ({"client_certificate_file": none, "client_key_file": key}, "are no PEM certificate and its key"),
    ]


def test_files_are_checked_before_the_start(tmp_path: Path) -> None:
    """`check-config` names the key of a file that is not there or holds something else."""
    for keys, problem in _broken(tmp_path):
        found = list(_plugin(url=URL, **keys).gateway_check())
        assert len(found) == bool(problem), keys
        assert problem in "".join(found)
        assert all(line.startswith("plugins.registry.") for line in found)


HEALTH = [
    (answer(200), True, ""),
    (answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'}), False, "set username and password_file"),
    (error(404, "UNSUPPORTED"), False, "is `url` that of a registry?"),
    (answer(301, headers={"Location": "https://elsewhere.example/"}), False, "is `url` that of a registry?"),
    (answer(503), False, "answers 503"),
    (HANGS, False, "did not answer GET /v2/ within connect_timeout"),
]


@pytest.mark.parametrize(("turn", "ok", "message"), HEALTH)
async def test_health(turn: Turn, ok: bool, message: str) -> None:  # noqa: FBT001 - a parameter
    """Readiness says in one sentence what is wrong with the registry."""
    with FaultyUpstream() as upstream:
        upstream.on("GET", "/v2/", turn)
        plugin = _plugin(url=upstream.url, attempts=1, connect_timeout="500ms")
        async with plugin.gateway_lifespan():
            health = await plugin.gateway_health()
    assert health.ok is ok
    assert message in health.message


async def test_a_registry_that_is_down_does_not_stop_the_start() -> None:
    """The gateway starts and says that it is not ready; what it remembers can be served."""
    plugin = _plugin(url="http://127.0.0.1:1", attempts=1)
    async with plugin.gateway_lifespan():
        health = await plugin.gateway_health()
    assert health.message.startswith("127.0.0.1:1: ")
    assert list(plugin.gateway_backends()) == ["registry"]
