"""The REST API before a GitLab whose facts decide: what the service token is for, and what it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from gateway.plugins import ApiCall, CredentialKind, InvalidCredentialError, RegistryError
from tests.fakes.gitlab import VERSIONS, FakeGitLab
from tests.gitlab_api.conftest import directory
from tests.gitlab_jwt.test_rest import FAILURES, secrets, start
from tests.semantics.abilities import HIDDEN, of_job, private
from tests.semantics.company import ADMIN_API, HOME, HOME_ID, job, token, user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gitlab_jwt.test_rest import Start
    from tests.semantics.abilities import Deciding

__all__ = ["start"]

DEVELOPER = private(user("developer").password)
STRANGER = private(user("stranger").password)


@pytest.fixture
def own() -> Iterator[FakeGitLab]:
    """Run a GitLab of the test's own, without its registry integration."""
    with FakeGitLab(directory()) as fake:
        fake.registry_enabled = False
        yield fake


def before(start: Start, fake: FakeGitLab, **keys: Any) -> Deciding:
    """Decide by its facts."""
    return start(fake, mode="api", service_token=fake.service_token, **keys)


def test_what_gitlab_hides_is_hidden(start: Start, own: FakeGitLab) -> None:
    """The service token's wider view shows a caller nothing: it is not even asked about what they are not shown."""
    deciding = before(start, own)
    identity = deciding.identity(STRANGER)
    own.requests.clear()
    assert deciding.run(deciding.plugins.find_project(identity, HOME)) is None
    assert secrets(own) == {STRANGER.secret}
    assert deciding.may(None, HOME_ID) == HIDDEN


def test_what_is_shown_has_all_its_facts(start: Start, own: FakeGitLab) -> None:
    """Of a project that the caller is shown, the service token tells what decides."""
    deciding = before(start, own)
    found = deciding.project(DEVELOPER, HOME_ID)
    assert found is not None
    assert (found.path, found.id, found.visibility, found.source) == (HOME, HOME_ID, "private", "auth_gitlab")
    assert secrets(own) == {DEVELOPER.secret, own.service_token}


def test_calls_go_under_the_caller_s_credential(start: Start, own: FakeGitLab) -> None:
    """What is passed on to GitLab never goes under the service token."""
    deciding = before(start, own)
    identity = deciding.identity(DEVELOPER)
    own.requests.clear()
    found = deciding.run(deciding.plugins.relay(identity, ApiCall("GET", f"projects/{quote(HOME, safe='')}")))
    assert found is not None
    assert found.status == 200
    assert secrets(own) == {DEVELOPER.secret}


def test_who_is_who(start: Start, own: FakeGitLab) -> None:
    """The owner's standing in the instance is what the service token tells; a job has none of it."""
    deciding = before(start, own)
    admin, running = deciding.identity(private(ADMIN_API.password)), deciding.identity(of_job(job("admin").password))
    assert (admin.admin, running.admin) == (True, False)
    assert (admin.kind, running.kind) == (CredentialKind.PERSONAL_ACCESS_TOKEN, CredentialKind.JOB_TOKEN)
    assert deciding.identity(private(user("external-guest").password)).external
    registry_only = deciding.identity(private(token("personal_access_token", "read_registry").password))
    assert (registry_only.subject, registry_only.scopes) == ("maintainer", ("read_registry",))
    profile = deciding.run(deciding.plugins.profile(registry_only))
    assert profile is not None
    assert (profile.username, (profile.token or {})["scopes"]) == ("maintainer", ["read_registry"])


def test_a_gitlab_that_is_too_old(start: Start, own: FakeGitLab) -> None:
    """GitLab before 15.5 tells no token's scopes: no token is taken, and the reason says what to do."""
    own.release, own.version = "14.x", VERSIONS["14.x"]
    own._routes = own._table()
    with pytest.raises(InvalidCredentialError, match="use mode jwt"):
        before(start, own).identity(DEVELOPER)


@pytest.mark.parametrize("mode", FAILURES)
def test_gitlab_that_fails_is_503(start: Start, own: FakeGitLab, mode: Any) -> None:
    """What can't be found out is 503 with Retry-After."""
    deciding = before(start, own, remember="0s")
    identity = deciding.identity(DEVELOPER)
    group = deciding.run(deciding.plugins.find_group(identity, "mx"))
    assert group is not None
    own.mode = mode
    for question in (
        lambda: deciding.identity(STRANGER),
        lambda: deciding.project(DEVELOPER, HOME),
        lambda: deciding.run(deciding.plugins.group_standing(identity, group)),
    ):
        with pytest.raises(RegistryError) as refused:
            question()
        assert (refused.value.status, bool(refused.value.headers["Retry-After"])) == (503, True)


def test_a_blocked_owner(start: Start, own: FakeGitLab) -> None:
    """A token whose owner is blocked is nobody's, in every header."""
    changed = directory()
    next(person for person in changed["users"] if person["username"] == "developer")["state"] = "blocked"
    own.directory = changed
    deciding = before(start, own)
    assert not deciding.knows(DEVELOPER)
    assert not deciding.knows(of_job(job("developer").password))
