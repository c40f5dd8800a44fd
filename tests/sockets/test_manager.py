"""The manager asks plugins in order, narrows what they say, and reports all that is wrong with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.errors import PluginFailedError
from gateway.oci import Action, RepositoryName, Tag
from gateway.plugins import (
    ALL_ACTIONS,
    ANONYMOUS,
    Ability,
    Access,
    Backend,
    Client,
    ConfigError,
    Credential,
    CredentialKind,
    Decision,
    Deny,
    Endpoint,
    Group,
    Identity,
    InvalidCredentialError,
    ManifestStore,
    Model,
    Project,
    Public,
    Reason,
    Refusal,
    Repository,
    RequestFacts,
    TagPage,
    TagQuery,
    Verdict,
    Visibility,
    hookimpl,
)
from tests.sockets.samples import Nothing, Sample, Store, asked, offered, started

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from gateway.plugins.manager import Installed, Plugins

NAME = RepositoryName("acme/app")
HERE = Repository(NAME, Project("acme/app", Visibility.PRIVATE))
CLIENT = Client("192.0.2.1")
CREDENTIAL = Credential("alice", SecretStr("secret"))
ALICE = Identity("p0", CredentialKind.PASSWORD, "alice", "1")
PULL = Access("repository", NAME, ("pull",), HERE)
FACTS = RequestFacts("GET", "manifest", NAME, "latest", (PULL,), CLIENT)
ALL = Decision((Verdict(ALL_ACTIONS),))


def _identifies(name: str | None) -> type[Sample]:
    class Plugin(Sample):
        """Knows one person, or nobody."""

        @hookimpl
        async def gateway_authenticate(self) -> Identity | None:
            """Say who it is."""
            return Identity(self.services.name, CredentialKind.PASSWORD, name, "1") if name else None

    return Plugin


def _authorizes(answer: Callable[[], Awaitable[Any]]) -> type[Sample]:
    class Plugin(Sample):
        """Answers as it is told."""

        @hookimpl
        async def gateway_authorize(self) -> Any:
            """Say it."""
            return await answer()

    return Plugin


def _says(answer: object) -> Callable[[], Awaitable[object]]:
    async def say() -> object:
        return answer

    return say


async def _raises() -> object:
    raise ZeroDivisionError


async def _raises_time_out() -> object:
    raise TimeoutError


async def _hangs() -> object:
    return await asyncio.sleep(60, ALL)


def _vetoes(answer: object) -> type[Sample]:
    class Plugin(Sample):
        """Answers every request alike."""

        @hookimpl
        def gateway_admit_request(self) -> Any:
            """Say it, or raise it."""
            if isinstance(answer, Exception):
                raise answer
            return answer

    return Plugin


class Rejects(Sample):
    """Knows every credential, and that it is wrong."""

    @hookimpl
    async def gateway_authenticate(self) -> Identity | None:
        """Refuse it."""
        raise InvalidCredentialError


class Speaks(Sample):
    """Says that somebody is another plugin's."""

    @hookimpl
    async def gateway_authenticate(self) -> Identity | None:
        """Claim them for a stranger."""
        return Identity("somebody-else", CredentialKind.PASSWORD, "alice", "1")


def _hides(*hidden: str, adds: Iterable[str] = ()) -> type[Sample]:
    class Plugin(Sample):
        """Hides some tags."""

        @hookimpl
        async def gateway_filter_tags(self, tags: Sequence[str]) -> list[str]:
            """Leave them out, in no order that anybody asked for."""
            return [tag for tag in reversed(tags) if tag not in hidden] + list(adds)

    return Plugin


def _lists(*tags: str, more: bool = False) -> type[Sample]:
    class Plugin(Sample):
        """Lists tags itself."""

        @hookimpl
        async def gateway_list_tags(self) -> TagPage:
            """Give the page."""
            return TagPage(tuple(Tag(tag) for tag in tags), more)

    return Plugin


def _store(tags: Iterable[str]) -> ManifestStore:
    """Hold tags, sorted and paged as a store does."""
    held = sorted(tags)

    async def page(_name: str, query: TagQuery) -> TagPage:
        rest = [Tag(tag) for tag in held if tag > query.last]
        return TagPage(tuple(rest[: query.limit]), query.limit is not None and len(rest) > query.limit)

    return cast("ManifestStore", Mock(tags=page))


# -- who ------------------------------------------------------------------------------------------------


async def test_the_first_plugin_that_knows_a_credential_answers() -> None:
    """The order of the configuration is the order in which plugins are asked."""
    plugins = asked(_identifies(None), _identifies("first"), _identifies("second"))
    assert plugins.answering("gateway_authenticate") == ("p0", "p1", "p2")
    assert (await plugins.authenticate(CREDENTIAL, CLIENT)).subject == "first"


async def test_a_wrong_credential_ends_the_search() -> None:
    """Where one plugin knows that a credential is wrong, nobody else is asked."""
    with pytest.raises(InvalidCredentialError):
        await asked(Rejects, _identifies("alice")).authenticate(CREDENTIAL, CLIENT)


async def test_a_credential_that_nobody_knows_is_wrong() -> None:
    """Without an answer nobody is let in."""
    with pytest.raises(InvalidCredentialError):
        await asked(_identifies(None)).authenticate(CREDENTIAL, CLIENT)


async def test_a_plugin_speaks_for_itself_alone() -> None:
    """An identity in another plugin's name is a failure."""
    with pytest.raises(PluginFailedError, match="p0: gateway_authenticate spoke for"):
        await asked(Speaks).authenticate(CREDENTIAL, CLIENT)


# -- may they -------------------------------------------------------------------------------------------


async def allowed(plugins: Plugins, identity: Identity, *accesses: Access) -> list[frozenset[Action | Ability]]:
    """What is granted of each access."""
    answers = await plugins.authorize(identity, accesses)
    assert not isinstance(answers, Refusal)
    return [answer.allowed for answer in answers]


async def test_the_first_opinion_counts() -> None:
    """A later plugin can't overrule an earlier one, and None leaves it to the next."""
    plugins = asked(_authorizes(_says(None)), _authorizes(_says(Decision((Verdict(),)))), _authorizes(_says(ALL)))
    assert await allowed(plugins, ALICE, PULL) == [frozenset()]


async def test_no_opinion_grants_nothing() -> None:
    """Where everybody abstains, nothing is allowed."""
    plugins = started(
        [{"use": "store"}, {"use": "silent"}],
        [offered("store", Store), offered("silent", _authorizes(_says(None)))],
    )
    assert await allowed(plugins, ALICE, PULL) == [frozenset()]


async def test_an_answer_may_take_its_time() -> None:
    """An implementation that waits, more than once and also for something that fails, is heard to its end."""

    async def slow() -> Decision:
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            await asyncio.gather(_raises())
        await asyncio.sleep(0.001)
        return ALL

    assert await allowed(asked(_authorizes(slow)), ALICE, PULL) == [frozenset({Action.PULL})]


async def test_a_request_that_ends_takes_its_question_with_it() -> None:
    """A cancelled request reaches the implementation that it waits for."""
    started, left = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    task = asyncio.create_task(asked(_authorizes(waits)).authorize(ALICE, [PULL]))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left.is_set()


async def test_a_refusal_ends_the_request() -> None:
    """A Refusal comes through as it is, and nobody after it is asked."""
    refusal = Refusal(403, "DENIED", "no")
    plugins = asked(_authorizes(_says(refusal)), _authorizes(_says(ALL)))
    assert await plugins.authorize(ALICE, [PULL]) == refusal


FAILURES: dict[str, Callable[[], Awaitable[object]]] = {
    "true": _says(answer=True),
    "word": _says("pull"),
    "verdict": _says(Verdict(ALL_ACTIONS)),
    "actions": _says(ALL_ACTIONS),
    "empty-list": _says([]),
    "false": _says(answer=False),
    "exception": _raises,
    "time-out-of-its-own": _raises_time_out,
    "hangs": _hangs,
    "too-few-verdicts": _says(Decision(())),
    "too-many-verdicts": _says(Decision((Verdict(ALL_ACTIONS), Verdict(ALL_ACTIONS)))),
}


@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES)
async def test_a_failing_plugin_never_grants(answer: Callable[[], Awaitable[object]]) -> None:
    """Raising, hanging and answers of a wrong type or number are failures, and no later plugin mends them."""
    plugins = asked(_authorizes(answer), _authorizes(_says(ALL)))
    with pytest.raises(PluginFailedError, match=r"^p0: ") as caught:
        await plugins.authorize(ALICE, [PULL])
    assert caught.value.status == 503
    assert "p0" not in caught.value.message


@given(
    asked_for=st.lists(st.one_of(st.sampled_from(["pull", "push", "delete", "*", "fly"])), max_size=5),
    ceiling=st.frozensets(st.sampled_from(Action)),
    answer=st.frozensets(st.sampled_from(Action)),
)
async def test_a_grant_is_within_question_ceiling_and_answer(
    asked_for: list[str], ceiling: frozenset[Action], answer: frozenset[Action]
) -> None:
    """Nothing that a plugin says widens a question or a credential."""
    identity = Identity("p0", CredentialKind.PASSWORD, "alice", "1", ceiling)
    plugins = asked(_authorizes(_says(Decision((Verdict(answer),)))))
    found = await allowed(plugins, identity, Access("repository", NAME, tuple(asked_for), HERE))
    assert found == [answer & ceiling & set(asked_for)]


@given(
    verdicts=st.lists(
        st.tuples(st.frozensets(st.sampled_from(Action)), st.lists(st.sampled_from(Action), max_size=3)), max_size=4
    )
)
async def test_each_verdict_is_cut_to_its_own_access(
    verdicts: list[tuple[frozenset[Action], list[Action]]],
) -> None:
    """An answer for one repository grants nothing of another."""
    plugins = asked(_authorizes(_says(Decision(tuple(Verdict(allowed) for allowed, _ in verdicts)))))
    accesses = [Access("repository", f"r{n}", tuple(actions), HERE) for n, (_, actions) in enumerate(verdicts)]
    found = await allowed(plugins, ALICE, *accesses)
    assert found == [answer & set(actions) for answer, actions in verdicts]


async def test_a_nobody_never_gets_more_than_pull() -> None:
    """The ceiling of a caller without a credential holds against every plugin."""
    plugins = asked(_authorizes(_says(ALL)))
    found = await allowed(plugins, ANONYMOUS, Access("repository", NAME, tuple(Action), HERE))
    assert found == [frozenset({Action.PULL})]


# -- vetoes ---------------------------------------------------------------------------------------------


def test_any_plugin_may_veto() -> None:
    """The first Deny counts, wherever in the order it stands."""
    deny = Deny(Reason("read_only", "not now"))
    plugins = asked(_vetoes(None), _vetoes(deny), _vetoes(Deny(Reason("other", "never"))))
    assert plugins.vetoes
    assert plugins.admit_request(ALICE, FACTS) == deny


def test_without_a_veto_a_request_goes_on() -> None:
    """Nobody's Deny is no veto."""
    assert asked(_vetoes(None)).admit_request(ALICE, FACTS) is None
    assert not asked().vetoes


@pytest.mark.parametrize("answer", [True, False, "no", ZeroDivisionError()], ids=["true", "false", "word", "raises"])
def test_a_failing_veto_lets_nothing_through(answer: object) -> None:
    """A veto that raises or says something else is a failure."""
    with pytest.raises(PluginFailedError, match=r"^p0: gateway_admit_request"):
        asked(_vetoes(answer)).admit_request(ALICE, FACTS)


# -- projects and their repositories ----------------------------------------------------------------------


def _knows(*paths: str) -> type[Sample]:
    class Plugin(Sample):
        """Knows some projects, all of them in one group."""

        @hookimpl
        async def gateway_project(self, candidates: Sequence[str]) -> Project | None:
            """Give the first that it knows."""
            return next((self._project(path) for path in candidates if path in paths), None)

        @hookimpl
        async def gateway_find_project(self, key: int | str) -> Project | None:
            """Give it by its path."""
            return self._project(str(key)) if key in paths else None

        @hookimpl
        async def gateway_group_projects(self) -> list[Project]:
            """Give all."""
            return [self._project(path) for path in paths]

        def _project(self, path: str) -> Project:
            return Project(path, Visibility.PRIVATE, id=1)

    return Plugin


OWNERS = [
    pytest.param("p0", "acme/app", "p0", id="the first source's"),
    pytest.param("p1", "acme/app", None, id="the first source's, by the second's user"),
    pytest.param("p1", "acme/theirs", "p1", id="the second source's"),
    pytest.param("p1", "acme/app/below", None, id="below the first source's, by whose naming it is an image"),
    pytest.param("p1", "acme/nowhere", None, id="nobody's"),
    pytest.param(None, "acme/app", "p0", id="a nobody's question"),
    pytest.param(None, "acme/theirs", "p1", id="a nobody's question about the second source's"),
]


@pytest.mark.parametrize(("source", "path", "owner"), OWNERS)
async def test_the_first_source_that_knows_a_path_owns_it(source: str | None, path: str, owner: str | None) -> None:
    """Whoever a later source knows finds no project of theirs there."""
    plugins = asked(_knows("acme/app", "acme/own"), _knows("acme/app", "acme/theirs", "acme/app/below"))
    identity = Identity(source, CredentialKind.PERSONAL_ACCESS_TOKEN, "alice", "1")
    found = await plugins.find_project(identity, path)
    assert (found.source if found is not None else None) == owner


async def test_a_group_has_the_projects_that_its_source_owns() -> None:
    """Those that an earlier source knows are left out."""
    plugins = asked(_knows("acme/app"), _knows("acme/app", "acme/theirs"))
    found = await plugins.group_projects(ALICE, Group("acme", Visibility.PRIVATE, 1, source="p1"))
    assert [(project.path, project.source) for project in found] == [("acme/theirs", "p1")]


def _shows(*names: str) -> type[Sample]:
    class Plugin(Sample):
        """Hides repositories."""

        @hookimpl
        async def gateway_filter_repositories(self) -> list[str]:
            """Show some."""
            return list(names)

    return Plugin


async def test_a_source_is_not_asked_again_about_its_own_project() -> None:
    """What it has shown to its user it need not show repository by repository; every other plugin still hides."""
    plugins = asked(_shows("a"), _shows("b", "c"))
    assert await plugins.filter_repositories(ALICE, ["a", "b", "c"]) == []
    assert await plugins.seen_repositories(ALICE, ["a", "b", "c"]) == ["b", "c"]
    assert await plugins.seen_repositories(ANONYMOUS, ["a", "b", "c"]) == []


@pytest.mark.parametrize(("identity", "hides"), [(ALICE, False), (ANONYMOUS, True)])
def test_a_source_hides_nothing_of_its_own(identity: Identity, hides: bool) -> None:  # noqa: FBT001 - a table's value
    """From a nobody every plugin may hide."""
    assert asked(_shows("a")).hides_repositories(identity) is hides


# -- tags -----------------------------------------------------------------------------------------------


async def test_a_hidden_tag_is_not_shown() -> None:
    """A tag is shown only if every plugin lets it through, and its order is the store's."""
    plugins = asked(_hides("b"), _hides("d"))
    page = await plugins.tags(ALICE, NAME, TagQuery(), _store("abcde"))
    assert page == TagPage(("a", "c", "e"))  # type: ignore[arg-type]
    assert await plugins.sees_tag(ALICE, NAME, "a")
    assert not await plugins.sees_tag(ALICE, NAME, "d")


async def test_a_filter_never_adds_a_tag() -> None:
    """What a filter makes up, or a plugin before it has hidden, is not shown."""
    plugins = asked(_hides("b"), _hides(adds=["b", "made-up"]))
    page = await plugins.tags(ALICE, NAME, TagQuery(), _store("ab"))
    assert page is not None
    assert page.tags == ("a",)


TAGS = st.frozensets(st.text("abc", min_size=1, max_size=4), max_size=12)


@given(tags=TAGS, hidden=TAGS, limit=st.integers(1, 5))
async def test_pages_have_no_holes(tags: frozenset[str], hidden: frozenset[str], limit: int) -> None:
    """Every page but the last is full, and all pages together are the visible tags in order."""
    plugins = asked(_hides(*hidden))
    store = _store(tags)
    found: list[str] = []
    page = await plugins.tags(ALICE, NAME, TagQuery(limit), store)
    while page is not None and page.more:
        assert len(page.tags) == limit
        found += page.tags
        page = await plugins.tags(ALICE, NAME, TagQuery(limit, page.tags[-1]), store)
    assert page is not None
    assert len(page.tags) <= limit
    assert [*found, *page.tags] == sorted(tags - hidden)


async def test_a_plugin_may_list_the_tags_itself() -> None:
    """The first listing counts, and the store is not asked."""
    page = await asked(_lists("x", "y"), _lists("z")).tags(ALICE, NAME, TagQuery(), _store("abc"))
    assert page == TagPage((Tag("x"), Tag("y")))


WRONG_PAGES = {
    "unsorted": (_lists("b", "a"), TagQuery()),
    "too-long": (_lists("a", "b", "c"), TagQuery(2)),
    "from-before": (_lists("a", "b"), TagQuery(None, "a")),
}


@pytest.mark.parametrize(("plugin", "query"), WRONG_PAGES.values(), ids=WRONG_PAGES)
async def test_a_listing_out_of_order_is_refused(plugin: type[Sample], query: TagQuery) -> None:
    """A plugin's page must be sorted, within the limit and behind the last tag."""
    with pytest.raises(PluginFailedError, match="gateway_list_tags"):
        await asked(plugin).tags(ALICE, NAME, query, _store(""))


async def test_a_filter_that_answers_with_a_word_shows_nothing() -> None:
    """A text is no list of tags, though its letters could be taken for one."""

    class Plugin(Sample):
        """Answers with a text."""

        @hookimpl
        async def gateway_filter_tags(self) -> Any:
            """Say it."""
            return "abc"

    with pytest.raises(PluginFailedError):
        await asked(Plugin).tags(ALICE, NAME, TagQuery(), _store("abc"))


# -- start-up -------------------------------------------------------------------------------------------


class Strict(Sample):
    """Has a key, and a key within a key."""

    class Config(Model):
        """Two keys."""

        class Inner(Model):
            """One key."""

            size: int

        inner: Inner
        secret: SecretStr = SecretStr("")


class Misspelt(Sample):
    """Answers a hook that nobody asks."""

    @hookimpl
    async def gateway_authorise(self) -> None:
        """Never asked."""


class Unmarked(Sample):
    """Forgot the mark."""

    async def gateway_resolve(self) -> None:
        """Never asked."""


class TooPlain(Sample):
    """Answers an asynchronous hook at once."""

    @hookimpl
    def gateway_resolve(self) -> None:
        """Wrong colour."""


class TooPatient(Sample):
    """Awaits in a hook that is not awaited."""

    @hookimpl
    async def gateway_admit_request(self) -> None:
        """Wrong colour."""


class Wrapping(Sample):
    """Stands around everybody's answer."""

    @hookimpl(wrapper=True)
    def gateway_admit_request(self) -> Any:
        """Turn a refusal into a grant."""
        yield
        return None


class Curious(Sample):
    """Asks for an argument that the hook does not have."""

    @hookimpl
    async def gateway_resolve(self, password: str) -> None:
        """Never asked."""
        raise AssertionError(password)


class NoBackend(Sample):
    """Offers something that can't store."""

    @hookimpl
    def gateway_backends(self) -> Mapping[str, Any]:
        """Offer a text."""
        return {"text": "no backend"}


class SameName(Sample):
    """Offers a backend under a name that others have."""

    @hookimpl
    def gateway_backends(self) -> Mapping[str, Backend]:
        """Offer it."""
        return {"store": Mock(spec=Backend, metadata="truth")}


def _broken() -> Installed:
    entry = offered("broken", Sample)

    class Broken(type(entry)):  # type: ignore[misc]
        """Can't be imported."""

        def load(self) -> type[Any]:
            """Fail."""
            raise ImportError("no module named 'missing'")

    broken: Installed = Broken(entry.name, entry.distribution, entry.version, entry.entry_point, Sample)
    return broken


WORKING = [offered("store", Store), offered("nothing", Nothing)]

PROBLEMS: dict[str, tuple[Installed, str]] = {
    "unknown-hook": (offered("bad", Misspelt), "plugins.bad: gateway_authorise is no hook of this gateway"),
    "no-mark": (offered("bad", Unmarked), "plugins.bad: gateway_resolve lacks @hookimpl"),
    "def-for-async": (offered("bad", TooPlain), "plugins.bad: gateway_resolve must be `async def`"),
    "async-for-def": (offered("bad", TooPatient), "plugins.bad: gateway_admit_request must be a plain `def`"),
    "wrapper": (offered("bad", Wrapping), "plugins.bad: gateway_admit_request is a wrapper"),
    "unknown-argument": (offered("bad", Curious), "plugins.bad: "),
    "not-a-backend": (offered("bad", NoBackend), "plugins.bad: the backend 'text' is not a Backend"),
    "two-of-one-backend": (offered("bad", SameName), "plugins.store: the backend 'store' is offered by bad too"),
}


@pytest.mark.parametrize(("bad", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_plugin_that_would_not_work_stops_the_start(bad: Installed, problem: str) -> None:
    """What is wrong with a plugin's hooks is one line with its name, before anything runs."""
    with pytest.raises(ConfigError) as caught:
        started([{"use": "bad"}, {"use": "store"}, {"use": "nothing"}], [bad, *WORKING])
    assert any(line.startswith(problem) for line in caught.value.problems), caught.value.problems


def test_everything_that_is_wrong_is_reported_together() -> None:
    """One start names every plugin that can't be had, every wrong key and every wrong hook."""
    items: list[Mapping[str, Any]] = [
        {"use": "ghost"},
        {"use": "twice"},
        {"use": "broken"},
        {"use": "strict", "name": "one", "inner": {"size": "many"}, "colour": "red"},
        {"use": "misspelt"},
        {"use": "plain"},
        {"use": "nothing"},
    ]
    available = [
        offered("twice", Sample, "samples-a"),
        offered("twice", Sample, "samples-b"),
        _broken(),
        offered("strict", Strict),
        offered("misspelt", Misspelt),
        offered("plain", TooPlain),
        *WORKING,
    ]
    with pytest.raises(ConfigError) as caught:
        started(items, available)
    lines = caught.value.problems
    wanted = [
        "plugins.ghost: no such plugin is installed; installed are: broken, misspelt, ",
        "plugins.twice: offered by samples-a and samples-b; uninstall one of them",
        "plugins.broken: cannot be imported from samples: ImportError",
        "plugins.one.inner.size: ",
        "plugins.one.colour: unknown key",
        "plugins.misspelt: gateway_authorise",
        "plugins.plain: gateway_resolve",
    ]
    for start in wanted:
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert len(lines) == len(wanted)


def test_a_wrong_section_never_shows_its_values() -> None:
    """Lines about a plugin's keys have their dotted path and nothing of what stands there."""
    with pytest.raises(ConfigError) as caught:
        started([{"use": "strict", "inner": {"size": "hunter2"}, "secret": ["hunter2"]}], [offered("strict", Strict)])
    text = str(caught.value)
    assert "plugins.strict.inner.size: " in text
    assert "plugins.strict.secret: " in text
    assert "hunter2" not in text


def test_a_gateway_without_a_backend_does_not_start() -> None:
    """Somebody must store images."""
    with pytest.raises(ConfigError, match="no plugin stores images"):
        started([{"use": "nothing"}], WORKING)


def test_a_gateway_without_an_authorizer_does_not_start() -> None:
    """Somebody must decide."""
    with pytest.raises(ConfigError, match="no plugin decides who may do what"):
        started([{"use": "store"}], WORKING)


ROUTING: dict[str, tuple[list[list[str]], str]] = {
    "two-defaults": ([[], []], "all but one need `repositories`; without it are: one, two"),
    "no-default": ([["acme/**"], ["other/**"]], "every backend has `repositories`"),
}


@pytest.mark.parametrize(("patterns", "problem"), ROUTING.values(), ids=ROUTING)
def test_exactly_one_backend_is_the_default(patterns: list[list[str]], problem: str) -> None:
    """Of several backends one takes what no pattern fits."""
    items: list[Mapping[str, Any]] = [{"use": "nothing"}]
    for name, found in zip(("one", "two"), patterns, strict=True):
        items.append({"use": "store", "name": name, "repositories": found})
    with pytest.raises(ConfigError) as caught:
        started(items, WORKING)
    assert problem in str(caught.value)


FITS = {
    "below": ("acme/**", "acme/app", True),
    "far-below": ("acme/**", "acme/a/b/c", True),
    "itself": ("acme", "acme", True),
    "prefix-of-a-word": ("acme/**", "acmeother/app", False),
    "one-component": ("acme/*", "acme/app", True),
    "one-component-only": ("acme/*", "acme/app/sub", False),
    "end": ("**/cache", "acme/app/cache", True),
    "middle": ("acme/**/cache", "acme/a/b/cache", True),
    "everything": ("**", "acme/app", True),
    "other": ("acme/app", "acme/other", False),
}


@pytest.mark.parametrize(("pattern", "name", "fits"), FITS.values(), ids=FITS)
async def test_a_pattern_routes_a_repository_to_its_backend(pattern: str, name: str, *, fits: bool) -> None:
    """``*`` is one component and ``**`` any number; what fits nothing goes to the default."""
    plugins = started(
        [
            {"use": "store", "name": "default"},
            {"use": "store", "name": "special", "repositories": [pattern]},
            {"use": "nothing"},
        ],
        WORKING,
    )
    wanted = plugins.backends["special" if fits else "default"]
    assert await plugins.backend(RepositoryName(name)) is wanted


async def test_an_unknown_backend_is_a_failure() -> None:
    """A plugin that chooses a backend that is not there is refused, not ignored."""

    class Chooses(Sample):
        """Sends everything away."""

        @hookimpl
        async def gateway_choose_backend(self) -> str:
            """Name a backend that nobody offers."""
            return "elsewhere"

    with pytest.raises(PluginFailedError, match="elsewhere"):
        await asked(Chooses).backend(NAME)


def _answers(path: str) -> type[Sample]:
    class Plugin(Sample):
        """Answers at one path."""

        @hookimpl
        def gateway_endpoints(self) -> list[Endpoint]:
            """Offer it."""
            return [Endpoint("GET", path, Public("a test"), cast("Any", None))]

    return Plugin


def test_two_plugins_never_answer_at_one_path() -> None:
    """Whose handler would run must never be a question of order."""
    with pytest.raises(ConfigError, match="GET /hello is answered by p0 too"):
        asked(_answers("/hello"), _answers("/hello"))


def test_no_plugin_takes_a_path_of_the_core() -> None:
    """What stands below ``/v2/`` is answered by the core alone."""
    with pytest.raises(ConfigError, match="/v2/acme belongs to the core"):
        asked(_answers("/v2/acme"))
