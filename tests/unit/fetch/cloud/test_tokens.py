"""Who shares a token with whom, and who may not (spec/source.md 11.2, spec/hostile-inputs.md P16)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gitopsd.api.meta import Reason
from gitopsd.fetch.cloud.azure import Azure
from gitopsd.fetch.cloud.github import GitHubApps
from gitopsd.fetch.cloud.identity import Issued, require_object_identity
from gitopsd.fetch.cloud.tokens import CloudTokens, Identity
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.http import HttpClient, TlsIdentity
from gitopsd.fetch.proxy import Proxy

DAEMON = Identity("Bucket", "a", "one")
ACCOUNT = replace(DAEMON, service_account="puller", annotations={"azure.workload.identity/client-id": "1"})
APP = {"githubAppID": b"1", "githubAppPrivateKey": b"CNRY-key", "githubAppInstallationID": b"1"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Identity]:
    """Whoever a token was issued for."""
    found: list[Identity] = []

    async def access(self: Azure, identity: Identity, scope: str) -> Issued[str]:
        found.append(identity)
        return Issued(f"token {len(found)}", 3600.0)

    async def token(self: GitHubApps, app: Any, identity: Identity) -> Issued[str]:
        found.append(identity)
        return Issued(f"token {len(found)}", 3600.0)

    monkeypatch.setattr(Azure, "access", access)
    monkeypatch.setattr(GitHubApps, "token", token)
    return found


@pytest.mark.parametrize(
    "other",
    [replace(DAEMON, namespace="b"), replace(DAEMON, name="two"), replace(DAEMON, kind="OCIRepository")],
    ids=["namespace", "name", "kind"],
)
async def test_s11_2_the_daemons_token_serves_all_objects(asked: list[Identity], other: Identity) -> None:
    cloud = CloudTokens(HttpClient())
    assert await cloud.bucket_token("azure", DAEMON) == await cloud.bucket_token("azure", other)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "other",
    [
        DAEMON,
        replace(ACCOUNT, namespace="b"),
        replace(ACCOUNT, service_account="other"),
        replace(ACCOUNT, annotations={"azure.workload.identity/client-id": "2"}),
        replace(ACCOUNT, proxy=Proxy("http", "10.0.0.1", 8080)),
    ],
    ids=["the-daemon", "namespace", "account", "annotations", "proxy"],
)
async def test_P16_nobody_gets_a_token_that_he_would_not_have_been_given(
    asked: list[Identity], other: Identity
) -> None:
    cloud = CloudTokens(HttpClient())
    assert await cloud.bucket_token("azure", ACCOUNT) != await cloud.bucket_token("azure", other)
    assert asked == [ACCOUNT, other]


async def test_P16_tokens_of_different_purposes_are_different(asked: list[Identity]) -> None:
    cloud = CloudTokens(HttpClient())
    git = await cloud.git("azure", "https://dev.azure.com/a/b", DAEMON)
    assert git.bearer != await cloud.bucket_token("azure", DAEMON)


@pytest.mark.parametrize(
    ("data", "identity"),
    [
        (APP | {"githubAppPrivateKey": b"CNRY-other"}, DAEMON),
        (APP | {"githubAppInstallationID": b"2"}, DAEMON),
        (APP | {"githubAppID": b"2"}, DAEMON),
        (APP | {"githubAppBaseURL": b"https://ghe.example.com"}, DAEMON),
        (APP, replace(DAEMON, tls=TlsIdentity(ca=b"CNRY-ca"))),
        (APP, replace(DAEMON, proxy=Proxy("http", "10.0.0.1", 8080))),
    ],
    ids=["key", "installation", "app", "server", "trust", "proxy"],
)
async def test_P16_github_apps_share_a_token_only_if_all_is_equal(
    asked: list[Identity], data: dict[str, bytes], identity: Identity
) -> None:
    cloud = CloudTokens(HttpClient())
    url = "https://github.com/a/b"
    first = await cloud.github_app(APP, url, DAEMON)
    assert await cloud.github_app(APP, "https://github.com/a/c", replace(DAEMON, name="two")) == first
    assert await cloud.github_app(data, url, identity) != first


@pytest.mark.parametrize("is_enabled", [True, False])
def test_s5_7_a_service_account_needs_the_feature_gate(is_enabled: bool) -> None:
    """Also spec/source.md 6.3 and 9.4."""
    if is_enabled:
        require_object_identity(is_enabled=True)
        return
    with pytest.raises(FetchError) as caught:
        require_object_identity(is_enabled=False)
    assert (caught.value.reason, caught.value.stalls) == (Reason.FEATURE_GATE_DISABLED, True)
    assert caught.value.message == (
        "to use spec.serviceAccountName for provider authentication please enable the ObjectLevelWorkloadIdentity "
        "feature gate in the controller"
    )


def test_secrets_of_an_identity_are_not_shown() -> None:
    proxy = Proxy("http", "h", 1, "user", "CNRY-proxy")
    assert "CNRY" not in repr(replace(DAEMON, proxy=proxy, tls=TlsIdentity(ca=b"CNRY", key=b"CNRY")))
    assert "CNRY" not in repr(Issued("CNRY", 1.0))
