"""A real Kubernetes control plane on loopback: etcd, API server, controllers; nodes that only pretend, if wanted.

Synchronous, so that session fixtures, demos and benchmarks use it alike. It owns one temporary folder and a handful of
processes, none of which outlives this process (see `tests.processes`). `python -m tests.controlplane` starts one to
play with.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.apiclient import ApiClient, ApiStatusError, NotYetError
from tests.certificates import Authority, private_pem
from tests.processes import Processes, free_port, quiet_environment
from tools.controlplane import build

# What needs machines, clouds, certificates or devices has nothing to do here; all else runs as in any cluster.
_WITHOUT_CONTROLLERS = (
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "device-taint-eviction-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "node-ipam-controller",
    "node-lifecycle-controller",
    "persistentvolume-attach-detach-controller",
    "podcertificaterequest-cleaner-controller",
    "resourceclaim-controller",
    "resourcepoolstatusrequest-controller",
    "storageversion-garbage-collector-controller",
    "taint-eviction-controller",
    "ttl-controller",
)

_FLUX_GROUPS = ("source", "kustomize", "helm", "notification", "image")

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "RequestResponse",
            "resources": [{"group": f"{group}.toolkit.fluxcd.io"} for group in _FLUX_GROUPS],
        },
        {"level": "Metadata"},
    ],
}


class ControlPlane:
    """One Kubernetes control plane. `start` returns when the API server is ready; `stop` removes every trace.

    `nodes` starts a scheduler and that many pretended nodes, on which pods become ready at once. `users` are further
    accounts (name to groups) with tokens; `audit` keeps an audit log.
    """

    def __init__(
        self,
        *,
        nodes: int = 0,
        users: Mapping[str, Sequence[str]] | None = None,
        audit: bool = False,
        controllers: bool = True,
    ) -> None:
        self._programs = build.binaries(
            frozenset({"etcd", "kube-apiserver", "kube-controller-manager", "kubectl"})
            | (frozenset({"kube-scheduler", "kwok"}) if nodes else frozenset())
        )
        self._nodes = nodes
        self._controllers = controllers
        self._users = {"admin": ["system:masters"], **(users or {})}
        self._tokens = {name: secrets.token_hex(16) for name in self._users}
        self._processes = Processes("gitopsd-controlplane")
        self.folder = self._processes.folder
        self._authority = Authority(self.folder / "certificates")
        self._ports = {name: free_port() for name in ("etcd", "peer", "apiserver")}
        self.server = f"https://127.0.0.1:{self._ports['apiserver']}"
        self.ca_file = self._authority.file
        self.kubeconfig = self.folder / "kubeconfig"
        self.audit_log = self.folder / "audit.log" if audit else None
        self.admin_token = self._tokens["admin"]
        self._clients: list[ApiClient] = []
        self.api = self.client_for("admin")
        self._etcd: subprocess.Popen[bytes] | None = None
        self._apiserver: subprocess.Popen[bytes] | None = None

    # -- life

    def start(self, *, timeout: float = 60.0) -> Self:
        """Start everything and wait until it is ready; on failure nothing is left, and the error ends with the logs."""
        try:
            self._write_files()
            self._etcd = self._processes.start("etcd", self._etcd_command(), env=self._environment())
            self._start_apiserver()
            if self._controllers:
                self._processes.start("kube-controller-manager", self._controllers_command(), env=self._environment())
            self.wait_ready(timeout=timeout)
            if self._nodes:
                self._start_nodes()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill the processes and remove the folder; doing it twice is harmless."""
        for client in self._clients:
            client.close()
        self._processes.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def wait_ready(self, *, timeout: float = 60.0) -> None:
        """Wait until the API server says that it is ready."""
        deadline = time.monotonic() + timeout
        last = ""
        while True:
            try:
                self.api.request("GET", "/readyz")
                return
            except (OSError, ApiStatusError) as error:
                last = str(error)
            ended = self._apiserver is not None and self._apiserver.poll() is not None
            if ended or time.monotonic() > deadline:
                raise NotYetError(
                    f"the API server {'ended' if ended else f'is not ready after {timeout:g}s'}: {last}\n"
                    f"{self._processes.tail('kube-apiserver')}\n{self._processes.tail('etcd', 10)}"
                )
            time.sleep(0.03)

    # -- trouble, for tests

    def stop_apiserver(self, *, grace: float = 20.0) -> None:
        """End the API server the polite way; etcd keeps the data."""
        self._end_apiserver(lambda process: self._processes.stop(process, grace=grace))

    def kill_apiserver(self) -> None:
        """End the API server as a crash would."""
        self._end_apiserver(self._processes.kill)

    def start_apiserver(self, *, timeout: float = 60.0) -> None:
        """Start the API server again, on the same port and data, and wait until it is ready."""
        if self._apiserver is None:
            self._start_apiserver()
        self.wait_ready(timeout=timeout)

    def pause_etcd(self) -> None:
        """Let etcd stand still: the API server stays up and cannot answer."""
        assert self._etcd is not None
        self._etcd.send_signal(signal.SIGSTOP)

    def resume_etcd(self) -> None:
        """Let etcd go on."""
        assert self._etcd is not None
        self._etcd.send_signal(signal.SIGCONT)

    # -- access

    def kubeconfig_for(self, user: str, groups: Sequence[str] = (), *, server: str | None = None) -> Path:
        """A kubeconfig for one of `users`, by token, or for anybody else in `groups`, by client certificate.

        `server` replaces the address, for instance by a proxy's whose certificate the same authority signed.
        """
        if user in self._tokens:
            credentials: dict[str, Any] = {"token": self._tokens[user]}
        else:
            certificate, key = self._authority.client(user, groups)
            credentials = {"client-certificate": str(certificate), "client-key": str(key)}
        suffix = f"-{abs(hash(server))}" if server else ""
        path = self.folder / f"kubeconfig-{user.replace(':', '-')}{suffix}"
        self._write_kubeconfig(path, user, credentials, server or self.server)
        return path

    def client_for(self, user: str) -> ApiClient:
        """A client that is one of `users`; it is closed with the control plane."""
        client = ApiClient(self.server, self._authority.client_context(), self._tokens[user])
        self._clients.append(client)
        return client

    @property
    def authority(self) -> Authority:
        """Who signed the API server's certificate; a proxy before it may need another one."""
        return self._authority

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl as admin and return what it printed. Raises `AssertionError` with its complaint."""
        done = subprocess.run(
            [self._programs["kubectl"], *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=self._environment(KUBECONFIG=str(kubeconfig or self.kubeconfig)),
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"kubectl {shlex.join(arguments)}: {done.stderr}")
        return done.stdout

    def install_crds(self, folder: Path) -> None:
        """Apply every CustomResourceDefinition below `folder` and wait until each is served."""
        names = []
        for path in sorted(folder.rglob("*.yaml")):
            for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
                if document and document.get("kind") == "CustomResourceDefinition":
                    self.api.apply(document)
                    names.append(document["metadata"]["name"])
        for name in names:
            crd = self.api.until(
                "apiextensions.k8s.io/v1", "CustomResourceDefinition", name, None, _is_established, timeout=20
            )
            assert crd is not None
            self._wait_served(crd)

    def _wait_served(self, crd: dict[str, Any]) -> None:
        """Established is said a moment before the paths answer."""
        spec = crd["spec"]
        deadline = time.monotonic() + 20
        while True:
            try:
                self.api.path(f"{spec['group']}/{spec['versions'][0]['name']}", spec["names"]["kind"], "default")
                return
            except (ApiStatusError, LookupError, AssertionError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def create_namespace(self, prefix: str = "test", **labels: str) -> str:
        """Create a namespace with a name of its own."""
        name = f"{prefix}-{secrets.token_hex(3)}"
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        return name

    def metrics(self) -> str:
        """The API server's own metrics, as text."""
        text: str = self.api.request("GET", "/metrics")
        return text

    def audit_events(self) -> list[dict[str, Any]]:
        """What the audit log holds by now (`audit=True` only)."""
        assert self.audit_log is not None, "start the control plane with audit=True"
        return [json.loads(line) for line in self.audit_log.read_text().splitlines() if line.endswith("}")]

    def log(self, program: str) -> str:
        """The last lines of what a program of the control plane wrote."""
        return self._processes.tail(program, 100)

    # -- how it is made

    def _environment(self, **more: str) -> dict[str, str]:
        return quiet_environment(
            HOME=str(self.folder), KUBECACHEDIR=str(self.folder / "kube-cache"), **{"GOGC": "200", **more}
        )

    def _write_files(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "accounts.key").write_bytes(private_pem(key))
        (self.folder / "accounts.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        rows = [f'{self._tokens[name]},{name},{name},"{",".join(groups)}"' for name, groups in self._users.items()]
        (self.folder / "tokens.csv").write_text("\n".join(rows) + "\n")
        (self.folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
        self._write_kubeconfig(self.kubeconfig, "admin", {"token": self.admin_token}, self.server)

    def _write_kubeconfig(self, path: Path, user: str, credentials: Mapping[str, Any], server: str) -> None:
        cluster = {"server": server, "certificate-authority-data": base64.b64encode(self._authority.pem).decode()}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": user, "user": dict(credentials)}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
            "current-context": "tests",
        }
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)

    def _etcd_command(self) -> list[str | Path]:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "peer"))
        return [
            self._programs["etcd"],
            "--unsafe-no-fsync",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--log-level=warn",
        ]

    def _start_apiserver(self) -> None:
        command = self._apiserver_command()
        self._apiserver = self._processes.start("kube-apiserver", command, env=self._environment())

    def _end_apiserver(self, how: Callable[[subprocess.Popen[bytes]], int]) -> None:
        if self._apiserver is not None:
            how(self._apiserver)
            self._apiserver = None

    def _apiserver_command(self) -> list[str | Path]:
        certificate, key = self._authority.server("apiserver", _API_HOSTS)
        audit = [
            f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            f"--audit-log-path={self.audit_log}",
        ]
        return [
            self._programs["kube-apiserver"],
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._ports['apiserver']}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.ca_file}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",  # nobody reaches this API server by its Service
            "--storage-initialization-timeout=1m",
            "--profiling=false",
            "--shutdown-watch-termination-grace-period=1s",  # else open watches hold up a polite end for a minute
            *(audit if self.audit_log else ()),
        ]

    def _controllers_command(self) -> list[str | Path]:
        return [
            self._programs["kube-controller-manager"],
            f"--kubeconfig={self.kubeconfig}",
            f"--root-ca-file={self.ca_file}",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--controllers={','.join(['*', *(f'-{name}' for name in _WITHOUT_CONTROLLERS)])}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",  # its own throttling is not what tests are to wait for
            "--kube-api-burst=1000",
            "--profiling=false",
        ]

    def _start_nodes(self) -> None:
        environment = self._environment()
        scheduler: list[str | Path] = [
            self._programs["kube-scheduler"],
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]
        kwok: list[str | Path] = [
            self._programs["kwok"],
            f"--kubeconfig={self.kubeconfig}",
            f"--config={build.HERE / 'kwok' / 'stages.yaml'}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=200",  # fewer heartbeats; nobody looks at them
            "--server-address=",
        ]
        for number in range(self._nodes):
            self._create_node(f"node-{number}")
        self._processes.start("kube-scheduler", scheduler, env=environment)
        self._processes.start("kwok", kwok, env=environment)
        for number in range(self._nodes):
            try:
                self.api.until("v1", "Node", f"node-{number}", None, _is_ready, timeout=30)
            except NotYetError as error:
                raise NotYetError(f"{error}\n{self.log('kwok')}") from error

    def _create_node(self, name: str) -> None:
        capacity = {"cpu": "32", "memory": "256Gi", "pods": "10000", "ephemeral-storage": "1Ti"}
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"}
        self.api.create(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
                "status": {"capacity": capacity, "allocatable": capacity},
            }
        )
        # Admission taints a new node until the controller that is left out here has seen it ready.
        self.api.merge("v1", "Node", name, {"spec": {"taints": None}})


_API_HOSTS = ("127.0.0.1", "localhost", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def _is_established(crd: dict[str, Any] | None) -> bool:
    return _has_condition(crd, "Established")


def _is_ready(node: dict[str, Any] | None) -> bool:
    return _has_condition(node, "Ready")


def _has_condition(obj: dict[str, Any] | None, kind: str) -> bool:
    conditions = (obj or {}).get("status", {}).get("conditions") or []
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def main() -> None:
    """Start a control plane and say how to use it, until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.controlplane", description=main.__doc__)
    parser.add_argument("--nodes", type=int, default=0, help="start a scheduler and this many pretended nodes")
    parser.add_argument("--crds", type=Path, action="append", default=[], help="folder of CRDs to install")
    parser.add_argument("--audit", action="store_true", help="keep an audit log")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    started = time.monotonic()
    with ControlPlane(nodes=arguments.nodes, audit=arguments.audit) as control_plane:
        for folder in arguments.crds:
            control_plane.install_crds(folder)
        print(f"ready after {time.monotonic() - started:.1f}s; end with Ctrl-C", file=sys.stderr)
        folders = dict.fromkeys(str(path.parent) for path in build.paths().values())
        print(f"export PATH={shlex.quote(os.pathsep.join(folders))}:$PATH")
        print(f"export KUBECONFIG={control_plane.kubeconfig}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
