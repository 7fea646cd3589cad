"""Kubernetes objects as plain dicts: who they are, what they carry, in which order they are applied.

Knows names and shapes only; no I/O, no API server, no YAML. Nothing here changes the object it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Obj = dict[str, Any]


class GVK(NamedTuple):
    """Group, version and kind; the core group is the empty string."""

    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        """`group/version`, or the bare version in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @classmethod
    def parse(cls, api_version: str, kind: str) -> GVK:
        """Read the two fields every object has."""
        group, _, version = api_version.rpartition("/")
        return cls(group, version, kind)


class ObjectKey(NamedTuple):
    """One object of a cluster. The version is left out on purpose: an apiVersion bump is the same object."""

    group: str
    kind: str
    namespace: str
    name: str

    @property
    def subject(self) -> str:
        """`Kind/namespace/name`, or `Kind/name` when cluster-scoped: how messages name an object."""
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"

    @property
    def path(self) -> str:
        """`namespace/name`, or the bare name when cluster-scoped."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def get_in(obj: Any, *path: str | int, default: Any = None) -> Any:
    """Follow `path` through dicts and lists; `default` where a step is missing or null."""
    at = obj
    for step in path:
        if isinstance(at, Mapping) and isinstance(step, str):
            at = at.get(step)
        elif isinstance(at, list) and isinstance(step, int) and -len(at) <= step < len(at):
            at = at[step]
        else:
            return default
    return default if at is None else at


def gvk_of(obj: Obj) -> GVK:
    """The group, version and kind an object says it has."""
    return GVK.parse(str(obj.get("apiVersion") or ""), str(obj.get("kind") or ""))


def key_of(obj: Obj) -> ObjectKey:
    """The identity of an object."""
    gvk = gvk_of(obj)
    metadata = obj.get("metadata") or {}
    return ObjectKey(gvk.group, gvk.kind, str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


def subject(obj: Obj) -> str:
    """`Kind/namespace/name` of an object."""
    return key_of(obj).subject


def labels_of(obj: Obj) -> dict[str, str]:
    """The labels, empty when there are none."""
    found = get_in(obj, "metadata", "labels", default={})
    return found if isinstance(found, dict) else {}


def annotations_of(obj: Obj) -> dict[str, str]:
    """The annotations, empty when there are none."""
    found = get_in(obj, "metadata", "annotations", default={})
    return found if isinstance(found, dict) else {}


# The order of spec/kustomize.md 4.2: what others need comes first; unlisted kinds stand before the webhooks.
_FIRST_KINDS = (
    "CustomResourceDefinition",
    "Namespace",
    "ClusterRole",
    "ClusterClass",
    "RuntimeClass",
    "PriorityClass",
    "StorageClass",
    "VolumeSnapshotClass",
    "IngressClass",
    "GatewayClass",
    "ClusterRoleBinding",
    "ResourceQuota",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "Service",
    "LimitRange",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
)
_LAST_KINDS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_RANKS = {kind: rank for rank, kind in enumerate(_FIRST_KINDS)} | {
    kind: len(_FIRST_KINDS) + 1 + rank for rank, kind in enumerate(_LAST_KINDS)
}


def apply_order(key: ObjectKey) -> tuple[int, str, str, str, str]:
    """Sort key of the apply order: rank of the kind's name, then group, kind, namespace, name."""
    return (_RANKS.get(key.kind, len(_FIRST_KINDS)), key.group, key.kind, key.namespace, key.name)
