"""`.gitmodules`: where submodules come from. Read as data: includes, commands and update rules are never interpreted.

Knows Git's configuration syntax as far as a submodule's `path` and `url` need it. Pure.
Invariant: every path that is returned stays inside the tree and outside any `.git` (spec/hostile-inputs.md A36-A38).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.gittree import is_dot_git

_LARGEST = 1 << 20
_MOST = 1000
_SECTION = re.compile(r'\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\\n]|\\.)*)")?\s*\]')
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*))?", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b", '"': '"', "\\": "\\"}


def read_modules(data: bytes) -> Mapping[str, str]:
    """The URL of each submodule by its path, both as written. Raises RemoteError for what may not be."""
    if len(data) > _LARGEST:
        raise RemoteError(f".gitmodules is larger than {_LARGEST} bytes", rule="gitmodules")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise RemoteError(".gitmodules is not UTF-8 text", rule="gitmodules") from None
    sections: dict[str, dict[str, str]] = {}
    for section, key, value in _settings(text):
        sections.setdefault(section, {})[key] = value
    if len(sections) > _MOST:
        raise RemoteError(f".gitmodules names more than {_MOST} submodules", rule="gitmodules")
    found: dict[str, str] = {}
    for values in sections.values():
        if "path" in values and "url" in values:
            path = values["path"].removesuffix("/")
            _check_path(path)
            if path in found:
                raise RemoteError(f".gitmodules names '{printable(path, 256)}' twice", rule="gitmodules")
            found[path] = values["url"]
    return found


def _check_path(path: str) -> None:
    for part in path.split("/"):
        if part in {"", ".", ".."} or is_dot_git(part.encode()) or "\0" in part:
            raise RemoteError(f"submodule path '{printable(path, 256)}' may not be used", rule="submodule-path")
    if path.startswith("-"):
        raise RemoteError(f"submodule path '{printable(path, 256)}' may not be used", rule="submodule-path")


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    """`path` and `url` of each submodule section, as (section's name, key, value)."""
    section: str | None = None
    for line in _logical_lines(text):
        stripped = line.strip()
        header = _SECTION.match(stripped)
        if header is not None:
            name = header[2]
            is_module = header[1].lower() == "submodule" and name is not None
            section = re.sub(r"\\(.)", r"\1", name) if is_module else None
            stripped = stripped[header.end() :].strip()
        if not stripped or stripped[0] in "#;":
            continue
        setting = _KEY.fullmatch(stripped)
        if setting is None:
            raise RemoteError(".gitmodules cannot be read", rule="gitmodules")
        if section is not None and setting[1].lower() in {"path", "url"}:
            yield section, setting[1].lower(), _value(setting[2] or "")


def _logical_lines(text: str) -> Iterator[str]:
    pending = ""
    for line in text.splitlines():
        # An odd number of backslashes at the end joins the next line.
        if (len(line) - len(line.rstrip("\\"))) % 2:
            pending += line[:-1]
            continue
        yield pending + line
        pending = ""
    yield pending


def _value(text: str) -> str:
    """A value without quotes, escapes and comment."""
    kept: list[str] = []
    quoted = False
    characters = iter(text)
    for character in characters:
        if character == '"':
            quoted = not quoted
        elif character == "\\":
            escape = next(characters, "")
            if escape not in _ESCAPES:
                raise RemoteError(".gitmodules cannot be read", rule="gitmodules")
            kept.append(_ESCAPES[escape])
        elif character in "#;" and not quoted:
            break
        else:
            kept.append(character)
    if quoted:
        raise RemoteError(".gitmodules cannot be read", rule="gitmodules")
    return "".join(kept).strip()
