"""GitLab's rules for which project an image's name belongs to (semantics 5.1), without I/O.

How a component is spelt is the specification's rule and GitLab's alike; the core reads names by it before anybody asks.
"""

from __future__ import annotations

from typing import Final

MIN_COMPONENTS: Final = 2
MAX_COMPONENTS: Final = 19


def candidates(name: str, extra: int) -> tuple[str, ...]:
    """The paths of the projects that *name* can belong to, longest first; a single component is never a project.

    An image is its project or lies up to *extra* names below it, and no further down.
    """
    parts = name.split("/")
    shortest = max(MIN_COMPONENTS, len(parts) - extra)
    return tuple("/".join(parts[:count]) for count in range(len(parts), shortest - 1, -1))


def problem(name: str) -> str | None:
    """Which rule of GitLab's *name* breaks; None where it may belong to a project."""
    count = name.count("/") + 1
    if not MIN_COMPONENTS <= count <= MAX_COMPONENTS:
        return f"a name has {MIN_COMPONENTS} to {MAX_COMPONENTS} components, this one has {count}"
    return None
