"""How old something is, and how large, in the few letters a table has room for."""

from __future__ import annotations

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_YEAR = 365 * _DAY

# Below each limit (seconds): the unit counted, its letter, and the finer unit that is told beside it.
_STEPS = (
    (2 * _MINUTE, (1, "s"), None),
    (10 * _MINUTE, (_MINUTE, "m"), (1, "s")),
    (3 * _HOUR, (_MINUTE, "m"), None),
    (8 * _HOUR, (_HOUR, "h"), (_MINUTE, "m")),
    (2 * _DAY, (_HOUR, "h"), None),
    (8 * _DAY, (_DAY, "d"), (_HOUR, "h")),
    (2 * _YEAR, (_DAY, "d"), None),
    (8 * _YEAR, (_YEAR, "y"), (_DAY, "d")),
)


def human_duration(seconds: float) -> str:
    """A duration as kubectl shows ages: `59s`, `2m5s`, `3h`, `5d`, `2y10d`."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    whole = max(whole, 0)
    for limit, (unit, letter), finer in _STEPS:
        if whole < limit:
            text = f"{whole // unit}{letter}"
            rest = (whole % unit) // finer[0] if finer is not None else 0
            return f"{text}{rest}{finer[1]}" if finer is not None and rest else text
    return f"{whole // _YEAR}y"


def human_size(size: int) -> str:
    """Bytes as `-`, `512 B`, `1.5 KiB`, `2.0 MiB`."""
    if size == 0:
        return "-"
    if size < 1024:
        return f"{size} B"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        amount /= 1024
        if amount < 1024 or unit == "EiB":
            break
    return f"{amount:.1f} {unit}"
