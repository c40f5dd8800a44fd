"""What the token endpoint grants, for any scopes of any caller: what was asked, within ceiling and policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway import app
from gateway.config import load
from gateway.core.access import AccessControl
from gateway.core.database import migrate
from gateway.core.keys import ephemeral
from gateway.core.tokenserver import TokenServer
from gateway.plugins import ANONYMOUS, Client, Credential, NoCache
from tests.support import people
from tests.support.people import (
    ALICE_API,
    ALICE_READ,
    ALICE_READ_WRITE,
    BOB,
    CAROL,
    DAVE,
    DEPLOY_READ,
    DEPLOY_READ_WRITE,
    GROUP_READ,
    HIDDEN,
    INTERNAL,
    JOB,
    MALLORY,
    PRIVATE,
    PROJECT_DEVELOPER,
    PUBLIC,
    ROOT,
)
from tests.support.wire import Account

if TYPE_CHECKING:
    from gateway.plugins import Identity

Grants: TypeAlias = dict[str, set[str]]
Ask: TypeAlias = Callable[[Account | None, list[str]], Grants]

CONF = "conf/project"
PROJECTS = (PRIVATE, INTERNAL, PUBLIC, HIDDEN, CONF)
WORDS = {"-": "", "P": "pull", "PW": "pull push", "PWD": "pull push delete", "PWDA": "pull push delete *"}

# The policy (semantics 4) of the tests' company for: acme/app private, acme/internal, acme/open public,
# acme/secret/vault private, conf/project private; then the credential's ceiling (semantics 2.3).
POLICY: dict[Account | None, tuple[str, str]] = {
    None: ("- - P - -", "P"),
    MALLORY: ("- P P - -", "PWDA"),
    BOB: ("P P P P -", "PWDA"),
    CAROL: ("PW PW PW PW -", "PWDA"),
    DAVE: ("PWDA PWDA PWDA PWDA -", "PWDA"),
    ROOT: ("PWDA PWDA PWDA PWDA PWDA", "PWDA"),
    ALICE_API: ("PWDA PWDA PWDA PWDA PWDA", "PWDA"),
    ALICE_READ: ("PWDA PWDA PWDA PWDA PWDA", "P"),
    ALICE_READ_WRITE: ("PWDA PWDA PWDA PWDA PWDA", "PW"),
    PROJECT_DEVELOPER: ("PW P P - -", "PW"),
    GROUP_READ: ("PWDA PWDA PWDA PWDA -", "P"),
    DEPLOY_READ: ("PW - P - -", "P"),
    DEPLOY_READ_WRITE: ("PW - P - -", "PW"),
    JOB: ("PWD P P P -", "PWD"),
}


def may(who: Account | None, name: str) -> set[str]:
    """Look up the ceiling and the policy on the project of a name, as the tables have them."""
    policies, ceiling = POLICY[who]
    for project, word in zip(PROJECTS, policies.split(), strict=True):
        rest = name.lower().removeprefix(project)
        if rest == "" or (rest.startswith("/") and rest.count("/") <= 2):
            return set(WORDS[word].split()) & set(WORDS[ceiling].split())
    return set()


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Build the plugins as the gateway does, and ask what its token endpoint would grant."""
    folder = tmp_path_factory.mktemp("grants")
    (folder / "directory.yaml").write_text(yaml.safe_dump(people.directory()))
    plugins = [
        {"use": "auth_local", "directory": str(folder / "directory.yaml")},
        {"use": "naming"},
        {"use": "visibility"},
        {"use": "backend_local", "root": str(folder / "registry")},
    ]
    database = {"url": f"sqlite:///{folder / 'gateway.db'}"}
    (folder / "gateway.yaml").write_text(yaml.safe_dump({"plugins": plugins, "database": database}))
    config = load(folder / "gateway.yaml")
    parts = app.build(config, ephemeral(), NoCache())
    loaded = parts.plugins
    nothing = cast("Any", None)
    keys = ephemeral()
    server = TokenServer(
        AccessControl(loaded, nothing, nothing, service="", anonymous="direct"),
        nothing,
        keys,
        nothing,
        nothing,
        service="",
    )
    with asyncio.Runner() as runner:
        life = loaded.lifespan(["gateway_authenticate"])
        runner.run(migrate(config.database))
        runner.run(parts.database.open())
        runner.run(life.__aenter__())

        async def identity(who: Account) -> Identity:
            return await loaded.authenticate(Credential(who.username, SecretStr(who.password)), Client("192.0.2.1"))

        identities = {who: ANONYMOUS if who is None else runner.run(identity(who)) for who in POLICY}

        def answer(who: Account | None, scopes: list[str]) -> Grants:
            answers = runner.run(cast("Any", server.answer(identities[who], scopes)))
            found: Grants = {}
            for one in answers:
                if one.allowed:
                    found.setdefault(f"{one.access.type}:{one.access.name}", set()).update(one.allowed)
            return found

        yield answer
        runner.run(life.__aexit__(None, None, None))
        runner.run(parts.database.close())


CALLERS = st.sampled_from(list(POLICY))
NAMES = st.one_of(
    st.sampled_from(PROJECTS),
    st.builds("/".join, st.tuples(st.sampled_from(PROJECTS), st.sampled_from(["a", "a/b", "a/b/c", "x--y", "_a"]))),
    st.sampled_from([PRIVATE.upper(), "acme", "acme/missing", "", "acme/app2", "acme//app"]),
)
ACTIONS = st.lists(st.sampled_from(["pull", "push", "delete", "*", "fly", "PULL", ""]), min_size=1, max_size=6).map(
    ",".join
)
SCOPES = st.builds("repository:{}:{}".format, NAMES, ACTIONS)
UNKNOWN = st.one_of(
    st.text(st.characters(exclude_characters=" ")).filter(lambda text: not text.startswith("repository:")),
    st.builds("plugin:{}:{}".format, NAMES, ACTIONS),
    st.builds("registry:{}:{}".format, st.sampled_from(["catalog2", "Catalog", ""]), ACTIONS),
    st.builds("repository:missing/{}:{}".format, st.sampled_from(["a", "b"]), ACTIONS),
)


def asked(scopes: list[str]) -> Grants:
    """Read the scopes as semantics 3.3 does."""
    found: Grants = {}
    for scope in scopes:
        kind, name, actions = scope.split(":", 2)
        found.setdefault(f"{kind}:{name.lower()}", set()).update(actions.split(","))
    return found


@pytest.mark.parametrize("who", POLICY)
@given(scopes=st.lists(SCOPES, max_size=6))
def test_a_grant_is_asked_within_ceiling_within_policy(ask: Ask, who: Account | None, scopes: list[str]) -> None:
    """Granted is exactly asked, within the ceiling, within the policy; nothing where a name is illegal."""
    expected = {
        key: actions & may(who, key.partition(":")[2])
        for key, actions in asked(scopes).items()
        if not {"_a", ""} & set(key.partition(":")[2].split("/"))
    }
    assert ask(who, scopes) == {key: actions for key, actions in expected.items() if actions}


@given(who=CALLERS, scopes=st.lists(SCOPES, max_size=4), unknown=UNKNOWN, place=st.integers(0, 4))
def test_an_unknown_scope_changes_nothing(
    ask: Ask, who: Account | None, scopes: list[str], unknown: str, place: int
) -> None:
    """A scope that nobody understands, wherever it stands, takes nothing from the others and adds nothing."""
    assert ask(who, [*scopes[:place], unknown, *scopes[place:]]) == ask(who, scopes)


@given(who=CALLERS, scopes=st.lists(SCOPES, max_size=5), data=st.data())
def test_the_order_of_scopes_does_not_matter(
    ask: Ask, who: Account | None, scopes: list[str], data: st.DataObject
) -> None:
    """Any order of the scopes is granted the same, and so is one list of them with spaces between."""
    shuffled = data.draw(st.permutations(scopes))
    assert ask(who, shuffled) == ask(who, scopes) == ask(who, [" ".join(scopes)])


@pytest.mark.parametrize("who", [who for who in POLICY if who is not ROOT])
@given(scopes=st.lists(st.one_of(SCOPES, st.just("registry:catalog:*")), max_size=4))
def test_the_catalog_is_for_admins(ask: Ask, who: Account | None, scopes: list[str]) -> None:
    """Nobody but an instance admin is ever granted the catalog."""
    assert "registry:catalog" not in ask(who, scopes)


@given(scopes=st.lists(SCOPES, max_size=3), times=st.integers(1, 3))
def test_an_admin_is_granted_the_catalog(ask: Ask, scopes: list[str], times: int) -> None:
    """An instance admin is granted it, however often it is asked for and whatever stands beside it."""
    others = ["registry:catalog:pull", "registry:catalog:*,pull"]
    assert ask(ROOT, [*scopes, *["registry:catalog:*"] * times, *others])["registry:catalog"] == {"*"}
