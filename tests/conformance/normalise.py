"""What differs from run to run, written in words that do not (`goldens/README.md`, Normalisation). Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.conformance.scenario import Places

_HEX64 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_HEX40 = re.compile(r"(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])")
_SHA12 = re.compile(r"(?<=\+)[0-9a-f]{12}(?![0-9a-f])")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_SIZE = re.compile(r"(fetched index of size )[0-9.]+[kMG]?B")
_UID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_DURATION = re.compile(r"((?:finished in|passed in|failed after) )(?:\d+(?:\.\d+)?(?:ms|µs|us|ns|h|m|s))+")
_WORK = re.compile(r"/tmp/(?:[\w.]*-)*\d{6,}[^\s:'\",]*")
_TOKEN = re.compile(r"<hex:([^<>]+)>")

_VALUES = {
    "lastReconciledDuration": "<dur>",
    "size": "<size>",
    "clusterIP": "<clusterIP>",
    "nodePort": "<nodePort>",
}


class Normaliser:
    """Normalises everything seen in one run; unknown digests keep their identity as `<hex:DIGEST>` until `numbered`."""

    def __init__(self, places: Places, mask: Sequence[re.Pattern[str]] = (), hide: Sequence[str] = ()) -> None:
        self._places = places
        self._mask = mask
        self._hide = hide

    def value(self, value: Any, key: str = "") -> Any:
        """`value` normalised, with its keys."""
        if key in self._hide:
            return "<varies>"
        if key in _VALUES and not isinstance(value, dict | list) and value != "None":
            return _VALUES[key]
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.value(item, str(name)) for name, item in value.items()}
        if isinstance(value, list):
            if key == "clusterIPs":
                return ["<clusterIP>" if item != "None" else item for item in value]
            return [self.value(item) for item in value]
        return value

    def text(self, text: str) -> str:
        """One string normalised."""
        for name, meaning in self._places.names.items():
            text = text.replace(meaning, f"<{name}>") if meaning else text
        text = _HEX64.sub(lambda match: self._digest(match[0]), text)
        text = _HEX40.sub(lambda match: self._commit(match[0]), text)
        text = _SHA12.sub(lambda match: self._short_commit(match[0]), text)
        text = _TIME.sub("<time>", text)
        text = _DURATION.sub(r"\1<dur>", text)
        text = _SIZE.sub(r"\1<size>", text)
        text = _UID.sub("<uid>", text)
        text = _WORK.sub("<tmp>", text)
        for pattern in self._mask:
            text = pattern.sub(lambda match: f"{match[1]}…", text)
        return text

    def _digest(self, digest: str) -> str:
        for repository, pushes in self._places.pushes.items():
            if digest in pushes:
                return f"<oci:{repository}:{pushes.index(digest) + 1}>"
        if digest in self._places.layers:
            return f"<layer:{self._places.layers[digest]}>"
        if digest in self._places.files:
            return f"<file:{self._places.files[digest]}>"
        return f"<hex:{digest}>"

    def _commit(self, sha: str) -> str:
        return self._find_commit(lambda known: known == sha, "sha") or "<hex40>"

    def _short_commit(self, start: str) -> str:
        return self._find_commit(lambda known: known.startswith(start), "sha12") or start

    def _find_commit(self, accept: Callable[[str], bool], word: str) -> str:
        for repository, shas in self._places.shas.items():
            for number, sha in enumerate(shas, 1):
                if accept(sha):
                    return f"<{word}:{repository}:{number}>"
        return ""


def comparable(observed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Observations in the one form in which they are compared.

    Events and managers are sets: they are sorted without regard to the numbers of digests. Then digests are numbered
    by first appearance. Both sides of a comparison go through this, so a recording's own order and numbers do not
    matter, but which digests are equal to which does.
    """
    ordered = [_ordered(item) for item in observed]
    numbers: dict[str, str] = {}
    return [_numbered(item, numbers) for item in ordered]


def _ordered(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _ordered(value[name], name) for name in sorted(value)}
    if isinstance(value, list):
        items = [_ordered(item) for item in value]
        if key == "events":
            return _event_set(items)
        return sorted(items) if key == "managers" else items
    return value


def _event_set(events: list[Any]) -> list[Any]:
    different: list[Any] = []
    for event in sorted(events, key=lambda item: _TOKEN.sub("<hex>", json.dumps(item, sort_keys=True))):
        if event not in different:
            different.append(event)
    return different


def _numbered(value: Any, numbers: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {_numbered(name, numbers): _numbered(item, numbers) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item, numbers) for item in value]
    if isinstance(value, str):
        return _TOKEN.sub(lambda match: numbers.setdefault(match[1], f"<hex:{len(numbers) + 1}>"), value)
    return value
