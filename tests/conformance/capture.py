"""What an observer sees of an object, cut down to the contract (`goldens/README.md`, Golden). Reads, never writes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from tests.apiclient import ApiClient, ApiStatusError, Obj

_CONTROLLERS = ("source-controller", "kustomize-controller", "helm-controller")
_UNTOLD_EVENTS = ("ArtifactUpToDate", "GarbageCollectionSucceeded")
_COMBINED = "(combined from similar events): "

_VERSIONS = {
    "v1": "ConfigMap Secret Service Namespace ServiceAccount PersistentVolumeClaim PersistentVolume Pod ResourceQuota "
    "LimitRange Node Event",
    "apps/v1": "Deployment StatefulSet DaemonSet ReplicaSet",
    "batch/v1": "Job CronJob",
    "rbac.authorization.k8s.io/v1": "Role RoleBinding ClusterRole ClusterRoleBinding",
    "networking.k8s.io/v1": "Ingress NetworkPolicy",
    "policy/v1": "PodDisruptionBudget",
    "scheduling.k8s.io/v1": "PriorityClass",
    "apiextensions.k8s.io/v1": "CustomResourceDefinition",
    "kustomize.toolkit.fluxcd.io/v1": "Kustomization",
    "source.toolkit.fluxcd.io/v1": "GitRepository OCIRepository HelmRepository HelmChart Bucket ExternalArtifact",
    "helm.toolkit.fluxcd.io/v2": "HelmRelease",
}
_KINDS = {kind: version for version, kinds in _VERSIONS.items() for kind in kinds.split()}


def api_version(api: ApiClient, kind: str) -> tuple[str, str]:
    """The apiVersion and bare kind of `Kind` or `Kind.group`."""
    bare, _, group = kind.partition(".")
    if not group:
        return _KINDS[bare], bare
    preferred = api.request("GET", f"/apis/{group}")["preferredVersion"]["groupVersion"]
    return preferred, bare


def is_flux(version: str) -> bool:
    """Whether objects of an apiVersion are ours."""
    return ".toolkit.fluxcd.io/" in version


class Observer:
    """Looks at objects of one scenario."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def look(self, reference: str) -> dict[str, Any]:
        """What a reference of an `expect` shows: one entry, or a list of names and an entry for each."""
        head, _, namespace = reference.partition("@")
        kind, _, name = head.partition("/")
        version, bare = api_version(self._api, kind)
        within = namespace or self._namespace
        suffix = f"@{namespace}" if namespace else ""
        if name != "*":
            return {reference: self._entry(version, bare, name, within)}
        found = [obj for obj in self._list(version, bare, within) if obj["metadata"]["name"] != "kube-root-ca.crt"]
        names = sorted(obj["metadata"]["name"] for obj in found)
        entries = {f"{kind}/{each}{suffix}": self._entry(version, bare, each, within) for each in names}
        return {reference: names, **entries}

    def _list(self, version: str, kind: str, namespace: str) -> list[Obj]:
        try:
            return self._api.list(version, kind, namespace)
        except ApiStatusError as error:
            if error.status == 404:
                return []
            raise

    def _entry(self, version: str, kind: str, name: str, namespace: str) -> Any:
        obj = self._api.get(version, kind, name, namespace)
        events = self._events(kind, name, namespace)
        if obj is None:
            return {"absent": True, "events": events} if events else _absent(version)
        entry = _flux_entry(obj) if is_flux(version) else _plain_entry(obj)
        return entry | ({"events": events} if events else {})

    def _events(self, kind: str, name: str, namespace: str) -> list[dict[str, Any]]:
        selector = f"involvedObject.kind={kind},involvedObject.name={name}"
        found = self._api.list("v1", "Event", namespace, fieldSelector=selector)
        return merge_events(found)


def _absent(version: str) -> Any:
    return {"absent": True} if is_flux(version) else "absent"


def merge_events(events: list[Obj]) -> list[dict[str, Any]]:
    """The controllers' events as a set: no times; a count only where it is part of the contract."""
    merged: dict[str, dict[str, Any]] = {}
    for event in events:
        component = (event.get("source") or {}).get("component") or event.get("reportingComponent", "")
        if component not in _CONTROLLERS or event["reason"] in _UNTOLD_EVENTS:
            continue
        annotations = event["metadata"].get("annotations")
        told: dict[str, Any] = {
            "from": component,
            "message": event.get("message", "").removeprefix(_COMBINED),
            "reason": event["reason"],
            "type": event["type"],
        } | ({"annotations": annotations} if annotations else {})
        counted = merged.setdefault(repr(sorted(told.items(), key=str)), told)
        if event["reason"] == "NewArtifact":
            counted["count"] = counted.get("count", 0) + (event.get("count") or 1)
    return list(merged.values())


def _metadata(obj: Obj, *, generation: bool) -> dict[str, Any]:
    metadata = obj["metadata"]
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if not key.startswith("deployment.kubernetes.io/")
    }
    kept: dict[str, Any] = {
        "annotations": annotations,
        "labels": metadata.get("labels"),
        "finalizers": metadata.get("finalizers"),
        "owners": [f"{owner['kind']}/{owner['name']}" for owner in metadata.get("ownerReferences", ())],
        "deletionTimestamp": metadata.get("deletionTimestamp"),
        "generation": metadata.get("generation") if generation else None,
    }
    return {key: value for key, value in kept.items() if value}


def _managers(obj: Obj) -> list[str]:
    found = set()
    for field in obj["metadata"].get("managedFields", ()):
        if field["manager"] != "kube-controller-manager":
            found.add(" ".join(filter(None, (field["manager"], field["operation"], field.get("subresource")))))
    return sorted(found)


def _plain_entry(obj: Obj) -> dict[str, Any]:
    rest = {key: value for key, value in obj.items() if key not in {"metadata", "status"}}
    return {**rest, "metadata": _metadata(obj, generation=False), "managers": _managers(obj)}


def _flux_entry(obj: Obj) -> dict[str, Any]:
    entry: dict[str, Any] = {"metadata": _metadata(obj, generation=True), "managers": _managers(obj)}
    status = obj.get("status")
    if status is not None:
        entry["status"] = status
        artifact = status.get("artifact")
        if artifact and artifact.get("url"):
            entry["stored"] = stored(artifact)
    return entry


def stored(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """The file behind an artifact: does its digest match, and what is in it."""
    try:
        with urllib.request.urlopen(artifact["url"], timeout=10) as answer:
            data = answer.read()
    except (OSError, urllib.error.HTTPError) as error:
        return {"error": str(error)}
    matches = f"sha256:{hashlib.sha256(data).hexdigest()}" == artifact["digest"]
    readers: dict[str, Callable[[bytes], Any]] = {"helmchart": chart_content, "helmrepository": index_content}
    content = readers.get(artifact["path"].partition("/")[0], tar_entries)(data)
    return {"content": content, "digestMatches": matches}


def index_content(data: bytes) -> dict[str, list[str]]:
    """The versions of each chart of an index, in its order."""
    entries = json.loads(data)["entries"]
    return {name: [entry["version"] for entry in own] for name, own in entries.items()}


def chart_content(data: bytes) -> dict[str, Any]:
    """The files of a packaged chart below its folder, and what its metadata and values say."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        members = {member.name.partition("/")[2]: member for member in archive if member.isfile()}
        texts = {name: archive.extractfile(members[name]) for name in ("Chart.yaml", "values.yaml") if name in members}
        content: dict[str, Any] = {name: yaml.safe_load(file) for name, file in texts.items() if file is not None}
        return content | {"files": sorted(members)}


def tar_entries(data: bytes) -> list[str]:
    """`MODE NAME` of each entry of a tar.gz in its order; folders end with a slash, links say where they lead."""
    entries = []
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        for member in archive:
            name = f"{member.name}/" if member.isdir() and member.name != "." else member.name
            arrow = f" -> {member.linkname}" if member.issym() or member.islnk() else ""
            entries.append(f"{member.mode & 0o7777:04o} {name}{arrow}")
    return entries
