"""The one form of tar that trees have: headers and padding, the same for everybody and every time.

USTAR, owner 0, no names, the year 1970; PAX records only where a name needs them (spec/source.md 4.3). Knows
bytes only.
"""

from __future__ import annotations

from typing import Final

BLOCK: Final = 512
MODE_DIRECTORY: Final = 0o750
MODE_FILE: Final = 0o600
MODE_EXECUTABLE: Final = 0o700
TYPE_FILE: Final = b"0"
TYPE_DIRECTORY: Final = b"5"
_TYPE_PAX: Final = b"x"


def padding(size: int) -> bytes:
    """The zero bytes that fill content up to a whole block."""
    return bytes(-size % BLOCK)


def header(raw: bytes, size: int, mode: int, kind: bytes) -> bytes:
    """The header of one entry: USTAR, preceded by a PAX record only when the name does not fit into it."""
    if len(raw) <= 100 and raw.isascii():
        return _block(raw, b"", size, mode, kind)
    split = _split_name(raw)
    if split is not None:
        return _block(split[1], split[0], size, mode, kind)
    record = _pax_record(b"path", raw)
    folder, _, name = raw.rpartition(b"/")
    pax_name = b"/".join(part for part in (folder, b"PaxHeaders.0", name) if part)
    pax = _block(_ascii(pax_name)[:100].rstrip(b"/"), b"", len(record), 0, _TYPE_PAX)
    return pax + record + padding(len(record)) + _block(_ascii(raw)[:100].rstrip(b"/"), b"", size, mode, kind)


def _ascii(raw: bytes) -> bytes:
    return raw.decode("utf-8", "replace").encode("ascii", "ignore")


def _split_name(raw: bytes) -> tuple[bytes, bytes] | None:
    """The prefix and the name of a USTAR header, or None when the path cannot be split into the two."""
    if not raw.isascii():
        return None
    at = raw.rfind(b"/", 0, 156)
    return (raw[:at], raw[at + 1 :]) if at > 0 and len(raw) - at - 1 <= 100 else None


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`<length> key=value` where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


_ZERO_ID = b"0000000\0"
_FIXED_SUM = sum(_ZERO_ID * 2 + b"00000000000\0" + b"ustar\x0000") + 8 * ord(" ")


def _block(name: bytes, prefix: bytes, size: int, mode: int, kind: bytes) -> bytes:
    mode_field = b"%07o\0" % mode
    size_field = b"%011o\0" % size
    # A PAX record's own header names no device: so the usual tar writers have it, and so readers may expect it.
    devices = bytes(16) if kind == _TYPE_PAX else _ZERO_ID * 2
    checksum = sum(devices) + _FIXED_SUM + sum(name) + sum(prefix) + sum(mode_field) + sum(size_field) + kind[0]
    return b"".join(
        (
            name.ljust(100, b"\0"),
            mode_field,
            _ZERO_ID,
            _ZERO_ID,
            size_field,
            b"00000000000\0",
            b"%06o\0 " % checksum,
            kind,
            bytes(100),
            b"ustar\x0000",
            bytes(64),
            devices,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
