"""Google Cloud, end to end against stand-ins (spec/source.md 11.1 and 11.2)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gitopsd.fetch.cloud import gcp
from gitopsd.fetch.cloud.tokens import NoCredentialsError
from gitopsd.fetch.errors import RemoteError
from tests.flows.cloud.conftest import Account, identity, tokens
from tests.servers.clouds import GoogleStandIn
from tests.servers.loopback import Answer

REGISTRY = "europe-west1-docker.pkg.dev"
TOKEN = "CNRY-gke-token-0123456789abcdef"
PROVIDER = "projects/42/locations/global/workloadIdentityPools/pool/providers/cluster"
METADATA = "GET http://169.254.169.254/computeMetadata/v1"
STS = "POST https://sts.googleapis.com/v1/token"
IAM = (
    "POST https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
    f"{GoogleStandIn.email}:generateAccessToken"
)
POOL = "project.svc.id.goog"
CLUSTER = "https://container.googleapis.com/v1/projects/project/locations/europe-west1/clusters/prod"


def mine(account: Account, **annotations: str) -> Any:
    names = {"email": gcp.ACCOUNT_ANNOTATION, "provider": gcp.PROVIDER_ANNOTATION}
    return identity(account, annotations={names[key]: value for key, value in annotations.items()})


@pytest.mark.parametrize("host", [REGISTRY, "gcr.io", "eu.gcr.io"])
async def test_s11_2_oci_gcp_with_the_account_of_the_machine(google: GoogleStandIn, host: str):
    async with tokens(google) as cloud:
        username, password = await cloud.registry("gcp", host, identity())
    assert username == "oauth2accesstoken"
    assert password.startswith("CNRY-metadata-")
    assert cloud.web.asked == [f"{METADATA}/instance/service-accounts/default/token"]
    assert "cloud-platform" in google.requests[0].query


@pytest.mark.parametrize("host", ["ghcr.io", "gcr.io.example.com", "pkg.dev", "x.y-docker.pkg.dev", "gcr.io:443"])
async def test_s11_2_oci_gcp_is_for_its_own_registries(google: GoogleStandIn, host: str):
    async with tokens(google) as cloud:
        with pytest.raises(RemoteError, match=f"invalid GCP registry: '{re.escape(host)}'"):
            await cloud.registry("gcp", host, identity())
    assert not cloud.web.asked


async def test_s11_2_bucket_gcp_and_registry_share_one_token(google: GoogleStandIn):
    async with tokens(google) as cloud:
        _, password = await cloud.registry("gcp", REGISTRY, identity())
        assert await cloud.bucket_token("gcp", identity(kind="Bucket")) == password


async def test_s11_2_object_identity_in_a_cluster_of_google(google: GoogleStandIn):
    """The pool and the cluster are known to the metadata server, and asked for once."""
    account = Account(TOKEN)
    async with tokens(google, cache_size=0) as cloud:
        assert (await cloud.bucket_token("gcp", mine(account))).startswith("CNRY-sts-")
        await cloud.bucket_token("gcp", mine(account))
    assert account.audiences == [POOL, POOL]
    assert google.given["audience"] == f"identitynamespace:{POOL}:{CLUSTER}"
    assert len([one for one in cloud.web.asked if "computeMetadata" in one]) == 3
    assert cloud.web.asked[-2:] == [STS, STS]


async def test_s11_2_object_identity_of_another_cluster_names_its_provider(google: GoogleStandIn):
    account = Account(TOKEN)
    async with tokens(google) as cloud:
        assert (await cloud.bucket_token("gcp", mine(account, provider=PROVIDER))).startswith("CNRY-sts-")
    assert account.audiences == [f"//iam.googleapis.com/{PROVIDER}"]
    assert google.given["audience"] == f"//iam.googleapis.com/{PROVIDER}"
    assert google.given["subject_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
    assert cloud.web.asked == [STS]


async def test_s11_2_object_identity_may_speak_for_a_google_account(google: GoogleStandIn):
    async with tokens(google) as cloud:
        token = await cloud.bucket_token("gcp", mine(Account(TOKEN), provider=PROVIDER, email=google.email))
    assert token.startswith("CNRY-impersonated-")
    assert cloud.web.asked == [STS, IAM]


@pytest.mark.parametrize(
    "annotations",
    [
        {"email": "somebody@example.com"},
        {"email": "a@b.iam.gserviceaccount.com/../../x"},
        {"provider": "projects/x/locations/global/workloadIdentityPools/pool/providers/p"},
        {"provider": PROVIDER + "/more"},
    ],
    ids=lambda found: next(iter(found.values()))[:40],
)
async def test_s11_2_object_identity_with_a_wrong_annotation_asks_nobody(google: GoogleStandIn, annotations):
    async with tokens(google) as cloud:
        with pytest.raises(RemoteError, match="ServiceAccount 'apps/puller': invalid annotation"):
            await cloud.bucket_token("gcp", mine(Account(TOKEN), **annotations))
    assert not cloud.web.asked


async def test_s11_2_the_daemon_as_the_account_of_a_key_file(google: GoogleStandIn, tmp_path: Path):
    file = tmp_path / "key.json"
    file.write_bytes(google.key_file())
    async with tokens(google, {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}) as cloud:
        assert (await cloud.registry("gcp", REGISTRY, identity()))[1].startswith("CNRY-account-")


async def test_s11_2_the_daemon_as_an_external_account(google: GoogleStandIn, tmp_path: Path):
    (tmp_path / "token").write_text(TOKEN)
    found = {
        "type": "external_account",
        "audience": f"//iam.googleapis.com/{PROVIDER}",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": str(tmp_path / "token")},
        "service_account_impersonation_url": IAM.removeprefix("POST "),
    }
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps(found))
    async with tokens(google, {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}) as cloud:
        assert (await cloud.bucket_token("gcp", identity())).startswith("CNRY-impersonated-")
    assert cloud.web.asked == [STS, IAM]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"type": "external_account"}', '{"type": "authorized_user"}'])
async def test_s11_2_a_credentials_file_that_cannot_be_used(google: GoogleStandIn, tmp_path: Path, content: str):
    file = tmp_path / "CNRY-path.json"
    file.write_text(content)
    for path in (file, tmp_path / "CNRY-missing.json"):
        async with tokens(google, {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}) as cloud:
            with pytest.raises(RemoteError, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
                await cloud.bucket_token("gcp", identity())
        assert "CNRY" not in caught.value.message
        assert not cloud.web.asked


async def test_s11_1_a_buckets_service_account_key(google: GoogleStandIn):
    async with tokens(google) as cloud:
        token = await gcp.service_account_token(cloud.web, google.key_file(), scope="read-only")
        assert token.startswith("CNRY-account-")
        assert google.given["scope"] == "read-only"
        assert google.given["aud"] == f"{google.url}/token"
        await gcp.service_account_token(cloud.web, google.key_file(token_uri=None))
    assert cloud.web.asked[-1] == "POST https://oauth2.googleapis.com/token"


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (b"CNRY-no-json", "no JSON object"),
        (b'["CNRY"]', "no JSON object"),
        ({"type": "authorized_user"}, "only keys of type 'service_account'"),
        ({"client_email": None}, "no 'client_email'"),
        ({"private_key": "CNRY-key"}, "no unencrypted PEM key"),
        ({"token_uri": "http://example.com/CNRY"}, "no https URL"),
        ({"token_uri": "gopher://example.com/CNRY"}, "no https URL"),
    ],
)
async def test_s16_a_buckets_key_is_one_of_a_service_account(google: GoogleStandIn, broken: Any, text: str):
    """Release 1.9.4: nothing else than service-account keys, so that no file can lead the daemon elsewhere."""
    key = broken if isinstance(broken, bytes) else google.key_file(**broken)
    async with tokens(google) as cloud:
        with pytest.raises(ValueError, match=text) as caught:
            await gcp.service_account_token(cloud.web, key)
    assert "CNRY" not in str(caught.value)
    assert not cloud.web.asked


async def test_a_key_that_google_does_not_know_is_told(google: GoogleStandIn):
    async with tokens(google) as cloud:
        key = json.loads(google.key_file())
        key["client_email"] = "stranger@project.iam.gserviceaccount.com"
        with pytest.raises(RemoteError) as caught:
            await gcp.service_account_token(cloud.web, json.dumps(key).encode())
    assert caught.value.message == ("Google token endpoint: the server answered 400: invalid_grant: account not found")


async def test_s11_2_sdk_variables_lead_to_other_endpoints(google: GoogleStandIn):
    host = google.url.removeprefix("http://")
    async with tokens(google, {"GCE_METADATA_HOST": host}) as cloud:
        await cloud.bucket_token("gcp", identity())
    assert cloud.web.asked == [f"GET {google.url}/computeMetadata/v1/instance/service-accounts/default/token"]
    given = {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STS": f"{google.url}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS": f"{google.url}/",
    }
    async with tokens(google, given) as cloud:
        await cloud.bucket_token("gcp", mine(Account(TOKEN), provider=PROVIDER, email=google.email))
    assert all(one.startswith(f"POST {google.url}/v1/") for one in cloud.web.asked)


async def test_without_any_identity_it_says_so(google: GoogleStandIn):
    async def gone(request, ask):
        return Answer(404, {"Content-Type": "text/html"}, b"<html>no</html>")

    async with tokens(google) as cloud:
        with google.behave("/computeMetadata/*", gone), pytest.raises(NoCredentialsError) as caught:
            await cloud.registry("gcp", REGISTRY, identity())
    assert caught.value.message == (
        "the daemon has no Google Cloud identity: Google metadata server: the server answered 404"
    )


async def test_a_refusal_keeps_the_code_and_not_the_token(google: GoogleStandIn):
    """The stand-in's message quotes the token that it was shown."""
    async with tokens(google) as cloud:
        with pytest.raises(RemoteError) as caught:
            await cloud.bucket_token("gcp", mine(Account("CNRY-wrong-token-0123456789"), provider=PROVIDER))
    assert caught.value.message == ("Google STS: the server answered 400: invalid_grant: The ID Token is not ours: ***")
