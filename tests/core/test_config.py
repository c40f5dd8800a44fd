"""The configuration: read strictly, overridden by the environment, and silent about secrets."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, SecretStr, ValidationError
from typer.testing import CliRunner

from gateway.cli import cli
from gateway.config import Config, Duration, Model, Size, load, problems, read_yaml
from gateway.errors import ConfigError
from gateway.plugins.manager import installed, sections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "config" / "gateway.yaml"
BUNDLED = sections([plugin for plugin in installed() if plugin.distribution == "registry-gateway"])


class Values(Model):
    """One key of each type that plugins may use."""

    duration: Duration = timedelta(0)
    size: Size = 0
    password: SecretStr | None = None


class Files:
    """Writes configuration files for one test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gateway.yaml"

    def load(self, text: str, **environment: str) -> Config:
        """Read a text as if it were the file."""
        self.path.write_text(text, encoding="utf-8")
        return load(self.path, environment)

    def refused(self, text: str, **environment: str) -> tuple[str, ...]:
        """Give the lines with which a text is refused."""
        with pytest.raises(ConfigError) as caught:
            self.load(text, **environment)
        return caught.value.problems


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Write a configuration file for this test."""
    return Files(tmp_path)


# -- the file -------------------------------------------------------------------------------------------

BROKEN = {
    "twice": ("server:\n  workers: 1\n  workers: 2\n", ":3: the key 'workers' stands here twice"),
    "twice-at-the-top": (
        "anonymous: direct\nserver: {}\nanonymous: challenge\n",
        ":3: the key 'anonymous' stands here",
    ),
    "twice-in-a-plugin": ("plugins:\n  - use: a\n    root: x\n    root: y\n", ":4: the key 'root' stands here twice"),
    "not-yaml": ("server: {\n", ":2: "),
    "tab": ("server:\n\tworkers: 1\n", ":2: "),
    "tag": ("server: !!python/object/apply:os.system [id]\n", ":1: "),
    "key-is-a-list": ("[a, b]: c\n", ":1: "),
    "list": ("- server\n", ": expected a mapping of sections"),
    "deep": ("[" * 10_000, ": not YAML"),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_with_its_place(files: Files, text: str, problem: str) -> None:
    """One line says file and line."""
    (line,) = files.refused(text)
    assert line.startswith(f"{files.path}{problem}")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read it"):
        load(tmp_path / "nowhere.yaml", {})


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are refused with their place."""
    path = tmp_path / "gateway.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 0\)"):
        load(path, {})


def test_an_empty_file_is_all_defaults(files: Files) -> None:
    """Every key has a default."""
    assert files.load("") == Config()


# -- its values -----------------------------------------------------------------------------------------

WRONG = {
    "unknown-section": ("colour: red", "colour: unknown key"),
    "unknown-key": ("server: {colour: red}", "server.colour: unknown key"),
    "section-is-text": ("server: all", "server: "),
    "workers-is-a-word": ("server: {workers: many}", "server.workers: "),
    "no-workers": ("server: {workers: 0}", "server.workers: "),
    "too-many-workers": ("server: {workers: 257}", "server.workers: "),
    "no-port": ("server: {listen: localhost}", "server.listen: expected HOST:PORT"),
    "no-host": ("server: {listen: ':5000'}", "server.listen: expected HOST:PORT"),
    "port-zero": ("server: {listen: 'localhost:0'}", "server.listen.port: "),
    "port-too-high": ("server: {listen: 'localhost:65536'}", "server.listen.port: "),
    "duration-without-unit": ("server: {drain: 10}", "server.drain: expected a duration"),
    "duration-is-negative": ("server: {drain: -10s}", "server.drain: expected a duration"),
    "duration-is-a-word": ("hook_timeout: soon", "hook_timeout: expected a duration"),
    "proxy-is-a-name": ("server: {trusted_proxies: [proxy]}", "server.trusted_proxies: "),
    "url-is-no-web-address": ("server: {external_url: 'ftp://host'}", "server.external_url: expected an http(s) URL"),
    "url-with-query": ("server: {external_url: 'https://host/?a=b'}", "server.external_url: expected an http(s) URL"),
    "service-with-quote": ("tokens: {service: 'a\"b'}", "tokens.service: "),
    "issuer-is-empty": ("tokens: {issuer: ''}", "tokens.issuer: "),
    "issuer-without-key": ("tokens: {trusted_issuers: [{issuer: other}]}", "tokens.trusted_issuers.0: "),
    "issuer-with-two": (
        "tokens: {trusted_issuers: [{issuer: other, key_file: a, certificate_file: b}]}",
        "tokens.trusted_issuers.0: ",
    ),
    "issuer-in-clear": (
        "tokens: {trusted_issuers: [{issuer: other, jwks_url: 'http://gitlab.example.com/keys'}]}",
        "tokens.trusted_issuers.0: jwks_url: keys are read over https",
    ),
    "issuer-is-us": (
        "tokens: {trusted_issuers: [{issuer: registry-gateway, key_file: a}]}",
        "tokens: trusted_issuers.0.issuer: ",
    ),
    "other-cache": ("cache: {url: 'memcached://localhost'}", "cache.url: expected one of memory://"),
    "cache-without-host": ("cache: {url: 'redis://'}", "cache.url: names no host"),
    "sentinel-without-master": ("cache: {url: 'redis+sentinel://a:1,b:2'}", "cache.url: names no master"),
    "other-engine": ("database: {url: 'mysql://host/name'}", "database.url: "),
    "other-word": ("anonymous: maybe", "anonymous: "),
    "plugins-is-text": ("plugins: auth_local", "plugins: "),
    "item-without-use": ("plugins: [{name: x}]", "plugins.x: expected an item such as"),
    "item-is-text": ("plugins: [auth_local]", "plugins.0: expected an item such as"),
    "two-of-one-name": ("plugins: [{use: a}, {use: a}]", "plugins: two items are named 'a'"),
    "one-address": ("admin: {listen: 127.0.0.1:5000}", "admin.listen is the same address as server.listen"),
    "one-address-moved": (
        "server: {listen: 'host:1'}\nadmin: {listen: 'host:1'}",
        "admin.listen is the same address as server.listen",
    ),
}


@pytest.mark.parametrize(("text", "problem"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_refused_with_its_path(files: Files, text: str, problem: str) -> None:
    """One line says the dotted path of the key, and what is expected there."""
    (line,) = files.refused(text)
    assert line.startswith(problem)


def test_all_problems_are_reported_together(files: Files) -> None:
    """Nobody mends a file one start at a time."""
    lines = files.refused(
        "server: {workers: many, drain: soon}\ncolour: red\nplugins: [{use: 5}]\n", REGISTRY_GATEWAY_NOWHERE="1"
    )
    starts = ("server.workers:", "server.drain:", "colour:", "plugins.", "REGISTRY_GATEWAY_NOWHERE:")
    assert all(any(line.startswith(start) for line in lines) for start in starts), lines
    assert len(lines) == len(starts)


DURATIONS = {
    "milliseconds": ("500ms", timedelta(milliseconds=500)),
    "seconds": ("30s", timedelta(seconds=30)),
    "fraction": ("1.5h", timedelta(minutes=90)),
    "minutes": ("5m", timedelta(minutes=5)),
    "hours": ("24h", timedelta(days=1)),
    "days": ("7d", timedelta(days=7)),
}
SIZES = {
    "number": (4096, 4096),
    "text": ("4096", 4096),
    "bytes": ("12B", 12),
    "kibibytes": ("1KiB", 1 << 10),
    "mebibytes": ("64MiB", 64 << 20),
    "gibibytes": ("2GiB", 2 << 30),
    "tebibytes": ("1TiB", 1 << 40),
}


@pytest.mark.parametrize(("text", "wanted"), DURATIONS.values(), ids=DURATIONS)
def test_a_duration_is_a_number_with_its_unit(text: str, wanted: timedelta) -> None:
    """Durations read as people write them."""
    assert Values.model_validate({"duration": text}).duration == wanted


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5S", "5y", "1e3s", 5, None], ids=repr)
def test_a_wrong_duration_is_refused(text: object) -> None:
    """A number without its unit could mean anything."""
    with pytest.raises(ValidationError, match="expected a duration"):
        Values.model_validate({"duration": text})


def test_a_duration_is_shown_as_it_is_written() -> None:
    """What is printed can be copied back."""
    shown = {text: Values.model_validate({"duration": text}).model_dump()["duration"] for text, _ in DURATIONS.values()}
    assert shown == {"500ms": "500ms", "30s": "30s", "1.5h": "90m", "5m": "5m", "24h": "1d", "7d": "7d"}


@pytest.mark.parametrize(("text", "wanted"), SIZES.values(), ids=SIZES)
def test_a_size_is_a_number_of_bytes(text: object, wanted: int) -> None:
    """Sizes are bytes, or binary multiples of them."""
    assert Values.model_validate({"size": text}).size == wanted


@pytest.mark.parametrize("text", ["", "1MB", "1.5GiB", "-1", "KiB", True, -1, None], ids=repr)
def test_a_wrong_size_is_refused(text: object) -> None:
    """Whatever is no number of bytes is refused."""
    with pytest.raises(ValidationError):
        Values.model_validate({"size": text})


# -- the environment ------------------------------------------------------------------------------------

PLUGINS = "plugins:\n  - use: backend_local\n    root: a\n  - use: auth_local\n    name: People\n    directory: b\n"


def test_a_variable_overrides_a_key_of_the_core(files: Files) -> None:
    """The environment lies over the file, section by section and key by key."""
    config = files.load(
        "server: {workers: 2, drain: 1m}",
        REGISTRY_GATEWAY_SERVER__WORKERS="4",
        REGISTRY_GATEWAY_SERVER__TRUSTED_PROXIES="[10.0.0.0/8, 127.0.0.1]",
        REGISTRY_GATEWAY_TOKENS__TTL="10m",
        REGISTRY_GATEWAY_ANONYMOUS="challenge",
        REGISTRY_GATEWAY_SERVER__EXTERNAL_URL="null",
        PATH="/usr/bin",
    )
    assert (config.server.workers, config.server.drain) == (4, timedelta(minutes=1))
    assert config.server.trusted_proxies == ("10.0.0.0/8", "127.0.0.1")
    assert (config.tokens.ttl, config.anonymous, config.server.external_url) == (
        timedelta(minutes=10),
        "challenge",
        None,
    )


def test_a_variable_overrides_a_key_of_a_plugin(files: Files) -> None:
    """A plugin's item is addressed by its name, in whatever capitals."""
    config = files.load(
        PLUGINS, REGISTRY_GATEWAY_PLUGINS__BACKEND_LOCAL__ROOT="c", REGISTRY_GATEWAY_PLUGINS__PEOPLE__NEW__KEY="d"
    )
    assert config.plugins[0].options == {"root": "c"}
    assert config.plugins[1].options == {"directory": "b", "new": {"key": "d"}}


UNKNOWN_VARIABLES = (
    "REGISTRY_GATEWAY_",
    "REGISTRY_GATEWAY_COLOUR",
    "REGISTRY_GATEWAY_SERVER__COLOUR",
    "REGISTRY_GATEWAY_SERVER__WORKERS__MORE",
    "REGISTRY_GATEWAY_SERVER_WORKERS",
    "REGISTRY_GATEWAY_PLUGINS__GHOST__KEY",
    "REGISTRY_GATEWAY_PLUGINS__AUTH_LOCAL__DIRECTORY",
    "REGISTRY_GATEWAY_PLUGINS__PEOPLE",
)


@pytest.mark.parametrize("variable", UNKNOWN_VARIABLES)
def test_an_unknown_variable_is_an_error(files: Files, variable: str) -> None:
    """A misspelt variable stops the start instead of being ignored."""
    (line,) = files.refused(PLUGINS, **{variable: "hunter2"})
    assert line.startswith(f"{variable}: no such key")
    assert "hunter2" not in line


def test_a_wrong_value_of_a_variable_is_refused_under_its_key(files: Files) -> None:
    """Values of the environment are checked like those of the file."""
    (line,) = files.refused("", REGISTRY_GATEWAY_SERVER__WORKERS="many")
    assert line.startswith("server.workers: ")


# -- secrets --------------------------------------------------------------------------------------------


def test_a_secret_is_read_from_its_file(files: Files, tmp_path: Path) -> None:
    """Every secret has a twin that names a file, without its last line feed."""
    (tmp_path / "url").write_text("postgresql://gateway:hunter2@host/name\n")
    twin = str(tmp_path / "url")
    wanted = "postgresql://gateway:hunter2@host/name"
    assert files.load(f"database: {{url_file: {twin}}}").database.url.get_secret_value() == wanted
    from_variable = files.load("", REGISTRY_GATEWAY_DATABASE__URL_FILE=twin)
    assert from_variable.database.url.get_secret_value() == wanted


def test_a_secret_and_its_file_are_not_both_set(files: Files) -> None:
    """Which of two would count must not be a riddle."""
    (line,) = files.refused("database: {url: 'sqlite:///hunter2', url_file: /nowhere}")
    assert line == "database: url and url_file are both set; keep one"


def test_a_missing_secret_file_is_named(files: Files) -> None:
    """The line says which file, and why."""
    (line,) = files.refused("database: {url_file: /nowhere/at/all}")
    assert line == "database: url_file: cannot read /nowhere/at/all: No such file or directory"


def test_a_plugin_has_twins_for_its_secrets(tmp_path: Path) -> None:
    """A plugin's Model reads secret files without a line of its own."""
    (tmp_path / "password").write_text("hunter2\n")
    found = Values.model_validate({"password_file": str(tmp_path / "password")})
    assert found.password is not None
    assert found.password.get_secret_value() == "hunter2"


LEAKS = {
    "wrong-engine": "database: {url: 'mysql://gateway:hunter2@host/name'}",
    "list": "database: {url: [hunter2]}",
    "unknown-key": "database: {password: hunter2}",
    "section": "database: hunter2",
    "not-yaml": "database: {url: hunter2: x}}",
    "unclosed": "database: {url: 'hunter2",
}


@pytest.mark.parametrize("text", LEAKS.values(), ids=LEAKS)
def test_no_line_repeats_a_secret(files: Files, text: str) -> None:
    """An error says where the secret stands, never what it is."""
    assert "hunter2" not in "\n".join(files.refused(text))


def test_no_line_repeats_a_secret_of_a_plugin() -> None:
    """The lines about a plugin's section are as silent."""
    with pytest.raises(ValidationError) as caught:
        Values.model_validate({"password": ["hunter2"], "size": "hunter2", "hunter": "hunter2"})
    lines = problems(caught.value, "plugins.values")
    assert len(lines) == 3
    assert "hunter2" not in "\n".join([*lines, str(caught.value)])


def test_show_masks_secrets(files: Files, tmp_path: Path) -> None:
    """``check-config --show`` prints the effective values, and of a URL all but its password."""
    key = tmp_path / "key.pem"
    (tmp_path / "directory.yaml").write_text("users: []\n")
    plugins = [
        {"use": "auth_local", "directory": str(tmp_path / "directory.yaml")},
        {"use": "naming"},
        {"use": "visibility"},
        {"use": "backend_local", "root": str(tmp_path / "registry")},
    ]
    sections = {
        "tokens": {"signing_key_file": str(key)},
        "database": {"url": "postgresql://gateway:hunter2@host/name"},
        "plugins": plugins,
    }
    files.path.write_text(yaml.safe_dump(sections))
    _make_key(key)
    shown = CliRunner().invoke(cli, ["check-config", "--config", str(files.path), "--show"])
    assert shown.exit_code == 0, shown.output
    assert yaml.safe_load(shown.output)["database"]["url"] == "postgresql://gateway:***@host/name"
    assert "hunter2" not in shown.output


def test_a_configuration_never_prints_its_secrets(files: Files) -> None:
    """What a log line or a traceback shows of a configuration has no secret in it."""
    config = files.load("database: {url: 'postgresql://gateway:hunter2@host/name'}")
    assert "hunter2" not in f"{config} {config!r} {config.model_dump_json()}"


# -- the files of the repository ------------------------------------------------------------------------


def test_the_reference_names_every_key_of_the_core() -> None:
    """Nobody has to read code to find a key."""
    document = read_yaml(REFERENCE)
    assert list(_missing(Config, document)) == []


@pytest.mark.parametrize("name", BUNDLED)
def test_the_reference_names_every_key_of_a_bundled_plugin(name: str) -> None:
    """Every bundled plugin stands in the reference with all of its keys."""
    items = [item for item in read_yaml(REFERENCE)["plugins"] if item["use"] == name]
    assert items, f"no item `use: {name}`"
    named: dict[str, Any] = {key: value for item in items for key, value in item.items()}
    assert list(_missing(BUNDLED[name], named, f"plugins.{name}.")) == []


def test_the_reference_names_the_keys_of_every_item() -> None:
    """What any item may say besides its plugin's keys is shown at one of them at least."""
    named = {key for item in read_yaml(REFERENCE)["plugins"] for key in item}
    assert {"use", "name", "repositories"} <= named


def test_the_reference_shows_the_defaults() -> None:
    """What the reference says of the core is what holds without it."""
    found = load(REFERENCE, {})
    assert found.model_copy(update={"plugins": ()}) == Config()


SHIPPED = sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.name != "directory.yaml")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_loads(name: str) -> None:
    """Whatever an operator may copy is right, its plugins' sections too."""
    config = load(ROOT / "config" / name, {})
    for item in config.plugins:
        if item.use in BUNDLED:
            BUNDLED[item.use].model_validate(dict(item.options))


def _missing(model: type[BaseModel], document: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Name the keys of a model that a document leaves out; a secret's file stands for the secret."""
    for name, field in model.model_fields.items():
        if name not in document and f"{name}_file" not in document:
            yield f"{path}{name}"
        elif (
            isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
            and isinstance(document.get(name), dict)
        ):
            yield from _missing(field.annotation, document[name], f"{path}{name}.")


def _make_key(path: Path) -> None:
    """Bring the key, as over a shared database the operator does."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
