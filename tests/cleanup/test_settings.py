"""What a policy may say, and when it runs next (semantics 7.1)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.plugins import ExpirationPolicy, InvalidSettingError, RepositoryRecord
from plugins.cleanup import rules

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_new_policy() -> None:
    """Nobody's policy is not enabled, daily, keeps 10, removes what is older than 90 days by `.*`."""
    wanted = {"enabled": False, "cadence": "1d", "keep_n": 10, "older_than": "90d", "name_regex": ".*"}
    assert rules.as_json(rules.DEFAULT) == {**wanted, "name_regex_keep": None, "next_run_at": None}


ALLOWED = [
    *(pytest.param("enabled", value, id=f"enabled {value}") for value in (True, False)),
    *(pytest.param("cadence", value, id=f"cadence {value}") for value in ("1d", "7d", "14d", "1month", "3month")),
    *(pytest.param("keep_n", value, id=f"keep_n {value}") for value in (None, 1, 5, 10, 25, 50, 100)),
    *(pytest.param("older_than", value, id=f"older_than {value}") for value in (None, "7d", "14d", "30d", "90d")),
    *(pytest.param("name_regex", value, id=f"name_regex {value}") for value in (".*", "a|b", "(?i)x")),
    *(pytest.param("name_regex_keep", value, id=f"name_regex_keep {value}") for value in (None, "", "v.*")),
]


@pytest.mark.parametrize(("setting", "value"), ALLOWED)
def test_what_is_allowed(setting: str, value: object) -> None:
    """Each value is kept as it is given, in an enabled policy and as JSON."""
    fresh = rules.changed(ExpirationPolicy(enabled=True), {setting: value}, NOW)
    assert getattr(fresh, setting) == value
    assert rules.of_json(rules.as_json(fresh)) == fresh


REFUSED = [
    pytest.param({"enabled": None}, "enabled is invalid", id="neither on nor off"),
    pytest.param({"enabled": "true"}, "enabled is invalid", id="a word"),
    pytest.param({"cadence": None}, "cadence can't be blank", id="no cadence"),
    pytest.param({"cadence": ""}, "cadence can't be blank", id="an empty cadence"),
    pytest.param({"cadence": "2d"}, "cadence is not included in the list", id="another cadence"),
    pytest.param({"cadence": ["1d"]}, "cadence is not included in the list", id="a list of cadences"),
    pytest.param({"keep_n": 0}, "keep_n is not included in the list", id="none kept"),
    pytest.param({"keep_n": 2}, "keep_n is not included in the list", id="another number"),
    pytest.param({"keep_n": "5"}, "keep_n is not included in the list", id="a number's word"),
    pytest.param({"keep_n": True}, "keep_n is not included in the list", id="yes is not 1"),
    pytest.param({"older_than": "1d"}, "older_than is not included in the list", id="another age"),
    pytest.param({"older_than": "90"}, "older_than is not included in the list", id="an age without a unit"),
    pytest.param({"name_regex": None}, "name_regex can't be blank", id="enabled without a pattern"),
    pytest.param({"name_regex": ""}, "name_regex can't be blank", id="enabled with an empty one"),
    pytest.param({"name_regex": "["}, "name_regex not valid RE2 syntax: missing ]: [", id="no pattern"),
    pytest.param({"name_regex_delete": "["}, "name_regex not valid RE2 syntax: missing ]: [", id="by its other name"),
    pytest.param({"name_regex_keep": r"(a)\1"}, r"name_regex_keep not valid RE2 syntax", id="no pattern to keep"),
    pytest.param({"name_regex_keep": 5}, "name_regex_keep is invalid", id="a pattern that is no text"),
    pytest.param({"next_run_at": "2030-01-01"}, "next_run_at is no setting", id="the next run is not given"),
    pytest.param({"colour": "red"}, "colour is no setting", id="an unknown one"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_is_refused(given: dict[str, object], said: str) -> None:
    """The refusal begins with the name of the setting."""
    with pytest.raises(InvalidSettingError) as caught:
        rules.changed(ExpirationPolicy(enabled=True), given, NOW)
    assert str(caught.value).startswith(said)


def test_patterns_of_a_policy_that_is_not_enabled() -> None:
    """It needs none, but one that is saved has to be one; what is broken already can be switched off."""
    assert rules.changed(rules.DEFAULT, {"name_regex": None}, NOW).name_regex is None
    with pytest.raises(InvalidSettingError):
        rules.changed(rules.DEFAULT, {"name_regex": "["}, NOW)
    broken = ExpirationPolicy(enabled=True, name_regex="[")
    assert not rules.changed(broken, {"enabled": False}, NOW).enabled
    with pytest.raises(InvalidSettingError, match=r"^name_regex can't be blank"):
        rules.changed(ExpirationPolicy(name_regex=None), {"enabled": True}, NOW)


def test_name_regex_delete_is_name_regex() -> None:
    """The one name stands for the other, and wins."""
    assert rules.changed(rules.DEFAULT, {"name_regex_delete": "a"}, NOW).name_regex == "a"
    assert rules.changed(rules.DEFAULT, {"name_regex": "b", "name_regex_delete": "a"}, NOW).name_regex == "a"


CADENCES = [("1d", 1), ("7d", 7), ("14d", 14), ("1month", 30), ("3month", 90)]


@pytest.mark.parametrize(("cadence", "days"), CADENCES, ids=[cadence for cadence, _ in CADENCES])
def test_each_save_restarts_the_interval(cadence: str, days: int) -> None:
    """The next run is a cadence from now, whatever was changed and whenever it would have been."""
    saved = rules.changed(rules.DEFAULT, {"cadence": cadence}, NOW)
    assert saved.next_run_at == NOW + days * DAY
    assert rules.changed(saved, {"keep_n": 5}, NOW + DAY).next_run_at == NOW + (days + 1) * DAY


BROKEN = [
    pytest.param(None, id="nothing"),
    pytest.param([], id="a list"),
    pytest.param({"enabled": True}, id="half"),
    pytest.param({**rules.as_json(rules.DEFAULT), "more": 1}, id="too much"),
    pytest.param(rules.as_json(rules.DEFAULT), id="without a next run"),
    pytest.param({**rules.as_json(rules.DEFAULT), "next_run_at": "soon"}, id="no time"),
    pytest.param({**rules.as_json(rules.DEFAULT), "next_run_at": "2026-06-01T00:00:00"}, id="a time of nowhere"),
]


@pytest.mark.parametrize("kept", BROKEN)
def test_what_is_kept_and_is_no_policy(kept: object) -> None:
    """What the database has is believed only as a whole."""
    with pytest.raises(InvalidSettingError):
        rules.of_json(kept)


def record(
    number: int, *, started: datetime | None, state: str = "unscheduled", status: str | None = None
) -> RepositoryRecord:
    """Make a repository whose cleanup stands so."""
    return RepositoryRecord(number, f"acme/{number}", "acme", NOW, status, state, started)


REPOSITORIES = [
    record(1, started=None),
    record(2, started=NOW - 2 * DAY),
    record(3, started=NOW - DAY / 2, state="ongoing"),
    record(4, started=NOW - DAY / 2),
    record(5, started=None, status="delete_scheduled"),
    record(6, started=NOW - 2 * DAY, state="unfinished"),
    record(7, started=None, state="scheduled"),
]
TIMES = [
    pytest.param(True, NOW - DAY, {1, 2, 6, 7}, {3, 6, 7}, id="the time has come"),
    pytest.param(True, NOW, {1, 2, 3, 4, 6, 7}, {3, 6, 7}, id="to the second"),
    pytest.param(True, NOW + DAY, set(), {3, 6, 7}, id="not yet: what was begun is gone on with"),
    pytest.param(False, NOW - DAY, set(), set(), id="not enabled"),
]


@pytest.mark.parametrize(("enabled", "following", "due", "begun"), TIMES)
def test_which_repositories_are_due(
    enabled: bool,  # noqa: FBT001 - a table's column
    following: datetime,
    due: set[int],
    begun: set[int],
) -> None:
    """Due is what was not started since the time for the next run, and is not being deleted (semantics 7.3)."""
    policy = ExpirationPolicy(enabled=enabled, next_run_at=following)
    assert {one.id for one in rules.due(policy, REPOSITORIES, NOW)} == due
    assert {one.id for one in rules.begun(policy, REPOSITORIES)} == begun
