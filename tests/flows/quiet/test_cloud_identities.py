"""A running daemon that proves its objects' identities to a cloud, from the object to the artifact.

On a control plane where no other daemon, which has the gate off, works on the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import Stage, condition, config_map
from tests.servers.clouds import AzureStandIn, fields, unverified
from tests.servers.git import GitServer


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
