"""One structured line a request, and one for what operators must know. JSON on standard error; no secret in any."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, Final

import structlog

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str = "info") -> None:
    """Set up structlog, and send what libraries log through it."""
    structlog.configure(
        processors=[
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


def _dumps(value: object, **_: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=repr)


class _Forward(logging.Handler):
    """Libraries' warnings as lines of ours. Their messages alone: tracebacks and arguments may quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.msg if record.args else record.getMessage(), logger=record.name
        )
