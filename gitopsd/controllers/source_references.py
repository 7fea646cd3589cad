"""Which sources a source is made of: a chart's source, a Git repository's includes.

The reverse indexes of the source controller's triggers. Pure, and never surprised: the object need not follow its
schema, and an error here would end the watch of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from gitopsd.api.meta import SOURCE_GROUP
from gitopsd.krm.objects import Obj, ObjectKey, get_in, key_of


def chart_source_of(chart: Obj) -> Iterator[ObjectKey]:
    """The source of a HelmChart, which is in its own namespace (`spec/source.md` 8.1)."""
    kind, name = get_in(chart, "spec", "sourceRef", "kind"), get_in(chart, "spec", "sourceRef", "name")
    if isinstance(kind, str) and isinstance(name, str):
        yield ObjectKey(SOURCE_GROUP, kind, key_of(chart).namespace, name)


def has_seen_source(chart: Obj, revision: str) -> bool:
    """Whether a HelmChart's status speaks of its source's `revision`."""
    return bool(get_in(chart, "status", "observedSourceArtifactRevision") == revision)


def includes_of(repository: Obj) -> Iterator[ObjectKey]:
    """The GitRepositories that a GitRepository includes, from its own namespace (`spec/source.md` 5.5)."""
    key = key_of(repository)
    for include in _rows(repository, "spec", "include"):
        name = get_in(include, "repository", "name")
        if isinstance(name, str):
            yield ObjectKey(key.group, key.kind, key.namespace, name)


def has_included(repository: Obj, revision: str) -> bool:
    """Whether the only thing that a GitRepository includes is at `revision` in its artifact.

    Of several it cannot be told whose revision it is: then it has to look.
    """
    included = _rows(repository, "status", "includedArtifacts")
    is_only_one = len(included) == len(_rows(repository, "spec", "include")) == 1
    return is_only_one and get_in(included[0], "revision") == revision


def _rows(obj: Obj, *path: str) -> list[Obj]:
    found = get_in(obj, *path)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
