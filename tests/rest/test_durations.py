"""How the bulk deletion reads a duration (semantics 7.1)."""

from __future__ import annotations

import pytest

from plugins.gitlab_api import durations

HOUR, DAY = 3600, 86400
READ = [
    ("1h", HOUR),
    ("2d", 2 * DAY),
    ("1 day", DAY),
    ("1month", 30 * DAY),
    ("3 months", 90 * DAY),
    ("2 weeks", 14 * DAY),
    ("90 min", 90 * 60),
    ("1h30m", HOUR + 30 * 60),
    ("1 day and 2 hours", DAY + 2 * HOUR),
    ("1 Day, 2 Hours", DAY + 2 * HOUR),
    (" 7d ", 7 * DAY),
]


@pytest.mark.parametrize(("text", "seconds"), READ)
def test_a_duration_is_an_amount_and_a_unit(text: str, seconds: int) -> None:
    """One or several; a month has thirty days."""
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "1", "d", "0d", "-1d", "one day", "1 fortnight", "1.5d", "1d ago", "1e9d", "1d" * 99, "101 years"]
)
def test_anything_else_is_none(text: str) -> None:
    """ValueError, however long it is."""
    with pytest.raises(ValueError, match=r".*"):
        durations.seconds(text)
