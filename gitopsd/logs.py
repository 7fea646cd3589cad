"""Log lines: one JSON object each, with the keys that `flux logs` reads (`spec/cli.md` 17.3).

`ts`, `level`, `msg`, `error`, `name`, `namespace` are strings, always: one wrongly typed key silences a whole pod for
the flux CLI. Reconciles bind their object with `bound`, everything logged inside carries it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

_LEVELS = {"trace": 5, "debug": 10, "info": 20, "error": 40}
_STRINGS = frozenset({"ts", "level", "msg", "error", "logger", "name", "namespace", "controllerKind"})
# A line of 64 KiB ends a pod's stream in the flux CLI; leave room for the other keys.
_LONGEST_VALUE = 16384


def configure(level: str = "info", encoding: str = "json") -> None:
    """Set up structlog and the standard library's logging once, at start."""
    renderer = _json if encoding == "json" else structlog.dev.ConsoleRenderer(event_key="msg", timestamp_key="ts")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _shape,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(max(_LEVELS[level], 10)),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Bridge()], level=logging.ERROR, force=True)


def _shape(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Rename, stamp, and make every key that readers take for a string a string of bounded length."""
    now = datetime.now(UTC)
    level = {"warning": "info", "critical": "error", "exception": "error"}.get(method, method)
    shaped: dict[str, Any] = {
        "level": level,
        "ts": now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z",
        "msg": str(event.pop("event", "")),
    }
    shaped.update(event)
    return {key: _bounded(str(value) if key in _STRINGS else value) for key, value in shaped.items()}


def _bounded(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST_VALUE:
        return value[:_LONGEST_VALUE] + "..."
    return value


def _json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return orjson.dumps(event, default=str).decode()


class _Bridge(logging.Handler):
    """What libraries log through `logging` becomes a line of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        error = str(record.exc_info[1]) if record.exc_info and record.exc_info[1] else ""
        fields = {"logger": record.name} | ({"error": error} if error else {})
        (log.error if record.levelno >= logging.ERROR else log.info)(record.getMessage(), **fields)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every line logged inside, also by tasks started inside, carries `fields`."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield
