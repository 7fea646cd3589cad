"""Azure, end to end against stand-ins (spec/source.md 11.1 and 11.2)."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, pkcs12
from cryptography.x509.oid import NameOID

from gitopsd.fetch.cloud import azure as module
from gitopsd.fetch.cloud.tokens import NoCredentialsError
from gitopsd.fetch.errors import RemoteError
from tests.flows.cloud.conftest import Account, identity, tokens
from tests.servers.clouds import AzureStandIn, key_pem, unverified
from tests.servers.loopback import Answer

FEDERATED = "CNRY-azure-federated-0123456789abcdef"
LOGIN = f"https://login.microsoftonline.com/{AzureStandIn.tenant}/oauth2/v2.0/token"
ANNOTATIONS = {
    "azure.workload.identity/client-id": AzureStandIn.client,
    "azure.workload.identity/tenant-id": AzureStandIn.tenant,
}
CLIENT = {"AZURE_TENANT_ID": AzureStandIn.tenant, "AZURE_CLIENT_ID": AzureStandIn.client}
MANAGED = "GET http://169.254.169.254/metadata/identity/oauth2/token"


@pytest.fixture
def federated(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "token"
    file.write_text(FEDERATED)
    return CLIENT | {"AZURE_FEDERATED_TOKEN_FILE": str(file)}


@pytest.fixture(scope="module")
def pair() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return key, builder.sign(key, hashes.SHA256())


async def test_s11_2_oci_azure_exchanges_a_token_for_the_registrys(azure: AzureStandIn, federated: dict[str, str]):
    async with tokens(azure, federated) as cloud:
        username, password = await cloud.registry("azure", "team.azurecr.io", identity())
    assert username == "00000000-0000-0000-0000-000000000000"
    assert unverified(password)[1]["jti"].startswith("CNRY-acr-")
    assert cloud.web.asked == [f"POST {LOGIN}", "POST https://team.azurecr.io/oauth2/exchange"]
    assert azure.given["scope"] == "https://management.azure.com/.default"


async def test_s11_2_oci_azure_china_has_a_scope_of_its_own(azure: AzureStandIn, federated: dict[str, str]):
    async with tokens(azure, federated) as cloud:
        await cloud.registry("azure", "team.azurecr.cn", identity())
    assert azure.given["scope"] == "https://management.chinacloudapi.cn/.default"


@pytest.mark.parametrize("host", ["ghcr.io", "azurecr.io", "team.azurecr.io.example.com", "team.azurecr.io:443", "x/y"])
async def test_s11_2_oci_azure_is_for_its_own_registries(azure: AzureStandIn, host: str):
    async with tokens(azure) as cloud:
        with pytest.raises(RemoteError, match=f"invalid Azure registry: '{re.escape(host)}'"):
            await cloud.registry("azure", host, identity())
    assert not cloud.web.asked


async def test_s11_2_git_azure_gets_a_bearer_token_for_devops(azure: AzureStandIn, federated: dict[str, str]):
    async with tokens(azure, federated) as cloud:
        auth = await cloud.git("azure", "https://dev.azure.com/org/project/_git/repo", identity(kind="GitRepository"))
        other = await cloud.git("azure", "https://org.visualstudio.com/project/_git/repo", identity())
    assert auth.bearer.startswith("CNRY-aad-")
    assert (auth.username, auth.password) == ("", "")
    assert auth == other
    assert azure.given["scope"] == "499b84ac-1321-427f-aa17-267ca6975798/.default"


@pytest.mark.parametrize(
    "url", ["https://git.example.com/a", "http://dev.azure.com/a", "https://dev.azure.com.example.com/a"]
)
async def test_the_daemons_token_is_shown_to_devops_only(azure: AzureStandIn, federated: dict[str, str], url: str):
    async with tokens(azure, federated) as cloud:
        with pytest.raises(RemoteError, match="is not Azure DevOps over https"):
            await cloud.git("azure", url, identity(kind="GitRepository"))
        assert not cloud.web.asked
        mine = identity(Account(FEDERATED), annotations=ANNOTATIONS)
        assert (await cloud.git("azure", url, mine)).bearer


async def test_s11_2_object_identity_takes_client_and_tenant_of_its_annotations(azure: AzureStandIn):
    account = Account(FEDERATED)
    async with tokens(azure) as cloud:
        token = await cloud.bucket_token("azure", identity(account, annotations=ANNOTATIONS))
    assert token.startswith("CNRY-aad-")
    assert account.audiences == ["api://AzureADTokenExchange"]
    assert azure.given["scope"] == "https://storage.azure.com/.default"
    assert cloud.web.asked == [f"POST {LOGIN}"]


@pytest.mark.parametrize("missing", ANNOTATIONS)
async def test_s11_2_object_identity_needs_both_annotations(azure: AzureStandIn, missing: str):
    mine = identity(Account(FEDERATED), annotations={key: ANNOTATIONS[key] for key in ANNOTATIONS if key != missing})
    async with tokens(azure) as cloud:
        with pytest.raises(RemoteError, match=f"ServiceAccount 'apps/puller' has no annotation '{missing}'"):
            await cloud.bucket_token("azure", mine)
    assert not cloud.web.asked


@pytest.mark.parametrize("tenant", ["../evil", "a/b", "a?b", "a b", "a@b"])
async def test_a_tenant_cannot_change_the_address(azure: AzureStandIn, tenant: str):
    mine = identity(Account(FEDERATED), annotations=ANNOTATIONS | {"azure.workload.identity/tenant-id": tenant})
    async with tokens(azure) as cloud:
        with pytest.raises(RemoteError, match="invalid Azure tenant"):
            await cloud.bucket_token("azure", mine)
    assert not cloud.web.asked


async def test_s11_2_bucket_azure_with_a_secret_of_the_environment(azure: AzureStandIn):
    async with tokens(azure, CLIENT | {"AZURE_CLIENT_SECRET": azure.secret}) as cloud:
        assert (await cloud.bucket_token("azure", identity(kind="Bucket"))).startswith("CNRY-aad-")


async def test_s11_2_bucket_azure_with_a_certificate_of_the_environment(azure: AzureStandIn, tmp_path: Path, pair):
    key, certificate = pair
    azure.certificate_key = key.public_key()
    file = tmp_path / "client.pem"
    file.write_bytes(key_pem(key) + certificate.public_bytes(Encoding.PEM))
    async with tokens(azure, CLIENT | {"AZURE_CLIENT_CERTIFICATE_PATH": str(file)}) as cloud:
        assert (await cloud.bucket_token("azure", identity(kind="Bucket"))).startswith("CNRY-aad-")
    assert unverified(azure.given["client_assertion"])[1]["aud"] == LOGIN


async def test_s11_2_bucket_azure_with_the_identity_of_the_machine(azure: AzureStandIn):
    async with tokens(azure) as cloud:
        assert (await cloud.bucket_token("azure", identity(kind="Bucket"))).startswith("CNRY-managed-system-")
    assert cloud.web.asked == [MANAGED]
    assert azure.given["resource"] == "https://storage.azure.com"


async def test_s11_2_a_client_id_alone_chooses_a_managed_identity(azure: AzureStandIn):
    async with tokens(azure, {"AZURE_CLIENT_ID": "mine"}) as cloud:
        assert (await cloud.bucket_token("azure", identity(kind="Bucket"))).startswith("CNRY-managed-mine-")


async def test_s11_1_a_buckets_secret_may_choose_a_managed_identity(azure: AzureStandIn):
    async with tokens(azure) as cloud:
        assert (await cloud.azure_managed_identity("theirs", identity(kind="Bucket"))).startswith(
            "CNRY-managed-theirs-"
        )


async def test_s11_2_the_identity_of_an_app_service(azure: AzureStandIn):
    given = {"IDENTITY_ENDPOINT": f"{azure.url}/msi/token", "IDENTITY_HEADER": "CNRY-msi"}
    async with tokens(azure, given) as cloud:
        assert (await cloud.bucket_token("azure", identity(kind="Bucket"))).startswith("CNRY-managed-")


async def test_s11_2_sdk_variables_lead_to_other_endpoints(azure: AzureStandIn, federated: dict[str, str]):
    async with tokens(azure, federated | {"AZURE_AUTHORITY_HOST": f"{azure.url}/"}) as cloud:
        await cloud.bucket_token("azure", identity())
    assert cloud.web.asked == [f"POST {azure.url}/{azure.tenant}/oauth2/v2.0/token"]
    async with tokens(azure, {"AZURE_POD_IDENTITY_AUTHORITY_HOST": azure.url}) as cloud:
        await cloud.bucket_token("azure", identity())
    assert cloud.web.asked == [f"GET {azure.url}/metadata/identity/oauth2/token"]


async def test_s11_2_without_any_identity_a_bucket_may_go_on_anonymously(azure: AzureStandIn):
    async def gone(request, ask):
        return Answer(404)

    async with tokens(azure) as cloud:
        with azure.behave("/metadata/*", gone), pytest.raises(NoCredentialsError, match="has no Azure identity"):
            await cloud.bucket_token("azure", identity(kind="Bucket"))


async def test_s11_1_a_buckets_client_secret(azure: AzureStandIn):
    found = {"tenant": azure.tenant, "client": azure.client}
    async with tokens(azure) as cloud:
        assert await module.client_secret_token(cloud.web, secret=azure.secret, **found)
        assert await module.client_secret_token(cloud.web, secret=azure.secret, authority=azure.url, **found)
        assert cloud.web.asked == [f"POST {LOGIN}", f"POST {azure.url}/{azure.tenant}/oauth2/v2.0/token"]
        with pytest.raises(RemoteError) as caught:
            await module.client_secret_token(cloud.web, secret="CNRY-wrong-secret", **found)
        with pytest.raises(ValueError, match="authority host of Azure is no https URL"):
            await module.client_secret_token(cloud.web, secret="x", authority="http://example.com", **found)
    assert caught.value.message == (
        "Azure token endpoint: the server answered 401: invalid_client: AADSTS7000215: not valid: ***"
    )


@pytest.mark.parametrize("form", ["pem", "pem-certificate-first", "pkcs12", "pkcs12-password"])
@pytest.mark.parametrize("send_chain", [False, True])
async def test_s11_1_a_buckets_client_certificate(azure: AzureStandIn, pair, form: str, send_chain: bool):
    key, certificate = pair
    azure.certificate_key = key.public_key()
    parts = [key_pem(key), certificate.public_bytes(Encoding.PEM)]
    password = "CNRY-pfx" if form == "pkcs12-password" else ""
    if form.startswith("pem"):
        material = b"".join(reversed(parts) if form != "pem" else parts)
    else:
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        material = pkcs12.serialize_key_and_certificates(b"client", key, certificate, None, encryption)
    async with tokens(azure) as cloud:
        token = await module.client_certificate_token(
            cloud.web,
            tenant=azure.tenant,
            client=azure.client,
            certificate=material,
            password=password,
            send_chain=send_chain,
        )
    assert token.startswith("CNRY-aad-")
    header, claims = unverified(azure.given["client_assertion"])
    assert header["alg"] == "PS256"
    assert len(header.get("x5c", [])) == send_chain
    assert claims["aud"] == LOGIN


@pytest.mark.parametrize("broken", ["garbage", "other-key", "no-certificate", "password"])
async def test_s11_1_a_client_certificate_that_cannot_be_used(azure: AzureStandIn, pair, broken: str):
    key, certificate = pair
    pem = certificate.public_bytes(Encoding.PEM)
    encrypted = BestAvailableEncryption(b"CNRY-pfx")
    material = {
        "garbage": b"\x00\x01garbage",
        "other-key": key_pem(rsa.generate_private_key(65537, 2048)) + pem,
        "no-certificate": key_pem(key),
        "password": pkcs12.serialize_key_and_certificates(b"client", key, certificate, None, encrypted),
    }[broken]
    async with tokens(azure) as cloud:
        with pytest.raises(ValueError, match="client certificate"):
            await module.client_certificate_token(
                cloud.web, tenant=azure.tenant, client=azure.client, certificate=material, password="CNRY-wrong"
            )
    assert not cloud.web.asked
