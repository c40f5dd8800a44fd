"""What the upstream calls a repository of ours. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.plugins import ErrorCode, RegistryError, RepositoryName

LONGEST: Final = 255
"""Characters of an upstream's name."""


class Names:
    """Puts other paths in the place of ours: the longest that begins a name counts, and *prefix* goes before all.

    No two names of ours are one there: what some path leads to belongs to that path alone.
    """

    def __init__(self, prefix: str, paths: Mapping[str, str]) -> None:
        self._prefix = f"{prefix}/" if prefix else ""
        self._there = dict(paths)
        self._here = {there: here for here, there in paths.items()}

    def upstream(self, name: RepositoryName) -> str:
        """The upstream's name of *name*. RegistryError where it has none: it is too long, or belongs to another."""
        moved = _moved(name, self._there)
        owner = _moved(moved, self._here)
        if owner != name:
            raise RegistryError(ErrorCode.NAME_UNKNOWN, why=f"`paths` gives {moved} in the registry to {owner}")
        full = self._prefix + moved
        if len(full) > LONGEST:
            raise RegistryError(
                ErrorCode.NAME_INVALID,
                f"the registry behind this one takes names of {LONGEST} characters; this one is {len(full)} there",
            )
        return full

    def here(self, there: str) -> RepositoryName | None:
        """Our name for what the upstream calls *there*; None where it has none."""
        if len(there) > LONGEST or not there.startswith(self._prefix):
            return None
        try:
            name = RepositoryName.parse(_moved(there.removeprefix(self._prefix), self._here))
            return name if self.upstream(name) == there else None
        except (ValueError, RegistryError):
            return None


def fits(pattern: str, name: str) -> bool:
    """Whether *name* matches *pattern*, where ``**`` stands for any number of components and ``*`` for one."""
    head, _, rest = pattern.partition("/")
    first, _, tail = name.partition("/")
    if head == "**":
        return not rest or (bool(name) and (fits(rest, name) or fits(pattern, tail)))
    if not name or head not in {"*", first}:
        return False
    return fits(rest, tail) if rest else not tail


def _moved(name: str, paths: Mapping[str, str]) -> str:
    """*name* with the longest of *paths* that begins it, by whole components, replaced."""
    head = name
    while head:
        if head in paths:
            return paths[head] + name.removeprefix(head)
        head = head.rpartition("/")[0]
    return name
