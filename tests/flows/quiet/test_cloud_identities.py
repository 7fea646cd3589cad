"""A running daemon that proves its objects' identities to a cloud, from the object to the artifact.

On a control plane where no other daemon, which has the gate off, works on the same objects.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.git.proxies import relay
from tests.flows.stage import SOURCE_API, Stage, condition, config_map, is_ready
from tests.servers.clouds import AzureStandIn, GoogleStandIn, fields, unverified
from tests.servers.git import GitServer
from tests.servers.loopback import LoopThread
from tests.servers.registry import Registry


class Everyone(set[str]):
    """The tokens of any ServiceAccount of the test's cluster: what they say is for the test to judge."""

    def __contains__(self, token: object) -> bool:
        return str(token).startswith("eyJ")


@pytest.fixture
def azure() -> Iterator[AzureStandIn]:
    with AzureStandIn() as server:
        server.federated = Everyone()
        yield server


@pytest.fixture
def own(control_plane: ControlPlane, namespace: str, azure: AzureStandIn) -> Iterator[Daemon]:
    """A daemon with the gate on, whose directory of Azure is the stand-in."""
    arguments = ["--watch-all-namespaces=false", "--feature-gates=ObjectLevelWorkloadIdentity=true"]
    daemon = Daemon(
        control_plane.kubeconfig,
        arguments=[*arguments, "--default-source-service-account=fallback"],
        runtime_namespace=namespace,
        environment={"AZURE_AUTHORITY_HOST": azure.url},
    )
    try:
        yield daemon.start()
    finally:
        daemon.close()


def account(stage: Stage, name: str) -> None:
    annotations = {
        "azure.workload.identity/client-id": AzureStandIn.client,
        "azure.workload.identity/tenant-id": AzureStandIn.tenant,
    }
    metadata = {"name": name, "annotations": annotations}
    stage.api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}, stage.namespace)


def subjects(azure: AzureStandIn) -> list[dict[str, Any]]:
    """What the tokens that were shown say about their owners."""
    return [unverified(fields(seen.body)["client_assertion"])[1] for seen in azure.requests]


def sample(daemon: Daemon, stage: Stage, event: str, name: str = "app") -> str:
    wanted = (
        f'gotk_token_cache_events_total{{event_type="{event}",kind="GitRepository",name="{name}",'
        f'namespace="{stage.namespace}",operation="reconcile"}} '
    )
    lines = daemon.get("metrics", "/metrics").splitlines()
    return next((line.removeprefix(wanted) for line in lines if line.startswith(wanted)), "")


def test_s11_2_git_azure_as_the_service_account_that_is_named(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, own: Daemon, azure: AzureStandIn
) -> None:
    """The API server's own token is exchanged, once; what it brought opens the repository."""
    stage = Stage(control_plane, git_server, namespace)
    account(stage, "puller")
    revision = stage.push({"cm.yaml": config_map("one")})
    git_server.forget()
    stage.source(provider="azure", serviceAccountName="puller")
    assert stage.until_ready("GitRepository")["status"]["artifact"]["revision"] == revision
    [claims] = subjects(azure)
    assert claims["sub"] == f"system:serviceaccount:{namespace}:puller"
    assert claims["aud"] == ["api://AzureADTokenExchange"]
    shown = {seen.credentials for seen in git_server.requests if seen.credentials}
    assert len(shown) == 1
    assert shown.pop().startswith("Bearer CNRY-aad-")

    stage.refetch()
    assert len(azure.requests) == 1
    assert own.until(lambda: sample(own, stage, "cache_hit") == "1.0")
    assert sample(own, stage, "cache_miss") == "1.0"
    assert "CNRY" not in own.log_text()
    stage.api.delete("source.toolkit.fluxcd.io/v1", "GitRepository", "app", namespace)
    assert own.until(lambda: not sample(own, stage, "cache_hit") and not sample(own, stage, "cache_miss"))


def test_s11_2_default_service_account_is_used_where_none_is_named(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, own: Daemon, azure: AzureStandIn
) -> None:
    stage = Stage(control_plane, git_server, namespace)
    stage.push({"cm.yaml": config_map("one")})
    stage.source(provider="azure")
    message = condition(stage.until_reason("GitRepository", "AuthenticationFailed"))["message"]
    assert message.startswith("failed to configure authentication options: ")
    assert "fallback" in message
    account(stage, "fallback")
    stage.request("GitRepository")
    stage.until_ready("GitRepository")
    assert subjects(azure)[-1]["sub"] == f"system:serviceaccount:{namespace}:fallback"


REGISTRY = "europe-docker.pkg.dev"


class RegistryAuthority(Authority):
    """Signs for the name that the registry is known by."""

    def server(self, name: str, hosts: Sequence[str] = ("127.0.0.1", REGISTRY)) -> tuple[Path, Path]:
        return super().server(name, hosts)


class LeadingProxy:
    """Leads tunnels for one name to a port of this machine; remembers whom else it was asked for."""

    def __init__(self, name: str, port: int) -> None:
        self.asked: list[str] = []
        self._name, self._to = name, port
        self._thread = LoopThread("leading-proxy")
        self._server = self._thread.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        self.asked.append(target)
        if target != f"{self._name}:443":
            writer.close()
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._to)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await relay(reader, writer, there_reader, there)

    def close(self) -> None:
        self._server.close()
        self._thread.close()


@pytest.fixture
def google() -> Iterator[GoogleStandIn]:
    with GoogleStandIn() as server:
        yield server


def opaque(stage: Stage, name: str, data: dict[str, bytes]) -> None:
    values = {key: base64.b64encode(value).decode() for key, value in data.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": values}
    stage.api.apply(secret, stage.namespace)


def test_s11_2_oci_gcp_with_the_account_of_the_machine(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, google: GoogleStandIn, tmp_path: Path
) -> None:
    """The registry is reached through the object's proxy; the metadata server, as the machine itself, is not."""
    stage = Stage(control_plane, git_server, namespace)
    password = "CNRY-metadata-1-0123456789abcdef0123456789abcdef"
    authority = RegistryAuthority(tmp_path)
    with Registry(accounts={"oauth2accesstoken": password}, tls=True, authority=authority) as registry:
        digest = registry.push("team/app", "1.0.0", {"cm.yaml": config_map("one")})
        proxy = LeadingProxy(REGISTRY, int(registry.host.rpartition(":")[2]))
        daemon = Daemon(
            control_plane.kubeconfig,
            arguments=["--watch-all-namespaces=false"],
            runtime_namespace=namespace,
            environment={"GCE_METADATA_HOST": google.url.removeprefix("http://")},
        )
        try:
            daemon.start()
            opaque(stage, "proxy", {"address": proxy.url.encode()})
            opaque(stage, "trust", {"ca.crt": authority.pem})
            spec = {
                "url": f"oci://{REGISTRY}/team/app",
                "interval": "10m",
                "provider": "gcp",
                "ref": {"tag": "1.0.0"},
                "proxySecretRef": {"name": "proxy"},
                "certSecretRef": {"name": "trust"},
            }
            obj = {"apiVersion": SOURCE_API, "kind": "OCIRepository", "metadata": {"name": "app"}, "spec": spec}
            stage.api.apply(obj, namespace)
            found = stage.until("OCIRepository", "app", is_ready, api=SOURCE_API)
            assert found["status"]["artifact"]["revision"] == f"1.0.0@{digest}"
            assert set(proxy.asked) == {f"{REGISTRY}:443"}
            assert [seen.path for seen in google.requests] == [
                "/computeMetadata/v1/instance/service-accounts/default/token"
            ]
            assert "CNRY" not in daemon.log_text()
        finally:
            daemon.close()
            proxy.close()
