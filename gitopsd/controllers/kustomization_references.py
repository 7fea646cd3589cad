"""What a Kustomization refers to, read from the plain object: its source, its dependencies, its configuration.

A part of the Kustomization controller: the reverse indexes of its triggers. Pure, and never surprised: the object need
not follow its schema (`spec/hostile-inputs.md` O01), and an error here would end the watch of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from gitopsd.api.meta import KUSTOMIZE_GROUP, SOURCE_GROUP
from gitopsd.krm.objects import Obj, ObjectKey, get_in, key_of

_NAMED = (
    ("Secret", ("decryption", "secretRef")),
    ("Secret", ("kubeConfig", "secretRef")),
    ("ConfigMap", ("kubeConfig", "configMapRef")),
)


def source_of(obj: Obj) -> list[ObjectKey]:
    """The source whose files are built."""
    reference = get_in(obj, "spec", "sourceRef")
    namespace = _text(reference, "namespace") or key_of(obj).namespace
    return [ObjectKey(SOURCE_GROUP, _text(reference, "kind"), namespace, _text(reference, "name"))]


def configs_of(obj: Obj) -> list[ObjectKey]:
    """The ConfigMaps and Secrets whose change concerns it (`spec/kustomize.md` 7.1)."""
    namespace = key_of(obj).namespace
    found = [
        ObjectKey("", _text(reference, "kind"), namespace, _text(reference, "name"))
        for reference in _rows(obj, "postBuild", "substituteFrom")
    ]
    for kind, path in _NAMED:
        name = _text(get_in(obj, "spec", *path), "name")
        if name:
            found.append(ObjectKey("", kind, namespace, name))
    return found


def dependencies_of(obj: Obj) -> list[ObjectKey]:
    """The Kustomizations that have to be ready first."""
    own = key_of(obj)
    return [
        ObjectKey(KUSTOMIZE_GROUP, own.kind, _text(reference, "namespace") or own.namespace, _text(reference, "name"))
        for reference in _rows(obj, "dependsOn")
    ]


def _rows(obj: Obj, *path: str) -> Iterator[object]:
    rows = get_in(obj, "spec", *path)
    return iter(rows if isinstance(rows, list) else ())


def _text(reference: object, field: str) -> str:
    return str(get_in(reference, field, default=""))
