"""What a policy may say, when it runs, and which repositories are due (semantics 7.1 and 7.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final

from gateway.plugins import ExpirationPolicy, InvalidSettingError, RepositoryRecord, name_pattern

DEFAULT: Final = ExpirationPolicy()
"""That of a project whose policy nobody has saved yet: it is not enabled."""
CADENCES: Final[Mapping[str, timedelta]] = {
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "14d": timedelta(days=14),
    "1month": timedelta(days=30),
    "3month": timedelta(days=90),
}
_ALLOWED: Final[Mapping[str, Sequence[object]]] = {
    "cadence": tuple(CADENCES),
    "keep_n": (None, 1, 5, 10, 25, 50, 100),
    "older_than": (None, "7d", "14d", "30d", "90d"),
}
_PATTERNS: Final = ("name_regex", "name_regex_keep")
_SETTINGS: Final = ("enabled", *_ALLOWED, *_PATTERNS)
_RUNNING: Final = frozenset({"scheduled", "ongoing"})
_BEGUN: Final = _RUNNING | {"unfinished"}


def changed(policy: ExpirationPolicy, attributes: Mapping[str, object], now: datetime) -> ExpirationPolicy:
    """*policy* with *attributes*; its interval begins anew. Raises InvalidSettingError: the setting and what is wrong.

    ``name_regex_delete`` is another name for ``name_regex``, and wins. A pattern has to be one where the policy is
    enabled, and where it is saved.
    """
    given = dict(attributes)
    if "name_regex_delete" in given:
        given["name_regex"] = given.pop("name_regex_delete")
    for setting in given:
        if setting not in _SETTINGS:
            raise InvalidSettingError(f"{setting} is no setting of a cleanup policy")
    try:
        fresh = replace(policy, **given)  # type: ignore[arg-type]  # their types are what is checked now
    except TypeError as error:
        raise InvalidSettingError(str(error)) from error
    check(fresh, [setting for setting in _PATTERNS if setting in given])
    return replace(fresh, next_run_at=now + CADENCES[fresh.cadence])


def check(policy: ExpirationPolicy, patterns: Sequence[str] = ()) -> None:
    """Raise InvalidSettingError for the first setting that is none, of the patterns for *patterns* at least."""
    if not isinstance(policy.enabled, bool):
        raise InvalidSettingError("enabled is invalid")
    for setting, allowed in _ALLOWED.items():
        value = getattr(policy, setting)
        if setting == "cadence" and (value is None or value == ""):
            raise InvalidSettingError("cadence can't be blank")
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise InvalidSettingError(f"{setting} is not included in the list")
    if policy.enabled and not policy.name_regex:
        raise InvalidSettingError("name_regex can't be blank")
    for setting in _PATTERNS if policy.enabled else patterns:
        value = getattr(policy, setting)
        if not isinstance(value, str | None):
            raise InvalidSettingError(f"{setting} is invalid")
        try:
            name_pattern(value or "")
        except ValueError as error:
            raise InvalidSettingError(f"{setting} not valid RE2 syntax: {error}") from error


def as_json(policy: ExpirationPolicy) -> dict[str, Any]:
    """The policy as it is kept, and as programs read it."""
    following = policy.next_run_at
    return {**asdict(policy), "next_run_at": None if following is None else following.isoformat()}


def of_json(kept: Any) -> ExpirationPolicy:
    """What ``as_json`` gave. Raises InvalidSettingError for anything else."""
    names = {field.name for field in fields(ExpirationPolicy)}
    if not isinstance(kept, dict) or set(kept) != names:
        raise InvalidSettingError("it is no policy")
    try:
        following = datetime.fromisoformat(kept["next_run_at"])
    except (TypeError, ValueError) as error:
        raise InvalidSettingError("next_run_at is no time") from error
    if following.tzinfo is None:
        raise InvalidSettingError("next_run_at has no time zone")
    policy = ExpirationPolicy(**{**kept, "next_run_at": following})
    check(policy)
    return policy


def is_due(policy: ExpirationPolicy, now: datetime) -> bool:
    """Whether it is time for the policy's next run."""
    return policy.enabled and policy.next_run_at is not None and policy.next_run_at <= now


def due(policy: ExpirationPolicy, records: Sequence[RepositoryRecord], now: datetime) -> list[RepositoryRecord]:
    """The repositories that the policy's run has yet to be started for; what is being deleted as a whole is not."""
    following = policy.next_run_at
    if following is None or not is_due(policy, now):
        return []
    began = [(record, record.cleanup_started_at) for record in records if record.status is None]
    return [record for record, at in began if at is None or at < following]


def begun(policy: ExpirationPolicy, records: Sequence[RepositoryRecord]) -> list[RepositoryRecord]:
    """The repositories that a run was begun for, or promised, and not completed."""
    return [record for record in records if policy.enabled and record.status is None and record.cleanup_state in _BEGUN]


def running(records: Sequence[RepositoryRecord]) -> bool:
    """Whether somebody is in the middle of a run, or was when they died."""
    return any(record.status is None and record.cleanup_state in _RUNNING for record in records)
