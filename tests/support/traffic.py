"""Traffic that goes on while a test does harm: clients ask the same questions over and over, and each answer counts."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.support.peers import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from types import TracebackType


class Question(NamedTuple):
    """Something to ask over and over; *ask* gets a number that no other call gets."""

    title: str
    ask: Callable[[int], object]
    right: object


class Traffic:
    """Several clients at once, each of which asks all questions in turn until the block is left."""

    def __init__(self, questions: Sequence[Question], *, clients: int = 8) -> None:
        self._questions = questions
        self._clients = clients
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running: list[Future[None]] = []
        self._seconds: list[float] = []
        self.wrong: list[str] = []
        """The answers that were not right, with their questions."""

    @property
    def slowest(self) -> float:
        """Seconds that the slowest answer took."""
        return max(self._seconds)

    def more(self, answers: int) -> None:
        """Let it go on until there are that many answers more."""
        enough = len(self._seconds) + answers
        eventually(lambda: len(self._seconds) >= enough, f"{answers} answers more", within=60)

    def _go_on(self, first: int) -> None:
        for turn in itertools.count(first):
            if self._over.is_set():
                return
            title, ask, right = self._questions[turn % len(self._questions)]
            began = time.monotonic()
            found: object
            try:
                found = ask(next(self._numbers))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                found = error
            seconds = time.monotonic() - began
            if found != right:
                self.wrong.append(f"{title}: {found!r} after {seconds:.2f} s, not {right!r}")
            self._seconds.append(seconds)

    def __enter__(self) -> Self:
        # Each begins elsewhere, so that different questions are under way together.
        self._running = [self._pool.submit(self._go_on, client) for client in range(self._clients)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._pool.shutdown()
        for client in self._running:
            client.result()
