"""Find the configured plugins, check them, build them, and ask them.

``load`` is start-up: everything that is wrong is reported together. ``Plugins`` is the one typed façade between the
core and pluggy, whose own call loop does not await: it asks implementations one by one, in configured order, with a
time-out, and owns the rules by which answers combine. It denies by default and never lets an answer widen a question.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, TypeVar, cast

import pluggy
from pydantic import ValidationError

from gateway.config import Config, Model, PluginItem, problems
from gateway.errors import ConfigError, InvalidCredentialError, InvalidSettingError, PluginFailedError, RegistryError
from gateway.oci import Action, Reference, RepositoryName
from gateway.plugins.chain import Answer
from gateway.plugins.hookspecs import GatewaySpecs
from gateway.plugins.plans import Cleanup
from gateway.plugins.protocols import Backend, ManifestStore, Services, Upstream
from gateway.plugins.types import (
    Access,
    ApiAnswer,
    ApiCall,
    ApiEndpoint,
    Client,
    Credential,
    Decision,
    Deny,
    Endpoint,
    Event,
    ExpirationPolicy,
    Group,
    Health,
    Identity,
    Job,
    Names,
    Profile,
    Project,
    Reason,
    Refusal,
    RegistryLevel,
    Repository,
    RequestFacts,
    Standing,
    Steps,
    TagPage,
    TagQuery,
    Unknown,
    Unresolved,
    Verdict,
    Visible,
)

ENTRY_POINTS: Final = "gateway.plugins"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """One plugin's implementation of one hook."""

    plugin: str
    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]


class Plugins:
    """Typed, awaited calls into the loaded plugins, asked in configured order."""

    def __init__(self, timeout: float) -> None:
        self._manager = pluggy.PluginManager("gateway")
        self._manager.add_hookspecs(GatewaySpecs)
        self._timeout = timeout
        self._asked: dict[str, tuple[Asked, ...]] = {}
        self._order: Sequence[str] = ()
        self.backends: dict[str, Backend] = {}
        self.routes: tuple[tuple[tuple[str, ...], str], ...] = ()
        self.default_backend = ""
        self.anonymous: Literal["direct", "challenge"] = "direct"
        """What becomes of a request without credentials unless the operator says it: see ``register``."""

    # -- start-up -----------------------------------------------------------------------------------

    def register(self, plugins: Sequence[tuple[str, object]]) -> Iterator[str]:
        """Register *plugins*, first asked first; yield a line for each thing that is wrong with their hooks.

        A plugin whose class says ``anonymous = "challenge"`` asks a server that every stranger's guess would cost a
        question: a request without credentials is challenged first.
        """
        if any(getattr(plugin, "anonymous", None) == "challenge" for _, plugin in plugins):
            self.anonymous = "challenge"
        self._order = [name for name, _ in plugins]
        # pluggy calls the plugin registered last first.
        for name, plugin in reversed(plugins):
            yield from _unmarked_hooks(name, plugin)
            try:
                self._manager.register(plugin, name)
            except pluggy.PluginValidationError as error:
                yield f"plugins.{name}: {' '.join(str(error).split())}"
                self._manager.unregister(name=name)
        for hook, caller in vars(self._manager.hook).items():
            if not isinstance(caller, pluggy.HookCaller):
                continue
            impls = list(reversed(caller.get_hookimpls()))
            for impl in impls:
                yield from _wrong_hook(hook, caller, impl)
            self._asked[hook] = tuple(Asked(i.plugin_name, hook, i.function, tuple(i.argnames)) for i in impls)

    def answering(self, hook: str) -> tuple[str, ...]:
        """The names of the plugins that answer *hook*, in the order in which they are asked."""
        return tuple(asked.plugin for asked in self._asked.get(hook, ()))

    def plugin(self, name: str) -> object:
        """The plugin of that name; None where the configuration has none."""
        return self._manager.get_plugin(name)

    def collect_backends(self, items: Sequence[PluginItem]) -> Iterator[str]:
        """Take the backends that plugins offer, and which repositories go to which; yield what is wrong."""
        offered: dict[str, str] = {}
        for asked in self._asked["gateway_backends"]:
            answer, wrong = _started(asked)
            yield from wrong
            for name, backend in (answer or {}).items():
                if name in offered:
                    yield f"plugins.{asked.plugin}: the backend {name!r} is offered by {offered[name]} too"
                elif not isinstance(backend, Backend) or (
                    backend.metadata == "index" and not isinstance(backend, Upstream)
                ):
                    yield f"plugins.{asked.plugin}: the backend {name!r} is not a Backend: methods are missing"
                offered[name] = asked.plugin
                self.backends[name] = backend
        if not offered:
            yield "plugins: no plugin stores images; add a backend such as `- use: backend_local`"
            return
        patterns = {item.name: item.repositories for item in items}
        defaults = [name for name, plugin in offered.items() if not patterns[plugin]]
        if len(defaults) != 1:
            yield (
                f"plugins: of several backends all but one need `repositories`; without it are: {', '.join(defaults)}"
                if defaults
                else "plugins: every backend has `repositories`; one must be the default and have none"
            )
            return
        self.default_backend = defaults[0]
        self.routes = tuple((patterns[plugin], name) for name, plugin in offered.items() if patterns[plugin])

    def check(self) -> Iterator[str]:
        """Yield what plugins find wrong with the files that their configuration names."""
        for asked in self._asked["gateway_check"]:
            answer, wrong = _started(asked)
            yield from (*wrong, *(answer or ()))

    def endpoints(self) -> tuple[Endpoint | ApiEndpoint, ...]:
        """The endpoints of all plugins. ConfigError where two claim one method and path, or one claims ``/v2/``."""
        found: dict[tuple[str, str], str] = {}
        answer: list[Endpoint | ApiEndpoint] = []
        wrong: list[str] = []
        for asked in self._asked["gateway_endpoints"]:
            offered, failed = _started(asked)
            wrong += failed
            for endpoint in offered or ():
                key = (endpoint.method, endpoint.path)
                if key in found:
                    wrong.append(f"plugins.{asked.plugin}: {' '.join(key)} is answered by {found[key]} too")
                if endpoint.path.startswith(("/v2", "/jwt", "/explain")):
                    wrong.append(f"plugins.{asked.plugin}: {endpoint.path} belongs to the core")
                found[key] = asked.plugin
                answer.append(endpoint)
        if wrong:
            raise ConfigError(wrong)
        return tuple(answer)

    def jobs(self) -> tuple[Job, ...]:
        """The periodic jobs of all plugins."""
        return tuple(job for asked in self._asked["gateway_jobs"] for job in asked.function() or ())

    @asynccontextmanager
    async def lifespan(self, answering: Sequence[str] | None = None, *named: str) -> AsyncIterator[None]:
        """Open every plugin in order, and leave in reverse whatever was entered.

        With *answering*, only the plugins that answer one of these hooks, and those *named*.
        """
        names = None if answering is None else {*named, *(name for hook in answering for name in self.answering(hook))}
        async with AsyncExitStack() as stack:
            for asked in self._asked["gateway_lifespan"]:
                if names is not None and asked.plugin not in names:
                    continue
                context = asked.function()
                if context is not None:
                    await stack.enter_async_context(context)
            yield

    # -- facts --------------------------------------------------------------------------------------

    async def project(self, candidates: Sequence[str], identity: Identity | None = None) -> Project | Unknown:
        """The project at the first of *candidates* that any source knows. *identity* asks; None: the gateway itself."""
        unknown: list[Unknown] = []
        for asked in self._asked["gateway_project"]:
            answer: Project | Unknown | None = await self._ask(
                asked, (Project, Unknown), candidates=candidates, identity=identity
            )
            if isinstance(answer, Project):
                return replace(answer, source=asked.plugin)
            unknown += [answer] if answer else []
        return Unknown(_steps(unknown))

    async def standing(self, identity: Identity, project: Project) -> Standing:
        """How *identity* stands to *project*: its own source is asked and nobody else."""
        for asked in self._asked["gateway_standing"]:
            if asked.plugin == identity.source:
                answer = await self._ask(asked, Standing, identity=identity, project=project)
                return answer or Standing()
        return Standing()

    async def projects(self, identity: Identity) -> Sequence[tuple[Project, Standing]]:
        """The projects that the identity's own source knows, or for a nobody those of every source."""
        answer: list[tuple[Project, Standing]] = []
        for asked in self._asked["gateway_projects"]:
            if identity.anonymous or asked.plugin == identity.source:
                answer += await self._ask(asked, Sequence, identity=identity) or ()
        return answer

    async def find_project(self, identity: Identity, key: int | str) -> Project | None:
        """The project that has the number or the path *key*, by the identity's own source; for a nobody by any.

        None also where the images there belong to an earlier source's project.
        """
        for asked in self._of(identity, "gateway_find_project"):
            found: Project | None = await self._ask(asked, Project, identity=identity, key=key)
            if found is not None and await self._owns(asked.plugin, found, identity):
                return replace(found, source=asked.plugin)
        return None

    async def _owns(self, source: str, project: Project, identity: Identity) -> bool:
        """Whether the images of *source*'s *project* are its own: the first source that knows a path owns it.

        So naming has it, which tries the paths above a name as well.
        """
        earlier = self._order[: self._order.index(source)]
        parts = project.path.lower().split("/")
        candidates = ["/".join(parts[:count]) for count in range(len(parts), min(len(parts), _SHORTEST) - 1, -1)]
        for asked in self._asked["gateway_project"]:
            if asked.plugin in earlier:
                question = {"candidates": candidates, "identity": identity}
                if isinstance(await self._ask(asked, (Project, Unknown), **question), Project):
                    return False
        return True

    async def find_group(self, identity: Identity, key: int | str) -> Group | None:
        """The group that has the number or the path *key*, likewise."""
        for asked in self._of(identity, "gateway_find_group"):
            found: Group | None = await self._ask(asked, Group, identity=identity, key=key)
            if found is not None:
                return replace(found, source=asked.plugin)
        return None

    async def group_standing(self, identity: Identity, group: Group) -> Standing:
        """How *identity* stands to *group*: its own source is asked and nobody else."""
        for asked in self._asked["gateway_group_standing"]:
            if asked.plugin == identity.source:
                return await self._ask(asked, Standing, identity=identity, group=group) or Standing()
        return Standing()

    async def group_projects(self, identity: Identity, group: Group) -> Sequence[Project]:
        """Every project below *group*, by the source that knows it, whose images are its own."""
        for asked in self._asked["gateway_group_projects"]:
            if asked.plugin == group.source:
                found = await self._ask(asked, Sequence, identity=identity, group=group) or ()
                own = [project for project in found if await self._owns(asked.plugin, project, identity)]
                return [replace(project, source=asked.plugin) for project in own]
        return ()

    async def profile(self, identity: Identity) -> Profile | None:
        """What the identity's own source says of its user and token."""
        return await self._first_of(identity, "gateway_profile", Profile)

    async def relay(self, identity: Identity, call: ApiCall) -> ApiAnswer | None:
        """What the server behind the identity's own source answers; for a nobody that of the first that has one."""
        return await self._first_of(identity, "gateway_relay", ApiAnswer, call=call)

    async def set_registry_level(self, identity: Identity, project: Project, level: RegistryLevel) -> bool:
        """Have the project's own source keep *level*."""
        for asked in self._asked["gateway_set_registry_level"]:
            if asked.plugin == project.source:
                kept = await self._ask(asked, RegistryLevel, identity=identity, project=project, level=level)
                return kept is level
        return False

    async def expiration_policy(self, project: Project) -> ExpirationPolicy | None:
        """The project's policy, by the first that keeps one."""
        return await self._first("gateway_expiration_policy", ExpirationPolicy, project=project)

    async def set_expiration_policy(
        self, identity: Identity, project: Project, attributes: Mapping[str, object]
    ) -> ExpirationPolicy | None:
        """Change the project's policy. Raises InvalidSettingError."""
        question = {"identity": identity, "project": project, "attributes": attributes}
        return await self._first("gateway_set_expiration_policy", ExpirationPolicy, **question)

    async def cleanup_rules(self, project: Project) -> Cleanup | None:
        """What a run of the project's policy goes by. Raises InvalidSettingError."""
        return await self._first("gateway_cleanup_rules", Cleanup, project=project)

    async def run_cleanup(self, identity: Identity, project: Project, *, confirm: bool) -> Mapping[str, str] | None:
        """Have the project's policy run soon. Raises InvalidSettingError."""
        question = {"identity": identity, "project": project, "confirm": confirm}
        return await self._first("gateway_run_cleanup", Mapping, **question)

    def _of(self, identity: Identity, hook: str) -> Iterator[Asked]:
        """Whom a question about *identity* is put to: its own source, for a nobody every source."""
        return (asked for asked in self._asked[hook] if identity.anonymous or asked.plugin == identity.source)

    async def _first_of(self, identity: Identity, hook: str, kind: type[T], **question: object) -> T | None:
        for asked in self._of(identity, hook):
            answer: T | None = await self._ask(asked, kind, identity=identity, **question)
            if answer is not None:
                return answer
        return None

    # -- a request ----------------------------------------------------------------------------------

    async def authenticate(self, credential: Credential, client: Client) -> Identity:
        """Who presents *credential*. Raises InvalidCredentialError where nobody knows it or one knows it is wrong."""
        unknown: list[Unknown] = []
        for asked in self._asked["gateway_authenticate"]:
            identity: Identity | Unknown | None = await self._ask(
                asked, (Identity, Unknown), credential=credential, client=client
            )
            if isinstance(identity, Unknown):
                unknown.append(identity)
            elif identity is not None:
                if identity.source != asked.plugin:
                    raise PluginFailedError(f"{asked.plugin}: gateway_authenticate spoke for {identity.source!r}")
                return identity
        raise InvalidCredentialError("no plugin recognised it", _steps(unknown))

    async def decide(self, identity: Identity, asked: Sequence[Access]) -> tuple[Answer, ...] | Refusal:
        """What *identity* may do: every name resolved, all accesses put as one question, each answer only narrowed."""
        return await self.authorize(identity, [await self.resolved(access, identity) for access in asked])

    async def resolved(self, access: Access, identity: Identity | None = None) -> Access:
        """*access* with the repository that its name stands for, or with the reason why it stands for none.

        *identity* asks; None: the gateway itself.
        """
        if access.type != "repository":
            return access
        try:
            name = RepositoryName.parse(access.name)
        except ValueError as error:
            why = Unresolved(Reason("naming", str(error)), public=True)
            return Access(access.type, access.name, access.actions, unresolved=why)
        found: Repository | Unresolved | None = await self._first(
            "gateway_resolve", (Repository, Unresolved), name=name, identity=identity
        )
        if isinstance(found, Unresolved):
            return Access(access.type, access.name, access.actions, unresolved=found)
        return Access(access.type, access.name, access.actions, found)

    async def authorize(self, identity: Identity, accesses: Sequence[Access]) -> tuple[Answer, ...] | Refusal:
        """What *identity* may do of *accesses*: the first opinion, cut to what was asked and to the ceiling."""
        # Deny by default: nobody had an opinion.
        verdicts = tuple(Verdict() for _ in accesses)
        for asked in self._asked["gateway_authorize"]:
            opinion = await self._ask(asked, (Decision, Refusal), identity=identity, accesses=accesses)
            if isinstance(opinion, Refusal):
                return opinion
            if opinion is not None:
                if len(opinion.verdicts) != len(accesses):
                    raise PluginFailedError(f"{asked.plugin}: gateway_authorize answered for other accesses")
                verdicts = opinion.verdicts
                break
        return tuple(Answer.of(identity, access, verdict) for access, verdict in zip(accesses, verdicts, strict=True))

    async def visible_projects(self, identity: Identity) -> Visible:
        """The projects whose images *identity* may pull; none where nobody answers or the credential can't pull."""
        if Action.PULL not in identity.ceiling:
            return Visible()
        return await self._first("gateway_visible_projects", Visible, identity=identity) or Visible()

    def admit_request(self, identity: Identity, request: RequestFacts) -> Deny | None:
        """The first veto, if any."""
        for asked in self._asked["gateway_admit_request"]:
            question = {"identity": identity, "request": request}
            try:
                answer = asked.function(*(question[name] for name in asked.arguments))
            except Exception as error:
                raise PluginFailedError(f"{asked.plugin}: {asked.hook}: {error!r}") from error
            if isinstance(answer, Deny):
                return answer
            if answer is not None:
                raise PluginFailedError(f"{asked.plugin}: {asked.hook} answered {type(answer).__name__}")
        return None

    @property
    def hides_tags(self) -> bool:
        """Whether any plugin may hide tags."""
        return bool(self._asked["gateway_filter_tags"])

    def hides_repositories(self, identity: Identity) -> bool:
        """Whether any plugin may hide repositories of a project that the source of *identity* shows it."""
        return any(asked.plugin != identity.source for asked in self._asked["gateway_filter_repositories"])

    @property
    def vetoes(self) -> bool:
        """Whether any plugin may veto requests."""
        return bool(self._asked["gateway_admit_request"])

    def upstreams(self) -> list[Upstream]:
        """The backends that are other registries."""
        return [backend for backend in self.backends.values() if isinstance(backend, Upstream)]

    async def backend(self, name: RepositoryName) -> Backend:
        """The backend of a repository: a plugin's choice, else the first pattern that fits, else the default."""
        chosen = await self._first("gateway_choose_backend", str, name=name)
        if chosen is None:
            chosen = next((b for patterns, b in self.routes if any(_fits(p, name) for p in patterns)), None)
        backend = self.backends.get(chosen or self.default_backend)
        if backend is None:
            raise PluginFailedError(f"gateway_choose_backend: there is no backend {chosen!r}")
        return backend

    async def admit_manifest(
        self, identity: Identity, name: RepositoryName, references: Sequence[Reference], manifest: bytes
    ) -> Deny | None:
        """The first veto against storing *manifest*, if any."""
        return await self._first(
            "gateway_admit_manifest", Deny, identity=identity, name=name, references=references, manifest=manifest
        )

    async def tags(
        self, identity: Identity, name: RepositoryName, query: TagQuery, store: ManifestStore
    ) -> TagPage | None:
        """A page of the tags that *identity* sees, sorted by byte: a plugin's listing or the store's, then filtered.

        Pages are read on until *query* is filled, so that hidden tags leave no holes.
        """
        shown: list[Any] = []
        last = query.last
        while True:
            wanted = None if query.limit is None else query.limit - len(shown)
            part = TagQuery(wanted, last, query.order)
            page = await self._first("gateway_list_tags", TagPage, identity=identity, name=name, query=part)
            if page is None:
                page = await store.tags(name, part)
            elif list(page.tags) != sorted(tag for tag in page.tags if tag > last) or len(page.tags) > (
                len(page.tags) if wanted is None else wanted
            ):
                raise PluginFailedError("gateway_list_tags answered a page that is not sorted or too long")
            if page is None:
                return None
            shown += await self._filtered("gateway_filter_tags", page.tags, identity=identity, name=name, names="tags")
            if not page.more or not page.tags or (query.limit is not None and len(shown) >= query.limit):
                return TagPage(tuple(shown), page.more and bool(page.tags))
            last = page.tags[-1]

    async def seen_tags(self, identity: Identity, name: RepositoryName, tags: Names) -> Names:
        """Those of *tags* that every plugin lets *identity* see."""
        return await self._filtered("gateway_filter_tags", tags, identity=identity, name=name, names="tags")

    async def sees_tag(self, identity: Identity, name: RepositoryName, tag: str) -> bool:
        """Whether *identity* may see one tag."""
        if not self._asked["gateway_filter_tags"]:
            return True
        return bool(await self._filtered("gateway_filter_tags", (tag,), identity=identity, name=name, names="tags"))

    async def filter_repositories(self, identity: Identity, names: Names) -> Names:
        """Those of *names*, anybody's, that every plugin lets *identity* see."""
        return await self._filtered("gateway_filter_repositories", names, identity=identity, names="names")

    async def seen_repositories(self, identity: Identity, names: Names) -> Names:
        """Those of *names*, whose project *identity* was shown by its source, that every other plugin lets it see."""
        hook = "gateway_filter_repositories"
        return await self._filtered(hook, names, identity=identity, names="names", decided=identity.source)

    # -- afterwards ---------------------------------------------------------------------------------

    async def tell(self, event: Event) -> list[PluginFailedError]:
        """Tell every plugin of *event*; a failure stops nobody else and is returned for the log."""
        failed = []
        for asked in self._asked["gateway_event"]:
            try:
                await self._ask(asked, type(None), event=event)
            except RegistryError as error:
                failed.append(error if isinstance(error, PluginFailedError) else PluginFailedError(repr(error)))
        return failed

    @property
    def listeners(self) -> bool:
        """Whether any plugin wants to hear of events."""
        return bool(self._asked["gateway_event"])

    async def health(self) -> dict[str, Health]:
        """Each plugin's health, asked side by side; one that fails to say is failing."""

        async def one(asked: Asked) -> tuple[str, Health]:
            try:
                return asked.plugin, await self._ask(asked, Health) or Health(ok=True)
            except RegistryError as error:
                return asked.plugin, Health(ok=False, message=str(error))

        return dict(await asyncio.gather(*(one(asked) for asked in self._asked["gateway_health"])))

    # -- how one plugin is asked ----------------------------------------------------------------------

    async def _first(self, hook: str, kind: type[T] | tuple[type[Any], ...], **question: object) -> T | None:
        for asked in self._asked[hook]:
            answer: T | None = await self._ask(asked, kind, **question)
            if answer is not None:
                return answer
        return None

    async def _filtered(
        self, hook: str, found: Names, *, names: str, decided: str | None = None, **question: object
    ) -> list[str]:
        """What every plugin lets through of *found*; *decided*: the plugin that has said so already."""
        shown = list(found)
        for asked in self._asked[hook]:
            if not shown:
                break
            if asked.plugin == decided:
                continue
            answer = await self._ask(asked, Sequence, **question, **{names: tuple(shown)})
            if answer is not None:
                seen = set(answer)
                shown = [name for name in shown if name in seen]
        return shown

    async def _ask(self, asked: Asked, kind: type[Any] | tuple[type[Any], ...], **question: object) -> Any:
        """One plugin's answer. None means it has no opinion; failing, hanging and a wrong type are no answers."""
        try:
            coroutine = asked.function(*(question[name] for name in asked.arguments))
            try:
                # Most answers need no waiting, and no timer: one costs as much as a small question.
                waiting = coroutine.send(None)
            except StopIteration as done:
                answer = done.value
            else:
                async with asyncio.timeout(self._timeout):
                    answer = await _rest(coroutine, waiting)
        except RegistryError:
            raise
        except (InvalidCredentialError, InvalidSettingError) as error:
            # Each is an answer to one question alone; to any other it is a failure like the rest.
            if isinstance(error, _MAY_SAY.get(asked.hook, ())):
                raise
            raise PluginFailedError(f"{asked.plugin}: {asked.hook}: {error!r}") from error
        except TimeoutError as error:
            raise PluginFailedError(f"{asked.plugin}: {asked.hook}: no answer in {self._timeout:g} s") from error
        except Exception as error:
            raise PluginFailedError(f"{asked.plugin}: {asked.hook}: {error!r}") from error
        if answer is not None and not _is_answer(answer, kind):
            raise PluginFailedError(f"{asked.plugin}: {asked.hook} answered {type(answer).__name__}")
        return answer


_SHORTEST: Final = 2
"""Components of the shortest path of a project (semantics 5.1)."""
_MAY_SAY: Final[Mapping[str, type[Exception]]] = {
    "gateway_authenticate": InvalidCredentialError,
    "gateway_set_expiration_policy": InvalidSettingError,
    "gateway_cleanup_rules": InvalidSettingError,
    "gateway_run_cleanup": InvalidSettingError,
}


def _is_answer(answer: object, kind: type[Any] | tuple[type[Any], ...]) -> bool:
    """Whether *answer* is of the *kind* that the hook asks for: a text is no sequence of names."""
    wants_text = isinstance(kind, type) and issubclass(kind, str)
    return isinstance(answer, kind) and (wants_text or not isinstance(answer, str))


def _steps(unknown: Sequence[Unknown]) -> Steps:
    return lambda: [step for one in unknown for step in one.steps()]


def _fits(pattern: str, name: str) -> bool:
    """Whether *name* matches *pattern*, where ``**`` stands for any number of components and ``*`` for one."""
    head, _, rest = pattern.partition("/")
    first, _, tail = name.partition("/")
    if head == "**":
        return not rest or any(_fits(rest, part) for part in _tails(name))
    if not name or (head not in {"*", first}):
        return False
    return _fits(rest, tail) if rest else not tail


def _tails(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.partition("/")[2]


def _started(asked: Asked) -> tuple[Any, list[str]]:
    """What a start-up hook answers, or a line that says how it failed."""
    try:
        answer = asked.function()
        return (list(answer) if isinstance(answer, Iterable) and not isinstance(answer, Mapping) else answer), []
    except Exception as error:  # noqa: BLE001 - whatever a stranger's plugin raises is one line for the operator
        return None, [f"plugins.{asked.plugin}: {asked.hook} failed: {error!r}"]


def _unmarked_hooks(name: str, plugin: object) -> Iterator[str]:
    for attribute in dir(type(plugin)):
        if attribute.startswith("gateway_") and not hasattr(getattr(type(plugin), attribute), "gateway_impl"):
            yield f"plugins.{name}: {attribute} lacks @hookimpl and would never be asked"


def _wrong_hook(hook: str, caller: pluggy.HookCaller, impl: pluggy.HookImpl) -> Iterator[str]:
    where = f"plugins.{impl.plugin_name}: {hook}"
    if not caller.has_spec():
        yield f"{where} is no hook of this gateway; see gateway/plugins/hookspecs.py"
        return
    if impl.wrapper or impl.hookwrapper:
        yield f"{where} is a wrapper; wrappers could turn a refusal into a grant and are not called"
    wanted = inspect.iscoroutinefunction(getattr(GatewaySpecs, hook))
    if inspect.iscoroutinefunction(impl.function) is not wanted:
        yield f"{where} must be {'`async def`' if wanted else 'a plain `def`'}"


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, T], waiting: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that was started and waits for *waiting*."""
    try:
        while True:
            try:
                value = yield waiting
            except BaseException as error:  # noqa: BLE001 - the time-out and the end of the request among them
                waiting = coroutine.throw(error)
            else:
                waiting = coroutine.send(value)
    except StopIteration as done:
        return cast("T", done.value)


# -- finding and building ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin that some distribution offers."""

    name: str
    distribution: str
    version: str
    entry_point: EntryPoint

    def load(self) -> type[Any]:
        """Import the plugin's class; raises whatever its import raises."""
        plugin: type[Any] = self.entry_point.load()
        return plugin

    def hooks(self) -> list[str]:
        """The hooks that the plugin answers."""
        plugin = self.load()
        return [name for name in dir(plugin) if hasattr(getattr(plugin, name), "gateway_impl")]


def installed() -> list[Installed]:
    """Every plugin that is installed, by name; a name stands here once for each distribution that offers it."""
    found = {
        (point.name, point.dist.name if point.dist else "?"): Installed(
            point.name, point.dist.name if point.dist else "?", point.dist.version if point.dist else "?", point
        )
        for point in entry_points(group=ENTRY_POINTS)
    }
    return [found[key] for key in sorted(found)]


def find(items: Iterable[PluginItem], available: Sequence[Installed]) -> tuple[dict[str, type[Any]], list[str]]:
    """The classes of the configured plugins by ``use``, and a line for each that can't be had."""
    classes: dict[str, type[Any]] = {}
    wrong: list[str] = []
    for use in dict.fromkeys(item.use for item in items):
        offers = [plugin for plugin in available if plugin.name == use]
        if not offers:
            known = ", ".join(sorted({plugin.name for plugin in available}))
            wrong.append(f"plugins.{use}: no such plugin is installed; installed are: {known}")
        elif len(offers) > 1:
            both = " and ".join(plugin.distribution for plugin in offers)
            wrong.append(f"plugins.{use}: offered by {both}; uninstall one of them")
        else:
            try:
                classes[use] = offers[0].load()
            except Exception as error:  # noqa: BLE001 - whatever a stranger's import raises is one line for the operator
                wrong.append(f"plugins.{use}: cannot be imported from {offers[0].distribution}: {error!r}")
    return classes, wrong


def load(
    config: Config,
    services: Callable[[str, Plugins], Services],
    available: Sequence[Installed] | None = None,
) -> Plugins:
    """Find, check and build the configured plugins. Raises ConfigError with everything that is wrong.

    *services* makes what one plugin is lent, given the plugin's name and the façade.
    """
    classes, wrong = find(config.plugins, installed() if available is None else available)
    plugins = Plugins(config.hook_timeout.total_seconds())
    built: list[tuple[str, object]] = []
    for item in config.plugins:
        if item.use not in classes:
            continue
        section, found = _section(item, classes[item.use])
        wrong += found
        if section is not None:
            try:
                built.append((item.name, classes[item.use](section, services(item.name, plugins))))
            except Exception as error:  # noqa: BLE001 - whatever a stranger's plugin raises is one line for the operator
                wrong.append(f"plugins.{item.name}: cannot be built: {error!r}")
    wrong += plugins.register(built)
    if not wrong:
        wrong += plugins.collect_backends(config.plugins)
        if not plugins.answering("gateway_authorize"):
            wrong.append("plugins: no plugin decides who may do what; add one such as `- use: visibility`")
    if wrong:
        raise ConfigError(wrong)
    plugins.endpoints()
    return plugins


def check_sections(items: Sequence[PluginItem]) -> list[str]:
    """What is wrong with plugins' own keys, or with finding them; for a configuration that is not good as a whole."""
    classes, wrong = find(items, installed())
    for item in items:
        if item.use in classes:
            wrong += _section(item, classes[item.use])[1]
    return wrong


def _section(item: PluginItem, plugin: type[Any]) -> tuple[Model | None, list[str]]:
    model = getattr(plugin, "Config", None)
    if not (isinstance(model, type) and issubclass(model, Model)):
        return None, [f"plugins.{item.name}: its class has no Config, a Model of gateway.plugins"]
    try:
        return model.model_validate(dict(item.options)), []
    except ValidationError as error:
        return None, problems(error, f"plugins.{item.name}")


def sections(available: Sequence[Installed]) -> Mapping[str, type[Model]]:
    """The configuration model of each plugin that can be imported, for documentation and editors."""
    classes, _ = find((PluginItem.model_validate({"use": plugin.name}) for plugin in available), available)
    return {name: plugin.Config for name, plugin in classes.items()}
