"""Why somebody may or may not do something with an image: the chain of steps that every request goes through, shown.

The plugins of the configuration are asked as a request would ask them; nothing is decided here a second time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from pydantic import SecretStr

from gateway import app, launcher
from gateway.config import Config, DatabaseConfig
from gateway.core import keys, logs
from gateway.core.cache import AnswerCache
from gateway.core.database import migrate
from gateway.core.router import NEEDS, Kind
from gateway.errors import ConfigError, InvalidCredentialError, PluginFailedError, RegistryError
from gateway.plugins import ANONYMOUS, Access, Client, Credential, Refusal, RequestFacts, Step
from gateway.plugins.manager import Plugins

_ASKED: Final = (
    "gateway_authenticate",
    "gateway_project",
    "gateway_standing",
    "gateway_resolve",
    "gateway_authorize",
    "gateway_admit_request",
)
"""The hooks that lead to an answer; of other plugins none needs to be opened."""


Wish = Literal["pull", "push", "delete"]
_METHODS: Final[Mapping[Wish, str]] = {"pull": "GET", "push": "PUT", "delete": "DELETE"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The steps, the last of which is the result, and what would change it (empty where it may be done)."""

    steps: tuple[Step, ...]
    remedy: str = ""

    @property
    def granted(self) -> bool:
        """Whether it may be done."""
        return all(step.passed for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The explanation for programs."""
        steps = [{"step": step.name, "passed": step.passed, "finding": step.finding} for step in self.steps]
        return {"granted": self.granted, "steps": steps, "next": self.remedy}


async def explain(path: Path, wish: Wish, image: str, credential: Credential | None) -> Explanation:
    """Ask the plugins of the configuration at *path*. Raises ConfigError where it is no good, or a plugin fails."""
    logs.configure("error")
    config = launcher.check(path)
    # With the gateway's own key, what the replicas share is found, and said to be remembered.
    signing = config.tokens.signing_key_file.exists()
    own = keys.load(config.tokens, shared=config.database.shared, create=False) if signing else keys.ephemeral()
    cache = AnswerCache(config.cache, own, logs.get("gateway"))
    try:
        async with _opened(config, own, cache) as plugins:
            found = await _ask(plugins, wish, image, credential)
    except PluginFailedError as error:
        raise ConfigError([f"a plugin failed: {error.where}"]) from error
    except RegistryError as error:
        found = Explanation((Step("answer", passed=False, finding=f"{error.status}: {error.why or error.message}"),))
    result = f"{wish} is {'granted' if found.granted else 'refused'}"
    return Explanation((*found.steps, Step("result", passed=found.granted, finding=result)), found.remedy)


@asynccontextmanager
async def _opened(config: Config, own: keys.Keys, cache: AnswerCache) -> AsyncIterator[Plugins]:
    with TemporaryDirectory() as folder:
        if not config.database.shared and not config.database.sqlite_path.exists():
            # Before the first start nothing is kept; the gateway's own database is for the gateway to make.
            nothing = DatabaseConfig(url=SecretStr(f"sqlite:///{folder}/gateway.db"))
            config = config.model_copy(update={"database": nothing})
            await migrate(nothing)
        parts = app.build(config, own, cache)
        plugins, database = parts.plugins, parts.database
        await database.open()
        try:
            async with cache.opened(), plugins.lifespan(_ASKED):
                yield plugins
        finally:
            await database.close()


async def _ask(plugins: Plugins, wish: Wish, image: str, credential: Credential | None) -> Explanation:
    client = Client("127.0.0.1", "explain")
    try:
        identity = ANONYMOUS if credential is None else await plugins.authenticate(credential, client)
    except InvalidCredentialError as error:
        remedy = "check username and secret: a token's kind decides which username goes with it"
        step = Step("credential", passed=False, finding=f"not accepted: {error}")
        return Explanation((*error.steps(), step), remedy)
    name, reference = split(image)
    method = _METHODS[wish]
    access = Access("repository", name, NEEDS[Kind.MANIFEST][method])
    answers = await plugins.decide(identity, [access])
    if isinstance(answers, Refusal):
        step = Step("refusal", passed=False, finding=f"{answers.status} {answers.message}")
        return Explanation((*identity.steps(), *answers.steps(), step))
    answer = answers[0]
    if answer.why is not None:
        return Explanation(answer.steps, answer.why.remedy)
    facts = RequestFacts(method, Kind.MANIFEST, name, reference, (answer.access,), client)
    deny = plugins.admit_request(identity, facts)
    if deny is None:
        return Explanation(answer.steps)
    veto = Step(deny.reason.code, passed=False, finding=deny.reason.message)
    return Explanation((*answer.steps, veto), deny.reason.remedy)


def split(image: str) -> tuple[str, str | None]:
    """The repository and the tag or digest of an image as clients write it: ``[HOST/]NAME[:TAG][@DIGEST]``.

    The first component is a host where Docker takes it for one: it has a dot or a colon, or is ``localhost``.
    """
    name, _, digest = image.partition("@")
    host, slash, rest = name.partition("/")
    if slash and (host == "localhost" or "." in host or ":" in host):
        name = rest
    path, colon, tag = name.rpartition(":")
    if not colon:
        path, tag = name, ""
    return path, digest or tag or None
