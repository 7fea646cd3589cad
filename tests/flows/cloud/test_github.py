"""GitHub Apps, end to end against a stand-in of the API (spec/source.md 11.1)."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gitopsd.fetch.cloud.tokens import CloudTokens, has_app_data
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import HttpClient, TlsIdentity
from tests.flows.cloud.conftest import identity, tokens
from tests.servers.clouds import GitHubStandIn, key_pem

URL = "https://github.com/acme/app.git"
REPOSITORY = identity(kind="GitRepository")


async def test_s11_1_github_app_by_installation_id(github: GitHubStandIn):
    async with tokens(github) as cloud:
        token = await cloud.github_app(github.secret(), URL, REPOSITORY)
    assert token.startswith("CNRY-ghs-101-")
    assert cloud.web.asked == ["POST https://api.github.com/app/installations/101/access_tokens"]


async def test_s11_1_github_app_statement_lives_two_minutes_from_half_a_minute_ago(github: GitHubStandIn):
    before = int(time.time())
    async with tokens(github) as cloud:
        await cloud.github_app(github.secret(), URL, REPOSITORY)
    claims = github.claims
    assert before - 30 <= claims["iat"] <= time.time() - 30
    assert claims["exp"] - claims["iat"] == 120
    assert claims["iss"] == github.app_id


@pytest.mark.parametrize(
    ("owner", "number", "asked"),
    [("acme", 101, ["orgs/acme"]), ("jane", 202, ["orgs/jane", "users/jane"])],
    ids=["organisation", "user"],
)
async def test_s11_1_github_app_by_owner(github: GitHubStandIn, owner: str, number: int, asked: list[str]):
    secret = github.secret(githubAppInstallationID=None, githubAppInstallationOwner=owner)
    async with tokens(github) as cloud:
        assert (await cloud.github_app(secret, URL, REPOSITORY)).startswith(f"CNRY-ghs-{number}-")
    assert cloud.web.asked[:-1] == [f"GET https://api.github.com/{one}/installation" for one in asked]


async def test_s11_1_github_app_of_an_owner_who_has_none(github: GitHubStandIn):
    secret = github.secret(githubAppInstallationID=None, githubAppInstallationOwner="../../nobody")
    async with tokens(github) as cloud:
        with pytest.raises(RemoteError) as caught:
            await cloud.github_app(secret, URL, REPOSITORY)
    assert caught.value.message == (
        "no token for 'github.com': GitHub App installation: neither an organisation nor a user '../../nobody' has one"
    )
    assert cloud.web.asked[0] == "GET https://api.github.com/orgs/..%2F..%2Fnobody/installation"


async def test_s16_github_app_by_client_id(github: GitHubStandIn):
    """Release 1.10.0: `githubAppClientID` instead of `githubAppID`, and before it where both are there."""
    async with tokens(github) as cloud:
        await cloud.github_app(github.secret(githubAppID=None, githubAppClientID=github.client_id), URL, REPOSITORY)
        assert github.claims["iss"] == github.client_id
        await cloud.github_app(github.secret(githubAppClientID=github.client_id), URL, REPOSITORY)
    assert github.claims["iss"] == github.client_id


async def test_s11_1_github_app_of_an_own_server_with_its_certificates(github: GitHubStandIn):
    """`githubAppBaseURL` with the TLS keys of the same Secret, a client certificate among them."""
    cert, key = github.authority.client("gitopsd")
    tls = TlsIdentity(github.authority.pem, cert.read_bytes(), key.read_bytes())
    secret = github.secret(githubAppBaseURL=f"{github.mtls_url}/api/v3/")
    web = HttpClient()
    try:
        cloud = CloudTokens(web)
        with pytest.raises(RemoteError, match="bad certificate"):
            await cloud.github_app(secret, "https://ghe.example.com/a", REPOSITORY)
        mine = identity(kind="GitRepository", tls=tls)
        assert (await cloud.github_app(secret, "https://ghe.example.com/a", mine)).startswith("CNRY-ghs-101-")
    finally:
        await web.aclose()
    assert (github.requests[-1].path, github.requests[-1].client) == (
        "/api/v3/app/installations/101/access_tokens",
        "gitopsd",
    )


def _ec_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"githubAppID": None}, "key 'githubAppID' is missing"),
        ({"githubAppID": ""}, "key 'githubAppID' is missing"),
        ({"githubAppPrivateKey": None}, "key 'githubAppPrivateKey' is missing"),
        (
            {"githubAppInstallationID": None},
            "exactly one of 'githubAppInstallationOwner' and 'githubAppInstallationID'",
        ),
        (
            {"githubAppInstallationOwner": "acme"},
            "exactly one of 'githubAppInstallationOwner' and 'githubAppInstallationID'",
        ),
        ({"githubAppID": "CNRY"}, "'githubAppID' is no number"),
        ({"githubAppInstallationID": "1/../2"}, "'githubAppInstallationID' is no number"),
        ({"githubAppPrivateKey": "CNRY-key"}, "no unencrypted PEM key"),
        ({"githubAppPrivateKey": _ec_key()}, "no RSA key"),
        ({"githubAppBaseURL": "ftp://example.com"}, "'githubAppBaseURL' is no http or https URL"),
        ({"githubAppBaseURL": "https://CNRY@example.com"}, "'githubAppBaseURL' is no http or https URL"),
        ({"githubAppBaseURL": "https://example.com/?CNRY"}, "'githubAppBaseURL' is no http or https URL"),
        ({"githubAppBaseURL": "https://["}, "'githubAppBaseURL' is no http or https URL"),
    ],
)
async def test_s11_1_github_app_secret_that_cannot_be_used(github: GitHubStandIn, more, text: str):
    async with tokens(github) as cloud:
        with pytest.raises(ValueError, match=text) as caught:
            await cloud.github_app(github.secret(**more), URL, REPOSITORY)
    assert "CNRY" not in str(caught.value)
    assert not cloud.web.asked


@pytest.mark.parametrize(
    ("more", "has"),
    [
        ({}, True),
        ({"githubAppID": None, "githubAppClientID": "x"}, True),
        ({"githubAppInstallationID": None}, True),
        ({"githubAppID": None}, False),
        ({"githubAppPrivateKey": None}, False),
    ],
)
def test_s5_7_which_secrets_describe_a_github_app(github: GitHubStandIn, more, has: bool):
    assert has_app_data(github.secret(**more)) is has


async def test_a_refusal_shows_neither_statement_nor_key(github: GitHubStandIn):
    """The stand-in's message quotes the token that it was shown."""
    async with tokens(github) as cloud:
        with pytest.raises(RemoteError) as caught:
            await cloud.github_app(github.secret(githubAppID="12"), URL, REPOSITORY)
        assert caught.value.message == (
            "no token for 'github.com': GitHub App token: the server answered 401: Integration not found"
        )
        stranger = github.secret(githubAppPrivateKey=key_pem(rsa.generate_private_key(65537, 2048)).decode())
        with pytest.raises(RemoteError) as caught:
            await cloud.github_app(stranger, URL, REPOSITORY)
    assert caught.value.message.endswith("the server answered 401: A JSON web token could not be decoded: ***")
