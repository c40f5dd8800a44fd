"""Numbers for what the directory names: GitLab's REST API knows projects, groups, users and tokens by number."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

_LARGEST: Final = 2**31 - 1
"""GitLab's clients keep numbers in 32 bits."""


def numbered(kind: str, given: Mapping[str, int | None]) -> Mapping[str, int]:
    """A number for each key of *given*: the one that it has, or one that is made from *kind* and the key.

    Made numbers are the same at every reading, in every worker and replica. Where two meet, the key that sorts first
    has it, and the other the next one that is made from it.
    """
    taken = {number for number in given.values() if number is not None}
    found: dict[str, int] = {}
    for key in sorted(given):
        number = given[key]
        attempt = 0
        while number is None:
            made = _made(f"{kind} {key} {attempt}")
            number, attempt = (None if made in taken else made), attempt + 1
        taken.add(number)
        found[key] = number
    return found


def _made(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") % _LARGEST + 1
