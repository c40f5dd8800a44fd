"""Ask the plugins of a gateway what the REST API may do, as its routes ask, in forms short enough for a table."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import yaml
from pydantic import SecretStr

from gateway import app, launcher
from gateway.core import keys, logs
from gateway.core.cache import AnswerCache
from gateway.core.database import migrate
from gateway.plugins import (
    ANONYMOUS,
    Ability,
    Access,
    ApiAnswer,
    ApiCall,
    Client,
    Credential,
    Identity,
    InvalidCredentialError,
    NoCache,
    Project,
    Refusal,
    Scheme,
)
from gateway.plugins.chain import Answer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from gateway.plugins.manager import Plugins

T = TypeVar("T")

EXTERNAL = "https://registry.example.com"
CLIENT = Client("192.0.2.7", "abilities")
LETTERS = {
    Ability.READ: "R",
    Ability.READ_IMAGES: "P",
    Ability.DELETE_TAG: "T",
    Ability.ADMIN_IMAGES: "A",
    Ability.ADMIN: "S",
}
"""The matrix's letters, R for seeing the project at all and S for its settings."""
HIDDEN = "404"
"""What is not there for the caller."""


class Shown(NamedTuple):
    """A secret and the header that it comes in."""

    scheme: Scheme
    secret: str


def private(secret: str) -> Shown:
    """Show a token in `PRIVATE-TOKEN`."""
    return Shown(Scheme.PRIVATE_TOKEN, secret)


def bearer(secret: str) -> Shown:
    """Show a token as `Bearer`."""
    return Shown(Scheme.BEARER, secret)


def of_job(secret: str) -> Shown:
    """Show a token in `JOB-TOKEN`."""
    return Shown(Scheme.JOB_TOKEN, secret)


class Deciding:
    """The plugins of a configuration with the gateway's own rules for their answers, without its HTTP.

    *cached*: answers are remembered as the gateway does; else each is asked for. *database* is another gateway's file.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Mapping[str, Any]],
        *,
        cached: bool = False,
        database: Path | None = None,
    ) -> None:
        self._cached = cached
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "gateway.yaml"
        backend = {"use": "backend_local", "root": str(folder / "registry")}
        self._path.write_text(
            yaml.safe_dump(
                {
                    "server": {"external_url": EXTERNAL},
                    "tokens": {"signing_key_file": str(folder / "key.pem")},
                    "database": {"url": f"sqlite:///{database or folder / 'gateway.db'}"},
                    "plugins": [*(dict(item) for item in sources), backend],
                }
            )
        )
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.plugins: Plugins

    def __enter__(self) -> Self:
        """Open the plugins, on an event loop of their own."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="deciding", daemon=True)
        self._thread.start()
        self.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _open(self) -> None:
        config = launcher.check(self._path, create=True)
        await migrate(config.database)
        own = keys.ephemeral()
        cache = AnswerCache(config.cache, own, logs.get("deciding"))
        await self._stack.enter_async_context(cache.opened())
        parts = app.build(config, own, cache if self._cached else NoCache())
        self.plugins = parts.plugins
        await parts.database.open()
        self._stack.push_async_callback(parts.database.close)
        await self._stack.enter_async_context(self.plugins.lifespan())

    def run(self, question: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer."""
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(timeout=60)

    def identity(self, who: Shown | None) -> Identity:
        """Recognise a caller."""
        if who is None:
            return ANONYMOUS
        credential = Credential("", SecretStr(who.secret), who.scheme)
        return self.run(self.plugins.authenticate(credential, CLIENT))

    def knows(self, who: Shown) -> bool:
        """Tell whether a credential is taken."""
        try:
            return not self.identity(who).anonymous
        except InvalidCredentialError:
            return False

    def project(self, who: Shown | None, path: int | str) -> Project | None:
        """Find a project."""
        return self.run(self.plugins.find_project(self.identity(who), path))

    def relayed(self, who: Shown | None, call: ApiCall) -> ApiAnswer:
        """Pass a call on."""
        found = self.run(self.plugins.relay(self.identity(who), call))
        assert found is not None
        return found

    def answer(self, who: Shown | None, path: int | str) -> Answer | None:
        """Decide everything about a project; None where it is not found."""
        identity = self.identity(who)
        project = self.run(self.plugins.find_project(identity, path))
        if project is None:
            return None
        return self._decided(identity, Access("project", project.path.lower(), tuple(Ability), project=project))

    def _decided(self, identity: Identity, access: Access) -> Answer:
        answers = self.run(self.plugins.decide(identity, [access]))
        assert not isinstance(answers, Refusal)
        return answers[0]

    def may(self, who: Shown | None, path: int | str) -> str:
        """Spell what a caller may do with a project."""
        return _spelt(self.answer(who, path))

    def may_with_group(self, who: Shown | None, path: int | str) -> str:
        """Spell what a caller may do with a group."""
        identity = self.identity(who)
        group = self.run(self.plugins.find_group(identity, path))
        if group is None:
            return HIDDEN
        return _spelt(self._decided(identity, Access("group", group.path.lower(), tuple(Ability), group=group)))

    def listed(self, who: Shown | None, path: str) -> list[str]:
        """List the projects of a group."""
        identity = self.identity(who)
        group = self.run(self.plugins.find_group(identity, path))
        assert group is not None
        return sorted(project.path for project in self.run(self.plugins.group_projects(identity, group)))


def _spelt(answer: Answer | None) -> str:
    if answer is None or Ability.READ not in answer.allowed:
        assert answer is None or not answer.allowed
        return HIDDEN
    return "".join(letter for ability, letter in LETTERS.items() if ability in answer.allowed)
