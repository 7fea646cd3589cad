"""`make demo`: a Git repository reaches a cluster, live on the terminal, each step with its measured time.

Needs no cluster: it starts the real control plane with two pretended nodes, a smart-HTTP Git server with a sample
repository, and the daemon. With KUBECONFIG set it uses that cluster instead (the Git server stays on this machine).
Exit code 0 only if each step happened. `KEEP=1` leaves everything running and says where.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from tests.controlplane import ControlPlane
from tests.daemon import PROGRAM, Daemon
from tests.processes import quiet_environment
from tests.servers.git import GitServer
from tools.controlplane import build

ROOT = Path(__file__).resolve().parents[1]
SYSTEM, SOURCE, APP = "flux-system", "platform-apps", "web-api"
console = Console(highlight=False, soft_wrap=True)

Obj = dict[str, Any]

BASE = "apps/web-api/base"
OVERLAY = "apps/web-api/overlays/prod"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web-api
spec:
  replicas: 1
  selector:
    matchLabels: {app: web-api}
  template:
    metadata:
      labels: {app: web-api}
    spec:
      containers:
        - name: web-api
          image: registry.example.com/web-api
          ports: [{name: http, containerPort: 8080}]
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: web-api
spec:
  selector: {app: web-api}
  ports: [{name: http, port: 80, targetPort: http}]
"""
SETTINGS = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: web-api-settings
data:
  LOG_LEVEL: info
"""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: app\n"


def overlay(tag: str) -> str:
    """The production overlay with one image tag."""
    return (
        "resources:\n  - ../../base\n  - namespace.yaml\nreplicas:\n  - name: web-api\n    count: 2\n"
        f"images:\n  - name: registry.example.com/web-api\n    newTag: {tag}\n"
    )


def base(*resources: str) -> str:
    """The base with these resources."""
    return "resources:\n" + "".join(f"  - {name}\n" for name in resources)


class StepError(Exception):
    """A step of the demo did not happen."""


class Cluster:
    """The cluster of the demo, through kubectl: what a user has."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = build.binaries(frozenset({"kubectl"}))["kubectl"]
        self._environment = quiet_environment(KUBECONFIG=str(kubeconfig))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; its complaint is the step's error."""
        done = subprocess.run(
            [self._kubectl, *arguments], input=stdin, capture_output=True, text=True, env=self._environment, check=False
        )
        if done.returncode != 0:
            raise StepError(done.stderr.strip())
        return done.stdout

    def get(self, kind: str, name: str, namespace: str) -> Obj | None:
        """One object, or None."""
        text = self.kubectl("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "yaml")
        found: Obj | None = yaml.safe_load(text) if text.strip() else None
        return found

    def until(self, what: str, look: Callable[[], Any], *, timeout: float = 60.0) -> Any:
        """Look until the answer is true."""
        deadline = time.monotonic() + timeout
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                raise StepError(f"{what}: not within {timeout:g} s")
            time.sleep(0.02)

    def gitopsd(self, *arguments: str) -> str:
        """Run the command line tool as a user would."""
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, env=self._environment, check=False)
        if done.returncode != 0:
            raise StepError(f"gitopsd {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


def ready(obj: Obj | None) -> Obj:
    """The Ready condition of an object, empty when there is none."""
    conditions = ((obj or {}).get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == "Ready"), {})


class Demo:
    """The steps, in order."""

    def __init__(self, cluster: Cluster, git: GitServer) -> None:
        self._cluster = cluster
        self._repository = git.repository(SOURCE)
        self._url = f"{git.url}/{SOURCE}.git"
        self._began = 0.0

    def step(self, text: str) -> None:
        """Begin a step."""
        console.print(f"[bold]► {text}[/bold]")
        self._began = time.monotonic()

    def done(self, text: str) -> float:
        """A step happened; prints how long it took."""
        took = time.monotonic() - self._began
        console.print(f"  [green]✔[/green] {text} [cyan]({took:.2f} s)[/cyan]")
        return took

    def run(self) -> None:
        """All steps; raises StepError at the first that does not happen."""
        sha = self._first_commit()
        self._apply_samples()
        self._see_it_arrive(sha)
        self._push_an_image()
        self._remove_a_file()
        self._break_and_fix()
        self._show_tables()

    def _first_commit(self) -> str:
        files = {
            f"{BASE}/kustomization.yaml": base("deployment.yaml", "service.yaml", "settings.yaml"),
            f"{BASE}/deployment.yaml": DEPLOYMENT,
            f"{BASE}/service.yaml": SERVICE,
            f"{BASE}/settings.yaml": SETTINGS,
            f"{OVERLAY}/kustomization.yaml": overlay("1.0.0"),
            f"{OVERLAY}/namespace.yaml": NAMESPACE,
        }
        return self._repository.commit(files, message="web-api 1.0.0")

    def _apply_samples(self) -> None:
        self.step("apply the two objects of manifests/samples")
        for path in sorted((ROOT / "manifests" / "samples").glob("*.yaml")):
            for obj in yaml.safe_load_all(path.read_text()):
                if obj and obj["kind"] == "GitRepository":
                    obj["spec"]["url"] = self._url
                if obj and obj["kind"] in ("GitRepository", "Kustomization"):
                    self._cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(obj))

    def _see_it_arrive(self, sha: str) -> None:
        revision = f"main@sha1:{sha}"
        self._cluster.until("fetched", lambda: self._artifact() == revision)
        self.done(f"fetched {revision[:18]}")
        self._cluster.until("applied", lambda: self._cluster.get("deployment", "web-api", "app"))
        self.done("applied: deployment/web-api is in the cluster")
        self._until_applied(revision)
        self.done("healthy: every object is ready")

    def _artifact(self) -> str:
        source = self._cluster.get("gitrepository", SOURCE, SYSTEM) or {}
        return str(((source.get("status") or {}).get("artifact") or {}).get("revision", ""))

    def _until_applied(self, revision: str) -> None:
        def look() -> bool:
            obj = self._cluster.get("kustomization", APP, SYSTEM) or {}
            applied = (obj.get("status") or {}).get("lastAppliedRevision")
            return ready(obj).get("status") == "True" and applied == revision

        self._cluster.until(f"Ready at {revision}", look)

    def _reconcile(self) -> None:
        self._cluster.gitopsd("reconcile", "source", "git", SOURCE, "-n", SYSTEM)

    def _image(self) -> str:
        found = self._cluster.get("deployment", "web-api", "app") or {}
        containers = (((found.get("spec") or {}).get("template") or {}).get("spec") or {}).get("containers") or [{}]
        return str(containers[0].get("image", ""))

    def _push_an_image(self) -> None:
        sha = self._repository.commit({f"{OVERLAY}/kustomization.yaml": overlay("1.1.0")}, message="web-api 1.1.0")
        self.step("push: image 1.1.0, then `gitopsd reconcile source git platform-apps`")
        self._reconcile()
        self.done("the source has the new commit")
        self._began = time.monotonic()
        self._cluster.until("the new image", lambda: self._image().endswith(":1.1.0"))
        self.done("applied after the command returned: the cluster has image 1.1.0")
        self._until_applied(f"main@sha1:{sha}")
        self.done("healthy again")

    def _remove_a_file(self) -> None:
        files = {
            f"{BASE}/kustomization.yaml": base("deployment.yaml", "service.yaml"),
            f"{BASE}/settings.yaml": None,
        }
        sha = self._repository.commit(files, message="settings are gone")
        self.step("a file removed: its object is pruned")
        self._reconcile()
        self._cluster.until("pruned", lambda: self._cluster.get("configmap", "web-api-settings", "app") is None)
        self._until_applied(f"main@sha1:{sha}")
        self.done("configmap/web-api-settings is gone, everything else stays")

    def _break_and_fix(self) -> None:
        self._repository.commit({f"{BASE}/service.yaml": None}, message="a broken commit")
        self.step("a broken commit: a resource is missing")
        self._reconcile()

        def failed() -> Obj | None:
            condition = ready(self._cluster.get("kustomization", APP, SYSTEM))
            return condition if condition.get("status") == "False" else None

        condition = self._cluster.until("Ready=False", failed)
        for kind, name in (("deployment", "web-api"), ("service", "web-api")):
            if self._cluster.get(kind, name, "app") is None:
                raise StepError(f"{kind}/{name} was pruned by a broken commit")
        self.done(f"Ready=False {condition['reason']}: {condition['message'][:160]}")
        console.print("  [green]✔[/green] nothing was pruned")
        sha = self._repository.commit({f"{BASE}/service.yaml": SERVICE}, message="the fix")
        self.step("the fix")
        self._reconcile()
        self._until_applied(f"main@sha1:{sha}")
        self.done("Ready again")

    def _show_tables(self) -> None:
        self.step("gitopsd get sources git; gitopsd get kustomizations")
        for arguments in (("get", "sources", "git"), ("get", "kustomizations")):
            console.print(self._cluster.gitopsd(*arguments, "-n", SYSTEM).replace("\t", "  "), markup=False)


def _kubeconfig(stack: ExitStack) -> Path:
    """The cluster's kubeconfig: the one of the environment, or that of a control plane of our own."""
    given = os.environ.get("KUBECONFIG")
    if given:
        return Path(given)
    began = time.monotonic()
    control_plane = stack.enter_context(ControlPlane(nodes=2))
    console.print(
        f"[bold]►[/bold] control plane with two nodes is ready [cyan]({time.monotonic() - began:.2f} s)[/cyan]"
    )
    return control_plane.kubeconfig


def main() -> int:
    """Start what is needed, run the steps; 0 only if each happened."""
    with ExitStack() as stack:
        cluster = Cluster(_kubeconfig(stack))
        git = stack.enter_context(GitServer())
        cluster.kubectl("apply", "-k", str(ROOT / "config" / "crd"))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "-l", "app.kubernetes.io/part-of=flux")
        cluster.kubectl("apply", "-f", "-", stdin=f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}\n")
        daemon = Daemon(cluster.kubeconfig)
        stack.callback(daemon.close)
        began = time.monotonic()
        daemon.start()
        console.print(f"[bold]►[/bold] the daemon is ready [cyan]({time.monotonic() - began:.2f} s)[/cyan]")
        try:
            Demo(cluster, git).run()
        except StepError as error:
            console.print(f"  [red]✗[/red] {error}", markup=True)
            console.print(daemon.log_text()[-4000:], markup=False)
            return 1
        if os.environ.get("KEEP") == "1":
            _keep(cluster, git, daemon)
    return 0


def _keep(cluster: Cluster, git: GitServer, daemon: Daemon) -> None:
    console.print(
        f"\nLeft running; Ctrl-C ends it.\n  export KUBECONFIG={cluster.kubeconfig}\n  git: {git.url}/{SOURCE}.git\n"
        f"  artifacts: http://{daemon.address('storage')}/\n  metrics: http://{daemon.address('metrics')}/metrics\n"
        f"  health: http://{daemon.address('health')}/readyz",
        markup=False,
    )
    try:
        while daemon.get("health", "/healthz"):
            time.sleep(5)
    except KeyboardInterrupt:
        console.print("ending")


if __name__ == "__main__":
    sys.exit(main())
