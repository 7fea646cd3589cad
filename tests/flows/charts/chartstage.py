"""Short words for flows with HelmCharts."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import yaml

from tests.apiclient import Obj
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import SOURCE_API, Stage, condition, is_ready
from tests.servers.git import File, GitServer

CHART = "apiVersion: v2\nname: demo\nversion: 0.3.0\n"
FILES: dict[str, File] = {
    "chart/Chart.yaml": CHART,
    "chart/values.yaml": "replicas: 1\n",
    "chart/templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: demo\n",
}
LONGEST_MESSAGE = 4096
_UNFIT = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]|/(?:proc/[0-9]|tmp/|var/|root/|dev/)|memfd|@artifact")


class ChartStage(Stage):
    """A namespace for charts and their sources."""

    def __init__(self, control_plane: ControlPlane, git: GitServer, namespace: str, daemon: Daemon) -> None:
        super().__init__(control_plane, git, namespace)
        self.daemon = daemon

    def helm_repository(self, url: str, name: str = "charts", **spec: Any) -> Obj:
        """Apply a HelmRepository."""
        return self.apply("HelmRepository", name, {"url": url, "interval": "10m"} | spec)

    def chart(self, kind: str = "HelmRepository", source: str = "charts", /, name: str = "demo", **spec: Any) -> Obj:
        """Apply a HelmChart."""
        wanted = {"interval": "10m", "chart": "demo", "sourceRef": {"kind": kind, "name": source}}
        return self.apply("HelmChart", name, wanted | spec)

    def secret(self, name: str, **data: str) -> None:
        """Apply a Secret."""
        texts = {key.replace("__", "."): value for key, value in data.items()}
        obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": texts}
        self.api.apply(obj, self.namespace)

    def ready(self, name: str = "demo", *, revision: str = "") -> Obj:
        """Wait until the chart is ready, at a version if one is given."""

        def accept(obj: Obj | None) -> bool:
            return is_ready(obj) and (not revision or _revision(obj) == revision)

        return self.until("HelmChart", name, accept)

    def refused(self, reason: str, says: str, name: str = "demo", *, stalls: bool, kind: str = "") -> Obj:
        """Wait for a failure, and see that it is told as it should be (`spec/hostile-inputs.md` 0)."""

        def accept(obj: Obj | None) -> bool:
            ready = condition(obj)
            is_current = obj is not None and ready.get("observedGeneration") == obj["metadata"]["generation"]
            return is_current and ready.get("reason") == reason and says in ready["message"]

        seen = self.until("HelmChart", name, accept)
        message = condition(seen)["message"]
        assert (condition(seen)["status"], says in message) == ("False", True), message
        assert len(message.encode()) <= LONGEST_MESSAGE
        assert _UNFIT.search(message) is None, message
        if stalls:
            assert condition(seen, "Stalled")["status"] == "True"
            assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
        else:
            assert condition(seen, "Reconciling")["reason"] == "ProgressingWithRetry"
        if kind:
            assert condition(seen, kind)["reason"] == reason
        return seen

    def told(self, reason: str, name: str = "demo") -> Obj:
        """Wait for an event about the chart."""
        ends = time.monotonic() + 10
        while True:
            for event in self.events("HelmChart", name):
                if event["reason"] == reason:
                    return event
            assert time.monotonic() < ends, f"no event {reason}"
            time.sleep(0.05)

    def asked(self, name: str = "demo") -> Obj:
        """Ask for a run, and wait for its end."""
        return self.handled("HelmChart", self.request("HelmChart", name), name)


def _revision(obj: Obj | None) -> str:
    return str((((obj or {}).get("status") or {}).get("artifact") or {}).get("revision", ""))


def package(obj: Obj) -> dict[str, str]:
    """The files of a stored chart, below its folder."""
    with urllib.request.urlopen(obj["status"]["artifact"]["url"], timeout=10) as answer:
        data = answer.read()
    with urllib.request.urlopen(obj["status"]["url"], timeout=10) as answer:
        assert answer.read() == data, "status.url is always the newest"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def metadata(obj: Obj, path: str = "Chart.yaml") -> dict[str, Any]:
    """What a Chart.yaml of a stored chart says."""
    parsed: dict[str, Any] = yaml.safe_load(package(obj)[path])
    return parsed


def eventually(find: Callable[[], Any], *, timeout: float = 10.0) -> Any:
    """Look until something is there; returns the last look."""
    ends = time.monotonic() + timeout
    while not (found := find()) and time.monotonic() < ends:
        time.sleep(0.05)
    return found


__all__ = ["CHART", "FILES", "SOURCE_API", "ChartStage", "eventually", "metadata", "package"]
