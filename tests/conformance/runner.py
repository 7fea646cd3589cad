"""Plays a scenario: its steps in a new namespace, as a user would, and what an observer then sees.

It knows the API server, the Git server, the registry and the address of the artifact server, and nothing of who works
on the objects: the same runner plays the steps against gitopsd and against the reference implementation.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any

from tests.apiclient import ApiClient, ApiStatusError, NotYetError, Obj
from tests.conformance.capture import Observer, api_version
from tests.conformance.normalise import Normaliser, comparable
from tests.conformance.scenario import Places, Scenario
from tests.servers.charts import chart_archive
from tests.servers.git import GitServer
from tests.servers.helmrepo import serve_charts
from tests.servers.http import HttpServer
from tests.servers.registry import FLUX_CONTENT, HELM_CONTENT, Blob, Registry, tar_gz

_MANAGER = "golden"
_BETWEEN_LOOKS = 0.4


class Run:
    """One scenario being played. `play` returns what was observed, normalised, in the form of a recording."""

    def __init__(self, scenario: Scenario, api: ApiClient, *, storage: str) -> None:
        self.scenario = scenario
        self._api = api
        self._git = GitServer()
        self._http = HttpServer(git=self._git)
        self._registry = Registry().start() if "<registry>" in repr(scenario.steps) else None
        self.namespace = f"golden-{secrets.token_hex(3)}"
        self._places = Places(self.namespace, self._git.url, self._http.url, storage)
        if self._registry is not None:
            self._places.registry = f"{self._registry.host}/{self.namespace}"
        self._normaliser = Normaliser(self._places, scenario.mask, scenario.hide)
        self._observer = Observer(api, self.namespace)
        self._observed: list[dict[str, Any]] = []
        self._cluster_scoped: list[tuple[str, str, str]] = []

    def play(self) -> list[dict[str, Any]]:
        """Do every step. Raises `AssertionError` naming the step that could not be done."""
        try:
            self._api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
            for number, step in enumerate(self.scenario.steps, 1):
                try:
                    self._do(number, step)
                except (AssertionError, ApiStatusError) as error:
                    raise AssertionError(f"{self.scenario.name}, step {number} {_brief(step)}: {error}") from error
            return self._observed
        finally:
            self._clean_up()

    def _do(self, number: int, step: Mapping[str, Any]) -> None:
        verbs = [key for key in step if hasattr(self, f"_step_{key}")]
        assert len(verbs) == 1, f"the runner does not know a step with {sorted(step)}"
        getattr(self, f"_step_{verbs[0]}")(number, step)

    # -- steps

    def _step_git(self, number: int, step: Mapping[str, Any]) -> None:
        change = self._places.fill(step["git"])
        repository = self._git.repository(change["repo"])
        shas = self._places.shas.setdefault(change["repo"], [])
        if change["message"] == "empty" and "files" not in change:
            return
        shas.append(
            repository.commit(
                change.get("files") or {},
                message=change["message"],
                branch=change.get("branch", "main"),
                tag=change.get("tag"),
                annotated=change.get("annotated", False),
            )
        )

    def _step_push(self, number: int, step: Mapping[str, Any]) -> None:
        change = self._places.fill(step["push"])
        assert self._registry is not None
        repository, tag = change["repository"], str(change["tag"])
        target = f"{self.namespace}/{repository}"
        if "chart" in change:
            chart = change["chart"]
            layers = [Blob(HELM_CONTENT, chart_archive(**chart))]
            digest = self._registry.push_chart(target, **chart, tag=tag)
        else:
            layers = [_layer(one) for one in change.get("layers") or [{"files": change.get("files") or {}}]]
            digest = self._registry.push(target, tag, layers=layers, annotations=change.get("annotations"))
        pushes = self._places.pushes.setdefault(repository, [])
        pushes.append(digest.partition(":")[2])
        for index, layer in enumerate(layers):
            self._places.layers.setdefault(layer.digest.partition(":")[2], f"{repository}:{len(pushes)}:{index}")

    def _step_serve(self, number: int, step: Mapping[str, Any]) -> None:
        before = dict(self._http.files)
        for path, content in self._places.fill(step["serve"]).items():
            if isinstance(content, Mapping) and "index" in content:
                serve_charts(self._http, path, content["index"])
            elif isinstance(content, Mapping):
                self._http.serve({path: chart_archive(**content["chart"])})
            else:
                self._http.serve({path: content})
        for path, data in self._http.files.items():
            if data != before.get(path):  # an index brings its charts along
                version = 1 + sum(1 for known in self._places.files.values() if known.rpartition(":")[0] == path)
                self._places.files.setdefault(hashlib.sha256(data).hexdigest(), f"{path}:{version}")

    def _step_apply(self, number: int, step: Mapping[str, Any]) -> None:
        manager = step.get("manager", _MANAGER)
        for obj in self._places.fill(step["apply"]):
            try:
                if step.get("verb") == "update":
                    self._update(obj, manager)
                else:
                    self._api.apply(obj, self.namespace, manager=manager)
            except ApiStatusError as error:
                if not step.get("rejected"):
                    raise
                words = self._normaliser.text(f"{error.status} {error.message}")
                self._observed.append({"step": number, "rejected": words})
            else:
                assert not step.get("rejected"), f"the server took {obj['kind']}/{obj['metadata']['name']}"
                self._remember(obj)

    def _update(self, obj: Obj, manager: str) -> None:
        name = obj["metadata"]["name"]
        namespace = obj["metadata"].get("namespace", self.namespace)
        if self._api.get(obj["apiVersion"], obj["kind"], name, namespace) is None:
            self._api.create(obj, namespace, manager=manager)
        else:
            self._api.merge(obj["apiVersion"], obj["kind"], name, obj, namespace, manager=manager)

    def _step_patch(self, number: int, step: Mapping[str, Any]) -> None:
        patch = self._places.fill(step["patch"])
        self._merge(patch, patch["patch"], patch.get("manager", _MANAGER), patch.get("subresource", ""))

    def _step_annotate(self, number: int, step: Mapping[str, Any]) -> None:
        wish = self._places.fill(step["annotate"])
        annotations = {"reconcile.fluxcd.io/requestedAt": str(wish["requestedAt"])}
        self._merge(wish, {"metadata": {"annotations": annotations}}, _MANAGER, "")

    def _merge(self, target: Mapping[str, Any], patch: Any, manager: str, subresource: str) -> None:
        version, kind = api_version(self._api, target["kind"])
        namespace = target.get("namespace", self.namespace)
        self._api.merge(version, kind, target["name"], patch, namespace, manager=manager, subresource=subresource)

    def _step_delete(self, number: int, step: Mapping[str, Any]) -> None:
        target = self._places.fill(step["delete"])
        version, kind = api_version(self._api, target["kind"])
        self._api.delete(version, kind, target["name"], target.get("namespace", self.namespace))

    def _step_pause(self, number: int, step: Mapping[str, Any]) -> None:
        time.sleep(float(step["pause"]))

    def _step_wait(self, number: int, step: Mapping[str, Any]) -> None:
        wish = self._places.fill(step["wait"])
        version, kind = api_version(self._api, wish["kind"])
        timeout = float(wish.get("timeout", 25))
        namespace = wish.get("namespace", self.namespace)
        self._api.until(version, kind, wish["name"], namespace, lambda obj: is_there(obj, wish), timeout=timeout)

    def _step_expect(self, number: int, step: Mapping[str, Any]) -> None:
        references = self._places.fill(step["expect"])
        deadline = time.monotonic() + 25
        last = self._look(references)
        while True:
            time.sleep(_BETWEEN_LOOKS)
            now = self._look(references)
            if comparable([now]) == comparable([last]):
                break
            if time.monotonic() > deadline:
                raise NotYetError("what is to be seen does not settle")
            last = now
        self._observed.append({"step": number, **now})

    def _look(self, references: list[str]) -> dict[str, Any]:
        objects: dict[str, Any] = {}
        for reference in references:
            objects |= self._observer.look(reference)
        return {"objects": self._normaliser.value(objects)}

    # -- afterwards

    def _remember(self, obj: Obj) -> None:
        if not self._api.is_namespaced(obj["apiVersion"], obj["kind"]):
            self._cluster_scoped.append((obj["apiVersion"], obj["kind"], obj["metadata"]["name"]))

    def _clean_up(self) -> None:
        """Take away what the scenario made, our kinds first so that nobody retries on them; wait for none of it."""
        with contextlib.suppress(ApiStatusError, OSError):
            namespaces = [obj["metadata"]["name"] for obj in self._api.list("v1", "Namespace")]
            own = [name for name in namespaces if name.startswith(self.namespace)]
            for version in ("kustomize.toolkit.fluxcd.io/v1", "source.toolkit.fluxcd.io/v1"):
                for kind in (
                    "Kustomization",
                    "GitRepository",
                    "OCIRepository",
                    "HelmRepository",
                    "HelmChart",
                    "Bucket",
                ):
                    for namespace in own:
                        self._delete_all(version, kind, namespace)
            for version, kind, name in self._cluster_scoped:
                self._api.delete(version, kind, name)
            for name in own:
                self._api.delete("v1", "Namespace", name)
        self._http.close()
        self._git.close()
        if self._registry is not None:
            self._registry.close()

    def _delete_all(self, version: str, kind: str, namespace: str) -> None:
        with contextlib.suppress(ApiStatusError):
            path = self._api.path(version, kind, namespace)
            self._api.request("DELETE", path)


def _layer(layer: Mapping[str, Any]) -> Blob:
    """A layer of an artifact: packed files, or a text as it is."""
    content = layer["text"].encode() if "text" in layer else tar_gz(layer["files"])
    return Blob(layer.get("mediaType", FLUX_CONTENT), content)


def _brief(step: Mapping[str, Any]) -> str:
    verb = next(iter(step))
    value = step[verb]
    return f"{verb} {value}" if isinstance(value, Mapping) and verb in {"wait", "patch", "delete", "annotate"} else verb


def is_there(obj: Obj | None, wish: Mapping[str, Any]) -> bool:
    """Whether an object is what a `wait` step wishes for."""
    if wish.get("gone"):
        return obj is None
    if obj is None:
        return False
    if "condition" in wish and not _has_condition(obj, wish):
        return False
    return all(str(text) in _at(obj, path) for path, text in wish.get("where", {}).items())


def _has_condition(obj: Obj, wish: Mapping[str, Any]) -> bool:
    kind, _, status = wish["condition"].partition("=")
    status = status or "True"
    generation = obj["metadata"].get("generation")
    observed = obj.get("status") or {}
    for condition in observed.get("conditions") or ():
        if condition["type"] != kind or condition["status"] != status:
            continue
        if condition.get("observedGeneration", generation) != generation:
            continue
        if kind == "Ready" and status == "True" and observed.get("observedGeneration", generation) != generation:
            continue
        if all(str(wish[key]) in condition.get(key, "") for key in ("message", "reason") if key in wish):
            return True
    return False


def _at(obj: Obj, path: str) -> str:
    value: Any = obj
    for part in path.split("|" if "|" in path else "."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping):
            value = value.get(part, "")
        else:
            return ""
    return str(value)
