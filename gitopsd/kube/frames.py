"""A watch is a stream of lines, each a JSON frame: cut the bytes into frames, and refuse what is not one.

Pure; knows nothing of connections. A frame is used whole or not at all.
"""

from __future__ import annotations

from typing import Any

import orjson

from gitopsd.kube.errors import BrokenAnswerError, FrameTooLargeError, error_of_status

_TYPES = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")


class FrameSplitter:
    """Cuts chunks of bytes into lines of at most `bound` bytes."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes and return the lines they complete. Raises FrameTooLargeError."""
        *lines, rest = chunk.split(b"\n")
        if lines and self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts.clear()
            self._held = 0
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
        if self._held > self._bound or any(len(line) > self._bound for line in lines):
            raise FrameTooLargeError(f"a watch event is larger than {self._bound} bytes")
        return [line for line in lines if line and not line.isspace()]

    def end(self) -> None:
        """The stream is over. Raises BrokenAnswerError when that is in the middle of a line."""
        if self._held:
            raise BrokenAnswerError("a watch event was cut short")


def event_of(frame: bytes) -> dict[str, Any]:
    """Decode one frame into `{"type", "object"}`.

    Raises BrokenAnswerError for anything else, and what an ERROR frame says as an ApiError (GoneError for a 410).
    """
    try:
        event = orjson.loads(frame)
    except orjson.JSONDecodeError as error:
        raise BrokenAnswerError("a watch event is not JSON") from error
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise BrokenAnswerError("a watch event carries no object")
    if event.get("type") == "ERROR":
        raise error_of_status(event["object"])
    if event.get("type") not in _TYPES:
        raise BrokenAnswerError("a watch event is of no known type")
    return event
