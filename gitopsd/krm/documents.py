"""The YAML and JSON door: many documents in, plain values out; plain values in, stable text out.

Theory of operation. libyaml's C parser turns bytes into events; it keeps its own stack, so no nesting can hurt it. A
`_Composer` builds values straight from the events with a stack of its own: no recursion, no node tree, no constructor
that a tag could name. Every bound of spec/hostile-inputs.md is checked while an event is read, so what is refused was
never built: an alias costs what it expands to *before* it is copied, a merge key what naive merging would produce.

Knows syntax, bounds and the two dialects of scalars; refuses to know what a document means.
Invariants: a value consists of dict, list, str, int, float, bool and None only and is finite; no two places share a
dict or a list; dict keys are strings and were unique in the text. Errors quote keys and line numbers, never values.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, Final, NamedTuple

import orjson
import yaml  # noqa: TID251 - this is the door
from yaml import events  # noqa: TID251
from yaml._yaml import CParser  # noqa: TID251

from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj
from gitopsd.krm.scalars import (
    Dialect,
    ScalarError,
    check_collection_tag,
    key_text,
    read_plain,
    read_tagged,
    reads_as_itself,
)

__all__ = [
    "Dialect",
    "DocumentError",
    "Limits",
    "dump",
    "dump_all",
    "dump_json",
    "load_all",
    "load_json",
    "load_large",
    "load_objects",
]


class DocumentError(GitopsdError):
    """A stream that is not what it should be. `rule` is a short word for the metric, `line` counts from 1."""

    def __init__(self, source: str, rule: str, message: str, *, line: int | None = None) -> None:
        super().__init__(f"{source}: line {line}: {message}" if line is not None else f"{source}: {message}")
        self.source = source
        self.rule = rule
        self.message = message
        self.line = line


@dataclass(frozen=True)
class Limits:
    """How much one stream may hold: bytes of text, values after alias expansion, and so on."""

    size: int = 10 << 20
    nodes: int = 1_000_000
    depth: int = 100
    merged: int = 100_000
    documents: int = 20_000


DEFAULT_LIMITS: Final = Limits()

# -- reading -----------------------------------------------------------------------------------------------------------


def load_all(
    data: bytes | str, *, source: str, dialect: Dialect = Dialect.RESOURCE, limits: Limits = DEFAULT_LIMITS
) -> list[Any]:
    """Read every document of a YAML (or JSON) stream; empty and null documents are left out.

    `source` names the stream in errors. Takes about 0.3 s of CPU per MB. Raises DocumentError.
    """
    text = _utf8(data, source, limits)
    text, breaks = _hide_line_separators(text)
    composer = _Composer(source, dialect, limits, breaks)
    parser = CParser(text)
    try:
        return composer.run(parser.get_event)
    except ScalarError as error:
        raise DocumentError(source, error.rule, str(error), line=composer.line) from None
    except yaml.YAMLError as error:
        raise _syntax_error(error, source, text, composer.line) from None
    finally:
        parser.dispose()


def load_large(
    file: IO[bytes],
    take: Callable[[str, Any], None],
    *,
    at: str,
    source: str,
    dialect: Dialect = Dialect.RESOURCE,
    limits: Limits = DEFAULT_LIMITS,
) -> Any:
    """Read the first document of a file that is too large for memory.

    Each mapping or list in a list `<at>.<name>` goes to `take(name, value)` as soon as it is read, and is left out of
    what is returned, except where the list has an anchor. Raises DocumentError, and what `take` raises.
    """
    stream = _Utf8Stream(file, source, limits)
    composer = _HandingComposer(source, dialect, limits, stream.breaks, at, take)
    parser = CParser(stream)
    try:
        documents = composer.run(_first_document(parser.get_event))
    except ScalarError as error:
        raise DocumentError(source, error.rule, str(error), line=composer.line) from None
    except yaml.YAMLError as error:
        raise _syntax_error(error, source, b"", composer.line) from None
    finally:
        parser.dispose()
    return documents[0] if documents else None


def _first_document(next_event: Callable[[], Any]) -> Callable[[], Any]:
    is_over = False

    def read() -> Any:
        nonlocal is_over
        event = None if is_over else next_event()
        is_over = isinstance(event, events.DocumentEndEvent)
        return event

    return read


def load_objects(
    data: bytes | str, *, source: str, dialect: Dialect = Dialect.RESOURCE, limits: Limits = DEFAULT_LIMITS
) -> list[Obj]:
    """Read every document of a stream, each of which must be a mapping; a `List` is replaced by its items."""
    objects: list[Obj] = []
    for index, document in enumerate(load_all(data, source=source, dialect=dialect, limits=limits), 1):
        if not isinstance(document, dict):
            raise DocumentError(source, "object", f"document {index} is not an object")
        objects.extend(_items(document, source, index))
    return objects


def _items(document: Obj, source: str, index: int) -> Iterable[Obj]:
    items = document.get("items")
    if not str(document.get("kind", "")).endswith("List") or not isinstance(items, list):
        return (document,)
    if not all(isinstance(item, dict) for item in items):
        raise DocumentError(source, "object", f"an item of the list in document {index} is not an object")
    return items


def load_json(data: bytes | str, *, source: str, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Read one JSON document within the nesting bound. What people write goes to `load_all`: it sees doubled keys."""
    if len(data) > limits.size:
        raise DocumentError(source, "size", f"longer than {limits.size} bytes")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DocumentError(source, "syntax", error.msg, line=error.lineno) from None
    level: list[Any] = [value]
    for _ in range(limits.depth):
        level = [child for at in level for child in _children(at) if isinstance(child, (dict, list))]
        if not level:
            return value
    raise DocumentError(source, "depth", f"nested deeper than {limits.depth}")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


_BOM = b"\xef\xbb\xbf"
_BOM_AFTER_SEPARATOR = re.compile(rb"(?m)^(---[^\n]*\n)\xef\xbb\xbf")
_SEPARATORS = "\x85\u2028\u2029"
_SEPARATORS_UTF8 = tuple(mark.encode() for mark in _SEPARATORS)


def _utf8(data: bytes | str, source: str, limits: Limits) -> bytes:
    """The text as UTF-8 without byte order marks, which editors leave at starts of files that are then joined."""
    try:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > limits.size:
            raise DocumentError(source, "size", f"longer than {limits.size} bytes")
        raw.decode()
    except UnicodeEncodeError:
        raise DocumentError(source, "encoding", "not valid Unicode text") from None
    except UnicodeDecodeError as error:
        raise DocumentError(
            source, "encoding", "not valid UTF-8 text", line=raw.count(b"\n", 0, error.start) + 1
        ) from None
    if _BOM in raw:
        raw = _BOM_AFTER_SEPARATOR.sub(rb"\1", raw.removeprefix(_BOM))
    return raw


def _hide_line_separators(raw: bytes) -> tuple[bytes, dict[int, str] | None]:
    """Swap NEL, LS and PS for private characters that the text does not use, and tell how to swap them back.

    libyaml folds them away as line breaks; YAML 1.2 and every JSON reader take them for ordinary characters.
    """
    if not any(mark in raw for mark in _SEPARATORS_UTF8):
        return raw, None
    text = raw.decode()
    free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
    stand_ins = {ord(mark): next(free) for mark in _SEPARATORS}
    return text.translate(stand_ins).encode(), {ord(stand_in): chr(mark) for mark, stand_in in stand_ins.items()}


_STAND_INS: Final = {ord(mark): 0xE000 + index for index, mark in enumerate(_SEPARATORS)}


class _Utf8Stream:
    """A file for libyaml: checked as it is read, and its line separators swapped as `_hide_line_separators` does."""

    def __init__(self, file: IO[bytes], source: str, limits: Limits) -> None:
        self._file = file
        self._source = source
        self._left = limits.size
        self._limit = limits.size
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._has_stand_ins = False
        self.breaks: dict[int, str] = {}  # how to swap back; empty while there was nothing to swap

    def read(self, size: int = 1 << 16) -> bytes:
        """About `size` bytes; none at the end."""
        raw = self._file.read(size)
        self._left -= len(raw)
        if self._left < 0:
            raise DocumentError(self._source, "size", f"longer than {self._limit} bytes")
        try:
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError:
            raise DocumentError(self._source, "encoding", "not valid UTF-8 text") from None
        if text.isascii():
            return text.encode() if text or not raw else self.read(size)
        self._has_stand_ins = self._has_stand_ins or any(chr(stand_in) in text for stand_in in _STAND_INS.values())
        if any(mark in text for mark in _SEPARATORS):
            self.breaks.update((stand_in, chr(mark)) for mark, stand_in in _STAND_INS.items())
        if self.breaks and self._has_stand_ins:
            raise DocumentError(self._source, "encoding", "line separators and private characters stand in one text")
        return text.translate(_STAND_INS).encode()


def _syntax_error(error: yaml.YAMLError, source: str, raw: bytes, line: int) -> DocumentError:
    if isinstance(error, yaml.reader.ReaderError):
        at = raw.count(b"\n", 0, len(raw.decode()[: error.position].encode())) + 1
        return DocumentError(source, "syntax", str(error.reason), line=at)
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or "not YAML")
    return DocumentError(source, "syntax", problem, line=mark.line + 1 if mark is not None else line)


_NOTHING: Final = object()
_MERGE: Final = object()


class _Frame:
    """A container that is still open.

    `start` is the count of values when it was opened, `lines` tells where each key of a mapping was written (None for
    a sequence), `key` waits for its value, `weight` counts the entries that naive merging would copy from here.
    """

    __slots__ = ("anchor", "height", "key", "lines", "merges", "start", "value", "weight")

    def __init__(self, value: Any, anchor: str | None, start: int, lines: dict[str, int] | None) -> None:
        self.value = value
        self.anchor = anchor
        self.start = start
        self.lines = lines
        self.key: Any = _NOTHING
        self.merges: list[dict[str, Any]] = []
        self.weight = 0
        self.height = 1


class _Anchor(NamedTuple):
    """A finished value with a name, and what one more copy of it costs."""

    value: Any
    nodes: int
    height: int
    weight: int


class _Composer:
    """Events of one stream in, documents out; counts as it goes."""

    def __init__(self, source: str, dialect: Dialect, limits: Limits, breaks: dict[int, str] | None) -> None:
        self._source = source
        self._dialect = dialect
        self._limits = limits
        self._breaks = breaks
        self._documents: list[Any] = []
        self._frames: list[_Frame] = []
        self._anchors: dict[str, _Anchor | None] = {}
        self._separator_line = 0
        self._has_copies = False
        self._nodes = 0
        self._merged = 0
        self._count = 0
        self._event: Any = None

    @property
    def line(self) -> int:
        """The line (from 1) of the event at hand."""
        return self._event.start_mark.line + 1 if self._event is not None else 1

    def run(self, next_event: Callable[[], Any]) -> list[Any]:
        """Consume all events."""
        handlers: dict[type, Callable[[Any], None]] = {
            events.ScalarEvent: self._scalar,
            events.AliasEvent: self._alias,
            events.MappingStartEvent: self._open,
            events.SequenceStartEvent: self._open,
            events.MappingEndEvent: self._close,
            events.SequenceEndEvent: self._close,
            events.DocumentStartEvent: self._start_document,
        }
        while (event := next_event()) is not None:
            self._event = event
            handler = handlers.get(event.__class__)
            if handler is not None:
                handler(event)
        return self._documents

    def _refusal(self, rule: str, message: str) -> DocumentError:
        return DocumentError(self._source, rule, message, line=self.line)

    def _start_document(self, event: Any) -> None:
        if event.version is not None or event.tags:
            raise self._refusal("directive", "directives are not allowed")
        self._count += 1
        if self._count > self._limits.documents:
            raise self._refusal("documents", f"more than {self._limits.documents} documents")
        self._anchors = {}
        self._has_copies = False
        self._separator_line = event.start_mark.line if event.explicit else 0

    def _require_own_line(self) -> None:
        """Content on the line of its separator would be lost by readers that split a stream by its lines."""
        if self._separator_line and self._event.start_mark.line == self._separator_line:
            raise self._refusal("separator", "invalid document separator")

    def _grow(self, amount: int) -> None:
        self._nodes += amount
        if self._nodes > self._limits.nodes:
            raise self._refusal("nodes", f"more than {self._limits.nodes} values after alias expansion")

    def _scalar(self, event: Any) -> None:
        self._grow(1)
        text = event.value if self._breaks is None else event.value.translate(self._breaks)
        if event.tag is not None:
            value = self._tagged(event, text)
        else:
            value = read_plain(text, self._dialect) if event.implicit[0] else text
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(value, 1, 0, 0)
        frame = self._frames[-1] if self._frames else None
        if frame is None or frame.key is _MERGE:
            self._attach(value, 0)
        elif frame.lines is None:
            frame.value.append(value)
        elif frame.key is _NOTHING:
            is_merge = text == "<<" and event.tag is None and event.implicit[0]
            self._key(frame, value, is_merge=is_merge)
        else:
            frame.value[frame.key] = value
            frame.key = _NOTHING

    def _tagged(self, event: Any, text: str) -> Any:
        if event.tag != "!":
            return read_tagged(event.tag, text, self._dialect)
        # A lone "!" asks for a string, except that kustomize's reader pays no heed to it.
        return text if event.style or self._dialect is Dialect.YAML11 else read_plain(text, self._dialect)

    def _key(self, frame: _Frame, value: Any, *, is_merge: bool = False) -> None:
        key = value if value.__class__ is str else key_text(value, self._dialect)
        lines = frame.lines
        assert lines is not None
        if key in lines:
            raise self._refusal("duplicate-key", f'mapping key "{_brief(key)}" already defined at line {lines[key]}')
        lines[key] = self._event.start_mark.line + 1
        frame.key = _MERGE if is_merge else sys.intern(key)

    def _alias(self, event: Any) -> None:
        name = _brief(event.anchor)
        if event.anchor not in self._anchors:
            raise self._refusal("anchor", f"unknown anchor '{name}'")
        anchor = self._anchors[event.anchor]
        if anchor is None:
            raise self._refusal("alias", f"recursive alias: anchor '{name}' contains itself")
        if len(self._frames) + anchor.height > self._limits.depth:
            raise self._refusal("depth", f"nested deeper than {self._limits.depth}")
        self._grow(anchor.nodes)
        frame = self._frames[-1]
        frame.height = max(frame.height, anchor.height + 1)
        if frame.lines is not None and frame.key is _NOTHING:
            self._key(frame, anchor.value)
        else:
            self._has_copies = True
            self._attach(anchor.value, anchor.weight)

    def _open(self, event: Any) -> None:
        if not self._frames:
            self._require_own_line()
        elif self._frames[-1].lines is not None and self._frames[-1].key is _NOTHING:
            raise self._refusal("key", "mapping keys must be strings")
        if len(self._frames) >= self._limits.depth:
            raise self._refusal("depth", f"nested deeper than {self._limits.depth}")
        if event.tag is not None:
            check_collection_tag(event.tag)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        is_mapping = event.__class__ is events.MappingStartEvent
        self._frames.append(_Frame({} if is_mapping else [], event.anchor, self._nodes, {} if is_mapping else None))
        self._grow(1)

    def _close(self, _event: Any) -> None:
        frame = self._frames.pop()
        if frame.lines is not None:
            frame.weight += len(frame.value)
            for merged in frame.merges:
                for key, value in merged.items():
                    frame.value.setdefault(key, value)
        if frame.anchor is not None:
            nodes = self._nodes - frame.start
            self._anchors[frame.anchor] = _Anchor(frame.value, nodes, frame.height, frame.weight)
        if self._frames:
            parent = self._frames[-1]
            parent.height = max(parent.height, frame.height + 1)
        self._attach(frame.value, frame.weight)

    def _attach(self, value: Any, weight: int) -> None:
        """Put a finished value where it belongs: into its container, or among the documents."""
        if not self._frames:
            self._finish(value)
            return
        frame = self._frames[-1]
        if frame.lines is None:
            frame.value.append(value)
            frame.weight += weight
        elif frame.key is _MERGE:
            self._merge(frame, value, weight)
            frame.key = _NOTHING
        else:
            frame.value[frame.key] = value
            frame.key = _NOTHING

    def _finish(self, document: Any) -> None:
        if isinstance(document, (dict, list)):
            # Only now, when no bound was passed: a refused bomb of aliases never took any memory.
            if self._has_copies:
                _unshare(document)
        elif document is not None:
            self._require_own_line()
        else:
            return
        self._documents.append(document)

    def _merge(self, frame: _Frame, value: Any, weight: int) -> None:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) for item in sources):
            raise self._refusal("merge", "map merge requires map or sequence of maps as the value")
        self._merged += weight
        if self._merged > self._limits.merged:
            raise self._refusal("merge", f"merge keys produce more than {self._limits.merged} entries")
        frame.merges.extend(sources)
        frame.weight += weight


class _HandingComposer(_Composer):
    """Hands the members of the lists below one key over, instead of keeping them."""

    def __init__(
        self,
        source: str,
        dialect: Dialect,
        limits: Limits,
        breaks: dict[int, str],
        at: str,
        take: Callable[[str, Any], None],
    ) -> None:
        super().__init__(source, dialect, limits, breaks)
        self._at = at
        self._take = take

    def _attach(self, value: Any, weight: int) -> None:
        frames = self._frames
        if len(frames) != 3 or not self._is_listed():
            super()._attach(value, weight)
            return
        if self._has_copies:
            _unshare(value)
        self._take(frames[1].key, value)

    def _is_listed(self) -> bool:
        """Whether what was just read is in a list `<at>.<name>` that nobody can refer to."""
        top, middle, inner = self._frames
        is_there = top.key == self._at and middle.lines is not None and inner.lines is None
        return is_there and isinstance(middle.key, str) and not (top.anchor or middle.anchor or inner.anchor)


def _unshare(root: Any) -> None:
    """Give every place of a document its own copy of what an alias named; its size was counted before."""
    seen = {id(root)}
    todo = [root]
    while todo:
        at = todo.pop()
        for place, child in at.items() if isinstance(at, dict) else enumerate(at):
            if not isinstance(child, (dict, list)):
                continue
            own = child.copy() if id(child) in seen else child
            at[place] = own
            seen.add(id(own))
            todo.append(own)


def _brief(text: str) -> str:
    """A name from a document as a message may show it."""
    cut = text if len(text) <= 128 else f"{text[:125]}..."
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in cut)


# -- writing -----------------------------------------------------------------------------------------------------------

_MAX_WRITTEN_DEPTH: Final = 200
_ESCAPED = re.compile(r"[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")
_LITERAL = re.compile(r"(?!\s)[^\x00-\x08\x0b-\x1f\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]+\Z")


def dump(obj: Any) -> str:
    """Write one value as block style YAML: sorted keys, quotes where text could be taken for something else.

    The same value gives the same text. Raises DocumentError for what JSON has no form for.
    """
    lines: list[str] = []
    _write(obj, "", "", lines, 0)
    return "\n".join(lines) + "\n"


def dump_all(objs: Iterable[Any]) -> str:
    """Write several values as one stream, with a separator between two of them."""
    return "---\n".join(dump(obj) for obj in objs)


def dump_json(obj: Any) -> bytes:
    """Write one value as JSON with sorted keys. Raises DocumentError for what JSON has no form for."""
    try:
        return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise DocumentError("output", "type", str(error)) from None


def _write(value: Any, lead: str, indent: str, lines: list[str], depth: int) -> None:
    """Append `value`; `lead` stands before its first line, `indent` before the others."""
    if depth > _MAX_WRITTEN_DEPTH:
        raise DocumentError("output", "depth", f"nested deeper than {_MAX_WRITTEN_DEPTH}")
    if isinstance(value, dict) and value:
        for key in sorted(value):
            name = _text(key) if isinstance(key, str) else _refuse_key()
            child = value[key]
            if isinstance(child, dict) and child:
                lines.append(f"{lead}{name}:")
                _write(child, f"{indent}  ", f"{indent}  ", lines, depth + 1)
            elif isinstance(child, list) and child:
                lines.append(f"{lead}{name}:")
                _write(child, indent, indent, lines, depth + 1)
            else:
                lines.append(f"{lead}{name}: {_scalar(child, indent)}")
            lead = indent
    elif isinstance(value, list) and value:
        for item in value:
            _write(item, f"{lead}- ", f"{indent}  ", lines, depth + 1)
            lead = indent
    else:
        lines.append(f"{lead}{_scalar(value, indent[:-2])}")


def _refuse_key() -> str:
    raise DocumentError("output", "key", "mapping keys must be strings")


def _scalar(value: Any, indent: str) -> str:
    """One value that holds no others. `indent` is that of the line it stands in."""
    if isinstance(value, str):
        return _block(value, indent) if "\n" in value and _LITERAL.match(value) else _text(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value - value == 0:
        return repr(value)
    raise DocumentError("output", "type", f"a value of type {type(value).__name__} has no form in YAML")


def _text(text: str) -> str:
    if reads_as_itself(text):
        return text
    try:
        quoted = orjson.dumps(text).decode()
    except TypeError:
        raise DocumentError("output", "encoding", "not valid Unicode text") from None
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _block(text: str, indent: str) -> str:
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    chomping = "-" if ends == 0 else "" if ends == 1 else "+"
    lines = body.split("\n") + [""] * (ends - 1)
    return "\n".join([f"|{chomping}", *(f"{indent}  {line}" if line else "" for line in lines)])
