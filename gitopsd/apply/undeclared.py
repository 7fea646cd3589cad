"""Fields that the server's schema does not know, named by its own error and taken out of the manifest.

Pure. Flux passes objects of built-in kinds through Go structs, which drops fields that nobody declared without a word
(`spec/kustomize.md` 4.3); repositories exist that only work because of it. We ask the server instead of carrying its
schemas: a server-side apply answers `.spec.replicass: field not declared in schema`, once for each field it met. If
every complaint is of that sort the fields are removed and the object is tried again; any other complaint (a wrong
type) leaves the object as it is, for the server's own words to reach the user.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from gitopsd.krm.objects import Obj, gvk_of

# The groups whose types Flux links in; everything else is only ever validated by its own CRD.
_BUILT_IN_GROUPS: Final = frozenset(
    {
        "",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apps",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "autoscaling",
        "batch",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "extensions",
        "flowcontrol.apiserver.k8s.io",
        "internal.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
        "storagemigration.k8s.io",
    }
)
_AS_WRITTEN: Final = frozenset({("rbac.authorization.k8s.io", "Role"), ("rbac.authorization.k8s.io", "ClusterRole")})
_TYPED_PATCH: Final = re.compile(r"failed to create typed patch object \([^()]*\): ", re.DOTALL)
_SUFFIX: Final = ": field not declared in schema"
# More rounds than this and somebody is playing with us; each takes out at least one field.
MAX_ROUNDS: Final = 50


def is_lenient(obj: Obj) -> bool:
    """Whether undeclared fields of this kind are dropped rather than reported."""
    gvk = gvk_of(obj)
    return gvk.group in _BUILT_IN_GROUPS and (gvk.group, gvk.kind) not in _AS_WRITTEN


def undeclared_paths(message: str) -> list[str]:
    """The paths an error complains of; empty unless each of its complaints is about an undeclared field."""
    found = _TYPED_PATCH.match(message)
    if not found:
        return []
    complaints = message[found.end() :].removeprefix("errors:\n").split("\n")
    if message.endswith("…") and len(complaints) > 1:
        complaints.pop()  # a long message was cut in the middle of a line; the next round names the rest
    paths = [line.strip().removesuffix(_SUFFIX) for line in complaints if line.strip().endswith(_SUFFIX)]
    return paths if len(paths) == len(complaints) else []


def without_fields(obj: Obj, paths: list[str]) -> Obj | None:
    """A copy without the fields at `paths`, None when one of them is not found."""
    result = copy.deepcopy(obj)
    for path in paths:
        if not _remove(result, path):
            return None
    return result


def _remove(at: Any, path: str) -> bool:
    """Follow one path of the server's notation: `.spec.ports[containerPort=80,protocol="TCP"].nme`."""
    if path.startswith("[") and isinstance(at, list):
        end = _closing(path)
        return any(_remove(item, path[end + 1 :]) for item in _items(at, path[1:end]))
    if path.startswith(".") and isinstance(at, dict):
        for name in _names(at, path[1:]):
            rest = path[1 + len(name) :]
            if not rest:
                del at[name]
                return True
            if _remove(at[name], rest):
                return True
    return False


def _names(at: dict[str, Any], path: str) -> list[str]:
    """Which fields the path may begin with, longest first: a field's own name may hold dots."""
    names = [name for name in at if path == name or path.startswith((f"{name}.", f"{name}["))]
    return sorted(names, key=len, reverse=True)


def _closing(path: str) -> int:
    """Where the bracket that opens the path closes; quoted text may hold brackets."""
    quoted = escaped = False
    for at, char in enumerate(path):
        if escaped:
            escaped = False
        elif char == "\\" and quoted:
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == "]" and not quoted:
            return at
    return len(path)


def _items(items: list[Any], selector: str) -> Iterator[Any]:
    """The list items meant by an index, or by the values of their key fields (which may come from a default)."""
    if selector.isascii() and selector.isdigit():
        if int(selector) < len(items):
            yield items[int(selector)]
        return
    wanted = dict(_pairs(selector))
    for item in items:
        given = [name for name in wanted if isinstance(item, dict) and name in item]
        if given and all(item[name] == wanted[name] for name in given):
            yield item


def _pairs(selector: str) -> Iterator[tuple[str, Any]]:
    for found in re.finditer(r'([^=,]+)=("(?:[^"\\]|\\.)*"|[^,]*)', selector):
        name, value = found.groups()
        try:
            yield name, json.loads(value)
        except ValueError:
            yield name, value
