"""What GitLab is asked, how often, and what happens when it can't answer."""

from __future__ import annotations

import copy
import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from plugins.auth_gitlab.checks import skewed
from plugins.auth_gitlab.client import skew
from tests.fakes.gitlab import FakeGitLab, Mode
from tests.journeys.test_explain import explain
from tests.semantics import company
from tests.semantics.asking import ask, scope
from tests.semantics.company import DEVELOPER, HOME, REPORTER, STRANGER, job, user
from tests.support import images
from tests.support.peers import eventually
from tests.support.wire import SERVICE, Account, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess

PATH = "/jwt/auth"
PULL = scope(HOME, "pull")
PUSH = scope(HOME, "pull,push")


@pytest.fixture
def own() -> Iterator[FakeGitLab]:
    """Run a GitLab of the test's own."""
    fake = FakeGitLab(company.directory())
    fake.start()
    yield fake
    fake.stop()


def before(
    factory: GatewayFactory, fake: FakeGitLab, extra: dict[str, Any] | None = None, **keys: Any
) -> GatewayProcess:
    """Put a gateway before it."""
    item = {"use": "auth_gitlab", "url": fake.url, **keys}
    gateway = factory(sources=[item, {"use": "naming"}, {"use": "visibility"}], extra=extra or {})
    eventually(lambda: fake.count(PATH) > 0, "readiness asked once")
    fake.requests.clear()
    return gateway


def asked(fake: FakeGitLab, username: str | None) -> list[list[str]]:
    """List the scopes of each question that came with a username; readiness asks for nobody and nothing."""
    found = [one for one in fake.requests if one.path == PATH and one.username == username]
    return [[value for key, value in one.query if key == "scope"] for one in found]


def test_many_ask_at_once_and_gitlab_once(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Two hundred simultaneous logins of one credential are one question, and one for what it may do."""
    gateway = before(gateway_factory, own)
    own.mode, own.delay = "slow", 0.3
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask(gateway, DEVELOPER, PULL).status, range(200)))
    assert set(answers) == {200}
    assert asked(own, DEVELOPER.username) == [[], [PULL]]


def test_a_warm_decision_asks_nobody(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """What GitLab answered a moment ago is not asked again; another credential or scope is."""
    gateway = before(gateway_factory, own)
    for _ in range(3):
        ask(gateway, DEVELOPER, PUSH).expect(200)
    assert asked(own, DEVELOPER.username) == [[], [PUSH]]
    ask(gateway, DEVELOPER, PULL).expect(200)
    ask(gateway, REPORTER, PULL).expect(200)
    assert asked(own, DEVELOPER.username) == [[], [PUSH], [PULL]]
    assert asked(own, REPORTER.username) == [[], [PULL]]


def test_push_is_asked_only_for_a_client_that_pushes(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """No question of the gateway's own holds push: GitLab makes a record at each (semantics 14.3)."""
    gateway = before(gateway_factory, own)
    ask(gateway, DEVELOPER, PULL).expect(200)
    gateway.wire(DEVELOPER).get(f"/v2/{HOME}/tags/list")
    gateway.wire(DEVELOPER).get("/v2/_catalog").expect(200)
    assert own.requests
    assert not [one for one in own.requests if "push" in str(one.query)]
    assert not own.repositories


def test_the_clients_address_goes_with_the_question(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """GitLab hears where the client is, behind proxies that the operator trusts."""
    gateway = before(gateway_factory, own, {"server": {"trusted_proxies": ["127.0.0.1"]}})
    ask_from(gateway, DEVELOPER, "203.0.113.7").expect(200)
    assert {one.forwarded_for for one in own.requests if one.username} == {"203.0.113.7"}


def ask_from(gateway: GatewayProcess, who: Account, address: str) -> Any:
    """Ask for a token from an address."""
    return gateway.wire(who).get(f"{PATH}?service={SERVICE}", **{"X-Forwarded-For": address})


FAILURES = ["down", "500", "503", "garbage", "redirect"]


@pytest.mark.parametrize("mode", FAILURES)
def test_gitlab_that_fails_is_503(gateway_factory: GatewayFactory, own: FakeGitLab, mode: Any) -> None:
    """What can't be answered is 503 with Retry-After, never a grant, a 401 or a 500; it is over when GitLab is back."""
    gateway = before(gateway_factory, own)
    own.mode = mode
    for who in (DEVELOPER, Account("developer", "wrong")):
        answer = ask(gateway, who, PULL).expect(503)
        assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
        assert answer.header("Retry-After")
    assert gateway.wire(DEVELOPER).get(f"/v2/{HOME}/tags/list").status == 503
    assert Wire(gateway.admin_url).get("/readyz").status == 503
    own.mode = "ok"
    eventually(lambda: ask(gateway, DEVELOPER, PULL).status == 200, "GitLab is asked again")


def test_a_slow_gitlab_is_not_waited_for(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """After the time-out it is 503."""
    gateway = before(gateway_factory, own, timeout="300ms")
    own.mode, own.delay = "slow", 5
    ask(gateway, DEVELOPER, PULL).expect(503)


def test_a_gitlab_that_keeps_failing_is_left_alone(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """After five failures in a row nothing is sent for a while, and every client still gets its 503 at once."""
    gateway = before(gateway_factory, own)
    own.mode = "500"
    for number in range(40):
        ask(gateway, Account("developer", f"guess-{number}"), PULL).expect(503)
    assert len(own.requests) < 15


def test_pulls_outlive_gitlab_and_pushes_do_not(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """While GitLab is down a pull that it granted a while ago goes on, and a push waits for it."""
    gateway = before(gateway_factory, own, remember="1s")
    ask(gateway, DEVELOPER, PULL).expect(200)
    ask(gateway, DEVELOPER, PUSH).expect(200)
    own.mode = "down"
    eventually(lambda: ask(gateway, DEVELOPER, PUSH).status == 503, "the grant of push is over")
    ask(gateway, DEVELOPER, PULL).expect(200)
    ask(gateway, REPORTER, PULL).expect(503)


def test_stale_answers_can_be_switched_off(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """With `stale_if_error: 0s` nothing outlives GitLab's answer."""
    gateway = before(gateway_factory, own, remember="1s", stale_if_error="0s")
    ask(gateway, DEVELOPER, PULL).expect(200)
    own.mode = "down"
    eventually(lambda: ask(gateway, DEVELOPER, PULL).status == 503, "the grant of pull is over")


def test_a_revoked_credential_is_never_revived(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Once GitLab said that a credential is wrong, no earlier answer serves it, also while GitLab is down."""
    gateway = before(gateway_factory, own, remember="1s", remember_refusals="1s")
    who = user("developer")
    ask(gateway, who, PULL).expect(200)
    blocked = copy.deepcopy(company.directory())
    next(one for one in blocked["users"] if one["username"] == who.username)["state"] = "blocked"
    own.directory = blocked
    eventually(lambda: ask(gateway, who, PULL).status == 401, "GitLab said no")
    own.mode = "down"
    eventually(lambda: ask(gateway, who, PULL).status == 503, "the refusal is over")
    for _ in range(3):
        ask(gateway, who, PULL).expect(503)


def test_a_registry_that_is_off_is_a_configuration_problem(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """`registry not enabled` is 503 for clients, and a sentence with the fix in readiness and log."""
    gateway = before(gateway_factory, own)
    own.registry_enabled = False
    ask(gateway, DEVELOPER, PULL).expect(503)
    said = Wire(gateway.admin_url).get("/readyz").expect(503).body.decode()
    assert "registry not enabled" in said
    assert "enable its container registry" in said
    assert "enable its container registry" in gateway.log


def test_failed_logins_are_throttled_before_gitlab(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Who fails too often gets 429 and does not reach GitLab; known credentials and other addresses do."""
    gateway = before(gateway_factory, own, {"server": {"trusted_proxies": ["127.0.0.1"]}}, failed_logins=3)
    ask_from(gateway, DEVELOPER, "203.0.113.7").expect(200)
    guesses = [Account("developer", f"guess-{number}") for number in range(6)]
    statuses = [ask_from(gateway, guess, "203.0.113.7").status for guess in guesses]
    assert statuses == [401, 401, 401, 429, 429, 429]
    answer = ask_from(gateway, Account("developer", "one-more"), "203.0.113.7").expect(429)
    assert answer.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert int(answer.header("Retry-After")) > 0
    assert len(asked(own, "developer")) == 4
    ask_from(gateway, DEVELOPER, "203.0.113.7").expect(200)
    ask_from(gateway, REPORTER, "203.0.113.8").expect(200)
    ask_from(gateway, job("developer"), "203.0.113.7").expect(200)


def test_an_answer_of_another_key_is_not_believed(
    gateway_factory: GatewayFactory, own: FakeGitLab, tmp_path: Any
) -> None:
    """With a certificate, a token that another key signed grants nothing, whoever sent it."""
    other = FakeGitLab(company.directory())
    path = tmp_path / "other.crt"
    path.write_text(other.certificate_pem)
    item = {"use": "auth_gitlab", "url": own.url, "certificate_file": str(path)}
    gateway = gateway_factory(sources=[item, {"use": "naming"}, {"use": "visibility"}])
    ask(gateway, DEVELOPER, PULL).expect(503)
    said = Wire(gateway.admin_url).get("/readyz").expect(503).body.decode()
    assert "is certificate_file that of its registry key?" in said


def test_nobody_is_challenged_first(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A stranger's guess costs GitLab no question until they ask for a token."""
    gateway = before(gateway_factory, own)
    gateway.wire().get("/v2/mx/public-enabled/tags/list").expect(401)
    assert asked(own, None) == []


def test_the_catalog_is_what_gitlab_lets_pull(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """The catalog asks GitLab for the repositories of a page, and shows those that the caller may pull."""
    gateway = before(gateway_factory, own)
    for name in (HOME, "mx/public-enabled"):
        gateway.wire(user("owner")).push_image(name, "1", images.image(b"listed"))
    assert shown(gateway, DEVELOPER) == [HOME, "mx/public-enabled"]
    assert shown(gateway, STRANGER) == ["mx/public-enabled"]


def test_the_next_page_names_nothing_hidden(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A page's link goes on behind a name that the caller sees, though hidden ones were looked at after it."""
    gateway = before(gateway_factory, own)
    for name in (HOME, "mx/internal-enabled", "mx/private-enabled", "mx/public-enabled"):
        gateway.wire(user("owner")).push_image(name, "1", images.image(b"paged"))
    names, path = [], "/v2/_catalog?n=1"
    while path:
        answer = gateway.wire(STRANGER).get(path).expect(200)
        names += answer.json()["repositories"]
        link = answer.headers["Link"] or ""
        assert HOME not in link
        assert "private" not in link
        path = link.partition("<")[2].partition(">")[0]
    assert names == ["mx/internal-enabled", "mx/public-enabled"]


def shown(gateway: GatewayProcess, who: Account) -> Any:
    """Read the catalog."""
    return gateway.wire(who).get("/v2/_catalog").expect(200).json()["repositories"]


CLOCKS = [
    pytest.param("Wed, 25 Nov 2026 10:00:00 GMT", True, id="the same"),
    pytest.param("Wed, 25 Nov 2026 10:01:00 GMT", True, id="a minute ahead"),
    pytest.param("Wed, 25 Nov 2026 10:01:01 GMT", False, id="more than a minute ahead"),
    pytest.param("Wed, 25 Nov 2026 09:58:59 GMT", False, id="more than a minute behind"),
    pytest.param("yesterday", True, id="no date"),
    pytest.param(None, True, id="no header"),
]


@pytest.mark.parametrize(("date", "good"), CLOCKS)
def test_clocks_must_agree_within_a_minute(date: str | None, *, good: bool) -> None:
    """Readiness says by how much GitLab's clock differs from ours, and what to do."""
    now = dt.datetime(2026, 11, 25, 10, 0, 0, tzinfo=dt.UTC).timestamp()
    health = skewed(skew(date, now))
    assert health.ok is good
    assert good or "NTP" in health.message


def test_explain_says_what_gitlab_said_and_whence(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """The chain shows what GitLab was asked and granted; with GitLab down it says so."""
    gateway = before(gateway_factory, own)
    said = explain(gateway, REPORTER, "push", HOME)
    step = next(one for one in said["steps"] if one["step"] == "gitlab")
    assert step["finding"] == "asked for pull, push, GitLab grants pull, as GitLab says now"
    assert not said["granted"]
    assert explain(gateway, DEVELOPER, "push", HOME)["granted"]
    assert explain(gateway, None, "pull", "mx/public-enabled")["granted"]
    own.mode = "down"
    said = explain(gateway, DEVELOPER, "pull", HOME)
    assert not said["granted"]
    assert "GitLab can't be asked" in said["steps"][0]["finding"]


def test_no_secret_is_logged(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Whatever happens, the log holds neither a credential nor a token."""
    gateway = before(gateway_factory, own)
    token = ask(gateway, DEVELOPER, PULL).json()["token"]
    ask(gateway, Account("developer", "hunter2-hunter2"), PULL).expect(401)
    modes: tuple[Mode, ...] = ("garbage", "500")
    for mode in modes:
        own.mode = mode
        ask(gateway, Account("developer", f"hunter2-{mode}"), PULL).expect(503)
    for secret in (DEVELOPER.password, "hunter2", token):
        assert secret not in gateway.log
