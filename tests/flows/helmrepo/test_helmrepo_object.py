"""HelmRepositories of a running daemon."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiclient import Obj
from tests.bench.helmindex import MIB, Shape, children, memory
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import SOURCE_API, condition, is_ready
from tests.servers.helmrepo import HelmRepo
from tests.servers.trouble import gzip_bomb, login_page, say

KIND = "HelmRepository"


class Repository:
    """One HelmRepository `charts` in a namespace of its own."""

    def __init__(self, control_plane: ControlPlane, namespace: str, daemon: Daemon) -> None:
        self.api = control_plane.api
        self.namespace = namespace
        self.daemon = daemon
        self._wishes = 0

    def apply(self, url: str, **spec: Any) -> None:
        wanted = {"url": url, "interval": "10m"} | spec
        obj = {"apiVersion": SOURCE_API, "kind": KIND, "metadata": {"name": "charts"}, "spec": wanted}
        self.api.apply(obj, self.namespace)

    def get(self) -> Obj:
        found = self.api.get(SOURCE_API, KIND, "charts", self.namespace)
        assert found is not None
        return found

    def ready(self) -> Obj:
        return self.api.until(SOURCE_API, KIND, "charts", self.namespace, is_ready) or {}

    def until(self, reason: str) -> Obj:
        """Wait until Ready is False with a reason."""
        return (
            self.api.until(
                SOURCE_API, KIND, "charts", self.namespace, lambda obj: condition(obj).get("reason") == reason
            )
            or {}
        )

    def ask(self) -> Obj:
        """Ask for a run, and wait for its end."""
        self._wishes += 1
        wish = f"wish-{self._wishes}"
        patch = {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": wish}}}
        self.api.merge(SOURCE_API, KIND, "charts", patch, self.namespace)
        handled = self.api.until(
            SOURCE_API,
            KIND,
            "charts",
            self.namespace,
            lambda obj: ((obj or {}).get("status") or {}).get("lastHandledReconcileAt") == wish,
        )
        return handled or {}

    def events(self, reason: str) -> list[str]:
        found = self.api.list("v1", "Event", self.namespace)
        return [event["message"] for event in found if event["reason"] == reason]

    def until_told(self, reason: str, count: int = 1) -> list[str]:
        ends = time.monotonic() + 10
        while len(found := self.events(reason)) < count and time.monotonic() < ends:
            time.sleep(0.05)
        assert len(found) >= count
        return found


@pytest.fixture
def repository(control_plane: ControlPlane, namespace: str, daemon: Daemon) -> Iterator[Repository]:
    yield Repository(control_plane, namespace, daemon)
    assert "Reconciler ended unexpectedly" not in daemon.log_text()
    left = [path.name for path in daemon.storage.rglob(".tmp-*")]
    assert left == []


def fetched(obj: Obj) -> Any:
    with urllib.request.urlopen(obj["status"]["artifact"]["url"], timeout=10) as answer:
        return json.loads(answer.read())


def test_s7_4_an_index_is_stored_and_followed(repository: Repository, charts: HelmRepo) -> None:
    repository.apply(charts.repository)
    seen = repository.ready()
    assert [entry["version"] for entry in fetched(seen)["entries"]["demo"]] == ["1.1.0", "1.0.0"]
    with urllib.request.urlopen(seen["status"]["url"], timeout=10) as answer:
        assert json.loads(answer.read()) == fetched(seen)
    charts.package("demo", "2.0.0")
    after = repository.ask()
    assert after["status"]["artifact"]["revision"] != seen["status"]["artifact"]["revision"]
    assert fetched(after)["entries"]["demo"][0]["version"] == "2.0.0"
    assert len(repository.until_told("NewArtifact", 2)) == 2


def test_F12_an_unchanged_index_is_the_same_artifact_without_an_event(repository: Repository, charts: HelmRepo) -> None:
    repository.apply(charts.repository)
    before = repository.ready()["status"]["artifact"]
    for _ in range(3):
        assert repository.ask()["status"]["artifact"] == before
    assert charts.asked_for_index() >= 4
    assert any(seen.headers.get("If-None-Match") for seen in charts.requests)
    assert len(repository.until_told("NewArtifact")) == 1


def test_s17_23_a_registry_is_static_data(repository: Repository, charts: HelmRepo) -> None:
    repository.apply("oci://127.0.0.1:1/charts", type="oci", insecure=True)
    time.sleep(1)
    found = repository.get()
    assert found["status"] == {}
    assert "finalizers" not in found["metadata"]
    repository.apply(charts.repository, type="default", insecure=False)
    repository.ready()
    repository.apply("oci://127.0.0.1:1/charts", type="oci", insecure=True)
    gone = repository.api.until(
        SOURCE_API, KIND, "charts", repository.namespace, lambda obj: (obj or {}).get("status") == {}
    )
    assert gone is not None
    repository.api.until(
        SOURCE_API, KIND, "charts", repository.namespace, lambda obj: not (obj or {})["metadata"].get("finalizers")
    )
    assert not list((repository.daemon.storage / "helmrepository" / repository.namespace).rglob("index-*"))


def test_F13_a_registry_address_with_the_default_type_stalls(repository: Repository, charts: HelmRepo) -> None:
    repository.apply("oci://127.0.0.1:1/charts")
    seen = repository.until("URLInvalid")
    assert condition(seen, "Stalled")["reason"] == "URLInvalid"
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    repository.apply(charts.repository)
    repository.ready()


@pytest.mark.parametrize("row", ["too large", "bomb"])
def test_F01_what_is_too_large_is_refused_and_the_old_index_stays(
    repository: Repository, charts: HelmRepo, row: str
) -> None:
    repository.apply(charts.repository)
    before = repository.ready()["status"]["artifact"]
    rule = say(200, b"a: 1\n" * (11 << 20)) if row == "too large" else gzip_bomb(1 << 30)
    with charts.behave("/charts/*", rule):
        seen = repository.ask()
        assert condition(seen)["reason"] == "IndexationFailed"
        assert condition(seen, "FetchFailed")["status"] == "True"
        assert condition(seen, "Reconciling")["reason"] == "ProgressingWithRetry"
        assert seen["status"]["artifact"] == before
    assert is_ready(repository.ask())


@pytest.mark.parametrize(
    ("row", "reason"),
    [("page", "IndexationFailed"), ("404", "Failed"), ("500", "Failed"), ("429", "Failed")],
)
def test_F10_what_is_no_index_fails_and_heals_by_itself(
    repository: Repository, charts: HelmRepo, row: str, reason: str
) -> None:
    repository.apply(charts.repository)
    before = repository.ready()["status"]["artifact"]
    rule = login_page() if row == "page" else say(int(row), "no", Retry_After="0")
    trouble = charts.behave("/charts/*", rule, times=3)
    seen = repository.ask()
    assert condition(seen)["reason"] == reason
    assert seen["status"]["artifact"] == before
    repository.ready()
    assert trouble.used == 3


def test_F10_a_busy_server_is_left_alone(repository: Repository, charts: HelmRepo) -> None:
    with charts.behave("/charts/*", say(429, "later", Retry_After="3600")):
        repository.apply(charts.repository)
        repository.until("Failed")
        asked = charts.asked_for_index()
        time.sleep(2.5)
        assert charts.asked_for_index() == asked
    assert is_ready(repository.ask())


def test_F02_a_large_index_takes_little_memory_and_nobody_waits_for_it(
    repository: Repository, charts: HelmRepo, tmp_path: Path
) -> None:
    """10,000 charts with 20 versions: 400 MiB while it is read, 60 MiB kept."""
    Shape("", 10_000, 20, 200).write(tmp_path / "index.yaml")
    charts.publish((tmp_path / "index.yaml").read_text())
    assert len(charts.index) > 40 << 20
    pid = repository.daemon.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before, most = memory(pid, "VmRSS"), 0
    repository.apply(charts.repository, timeout="5m")
    ends = time.monotonic() + 100
    while not is_ready(repository.get()) and time.monotonic() < ends:
        most = max([most, *(memory(child) for child in children(pid))])
        assert repository.daemon.get("health", "/healthz") == "ok"
        time.sleep(0.1)
    seen = repository.ready()
    assert most > 0  # it was read in a process
    assert most + memory(pid) - before < 400 * MIB
    assert memory(pid, "VmRSS") - before < 60 * MIB
    assert len(fetched(seen)["entries"]) == 10_000


def test_F09_what_strangers_wrote_is_served_harmless(repository: Repository, charts: HelmRepo) -> None:
    charts.package("demo", "3.0.0", description="\x1b[31m<script>alert(1)</script>\nend")
    repository.apply(charts.repository)
    seen = repository.ready()
    with urllib.request.urlopen(seen["status"]["artifact"]["url"], timeout=10) as answer:
        raw = answer.read()
    assert b"<" not in raw
    assert b"\x1b" not in raw
    assert seen["status"]["artifact"]["path"].rpartition("/")[2].startswith("index-")
