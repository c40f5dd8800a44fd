"""One structured line a request, and one for what operators must know. JSON on standard error; no secret in any."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from gateway.core.jsonbytes import encode_ascii

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "none": logging.CRITICAL,
    "deletions": logging.INFO,
}
DELETED: Final = "deleted"
"""The event of a line that says what was deleted, by whom and how."""


def configure(level: str = "info") -> None:
    """Set up structlog, and send what libraries log through it.

    Of commands, which say themselves what goes wrong, *level* ``none`` leaves out everything, and ``deletions`` all but
    what was deleted.
    """
    structlog.configure(
        processors=[
            *([_deletions_alone] if level == "deletions" else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def get(name: str) -> Any:
    """A logger whose lines say that they come from *name*."""
    return structlog.get_logger().bind(logger=name)


@dataclass(slots=True)
class Trace:
    """What the line of a request says besides its status; *denied* is why it was refused, for operators.

    *told* are the chains of what was refused, which no line holds: they are kept for whoever may ask for them.
    """

    route: str = "other"
    repository: str | None = None
    subject: str = ""
    kind: str = ""
    denied: str | None = None
    told: list[Mapping[str, object]] = field(default_factory=list)


class RequestLog:
    """The line of each request, in the shape of every other line; those of one turn of the event loop in one write.

    Through structlog's processors and a write of its own a line cost 26 µs, a quarter of a small request.
    """

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def write(self, line: dict[str, Any]) -> None:
        """Write *line* before the event loop's next turn is over."""
        line["event"], line["level"], line["timestamp"] = (
            "request",
            "info",
            datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        )
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(encode_ascii(line))

    def _flush(self) -> None:
        lines, self._waiting = self._waiting, []
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def _deletions_alone(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if line["event"] != DELETED:
        raise structlog.DropEvent
    return line


def _dumps(value: object, **_: object) -> str:
    return encode_ascii(value)


class _Forward(logging.Handler):
    """Libraries' warnings as lines of ours. Their messages alone: tracebacks and arguments may quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.msg if record.args else record.getMessage(), logger=record.name
        )
