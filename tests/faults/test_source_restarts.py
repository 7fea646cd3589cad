"""Sources of every kind over restarts of the daemon: with what it stored, and without (`spec/source.md` 15.7).

Every server counts what it is asked for. Who builds from a source never fails because its daemon was restarted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.apiclient import Obj
from tests.controlplane import ControlPlane
from tests.faults.scene import Scene, until, verify_log
from tests.flows.stage import SOURCE_API, condition, config_map
from tests.servers import trouble
from tests.servers.buckets import ACCESS_KEY, SECRET_KEY, LoopbackS3
from tests.servers.git import GitServer
from tests.servers.helmrepo import HelmRepo
from tests.servers.loopback import LoopbackServer
from tests.servers.registry import Registry
from tests.servers.registryfront import RegistryFront
from tests.servers.webhook import WebhookServer

BUILDS = ("OCIRepository", "Bucket")
KINDS = (*BUILDS, "HelmRepository", "HelmChart")
PLURALS = {"ocirepositories", "buckets", "helmrepositories", "helmcharts", "kustomizations"}


@dataclass
class World:
    """A scene with a source of every kind, and what is known of the servers behind them."""

    scene: Scene
    registry: Registry
    front: RegistryFront
    charts: HelmRepo
    storage: LoopbackS3
    _seen: int = field(default=0)

    @property
    def servers(self) -> tuple[LoopbackServer, ...]:
        return self.front, self.charts, self.storage

    def forget(self) -> None:
        """Count from here: what servers are asked, and what is written to statuses."""
        for server in self.servers:
            server.forget()
        self._seen = len(self.scene.audit())

    def contents(self) -> list[str]:
        """Paths of contents that were asked for; questions whether something is new are none."""
        asked = [seen for server in self.servers for seen in server.requests if seen.method == "GET"]
        paths = [seen.path for seen in asked if "If-None-Match" not in seen.headers]
        questions = ("/v2/", "/bucket/", "/bucket/.sourceignore")
        return sorted(path for path in paths if path not in questions and not path.endswith("/tags/list"))

    def verdicts(self) -> list[tuple[str, str]]:
        """Every Ready that was written since `forget`, with its object."""
        found = []
        for event in self.scene.audit()[self._seen :]:
            target = event["objectRef"]
            is_status = target.get("subresource") == "status" and target["resource"] in PLURALS
            if is_status and event["responseStatus"]["code"] == 200:
                found.append((f"{target['resource']}/{target['name']}", _ready(event["responseObject"])))
        return found

    def artifacts(self) -> dict[str, Obj]:
        return {kind: self.scene.get(kind)["status"]["artifact"] for kind in KINDS}  # type: ignore[index]

    def suspend(self, yes: bool) -> None:
        for kind in KINDS:
            self.scene.api.merge(SOURCE_API, kind, "app", {"spec": {"suspend": yes}}, self.scene.namespace)

    def build(self) -> None:
        """Ask for a build of every Kustomization, and wait until each is well."""
        for kind in BUILDS:
            name = kind.lower()
            self.scene.handled("Kustomization", self.scene.request("Kustomization", name), name)
            self.scene.until_ready("Kustomization", name)

    def look(self) -> None:
        """Have every source look at its server."""
        for kind in KINDS:
            self.scene.handled(kind, self.scene.request(kind))


def _ready(obj: Obj) -> str:
    return str(condition(obj).get("status", ""))


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def scene(control_plane: ControlPlane, git_server: GitServer, namespace: str) -> Iterator[Scene]:
    """A scene without commits: what is checked at its end is silence, logs, and that nothing is left."""
    scene = Scene(control_plane, git_server, namespace, "restarts")
    try:
        yield scene
        for kind in KINDS:
            scene.api.merge(SOURCE_API, kind, "app", {"metadata": {"finalizers": None}}, namespace)
        scene.tidy()
    finally:
        scene.close()


@pytest.fixture
def world(scene: Scene, registry: Registry, tmp_path: Path) -> Iterator[World]:
    with RegistryFront(registry) as front, HelmRepo() as charts, LoopbackS3(keys=(ACCESS_KEY, SECRET_KEY)) as storage:
        world = World(scene, registry, front, charts, storage)
        registry.push(f"{scene.namespace}/app", "latest", {"cm.yaml": config_map("from-registry")})
        storage.bucket("bucket", {"cm.yaml": config_map("from-bucket")})
        charts.package("demo", "1.0.0")
        apply_sources(world)
        scene.storage = tmp_path / "artifacts"
        scene.start("--requeue-dependency=1s")
        for kind in KINDS:
            scene.until_ready(kind)
        for kind in BUILDS:
            scene.until_ready("Kustomization", kind.lower())
        yield world
        scene.verify_silence()
        for daemon in scene.daemons:
            if daemon.is_running:
                assert daemon.stop() == 0
            verify_log(daemon)
        assert [path.name for path in tmp_path.rglob(".tmp-*")] == []


def apply_sources(world: World) -> None:
    scene = world.scene
    keys = {"accesskey": ACCESS_KEY, "secretkey": SECRET_KEY}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    scene.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "data": data}, scene.namespace)
    specs: dict[str, dict[str, Any]] = {
        "OCIRepository": {"url": f"oci://{world.front.host()}/{scene.namespace}/app", "insecure": True},
        "Bucket": {
            "endpoint": world.storage.host,
            "bucketName": "bucket",
            "insecure": True,
            "secretRef": {"name": "s3"},
        },
        "HelmRepository": {"url": world.charts.repository},
        "HelmChart": {"chart": "demo", "sourceRef": {"kind": "HelmRepository", "name": "app"}},
    }
    for kind in KINDS:
        scene.apply(kind, "app", {"interval": "10m"} | specs[kind])
    for kind in BUILDS:
        scene.kustomization(kind.lower(), sourceRef={"kind": kind, "name": "app"})


def served(scene: Scene, artifact: Obj) -> bool:
    """Whether the newest daemon hands out the artifact's very bytes."""
    try:
        with urllib.request.urlopen(f"http://{scene.daemon.address('storage')}/{artifact['path']}") as answer:
            return bool(f"sha256:{hashlib.sha256(answer.read()).hexdigest()}" == artifact["digest"])
    except OSError:
        return False


def untouched(artifact: Obj) -> Obj:
    """An artifact without what another process's address, or another time, may change."""
    return {name: value for name, value in artifact.items() if name not in {"url", "lastUpdateTime"}}


def same(artifacts: dict[str, Obj]) -> dict[str, Obj]:
    return {kind: untouched(one) for kind, one in artifacts.items()}


def restart(world: World, *, loses: bool, how: Callable[[], object], tmp_path: Path) -> None:
    how()
    world.forget()
    if loses:
        world.scene.storage = tmp_path / "empty"
    world.scene.start("--requeue-dependency=1s")


def test_s15_7_with_what_was_stored_a_restart_downloads_nothing(world: World, tmp_path: Path) -> None:
    before = world.artifacts()
    restart(world, loses=False, how=world.scene.daemon.stop, tmp_path=tmp_path)
    world.look()
    assert world.contents() == []
    assert same(world.artifacts()) == same(before)
    assert {verdict for _, verdict in world.verdicts()} <= {"True"}
    world.build()


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_s15_7_what_a_restart_lost_is_fetched_again_and_nobody_fails(
    world: World, tmp_path: Path, is_killed: bool
) -> None:
    before = world.artifacts()
    how = world.scene.crash if is_killed else world.scene.daemon.stop
    restart(world, loses=True, how=how, tmp_path=tmp_path)
    world.build()
    for kind, artifact in before.items():
        assert until(partial(served, world.scene, artifact), what=f"the artifact of {kind}")
        world.scene.until_ready(kind)
    assert same(world.artifacts()) == same(before)
    assert {who for who, verdict in world.verdicts() if verdict == "False"} == set()


@pytest.mark.parametrize("kind", ["OCIRepository", "HelmRepository", "Bucket", "HelmChart"])
def test_s15_7_suspended_sources_get_back_what_a_restart_lost(world: World, tmp_path: Path, kind: str) -> None:
    artifact = world.artifacts()[kind]
    world.suspend(True)
    restart(world, loses=True, how=world.scene.daemon.stop, tmp_path=tmp_path)
    assert until(lambda: served(world.scene, artifact), timeout=10, what=f"the artifact of {kind}")
    assert untouched(world.artifacts()[kind]) == untouched(artifact)
    assert (world.scene.get(kind) or {})["spec"]["suspend"] is True
    if kind in BUILDS:
        name = kind.lower()
        world.scene.handled("Kustomization", world.scene.request("Kustomization", name), name)
        world.scene.until_ready("Kustomization", name)


def test_s15_7_servers_that_are_down_after_a_restart_keep_what_was_built(world: World, tmp_path: Path) -> None:
    """Stored artifacts are served on; sources tell the truth, Kustomizations need nobody."""
    before = world.artifacts()
    for server in world.servers:
        server.refuse()
    restart(world, loses=False, how=world.scene.daemon.stop, tmp_path=tmp_path)
    for kind in ("OCIRepository", "Bucket", "HelmRepository"):
        told = world.scene.until(kind, "app", lambda obj: _ready(obj or {}) == "False")
        assert "connection refused" in condition(told)["message"]
    world.build()
    for artifact in before.values():
        assert served(world.scene, artifact)
    for server in world.servers:
        server.accept()
    for kind in KINDS:
        world.scene.handled(kind, world.scene.request(kind))
        world.scene.until_ready(kind)
    assert json.dumps(world.artifacts()).count("sha256:") >= len(KINDS)


def test_s15_12_a_new_revision_takes_ready_back_from_nobody(world: World) -> None:
    world.forget()
    world.registry.push(f"{world.scene.namespace}/app", "latest", {"cm.yaml": config_map("from-registry", key="2")})
    world.storage.buckets["bucket"]["cm.yaml"] = config_map("from-bucket", key="2").encode()
    world.charts.package("demo", "2.0.0")
    world.look()
    world.scene.until("HelmChart", "app", lambda obj: (obj or {})["status"]["artifact"]["revision"] == "2.0.0")
    for name in ("from-registry", "from-bucket"):
        world.scene.until("ConfigMap", name, lambda obj: ((obj or {}).get("data") or {}).get("key") == "2")
    sources = {(who, verdict) for who, verdict in world.verdicts() if not who.startswith("kustomizations/")}
    assert {verdict for _, verdict in sources} == {"True"}, sources


def test_s15_14_a_receiver_of_events_that_never_answers_holds_up_nobody(world: World, tmp_path: Path) -> None:
    with WebhookServer() as receiver, receiver.behave("*", trouble.never()):
        world.scene.daemon.stop()
        world.scene.storage = tmp_path / "empty"
        world.scene.start(f"--events-addr={receiver.url}/")
        world.look()
        for kind in KINDS:
            world.scene.until_ready(kind)
        receiver.wait_for(lambda seen: seen)
