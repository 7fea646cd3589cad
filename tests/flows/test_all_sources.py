"""Every kind of source as an engineer on call meets it: it breaks, somebody fixes it, and nobody has to wait.

Only what all kinds have in common is here; what is special about one is beside its own tests.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.apiclient import Obj
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import Stage, condition, config_map, is_ready
from tests.servers import trouble
from tests.servers.buckets import ACCESS_KEY, SECRET_KEY, LoopbackS3
from tests.servers.git import GitServer
from tests.servers.helmrepo import HelmRepo
from tests.servers.loopback import LoopbackServer, Trouble
from tests.servers.registry import Registry
from tests.servers.registryfront import RegistryFront

FETCHING = ("GitRepository", "OCIRepository", "Bucket", "HelmRepository")
HELM = {"kind": "HelmRepository", "name": "app"}
WRONG = "CNRY-wrong-password-0123456789"


@dataclass
class Night:
    """A namespace with servers of every kind, of which each wants a password."""

    stage: Stage
    daemon: Daemon
    front: RegistryFront
    charts: HelmRepo
    storage: LoopbackS3
    troubles: list[Trouble] = field(default_factory=list)

    def spec(self, kind: str) -> dict[str, Any]:
        """The spec of a source that is well when its Secret is."""
        name = self.stage.namespace
        return {
            "GitRepository": {"url": f"{self.stage.git.url}/private/{name}.git", "ref": {"branch": "main"}},
            "OCIRepository": {"url": f"oci://{self.front.host()}/{name}/app", "insecure": True},
            "Bucket": {"endpoint": self.storage.host, "bucketName": "bucket", "insecure": True},
            "HelmRepository": {"url": self.charts.repository},
        }[kind] | {"interval": "10m", "secretRef": {"name": kind.lower()}}

    def server(self, kind: str) -> LoopbackServer:
        return {
            "GitRepository": self.stage.git,
            "OCIRepository": self.front,
            "Bucket": self.storage,
            "HelmRepository": self.charts,
        }[kind]

    def apply(self, kind: str, name: str = "app", **spec: Any) -> None:
        self.stage.apply(kind, name, self.spec(kind) | spec)

    def secret(self, kind: str, password: str = "") -> None:
        """Write the Secret of a kind, with the right password or another one."""
        data: dict[str, str]
        sort = "Opaque"
        if kind == "Bucket":
            data = {"accesskey": ACCESS_KEY, "secretkey": password or SECRET_KEY}
        elif kind == "OCIRepository":
            sort = "kubernetes.io/dockerconfigjson"
            entry = {"username": "user", "password": password or "pass"}
            data = {".dockerconfigjson": json.dumps({"auths": {self.front.host(): entry}})}
        else:
            data = {"username": "user", "password": password or "pass"}
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        obj = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": sort,
            "metadata": {"name": kind.lower()},
            "data": encoded,
        }
        self.stage.api.apply(obj, self.stage.namespace)

    def failed(self, kind: str, text: str = "", *, name: str = "app") -> Obj:
        """Wait until a source says what is wrong."""

        def accept(obj: Obj | None) -> bool:
            found = condition(obj)
            return found.get("status") == "False" and text in found["message"]

        return self.stage.until(kind, name, accept)

    def asked(self, kind: str) -> Obj:
        """What `gitopsd reconcile` does: ask, and wait for the answer."""
        return self.stage.handled(kind, self.stage.request(kind))

    def hang(self, kind: str, path: str = "*") -> None:
        """The server of a kind takes requests, and never answers."""
        where = f"*{self.stage.namespace}*" if kind in {"GitRepository", "OCIRepository"} else path
        self.troubles.append(self.server(kind).behave(where, trouble.never()))


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def night(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, daemon: Daemon, registry: Registry
) -> Iterator[Night]:
    stage = Stage(control_plane, git_server, namespace)
    stage.push({"cm.yaml": config_map("from-git")})
    registry.push(f"{namespace}/app", "latest", {"cm.yaml": config_map("from-registry")})
    with (
        RegistryFront(registry) as front,
        HelmRepo(private=True) as charts,
        LoopbackS3(keys=(ACCESS_KEY, SECRET_KEY)) as storage,
    ):
        front.protect("/v2/", basic=("user", "pass"))
        charts.package("demo", "1.0.0")
        storage.bucket("bucket", {"cm.yaml": config_map("from-bucket")})
        night = Night(stage, daemon, front, charts, storage)
        yield night
        for one in night.troubles:
            one.remove()
    assert daemon.get("health", "/healthz") == "ok"
    text = daemon.log_text()
    assert "Reconciler ended unexpectedly" not in text
    assert WRONG not in text


@pytest.mark.parametrize("kind", FETCHING)
def test_s15_9_a_secret_that_was_put_right_counts_as_soon_as_somebody_asks(night: Night, kind: str) -> None:
    """Wrong, then missing, then right: each is told, and the artifact of before stays."""
    night.secret(kind)
    night.apply(kind)
    artifact = night.stage.until_ready(kind)["status"]["artifact"]
    night.secret(kind, WRONG)
    night.asked(kind)
    seen = night.failed(kind)
    assert "401" in condition(seen)["message"] or "403" in condition(seen)["message"]
    assert seen["status"]["artifact"] == artifact
    assert WRONG not in json.dumps(seen)
    night.stage.api.delete("v1", "Secret", kind.lower(), night.stage.namespace)
    night.asked(kind)
    seen = night.failed(kind, f"'{night.stage.namespace}/{kind.lower()}'")
    assert condition(seen)["reason"] == "AuthenticationFailed"
    night.secret(kind)
    night.asked(kind)
    seen = night.stage.until_ready(kind)
    assert seen["status"]["artifact"]["revision"] == artifact["revision"]
    assert WRONG not in json.dumps(night.stage.events(kind))


@pytest.mark.parametrize("kind", FETCHING)
def test_s2_1_a_fix_does_not_wait_for_the_server_that_hangs(night: Night, kind: str) -> None:
    """The object's own timeout is ten minutes; who gives it another spec, or deletes it, waits for none of it."""
    night.secret(kind)
    night.hang(kind)
    night.apply(kind, timeout="10m")
    night.server(kind).wait_for(lambda seen: any(night.stage.namespace in one.path or True for one in seen))
    night.stage.until(kind, "app", lambda obj: condition(obj, "Reconciling").get("status") == "True")
    night.troubles.pop().remove()
    night.apply(kind, timeout="50s")
    night.stage.until_ready(kind)
    night.hang(kind)
    night.stage.request(kind)
    night.stage.until(kind, "app", lambda obj: condition(obj, "Reconciling").get("status") == "True")
    night.stage.api.delete("source.toolkit.fluxcd.io/v1", kind, "app", night.stage.namespace)
    night.stage.until(kind, "app", lambda obj: obj is None)


@pytest.mark.parametrize("kind", FETCHING)
def test_s15_12_a_server_that_was_away_costs_nothing_but_the_truth(night: Night, kind: str) -> None:
    night.secret(kind)
    night.apply(kind)
    artifact = night.stage.until_ready(kind)["status"]["artifact"]
    down: Callable[..., Any] = trouble.reset()
    where = f"*{night.stage.namespace}*" if kind in {"GitRepository", "OCIRepository"} else "*"
    night.troubles.append(night.server(kind).behave(where, down))
    night.asked(kind)
    seen = night.failed(kind)
    assert seen["status"]["artifact"] == artifact
    assert condition(seen, "ArtifactInStorage")["status"] == "True"
    night.troubles.pop().remove()
    night.stage.until_ready(kind)  # by itself


def test_s1_one_name_in_two_namespaces_is_two_sources(night: Night, control_plane: ControlPlane) -> None:
    for kind in FETCHING:
        night.secret(kind)
        night.apply(kind)
    other = control_plane.create_namespace()
    try:
        stage = Stage(control_plane, night.stage.git, other)
        for kind in FETCHING:
            stage.apply(kind, "app", night.spec(kind))
        for kind in FETCHING:
            night.stage.until_ready(kind)
            stage.until(kind, "app", lambda obj: condition(obj).get("reason") == "AuthenticationFailed")
            found = (stage.get(kind) or {})["status"]
            assert "artifact" not in found
            stage.api.delete("source.toolkit.fluxcd.io/v1", kind, "app", other)
            stage.until(kind, "app", lambda obj: obj is None)
            assert is_ready(night.asked(kind))
    finally:
        control_plane.api.delete("v1", "Namespace", other)


def test_s15_2_a_hundred_sources_of_one_registry_become_ready_over_few_connections(night: Night) -> None:
    night.secret("OCIRepository")
    for number in range(100):
        night.apply("OCIRepository", f"app-{number}")
    for number in range(100):
        night.stage.until_ready("OCIRepository", f"app-{number}", timeout=60)
    paths = [seen.path for seen in night.front.requests]
    assert len([path for path in paths if path == "/v2/"]) <= 10
    # A question, a manifest and a layer each.
    assert len(paths) <= 330


def test_s12_4_every_kind_answers_the_cli(night: Night) -> None:
    """The answer to a request is told last, when the status is whole (`spec/cli.md` 5.3); a suspended one is left."""
    for kind in FETCHING:
        night.secret(kind)
        night.apply(kind)
    night.stage.apply("HelmChart", "app", {"chart": "demo", "interval": "10m", "sourceRef": HELM})
    for kind in (*FETCHING, "HelmChart"):
        night.stage.until_ready(kind)
        seen = night.asked(kind)
        assert is_ready(seen)
        assert not condition(seen, "Reconciling")
        assert not condition(seen, "Stalled")
        assert seen["status"]["artifact"]["revision"]
        for suspend in (True, None):
            patch = {"spec": {"suspend": suspend}}
            night.stage.api.merge("source.toolkit.fluxcd.io/v1", kind, "app", patch, night.stage.namespace)
            night.stage.until_ready(kind)


def test_s12_3_every_kind_is_in_the_metrics_and_goes_with_its_object(night: Night) -> None:
    for kind in FETCHING:
        night.secret(kind)
        night.apply(kind)
        night.stage.until_ready(kind)
    mine = f'namespace="{night.stage.namespace}"'

    def series(kind: str) -> list[str]:
        lines = night.daemon.get("metrics", "/metrics").splitlines()
        return [one for one in lines if one.startswith("gotk_reconcile") and mine in one and f'kind="{kind}"' in one]

    for kind in FETCHING:
        # Ten buckets, the one without end, a sum and a count.
        assert night.daemon.until(lambda kind=kind: len(series(kind)) == 13), series(kind)  # type: ignore[misc]
        night.stage.api.delete("source.toolkit.fluxcd.io/v1", kind, "app", night.stage.namespace)
        night.stage.until(kind, "app", lambda obj: obj is None)
        assert night.daemon.until(lambda kind=kind: not series(kind))  # type: ignore[misc]
    text = night.daemon.get("metrics", "/metrics")
    for kind in (*FETCHING, "HelmChart"):
        for name in ("controller_runtime_reconcile_total", "controller_runtime_reconcile_errors_total"):
            assert f'{name}{{controller="{kind.lower()}"' in text
        assert f'workqueue_depth{{controller="{kind.lower()}"' in text
    assert "gotk_reconcile_condition{" not in text
    assert "gotk_suspend_status{" not in text
    assert "CNRY" not in text


def test_s12_2_the_ports_answer_as_probes_and_scrapers_expect(night: Night) -> None:
    for path in ("/healthz", "/readyz"):
        assert night.daemon.get("health", path) == "ok"
    assert "# TYPE gotk_reconcile_duration_seconds histogram" in night.daemon.get("metrics", "/metrics")
    assert night.daemon.get("storage", "/") == "ok"


def test_s15_10_a_chart_that_stalled_lives_again_when_its_repository_has_it(night: Night) -> None:
    night.secret("HelmRepository")
    night.apply("HelmRepository")
    for name, spec in {"absent": {"chart": "late"}, "old": {"chart": "demo", "version": "7.0.0"}}.items():
        night.stage.apply("HelmChart", name, {"interval": "10m", "sourceRef": HELM} | spec)
    for name in ("absent", "old"):
        seen = night.stage.until("HelmChart", name, lambda obj: condition(obj, "Stalled").get("status") == "True")
        assert condition(seen)["reason"] == "InvalidChartReference"
    night.charts.package("late", "1.0.0")
    night.charts.package("demo", "7.0.0")
    night.asked("HelmRepository")
    for name in ("absent", "old"):
        assert not condition(night.stage.until_ready("HelmChart", name), "Stalled")


def test_s15_1_a_new_source_waits_for_no_timer_and_writes_little(night: Night) -> None:
    """Finalizer and fetch in one run, and a single Ready that is not taken back."""
    night.secret("OCIRepository")
    night.apply("OCIRepository")
    seen = night.stage.until_ready("OCIRepository")
    assert seen["metadata"]["finalizers"] == ["finalizers.fluxcd.io"]
    own = [
        line
        for line in night.daemon.log_lines()
        if line.get("namespace") == night.stage.namespace and line.get("controllerKind") == "OCIRepository"
    ]
    assert len({line["reconcileID"] for line in own}) == 1
