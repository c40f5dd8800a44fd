"""GitLab's rules for image names (semantics 5.1), without I/O."""

from __future__ import annotations

import re
from typing import Final

MIN_COMPONENTS: Final = 2
MAX_COMPONENTS: Final = 19
MAX_LENGTH: Final = 255
EXTRA_COMPONENTS: Final = 2
"""An image is its project, ``project/a`` or ``project/a/b``, and no further down."""

_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_CHARACTERS: Final = re.compile(r"[a-z0-9._-]+")
_SEPARATOR: Final = re.compile(r"[._-]+")
_LEGAL_SEPARATOR: Final = re.compile(r"\.|__?|-+")


def candidates(name: str) -> tuple[str, ...]:
    """The paths of the projects that *name* can belong to, longest first; a single component is never a project."""
    parts = name.lower().split("/")
    shortest = max(MIN_COMPONENTS, len(parts) - EXTRA_COMPONENTS)
    return tuple("/".join(parts[:count]) for count in range(len(parts), shortest - 1, -1))


def problem(name: str) -> str | None:
    """Which component of *name* breaks which rule; None where the name is legal. Capitals count as small letters."""
    if len(name) > MAX_LENGTH:
        return f"a name has at most {MAX_LENGTH} characters, this one has {len(name)}"
    parts = name.lower().split("/")
    if not MIN_COMPONENTS <= len(parts) <= MAX_COMPONENTS:
        return f"a name has {MIN_COMPONENTS} to {MAX_COMPONENTS} components, this one has {len(parts)}"
    for place, part in enumerate(parts, start=1):
        broken = _component_problem(part)
        if broken:
            return f"component {place} ({part!r}) {broken}"
    return None


def _component_problem(part: str) -> str | None:
    if _COMPONENT.fullmatch(part):
        return None
    if not part:
        return "is empty"
    if not _CHARACTERS.fullmatch(part):
        return "has a character other than a letter, a digit, '.', '_' and '-'"
    if part[0] in "._-":
        return f"begins with {part[0]!r}"
    if part[-1] in "._-":
        return f"ends with {part[-1]!r}"
    wrong = next(run for run in _SEPARATOR.findall(part) if not _LEGAL_SEPARATOR.fullmatch(run))
    return f"has {wrong!r} between two words; use one '.', one or two '_', or dashes"
