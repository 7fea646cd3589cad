"""A running daemon as a GitHub App, from the Secret to the artifact, and without the gate of clouds' identities."""

from __future__ import annotations

import base64

from tests.daemon import Daemon
from tests.flows.stage import Stage, condition, config_map
from tests.servers.clouds import GitHubStandIn

GATE = (
    "to use spec.serviceAccountName for provider authentication please enable the ObjectLevelWorkloadIdentity "
    "feature gate in the controller"
)


def test_s5_7_a_service_account_without_the_gate_stalls(stage: Stage) -> None:
    stage.push({"cm.yaml": config_map("one")})
    stage.source(provider="azure", serviceAccountName="puller")
    obj = stage.until_reason("GitRepository", "FeatureGateDisabled")
    for kind in ("Ready", "Stalled", "FetchFailed"):
        assert (condition(obj, kind)["reason"], condition(obj, kind)["message"]) == ("FeatureGateDisabled", GATE)
    assert not condition(obj, "Reconciling")


def secret(stage: Stage, data: dict[str, bytes]) -> None:
    values = {name: base64.b64encode(value).decode() for name, value in data.items()}
    stage.api.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app"}, "data": values}, stage.namespace
    )


def test_s11_1_github_app_opens_its_repositories(stage: Stage, github: GitHubStandIn, daemon: Daemon) -> None:
    """By its owner, at a server of its own; the Git user is `x-access-token`."""
    more = {"githubAppInstallationID": None, "githubAppInstallationOwner": "jane", "githubAppBaseURL": github.url}
    secret(stage, github.secret(**more))
    revision = stage.push({"cm.yaml": config_map("one")})
    stage.git.forget()
    stage.source(provider="github", secretRef={"name": "app"})
    assert stage.until_ready("GitRepository")["status"]["artifact"]["revision"] == revision
    shown = {seen.credentials for seen in stage.git.requests if f"/{stage.namespace}.git/" in seen.path}
    assert len(shown) == 1
    assert shown.pop().startswith("x-access-token:CNRY-ghs-202-")
    assert [seen.path for seen in github.requests] == [
        "/orgs/jane/installation",
        "/users/jane/installation",
        "/app/installations/202/access_tokens",
    ]
    assert "CNRY" not in daemon.log_text()


def test_s11_1_github_app_that_was_uninstalled(stage: Stage, github: GitHubStandIn) -> None:
    """RETRY with what GitHub says; it works again as soon as GitHub does."""
    secret(stage, github.secret(githubAppInstallationID="303", githubAppBaseURL=github.url))
    stage.push({"cm.yaml": config_map("one")})
    stage.source(provider="github", secretRef={"name": "app"})
    obj = stage.until_reason("GitRepository", "AuthenticationFailed")
    assert condition(obj)["message"] == (
        "failed to configure authentication options: no token for '127.0.0.1': GitHub App token: "
        "the server answered 404: Not Found"
    )
    assert condition(obj, "Reconciling")["reason"] == "ProgressingWithRetry"
    secret(stage, github.secret(githubAppBaseURL=github.url))
    stage.request("GitRepository")
    stage.until_ready("GitRepository")
