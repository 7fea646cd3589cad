"""What a scalar of a YAML document means: the two readings of the field, and which text must be quoted to stay text.

Kustomize reads resource files one way, everything that goes through `sigs.k8s.io/yaml` (values, charts, patches,
substituted text) another: only there `yes`, `on` and `y` are booleans and keys may be numbers. Numbers are read alike.
Values come out as JSON has them: a whole number within 64 bits is an int, however it was written (`1e3`, `1.0`).
Knows no documents, no events, no nesting. Facts: spec/hostile-inputs.md K17, recorded from the Go libraries.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Final

MAX_DIGITS: Final = 400


class Dialect(Enum):
    """How plain text is read."""

    RESOURCE = "resource"
    """As kustomize reads resource files: `yes` is text, keys must be strings, a time is written out in full."""
    YAML11 = "yaml11"
    """As `sigs.k8s.io/yaml` reads values, patches and substituted text: `yes` is true, number keys become text."""


class ScalarError(ValueError):
    """Text that its tag or its form forbids; `rule` names the rule for the metric."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


_TAGS = "tag:yaml.org,2002:"
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_WORDS_11: dict[str, Any] = {
    **_WORDS,
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF"), False),
}
# The first character tells most texts from everything else; only these need a closer look.
_NUMERIC = frozenset("0123456789+-.")
_HINTS = _NUMERIC | frozenset("~tTfFnN")
_HINTS_11 = _HINTS | frozenset("yYoO")

_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([1-9][0-9]*|0))\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_LONG = re.compile(rf"[-+]?[0-9_]{{{MAX_DIGITS + 1},}}\Z")
_TIME = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)"
    r"(?:(?:[Tt](\d\d?):(\d\d?):(\d\d?)(?:\.(\d+))?(Z|[-+]\d\d:\d\d))|(?: (\d\d?):(\d\d?):(\d\d?)(?:\.(\d+))?))?\Z",
    re.ASCII,
)


def read_plain(text: str, dialect: Dialect) -> Any:
    """The value of an untagged plain scalar. Raises ScalarError for infinities and for more digits than allowed."""
    resource = dialect is Dialect.RESOURCE
    if text and text[0] not in (_HINTS if resource else _HINTS_11):
        return text
    words = _WORDS if resource else _WORDS_11
    if text in words:
        return _finite(words[text])
    if text[0] not in _NUMERIC:
        return text
    number = _number(text)
    if number is not None:
        return number
    return _time(text) if resource and text[:4].isdigit() else text


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ScalarError("non-finite", "infinite and undefined numbers are not allowed")
    return value


def _number(text: str) -> int | float | None:
    if _LONG.match(text):
        raise ScalarError("digits", f"a number has more than {MAX_DIGITS} digits")
    plain = text.replace("_", "") if "_" in text and text[0] != "_" else text
    found = _INTEGER.match(plain)
    if found is not None:
        sign, sixteen, two, eight, ten = found.groups()
        value = int(sign + (sixteen or two or eight or ten), 16 if sixteen else 2 if two else 8 if eight else 10)
        if -(1 << 63) <= value < 1 << 63:
            return value
        if value > 0 and value < 1 << 64:
            return float(value)
    return _whole(float(plain)) if _FLOAT.match(plain) else None


def _whole(value: float) -> int | float | None:
    """JSON writes a whole float without a fraction; one that is too large for a float stays text."""
    if not math.isfinite(value):
        return None
    if not value.is_integer():
        return value
    # Beyond 53 bits Go writes the shortest digits that read back as the same float, and zeros after them.
    whole = int(value) if abs(value) < 1 << 53 else int(Decimal(repr(value)))
    return whole if -(1 << 63) <= whole < 1 << 63 else value


def _time(text: str) -> str:
    """A time in the form that Go writes into JSON; any other text as it is."""
    found = _TIME.match(text)
    if found is None:
        return text
    year, month, day, *clock = found.groups()
    hour, minute, second, fraction, zone, *local = clock
    if local[0] is not None:
        hour, minute, second, fraction = local
    try:
        offset = UTC if zone in {None, "Z"} else _offset(zone)
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=offset
        )
    except ValueError:
        return text
    digits = (fraction or "")[:9].rstrip("0")
    end = "Z" if moment.utcoffset() == timedelta(0) else zone
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + (f".{digits}" if digits else "") + end


def _offset(zone: str) -> timezone:
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    return timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes))


_REFUSED = frozenset(("set", "omap", "pairs"))
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
    "timestamp": (str,),
}


def check_collection_tag(tag: str) -> None:
    """Refuse the tags that would need another type than list and dict; every other one says nothing."""
    if tag.removeprefix(_TAGS) in _REFUSED:
        raise ScalarError("tag", f"the tag !!{tag.removeprefix(_TAGS)} is not supported")


def read_tagged(tag: str, text: str, dialect: Dialect) -> Any:
    """The value of a scalar with an explicit tag. No tag ever runs anything; an unknown one leaves the text.

    Raises ScalarError when the text is not of the tag's type.
    """
    check_collection_tag(tag)
    name = tag.removeprefix(_TAGS) if tag.startswith(_TAGS) else ""
    if name == "binary":
        return _binary(text)
    if name not in _TYPES:
        return text
    value = read_plain(text, dialect)
    wanted = _TYPES[name]
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise ScalarError("tag", f"cannot decode the text as a !!{name}")
    if name == "timestamp" and not _TIME.match(text):
        raise ScalarError("tag", "cannot decode the text as a !!timestamp")
    if name == "int" and not _INTEGER.match(text.replace("_", "")):
        raise ScalarError("tag", "cannot decode a !!float as a !!int")
    return value


def _binary(text: str) -> str:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ScalarError("tag", "!!binary does not hold base64 of UTF-8 text") from None


def key_text(value: Any, dialect: Dialect) -> str:
    """The text of a mapping key: itself, or for `YAML11` that of a number or boolean."""
    if isinstance(value, str):
        return value
    if dialect is Dialect.YAML11:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        if isinstance(value, float) and not value.is_integer():
            return repr(value)
    raise ScalarError("key", "mapping keys must be strings")


# -- writing -----------------------------------------------------------------------------------------------------------

_SAFE = re.compile(
    r"[A-Za-z0-9_./](?:[A-Za-z0-9_./@+=()%$^,;~!?*\\-]|:(?=\S)| (?=[A-Za-z0-9_./@+=()$^*\\-]))*\Z", re.ASCII
)


def reads_as_itself(text: str) -> bool:
    """Tell whether `text` needs no quotes: no reader takes it for anything but this very text."""
    if len(text) > 256 or not _SAFE.match(text) or text.startswith("..."):
        return False
    if text[0] not in _HINTS_11:
        return True
    # To old readers, digits with colons between them are a number in base 60, and four digits may begin a time.
    if text[0].isdigit() and (":" in text or text[:4].isdigit()):
        return False
    try:
        return read_plain(text, Dialect.YAML11) is text and read_plain(text, Dialect.RESOURCE) is text
    except ScalarError:
        return False
