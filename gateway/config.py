"""The configuration: one YAML file, overridden by the environment, checked before anything opens a socket.

Every problem is one line with the dotted path of its key (or file and line), all of them are reported together, and
no line repeats a value that may be secret.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.errors import ConfigError

ENVIRONMENT_PREFIX: Final = "REGISTRY_GATEWAY_"

_DURATION = re.compile(r"(?P<amount>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h|d)")
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(?P<amount>[0-9]+)(?P<unit>B|KiB|MiB|GiB|TiB)?")
_FACTORS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_URL_PASSWORD = re.compile(r"(?<=:)[^:@/]+(?=@)")


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 30s, 5m or 24h")
    return timedelta(seconds=float(match["amount"]) * _UNITS[match["unit"]])


def _show_duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds * 1000:.0f}ms"


def _size(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a size such as 64MiB")
    return int(match["amount"]) * _FACTORS[match["unit"] or "B"]


Duration = Annotated[
    timedelta, BeforeValidator(_duration), PlainSerializer(_show_duration), Field(json_schema_extra={"type": "string"})
]
"""``30s``, ``5m``, ``24h``."""
Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]
"""Bytes: a number, or ``64MiB``."""


class Model(BaseModel):
    """A section of the configuration: frozen, unknown keys are errors, and every secret ``x`` has a twin ``x_file``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name in cls.secret_fields():
            twin = values.pop(f"{name}_file", None)
            if twin is None:
                continue
            if values.get(name) is not None:
                raise ValueError(f"{name} and {name}_file are both set; keep one")
            try:
                values[name] = Path(twin).read_text(encoding="utf-8").rstrip("\n")
            except (OSError, TypeError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not a readable text file"
                raise ValueError(f"{name}_file: cannot read {twin}: {reason}") from error
        return values

    @classmethod
    def secret_fields(cls) -> list[str]:
        """The names of the fields that hold secrets."""
        return [name for name, field in cls.model_fields.items() if _holds_secret(field.annotation)]


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or SecretStr in getattr(annotation, "__args__", ())


class Address(Model):
    """Where to listen: a host or IP address, and a port."""

    host: str
    port: int = Field(ge=1, le=65535)

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError("expected HOST:PORT, such as 127.0.0.1:5000")
        return {"host": host.strip("[]"), "port": int(port)}

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Listen = Annotated[Address, PlainSerializer(str), Field(json_schema_extra={"type": "string"})]


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected an http(s) URL without query, such as https://registry.example.com")
    return value.rstrip("/")


WebUrl = Annotated[str, Field(json_schema_extra={"format": "uri"}), BeforeValidator(_web_url)]


class ServerConfig(Model):
    """The public listener."""

    listen: Listen = Address(host="127.0.0.1", port=5000)
    external_url: WebUrl | None = None
    workers: int = Field(default=1, ge=1, le=256)
    drain: Duration = timedelta(minutes=10)
    stall_timeout: Duration = timedelta(minutes=1)
    trusted_proxies: tuple[str, ...] = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            ipaddress.ip_network(item, strict=False)
        return value


class AdminConfig(Model):
    """The listener for machines that watch: metrics and health. Never on the public port."""

    listen: Listen = Address(host="127.0.0.1", port=5001)


class TrustedIssuer(Model):
    """A server whose registry tokens are accepted beside our own, and how they are verified: by one of three."""

    issuer: str = Field(min_length=1)
    audience: str = Field(default="container_registry", min_length=1)
    certificate_file: Path | None = None
    key_file: Path | None = None
    jwks_url: WebUrl | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.certificate_file, self.key_file, self.jwks_url)) != 1:
            raise ValueError("a trusted issuer needs one of certificate_file, key_file and jwks_url")
        if self.jwks_url is not None and not _is_private(self.jwks_url):
            raise ValueError("jwks_url: keys are read over https, or from this machine")
        return self


def _is_private(url: str) -> bool:
    """Whether nobody between here and there can change what *url* answers."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in {"localhost", "127.0.0.1", "::1"}


class TokensConfig(Model):
    """The token endpoint and the tokens that it signs."""

    service: str = Field(default="container_registry", pattern=r'^[^"\s]+$')
    issuer: str = Field(default="registry-gateway", min_length=1)
    ttl: Duration = timedelta(minutes=5)
    realm: WebUrl | None = None
    signing_key_file: Path = Path("data/signing-key.pem")
    verification_key_files: tuple[Path, ...] = ()
    trusted_issuers: tuple[TrustedIssuer, ...] = ()

    @model_validator(mode="after")
    def _different_issuers(self) -> Self:
        names = [self.issuer, *(item.issuer for item in self.trusted_issuers)]
        for place, name in enumerate(names[1:]):
            if name in names[: place + 1]:
                raise ValueError(f"trusted_issuers.{place}.issuer: {name!r} stands there twice, or is our own issuer")
        return self


class UploadsConfig(Model):
    """What an upload may do that its token may not: how long it may outlive it."""

    ceiling: Duration = timedelta(hours=1)


_Url = Annotated[SecretStr, PlainSerializer(lambda url: _URL_PASSWORD.sub("***", url.get_secret_value()))]
_CACHES: Final = ("memory://", "redis://", "rediss://", "redis+sentinel://", "redis+cluster://")


class CacheConfig(Model):
    """Where decisions are remembered: in each process, or in Redis for all workers and replicas too."""

    url: _Url = SecretStr("memory://")
    ca_file: Path | None = None
    timeout: Duration = timedelta(milliseconds=50)

    @field_validator("url")
    @classmethod
    def _known_cache(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url.startswith(_CACHES) or (url.startswith("memory://") and url != "memory://"):
            raise ValueError(f"expected one of {', '.join(_CACHES)}, the last four with hosts")
        if url != "memory://" and not urlsplit(url).netloc.rpartition("@")[2]:
            raise ValueError("names no host")
        if url.startswith("redis+sentinel://") and not urlsplit(url).path.strip("/"):
            raise ValueError("names no master: redis+sentinel://HOST:PORT,HOST:PORT/MASTER/0")
        return value


class DatabaseConfig(Model):
    """Where the metadata lies."""

    url: _Url = SecretStr("sqlite:///data/gateway.db")

    @field_validator("url")
    @classmethod
    def _known_engine(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("sqlite:///", "postgresql://")):
            raise ValueError("expected sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
        return value

    @property
    def shared(self) -> bool:
        """Whether other machines may use the same database."""
        return self.url.get_secret_value().startswith("postgresql://")

    @property
    def sqlite_path(self) -> Path:
        """The file of an SQLite database."""
        return Path(self.url.get_secret_value().removeprefix("sqlite:///"))


class PluginItem(Model):
    """One item of ``plugins``: which plugin, under which name, and what that plugin alone can check."""

    use: str
    name: str
    repositories: tuple[str, ...] = ()
    options: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("use"), str):
            raise ValueError("expected an item such as `- use: auth_local`")
        options = dict(value)
        use = options.pop("use")
        return {
            "use": use,
            "name": options.pop("name", use),
            "repositories": options.pop("repositories", ()),
            "options": options,
        }


class Config(Model):
    """The whole configuration of the core. What a plugin's item says is checked by the plugin's own model."""

    server: ServerConfig = ServerConfig()
    admin: AdminConfig = AdminConfig()
    tokens: TokensConfig = TokensConfig()
    anonymous: Literal["direct", "challenge"] | None = None
    uploads: UploadsConfig = UploadsConfig()
    cache: CacheConfig = CacheConfig()
    database: DatabaseConfig = DatabaseConfig()
    hook_timeout: Duration = timedelta(seconds=10)
    maintenance: Literal["read_only"] | None = None
    plugins: tuple[PluginItem, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.server.listen == self.admin.listen:
            raise ValueError("admin.listen is the same address as server.listen; give the admin listener its own port")
        names = [item.name for item in self.plugins]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"plugins: two items are named {name!r}; give one of them another `name`")
        return self


class _Loader(yaml.SafeLoader):
    """YAML without the trap of a key that silently overwrites an earlier one."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
        if key in seen:
            message = f"the key {key!r} stands here twice"
            raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> Any:
    """Read one YAML document. ConfigError names file and line, and never quotes the line itself."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot read it: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text (byte {error.start})"]) from error
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{path}:{line}: {error.problem or 'not YAML'}"]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([f"{path}: not YAML"]) from error


def problems(error: ValidationError, prefix: str = "") -> list[str]:
    """One line for each thing that pydantic found, with its dotted path and without its value."""
    lines = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"] if not str(part).startswith(("function-", "tagged-union")))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        lines.append(f"{'.'.join(filter(None, (prefix, path)))}: {message}".removeprefix(": "))
    return lines


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration file at *path* and lay the environment over it.

    Raises ConfigError with every problem that the core can see; plugins' own sections are checked when they load.
    """
    raw = read_yaml(path)
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError([f"{path}: expected a mapping of sections"])
    found = list(_override(raw, environment))
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_named_items(problems(error), raw) + found) from error
    if found:
        raise ConfigError(found)
    return config


def plugin_items(path: Path, environment: Mapping[str, str] = os.environ) -> tuple[PluginItem, ...]:
    """The plugin items of a file whose other sections may be wrong; those that are wrong themselves are left out."""
    raw = read_yaml(path)
    items = []
    if isinstance(raw, dict) and isinstance(raw.get("plugins"), list):
        for _ in _override(raw, environment):
            pass
        for item in raw["plugins"]:
            with suppress(ValidationError):
                items.append(PluginItem.model_validate(item))
    return tuple(items)


def _named_items(lines: Iterable[str], raw: Mapping[str, Any]) -> list[str]:
    """Say ``plugins.naming`` rather than ``plugins.1``."""
    items = raw.get("plugins")

    def name(match: re.Match[str]) -> str:
        item = items[int(match[1])] if isinstance(items, list) else None
        return f"plugins.{item.get('name', item.get('use'))}" if isinstance(item, dict) else match[0]

    return [re.sub(r"^plugins\.([0-9]+)", name, line) for line in lines]


def _override(raw: dict[str, Any], environment: Mapping[str, str]) -> Iterable[str]:
    """Lay ``REGISTRY_GATEWAY_…`` variables over *raw*; yield a line for each that fits no key."""
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = [key.lower() for key in variable.removeprefix(ENVIRONMENT_PREFIX).split("__")]
        value = _scalar(environment[variable])
        if keys[0] == "plugins" and len(keys) > 1:
            place = _plugin_item(raw, keys[1])
            fits = place is not None and len(keys) > 2  # noqa: PLR2004 - plugins, name, key
            target, keys = (place or {}), keys[2:]
        else:
            target, fits = raw, _is_key(Config, keys)
        if not fits:
            yield f"{variable}: no such key; it is REGISTRY_GATEWAY_ and the path of a key joined by __"
            continue
        for key in keys[:-1]:
            if not isinstance(target.get(key), dict):
                target[key] = {}
            target = target[key]
        target[keys[-1]] = value


def _scalar(text: str) -> Any:
    """Lists, mappings and null are written as YAML; everything else is text that the model converts."""
    if text.startswith(("[", "{")) or text == "null":
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    return text


def _plugin_item(raw: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    items = raw.get("plugins")
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and str(item.get("name", item.get("use"))).lower() == name:
            return item
    return None


def _is_key(model: type[BaseModel], keys: list[str]) -> bool:
    first, rest = keys[0], keys[1:]
    secrets = model.secret_fields() if issubclass(model, Model) else []
    field = model.model_fields.get(first)
    if field is None:
        return not rest and first.removesuffix("_file") in secrets
    if not rest:
        return True
    inner = field.annotation
    return isinstance(inner, type) and issubclass(inner, BaseModel) and _is_key(inner, rest)
