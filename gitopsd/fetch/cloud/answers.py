"""What may stand in an answer or a file that we trust no further than we can read it: tokens, lifetimes, addresses.

Knows forms and bounds; refuses to know who said it. Invariant: what passes can stand in a header.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gitopsd.fetch.errors import RemoteError
from gitopsd.tasks import offload

_LONGEST_LIFETIME = 24 * 3600.0
_FILE_LIMIT = 256 * 1024
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def token_in(found: Mapping[str, Any], name: str, what: str) -> str:
    """A field that holds a token. Raises RemoteError when it is missing or could not stand in a header."""
    value = found.get(name)
    return one_word(value if isinstance(value, str) else "", what, name)


def one_word(value: str, what: str, name: str) -> str:
    """`value`, if it is printable ASCII without blanks. Raises RemoteError."""
    if not value:
        raise RemoteError(f"{what}: the answer has no '{name}'")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise RemoteError(f"{what}: '{name}' of the answer is not usable")
    return value


def seconds(value: Any) -> float:
    """A lifetime in seconds, at most a day; 0, which is never kept, for whatever is none."""
    try:
        found = float(value) if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return 0.0 if math.isnan(found) else min(max(found, 0.0), _LONGEST_LIFETIME)


def seconds_until(end: Any, now: float) -> float:
    """The lifetime of what ends at a time: seconds since 1970, or RFC 3339 text. 0 for whatever is neither."""
    if isinstance(end, str) and not end.replace(".", "", 1).isdigit():
        try:
            moment = datetime.fromisoformat(end)
            return seconds(moment.timestamp() - now) if moment.tzinfo is not None else 0.0
        except (ValueError, OverflowError):
            return 0.0
    try:
        return seconds(float(end) - now)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def is_safe(url: str) -> bool:
    """Whether secrets may go to an address that an object named: https, or this very machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


async def read_file(path: str, what: str) -> bytes:
    """A file that the operator put there. Raises RemoteError, which does not name the file."""
    try:
        return await offload(_read_bounded, path)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or "its name cannot be used"
        raise RemoteError(f"{what}: the file cannot be read: {cause.lower()}") from None


async def read_token_file(path: str, what: str) -> str:
    """The token in a file that the kubelet keeps up to date; read anew each time. Raises RemoteError."""
    return one_word((await read_file(path, what)).decode("utf-8", "replace").strip(), what, "token file")


def _read_bounded(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_FILE_LIMIT)
