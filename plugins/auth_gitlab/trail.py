"""What GitLab was asked and what it answered, for an explanation. No secret is ever part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.plugins import Step

_FOUND: Final = {"asked": "asked just now", "memory": "in memory", "redis": "in Redis", "stale": "stale"}


class Trail:
    """Questions with their answers, and where each was found, in the order in which they mattered."""

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin
        self._heard: list[tuple[Sequence[str], str]] = []

    def add(self, asked: Sequence[str], source: str) -> None:
        """Note questions with their answers that came from *source*, a word of the cache's."""
        self._heard.append((asked, source))

    def steps(self) -> Sequence[Step]:
        """A step for each."""
        return [told(self._plugin, one, source) for asked, source in self._heard for one in asked]


def told(plugin: str, asked: str, source: str) -> Step:
    """One question with its answer, as a step; whether it is good news is for the steps after it."""
    return Step(plugin, passed=True, finding=f"{asked} ({_FOUND[source]})")
