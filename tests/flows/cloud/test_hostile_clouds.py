"""Token endpoints that misbehave: bounded, named, and without a word of what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gitopsd.fetch.cloud import endpoint
from gitopsd.fetch.cloud.tokens import NoCredentialsError
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.proxy import Proxy
from tests.flows.cloud.conftest import Account, identity, tokens
from tests.processes import free_port
from tests.servers.clouds import AwsStandIn, AzureStandIn, GitHubStandIn, GoogleStandIn, StandIn, json_answer
from tests.servers.loopback import Answer

TOKEN = "CNRY-shown-token-0123456789abcdef"
ANNOTATIONS = {
    "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/puller",
    "azure.workload.identity/client-id": AzureStandIn.client,
    "azure.workload.identity/tenant-id": AzureStandIn.tenant,
    "gcp.auth.fluxcd.io/workload-identity-provider": (
        "projects/42/locations/global/workloadIdentityPools/pool/providers/cluster"
    ),
}
CLOUDS = ("aws", "azure", "gcp", "github")


@pytest.fixture
def played(request: pytest.FixtureRequest, cloud_name: str) -> StandIn:
    return request.getfixturevalue({"gcp": "google"}.get(cloud_name, cloud_name))


def ask(cloud: Any, name: str, server: StandIn, **more: Any) -> Awaitable[Any]:
    """The shortest question that shows a token of an object to a cloud."""
    mine = identity(Account(TOKEN), annotations=ANNOTATIONS, **more)
    if name == "aws":
        return cloud.bucket_aws(mine, "eu-west-1")
    if name == "github":
        assert isinstance(server, GitHubStandIn)
        return cloud.github_app(server.secret(), "https://github.com/a", mine)
    return cloud.bucket_token(name, mine)


async def refusal(name: str, server: StandIn, answer: Callable[[], Answer]) -> RemoteError:
    async def rule(request, ask):
        return answer()

    async with tokens(server) as cloud:
        with server.behave("*", rule), pytest.raises(RemoteError) as caught:
            await ask(cloud, name, server)
    assert "CNRY" not in caught.value.message
    assert len(caught.value.message) < 1024
    return caught.value


HTML = b"<!DOCTYPE html><html><body>Sign in, CNRY-html " + b"x" * 5000 + b"</body></html>"

ANSWERS: dict[str, tuple[Callable[[], Answer], str]] = {
    "10-mib": (lambda: Answer(200, {}, b"{" + b" " * (10 << 20)), "larger than 262144 bytes"),
    "html": (lambda: Answer(200, {"Content-Type": "text/html"}, HTML), "the answer"),
    "html-500": (lambda: Answer(500, {"Content-Type": "text/html"}, HTML), "the server answered 500"),
    "empty": (lambda: Answer(200), "the answer"),
    "not-utf-8": (lambda: Answer(200, {}, b'{"access_token": "\xff"}'), "the answer"),
    "list": (lambda: json_answer([{"access_token": "CNRY"}]), "the answer"),
    "deep": (lambda: Answer(200, {}, b'{"a":' * 30_000), "the answer"),
    "no-token": (lambda: json_answer({"expires_in": 3600}), "the answer"),
    "token-is-a-list": (lambda: json_answer({"access_token": ["CNRY"], "token": 1}), "the answer"),
    "token-with-a-line-end": (lambda: json_answer({"access_token": "CNRY\r\nX: y", "token": "CNRY\nx"}), "the answer"),
    "entities": (
        lambda: Answer(200, {}, b'<!DOCTYPE a [<!ENTITY b "CNRY">]><Credentials><A>&b;</A></Credentials>'),
        "the answer",
    ),
    "redirect": (lambda: Answer(302, {"Location": "http://127.0.0.1:1/CNRY"}), "the server answered 302"),
    "rst": (lambda: Answer(200, {"Content-Length": "100"}, b"{", "rst"), ""),
    "error-in-colour": (
        lambda: json_answer({"error": "\x1b[31mno\u202e", "error_description": "x" * 9000, "message": "y" * 9000}, 400),
        "the server answered 400: [31mno",
    ),
    "error-is-a-token": (
        lambda: json_answer({"error": "invalid", "message": "eyJhbGciOiJub25lIn0.eyJjYW5hcnkiOiJDTlJZIn0.x"}, 403),
        "the server answered 403",
    ),
}


@pytest.mark.parametrize("cloud_name", CLOUDS)
@pytest.mark.parametrize("case", ANSWERS)
async def test_hostile_answers_are_bounded_and_named(cloud_name: str, played: StandIn, case: str):
    answer, text = ANSWERS[case]
    error = await refusal(cloud_name, played, answer)
    assert text in error.message
    assert "eyJ" not in error.message
    assert "\x1b" not in error.message


@pytest.mark.parametrize("cloud_name", CLOUDS)
async def test_hostile_answers_quote_what_was_shown(cloud_name: str, played: StandIn):
    """An endpoint that logs and returns what it got, in any field."""
    shown: list[str] = []

    async def rule(request, ask):
        body = (await request.read()).decode()
        shown.append(body + request.headers.get("Authorization", ""))
        message = f"{body} {request.headers.get('Authorization', '')}"
        return json_answer({"error": "bad", "error_description": message, "message": message}, 400)

    async with tokens(played) as cloud:
        with played.behave("*", rule), pytest.raises(RemoteError) as caught:
            await ask(cloud, cloud_name, played)
    assert shown
    for secret in ("CNRY", "eyJ", "client_secret=CNRY"):
        assert secret not in caught.value.message


@pytest.mark.parametrize("cloud_name", CLOUDS)
async def test_hostile_endpoint_that_never_answers(cloud_name: str, played: StandIn, monkeypatch: pytest.MonkeyPatch):
    """The caller's limit ends it, and so does our own."""

    async def rule(request, ask):
        await asyncio.sleep(3600)
        return Answer()

    async with tokens(played) as cloud:
        with played.behave("*", rule):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await ask(cloud, cloud_name, played)
            request = endpoint.Request("token endpoint", f"{played.url}/x", patience=0.2)
            with pytest.raises(RemoteError, match=r"token endpoint: no answer within 0.2s"):
                await endpoint.ask(cloud.web, request)
        assert await _again(cloud, cloud_name, played)


async def _again(cloud: Any, name: str, server: StandIn) -> Any:
    """After the trouble everything works, without anything to reset."""
    for tokens_known in ("web_tokens", "federated", "subjects"):
        getattr(server, tokens_known, set()).add(TOKEN)
    try:
        return await ask(cloud, name, server)
    finally:
        for tokens_known in ("web_tokens", "federated", "subjects"):
            getattr(server, tokens_known, set()).discard(TOKEN)


@pytest.mark.parametrize("cloud_name", CLOUDS)
async def test_hostile_failures_are_not_kept(cloud_name: str, played: StandIn):
    await_again = 0

    async def rule(request, ask):
        return Answer(503)

    async with tokens(played) as cloud:
        with played.behave("*", rule):
            for _ in range(2):
                with pytest.raises(RemoteError, match="the server answered 503"):
                    await ask(cloud, cloud_name, played)
                await_again += 1
        assert await _again(cloud, cloud_name, played)
    assert await_again == 2


@pytest.mark.parametrize("cloud_name", CLOUDS)
async def test_A10_an_objects_proxy_is_used_for_the_cloud(cloud_name: str, played: StandIn):
    proxy = Proxy("http", "127.0.0.1", free_port(), "user", "CNRY-proxy-password")
    async with tokens(played) as cloud:
        with pytest.raises(RemoteError, match=r"connection refused|connect call failed") as caught:
            await ask(cloud, cloud_name, played, proxy=proxy)
    assert "CNRY" not in caught.value.message


@pytest.mark.parametrize(
    ("cloud_name", "variables"),
    [
        ("aws", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "{url}"}),
        ("azure", {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "{url}"}),
        ("gcp", {"GCE_METADATA_HOST": "{host}"}),
    ],
)
async def test_A10_metadata_is_never_asked_through_an_objects_proxy(
    cloud_name: str, played: StandIn, variables: dict[str, str]
):
    """Over plain HTTP, a tenant's proxy would read the token of the daemon."""
    proxy = Proxy("http", "127.0.0.1", free_port())
    environment = {
        name: value.format(url=played.url, host=played.url.removeprefix("http://")) for name, value in variables.items()
    }
    async with tokens(played, environment) as cloud:
        mine = identity(kind="Bucket", proxy=proxy)
        work = cloud.bucket_aws(mine, "eu-west-1") if cloud_name == "aws" else cloud.bucket_token(cloud_name, mine)
        assert await work
    assert played.requests


async def test_a_token_file_that_is_gone_is_told_without_its_name(aws: AwsStandIn, tmp_path: Path):
    environment = {
        "AWS_ROLE_ARN": "arn",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "CNRY"),
        "AWS_REGION": "eu-west-1",
    }
    async with tokens(aws, environment) as cloud:
        with pytest.raises(RemoteError) as caught:
            await cloud.bucket_aws(identity())
    assert caught.value.message == "AWS web identity: the file cannot be read: no such file or directory"


@pytest.mark.parametrize("provider", ["generic", "github", "aws\x1b"])
async def test_providers_that_cannot_be_used_are_named(google: GoogleStandIn, provider: Any):
    async with tokens(google) as cloud:
        for work in (
            cloud.registry(provider, "gcr.io", identity()),
            cloud.git(provider, "https://github.com/a", identity()),
            cloud.bucket_token(provider, identity()),
        ):
            with pytest.raises(RemoteError, match="cannot be used here"):
                await work
    with pytest.raises(RemoteError, match="provider 'gcp' cannot be used here"):
        await cloud.git("gcp", "https://github.com/a", identity())


@pytest.mark.parametrize(("status", "is_absent"), [(404, True), (400, True), (403, True), (429, False), (503, False)])
@pytest.mark.parametrize("cloud_name", ["aws", "azure", "gcp"])
async def test_a_metadata_service_in_trouble_is_not_taken_for_none(
    cloud_name: str, played: StandIn, status: int, is_absent: bool
):
    """A Bucket would go on anonymously where there is none (spec/source.md 11.2)."""

    async def rule(request, ask):
        return Answer(status)

    async with tokens(played) as cloud:
        with played.behave("*", rule), pytest.raises(RemoteError, match=f"the server answered {status}") as caught:
            work = cloud.bucket_aws(identity()) if cloud_name == "aws" else cloud.bucket_token(cloud_name, identity())
            await work
    assert isinstance(caught.value, NoCredentialsError) is is_absent
    played.refuse()
    try:
        async with tokens(played) as cloud:
            work = cloud.bucket_aws(identity()) if cloud_name == "aws" else cloud.bucket_token(cloud_name, identity())
            with pytest.raises(NoCredentialsError, match=r"has no .* identity: .*: cannot talk to"):
                await work
    finally:
        played.accept()
