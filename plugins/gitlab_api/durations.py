"""Durations as GitLab's bulk deletion takes them: ``1h``, ``2d``, ``1 day``, ``1month`` (semantics 7.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SECOND: Final[Mapping[str, int]] = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hr": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
    "w": 604800,
    "week": 604800,
    "mo": 2592000,
    "month": 2592000,
    "y": 31557600,
    "year": 31557600,
}
"""Seconds of each unit: a month is 30 days, a year 365.25."""
_PART: Final = re.compile(r"\s*([0-9]{1,6})\s*([a-z]+?)s?(?=[^a-z]|$)(?:\s*(?:,|and\b))?")
_LONGEST: Final = 64
"""Characters."""
_MOST: Final = 100 * _SECOND["year"]


def seconds(text: str) -> int:
    """The seconds of one or more amounts with their units, of at most 100 years. ValueError for anything else."""
    lowered, at, total = text.strip().lower(), 0, 0
    while at < len(lowered):
        part = _PART.match(lowered, at) if len(lowered) <= _LONGEST else None
        unit = _SECOND.get(part[2] or "s") if part else None
        if part is None or unit is None:
            raise ValueError(text[:_LONGEST])
        total += int(part[1]) * unit
        at = part.end()
    if not 0 < total <= _MOST:
        raise ValueError(text[:_LONGEST])
    return total
