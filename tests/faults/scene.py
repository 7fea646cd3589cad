"""A stage on which things go wrong, and what must hold when they are over (`spec/hostile-inputs.md` 2, V2 to V10).

Each scene has a daemon of its own that sees its namespace only, a repository behind a password, and secrets that must
never be seen anywhere. `verify` is what every scenario ends with; it asks the API server and the files of the daemon,
never the daemon's own code.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tests.apiclient import ApiStatusError, NotYetError, Obj
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.faults.proxy import FaultProxy
from tests.flows.stage import KUSTOMIZE_API, SOURCE_API, Stage, condition, config_map, is_ready
from tests.servers.git import File, GitServer

OWNER = "kustomize.toolkit.fluxcd.io"
KUSTOMIZATIONS = f"kustomizations.{OWNER}"
MANAGER = "kustomize-controller"
VARIABLE = "planted"
_OUR_KINDS = (("GitRepository", SOURCE_API), ("Kustomization", KUSTOMIZE_API))
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_LEVELS = {"trace", "debug", "info", "error"}
_UNWANTED = ("Traceback (most recent", "Reconciler ended unexpectedly", "was never", "Task was destroyed", '"trace":')


def until(accept: Callable[[], Any], *, timeout: float = 30.0, what: str = "it") -> Any:
    """Look until `accept` finds something. Raises NotYetError."""
    deadline = time.monotonic() + timeout
    while not (found := accept()):
        if time.monotonic() > deadline:
            raise NotYetError(f"{what} did not happen within {timeout:g}s")
        time.sleep(0.05)
    return found


def config_maps(count: int, *, prefix: str = "cm", **data: str) -> dict[str, File]:
    """Files with one ConfigMap each."""
    return {f"{prefix}-{number:03}.yaml": config_map(f"{prefix}-{number:03}", **data) for number in range(count)}


@dataclass(frozen=True)
class Pushed:
    """One commit: when it was made, and all files after it."""

    revision: str
    at: float
    files: Mapping[str, File]

    def documents(self, folder: str = "") -> Iterator[Obj]:
        """The objects of a folder, as the files have them."""
        for path, text in sorted(self.files.items()):
            if path.startswith(folder) and path.endswith(".yaml") and isinstance(text, str):
                yield from (document for document in yaml.safe_load_all(text) if document)

    def names(self) -> set[tuple[str, str]]:
        """Kind and name of every object of the commit."""
        return {(obj["kind"], obj["metadata"]["name"]) for obj in self.documents()}


class Scene(Stage):
    """One namespace, its repository, its daemon, and what is known of their history."""

    def __init__(self, control_plane: ControlPlane, git: GitServer, namespace: str, row: str) -> None:
        super().__init__(control_plane, git, namespace)
        self.pushed: list[Pushed] = []
        self.daemons: list[Daemon] = []
        self.proxies: list[FaultProxy] = []
        self._crashed: list[Daemon] = []
        self.storage: Path | None = None  # for daemons that are to find the artifacts of those before them
        self.canaries = {field: f"CNRY-{row}-{field}-{secrets.token_hex(16)}" for field in ("password", "variable")}
        assert control_plane.audit_log is not None
        self._audit_start = control_plane.audit_log.stat().st_size if control_plane.audit_log.exists() else 0
        git.protect(f"/{namespace}.git", basic=("robot", self.canaries["password"]))
        self._secret("git", username="robot", password=self.canaries["password"])
        self._secret("planted", **{VARIABLE: self.canaries["variable"]})

    # -- what happens on it

    def start(self, *arguments: str, through: FaultProxy | None = None, wait: bool = True) -> Daemon:
        """Start a daemon that sees this namespace only."""
        daemon = Daemon(
            through.kubeconfig if through else self.control_plane.kubeconfig,
            arguments=["--watch-all-namespaces=false", *arguments],
            runtime_namespace=self.namespace,
            storage=self.storage,
        )
        self.daemons.append(daemon)
        return daemon.start(wait=wait)

    def proxy(self, *, seed: int = 0) -> FaultProxy:
        """A proxy before the API server, closed with the scene."""
        self.proxies.append(FaultProxy(self.control_plane, seed=seed))
        return self.proxies[-1]

    @property
    def daemon(self) -> Daemon:
        """The newest daemon."""
        return self.daemons[-1]

    def crash(self) -> None:
        """Kill the daemon alone, and see that its helpers end by themselves."""
        self._crashed.append(self.daemon)
        helpers = self.daemon.family()[1:]
        os.kill(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()
        until(lambda: not any(_is_alive(pid) for pid in helpers), what=f"the end of the helpers {helpers}")
        self.daemon.kill()

    def push(self, files: Mapping[str, File], message: str = "change") -> str:
        """Commit and return the revision on main."""
        before = self.pushed[-1].files if self.pushed else {}
        whole = {path: text for path, text in {**before, **files}.items() if text is not None}
        revision = super().push(files, message)
        self.pushed.append(Pushed(revision, time.time(), whole))
        return revision

    def source(self, name: str = "app", **spec: Any) -> Obj:
        """Apply a GitRepository that needs the planted password."""
        return super().source(name, **{"secretRef": {"name": "git"}, **spec})

    def kustomization(self, name: str = "app", **spec: Any) -> Obj:
        """Apply a Kustomization whose variables come from the planted Secret; it retries soon."""
        variables = {"substituteFrom": [{"kind": "Secret", "name": "planted"}]}
        return super().kustomization(name, **{"postBuild": variables, "retryInterval": "1s", **spec})

    def until_converged(self, *names: str, timeout: float = 60.0) -> None:
        """Wait until the Kustomizations (all of them if none is named) are Ready at the newest commit (V6)."""
        newest = self.pushed[-1].revision
        for name in names or [
            obj["metadata"]["name"] for obj in self.api.list(KUSTOMIZE_API, "Kustomization", self.namespace)
        ]:
            self.until_applied(newest, name, timeout=timeout)

    def until_served(self) -> None:
        """Wait until the API server serves our kinds: it says that it is ready a moment earlier."""
        until(self._is_served, what="the API server")

    def _is_served(self) -> bool:
        try:
            return all(self.api.list(api, kind, self.namespace) is not None for kind, api in _OUR_KINDS)
        except (ApiStatusError, OSError):
            return False

    def _secret(self, name: str, **data: str) -> None:
        obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        self.api.apply(obj, self.namespace)

    # -- what must hold

    def verify(self) -> None:
        """Everything that holds after every scenario. Stops the daemons."""
        for daemon in self.daemons:
            if daemon.is_running:
                assert daemon.get("health", "/healthz") == "ok"
        self.verify_inventories()
        self.verify_truth()
        self.verify_deletes()
        self.verify_silence()
        for daemon in self.daemons:
            if daemon.is_running:
                assert daemon.stop() == 0, daemon.log_text()[-3000:]
            verify_log(daemon)
            verify_nothing_left(daemon, swept_later=daemon in self._crashed)

    def kustomizations(self) -> list[Obj]:
        """Every Kustomization of the namespace."""
        return self.api.list(KUSTOMIZE_API, "Kustomization", self.namespace)

    def verify_inventories(self) -> None:
        """V3: what carries our labels is what the inventories name, and what is never pruned."""
        owned, listed = self.owned(), self.listed()
        for name in owned.keys() | listed.keys():
            lost, phantom = owned[name] - listed[name], listed[name] - owned[name]
            assert not lost, f"in no inventory of {name}: {sorted(lost)}"
            assert not phantom, f"in the inventory of {name} only: {sorted(phantom)}"

    def verify_nothing_lost(self) -> None:
        """The half of V3 that holds at every moment at which nothing runs: no object without an inventory."""
        owned, listed = self.owned(), self.listed()
        for name in owned:
            lost = owned[name] - listed[name]
            assert not lost, f"in no inventory of {name}: {sorted(lost)}"

    def owned(self) -> defaultdict[str, set[str]]:
        """By Kustomization, the ids of what carries its labels and may be pruned."""
        owned: defaultdict[str, set[str]] = defaultdict(set)
        for obj in self.owned_objects():
            metadata = obj["metadata"]
            is_kept = metadata.get("annotations", {}).get(f"{OWNER}/prune") == "disabled"
            if not is_kept and "deletionTimestamp" not in metadata:  # which waits for somebody else's finalizer
                group = obj["apiVersion"].rpartition("/")[0]
                entry = f"{metadata['namespace']}_{metadata['name']}_{group}_{obj['kind']}"
                owned[metadata["labels"][f"{OWNER}/name"]].add(entry)
        return owned

    def listed(self) -> defaultdict[str, set[str]]:
        """By Kustomization, the ids of its inventory."""
        return defaultdict(set, {obj["metadata"]["name"]: inventory_of(obj) for obj in self.kustomizations()})

    def owned_objects(self) -> list[Obj]:
        """Every object of the namespace that carries owner labels."""
        found = []
        for api_version, kind in _namespaced_kinds(self):
            found += self.api.list(
                api_version, kind, self.namespace, labelSelector=f"{OWNER}/namespace={self.namespace}"
            )
        return found

    def verify_truth(self) -> None:
        """V5: who says Ready is at the revision of its source, and a dry run finds no difference."""
        for obj in self.kustomizations():
            if not is_ready(obj):
                continue
            applied = obj["status"]["lastAppliedRevision"]
            source = self.get("GitRepository", obj["spec"]["sourceRef"]["name"])
            assert source is not None
            assert source["status"]["artifact"]["revision"] == applied
            folder = obj["spec"].get("path", "").removeprefix("./").strip("/")
            commit = next(one for one in self.pushed if one.revision == applied)
            for document in commit.documents(f"{folder}/" if folder else ""):
                self._verify_applied(document, obj["metadata"]["name"])

    def _verify_applied(self, document: Obj, owner: str) -> None:
        text = json.dumps(document).replace(f"${{{VARIABLE}}}", self.canaries["variable"])
        wanted = json.loads(text)
        metadata = wanted["metadata"]
        metadata["namespace"] = self.namespace
        metadata["labels"] = metadata.get("labels", {}) | {f"{OWNER}/name": owner, f"{OWNER}/namespace": self.namespace}
        live = self.api.get(wanted["apiVersion"], wanted["kind"], metadata["name"], self.namespace)
        assert live is not None, f"{wanted['kind']} {metadata['name']} is not there"
        dry = self.api.request(
            "PATCH",
            self.api.object_path(wanted),
            wanted,
            content_type="application/apply-patch+yaml",
            params={"fieldManager": MANAGER, "force": "true", "dryRun": "All"},
        )
        assert _bare(dry) == _bare(live)

    def verify_deletes(self) -> None:
        """V2: what was deleted was at that time missing from a commit."""
        for event in self.audit():
            if event["verb"] != "delete" or event["responseStatus"]["code"] >= 300:
                continue
            at = _seconds(event["requestReceivedTimestamp"])
            known = [commit for commit in self.pushed if commit.at <= at + 1]
            target = event["objectRef"]
            missing = [commit for commit in known if target["name"] not in {name for _, name in commit.names()}]
            assert missing or not known, f"{target['resource']} {target['name']} was deleted without a reason"

    def audit(self) -> list[Obj]:
        """What the daemons asked of the API server in this namespace, dry runs left out."""
        assert self.control_plane.audit_log is not None
        with self.control_plane.audit_log.open("rb") as file:
            file.seek(self._audit_start)
            lines = file.read().splitlines()
        found = []
        for line in lines:
            if b'"userAgent":"gitopsd/' not in line or self.namespace.encode() not in line or not line.endswith(b"}"):
                continue
            event = json.loads(line)
            if event.get("stage") == "ResponseComplete" and "dryRun=All" not in event["requestURI"]:
                found.append(event)
        return found

    def creations(self) -> dict[tuple[str, str], int]:
        """How often the daemons created each object (resource, name), by the API server's own account."""
        counts: dict[tuple[str, str], int] = {}
        for event in self.audit():
            target = event.get("objectRef", {})
            if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
                place = (target["resource"], target["name"])
                counts[place] = counts.get(place, 0) + 1
        return counts

    def verify_silence(self) -> None:
        """V9: nothing that was planted is anywhere it has no business to be."""
        places = {
            "the log": "".join(daemon.log_text() for daemon in self.daemons),
            "the metrics": "".join(daemon.get("metrics", "/metrics") for daemon in self.daemons if daemon.is_running),
            "the events": json.dumps(self.api.list("v1", "Event", self.namespace)),
            "the command lines": "".join(_command_lines(self.daemons)),
        }
        for kind, api in _OUR_KINDS:
            places[f"the {kind}s"] = json.dumps(self.api.list(api, kind, self.namespace))
        for where, text in places.items():
            for field, canary in self.canaries.items():
                for form in forms_of(canary):
                    assert form not in text, f"the planted {field} is in {where}"

    def tidy(self) -> None:
        """Let the namespace go although nobody is there to finalize what is in it."""
        patch = {"metadata": {"finalizers": None}}
        for kind, api in _OUR_KINDS:
            for obj in self.api.list(api, kind, self.namespace):
                if obj["metadata"].get("finalizers"):
                    with contextlib.suppress(ApiStatusError):  # it went meanwhile
                        self.api.merge(api, kind, obj["metadata"]["name"], patch, self.namespace)

    def close(self) -> None:
        """End everything that was started."""
        for daemon in self.daemons:
            daemon.close()
        for proxy in self.proxies:
            proxy.close()


def inventory_of(kustomization: Obj) -> set[str]:
    """The ids of an inventory."""
    entries = ((kustomization.get("status") or {}).get("inventory") or {}).get("entries") or []
    return {entry["id"] for entry in entries}


def forms_of(secret: str) -> Iterable[str]:
    """How a secret may look where it leaks: as it is, encoded, reversed, or its end alone."""
    raw = secret.encode()
    yield from (secret, secret[-8:], raw.hex(), secret[::-1])
    for pad in range(3):
        # The first and the last characters depend on what stands beside it.
        whole = base64.b64encode(b"x" * pad + raw).decode().rstrip("=")
        yield whole[pad + (pad > 0) : -2]
        yield base64.urlsafe_b64encode(b"x" * pad + raw).decode().rstrip("=")[pad + (pad > 0) : -2]


def verify_log(daemon: Daemon) -> None:
    """Every line is one object with the keys that readers rely on (`spec/cli.md` 17.3), and none tells of a defect."""
    text = daemon.log_text()
    for unwanted in _UNWANTED:
        assert unwanted not in text, "\n".join(line for line in text.splitlines() if unwanted in line)[:3000]
    for line in text.splitlines():
        assert len(line.encode()) < 65536
        entry = json.loads(line)
        assert entry["level"] in _LEVELS, line
        assert _TIME.fullmatch(entry["ts"]), line
        for key in ("msg", "error", "logger", "name", "namespace", "controller", "controllerGroup", "controllerKind"):
            assert isinstance(entry.get(key, ""), str), line
        if "controller" in entry:
            assert entry["controller"] == entry["controllerKind"].lower(), line
            place = {"name": entry["name"], "namespace": entry["namespace"]}
            assert entry[entry["controllerKind"]] == place, line
            uuid.UUID(entry["reconcileID"])


def verify_nothing_left(daemon: Daemon, *, swept_later: bool) -> None:
    """No process, no temporary file and no half-written artifact outlives the daemon.

    `swept_later`: one that was killed leaves what it knew of repositories, which the next start sweeps.
    """
    group = daemon.pid
    until(lambda: not list(_group_members(group)), timeout=5, what=f"the end of the process group {group}")
    assert list(daemon.temporary.rglob("*")) == []
    left = [path for path in daemon.storage.rglob("*") if path.name.startswith(".")]
    assert [path.name for path in left if not swept_later or ".git-objects" not in path.parts] == []


def _bare(obj: Obj) -> Obj:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in {"managedFields", "resourceVersion"}}
    return {**obj, "metadata": metadata, "apiVersion": "", "kind": ""}


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


_kinds: dict[str, list[tuple[str, str]]] = {}


def _namespaced_kinds(scene: Scene) -> list[tuple[str, str]]:
    """Every namespaced kind that can be listed, in the version its server prefers."""
    server = scene.api.server
    if server not in _kinds:
        groups = scene.api.request("GET", "/apis")["groups"]
        bases = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
        found = []
        for base in bases:
            for row in scene.api.request("GET", base)["resources"]:
                if row["namespaced"] and "list" in row["verbs"] and "/" not in row["name"]:
                    found.append((base.removeprefix("/apis/").removeprefix("/api/"), row["kind"]))
        _kinds[server] = [one for one in found if one[1] != "Event"]
    return _kinds[server]


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _group_members(group: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                yield int(entry.name)


def _command_lines(daemons: Iterable[Daemon]) -> Iterator[str]:
    for daemon in daemons:
        if daemon.is_running:
            for pid in daemon.family():
                for name in ("cmdline", "environ"):
                    yield Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")


__all__ = ["Pushed", "Scene", "condition", "config_map", "config_maps", "until"]
