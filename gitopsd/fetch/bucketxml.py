"""XML of storages and token services: read once, flat, and without anything that could make little text large.

Knows elements and their text; refuses document types (and with them every entity), deep nesting, and anything that is
not whole (spec/hostile-inputs.md I03, I09).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from xml.parsers import expat

from gitopsd.fetch.errors import RemoteError, printable

_DEEPEST = 16


class Document(NamedTuple):
    """The root's name, the texts right below it, and each record's texts by their path below the record.

    An attribute stands beside its element as `path@attribute`.
    """

    root: str
    fields: Mapping[str, str]
    records: list[Mapping[str, str]]


def read_xml(data: bytes, record: str, what: str = "answer") -> Document:
    """Read a document whose elements called `record` are its records. Raises RemoteError. Takes time: offload it."""
    reader = _Reader(record, what)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        text = f"the {what} is no XML: {printable(expat.ErrorString(error.code), 128)}"
        raise RemoteError(text, rule="xml") from None
    return Document(reader.root, reader.fields, reader.records)


class _Reader:
    def __init__(self, record: str, what: str) -> None:
        self.root = ""
        self.fields: dict[str, str] = {}
        self.records: list[Mapping[str, str]] = []
        self._record = record
        self._what = what
        self._path: list[str] = []
        self._inside = 0  # how many elements are open from the record on
        self._current: dict[str, str] = {}
        self._text: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append

    def _refuse(self, *_: object) -> None:
        raise RemoteError(f"the {self._what} declares a document type", rule="xml-doctype")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        self._path.append(local)
        if len(self._path) > _DEEPEST:
            raise RemoteError(f"the {self._what} is nested deeper than {_DEEPEST}", rule="xml-depth")
        self.root = self.root or local
        self._text.clear()
        if self._inside or local == self._record:
            self._inside += 1
            for attribute, value in attributes.items():
                self._current[f"{self._below()}@{attribute}"] = value

    def _below(self) -> str:
        return "/".join(self._path[len(self._path) - self._inside + 1 :])

    def _end(self, name: str) -> None:
        text = "".join(self._text)
        self._text.clear()
        if self._inside > 1:
            self._current.setdefault(self._below(), text)
        elif self._inside:
            self.records.append(self._current)
            self._current = {}
        elif len(self._path) == 2:
            self.fields.setdefault(self._path[1], text)
        self._inside = max(0, self._inside - 1)
        self._path.pop()
