"""AWS, end to end against stand-ins (spec/source.md 11.2)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gitopsd.fetch.cloud.tokens import NoCredentialsError
from gitopsd.fetch.errors import RemoteError
from tests.flows.cloud.conftest import Account, identity, tokens
from tests.servers.clouds import AwsStandIn, fields
from tests.servers.loopback import Answer

REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
ROLE = "arn:aws:iam::123456789012:role/puller"
IRSA = "CNRY-irsa-token-0123456789abcdef"
METADATA = "http://169.254.169.254/latest"


@pytest.fixture
def irsa(tmp_path: Path) -> dict[str, str]:
    """What the webhook of EKS puts into a pod."""
    file = tmp_path / "token"
    file.write_text(IRSA + "\n")
    return {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/daemon",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(file),
        "AWS_REGION": "us-east-1",
    }


def assumed(aws: AwsStandIn) -> dict[str, str]:
    return next(fields(seen.body) for seen in aws.requests if b"AssumeRole" in seen.body)


async def test_s11_2_oci_aws_with_the_role_of_the_machine(aws: AwsStandIn):
    """No AWS_REGION is needed: the registry's name has the region. IMDSv2 only."""
    async with tokens(aws) as cloud:
        username, password = await cloud.registry("aws", REGISTRY, identity())
    assert username == "AWS"
    assert password.startswith("CNRY-ecr-")
    roles = f"{METADATA}/meta-data/iam/security-credentials/"
    assert cloud.web.asked == [
        f"PUT {METADATA}/api/token",
        f"GET {roles}",
        f"GET {roles}node-role",
        "POST https://api.ecr.eu-west-1.amazonaws.com/",
    ]


async def test_s11_2_oci_aws_with_a_web_identity(aws: AwsStandIn, irsa: dict[str, str]):
    async with tokens(aws, irsa) as cloud:
        assert (await cloud.registry("aws", REGISTRY, identity()))[0] == "AWS"
    assert cloud.web.asked == [
        "POST https://sts.eu-west-1.amazonaws.com/",
        "POST https://api.ecr.eu-west-1.amazonaws.com/",
    ]
    assert assumed(aws)["RoleArn"] == irsa["AWS_ROLE_ARN"]


async def test_s11_2_a_web_identity_token_is_read_anew_each_time(aws: AwsStandIn, irsa: dict[str, str]):
    async with tokens(aws, irsa, cache_size=0) as cloud:
        await cloud.bucket_aws(identity())
        aws.web_tokens.add("CNRY-irsa-rotated")
        Path(irsa["AWS_WEB_IDENTITY_TOKEN_FILE"]).write_text("CNRY-irsa-rotated")
        aws.forget()
        await cloud.bucket_aws(identity())
    assert assumed(aws)["WebIdentityToken"] == "CNRY-irsa-rotated"


async def test_s11_2_keys_of_the_environment_go_first(aws: AwsStandIn, irsa: dict[str, str]):
    aws.secrets["AKIAENV"] = ("CNRY-env-secret", "")
    given = irsa | {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "CNRY-env-secret"}
    async with tokens(aws, given) as cloud:
        assert (await cloud.registry("aws", REGISTRY, identity()))[0] == "AWS"
        keys = await cloud.bucket_aws(identity(), "eu-west-1")
    assert (keys.access_key, keys.secret_key, keys.session_token) == ("AKIAENV", "CNRY-env-secret", "")
    assert cloud.web.asked == ["POST https://api.ecr.eu-west-1.amazonaws.com/"]


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/container/1"}, "http://169.254.170.2/container/1"),
        (
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/container/v1"},
            "http://169.254.170.23/container/v1",
        ),
    ],
    ids=["ecs", "eks-pod-identity"],
)
async def test_s11_2_container_credentials(aws: AwsStandIn, tmp_path: Path, variables: dict[str, str], url: str):
    file = tmp_path / "token"
    file.write_text("CNRY-pod-identity-token")
    given = variables | {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file)}
    async with tokens(aws, given) as cloud:
        assert (await cloud.bucket_aws(identity(), "eu-west-1")).access_key.startswith("ASIA")
    assert cloud.web.asked == [f"GET {url}"]
    assert aws.requests[0].headers["Authorization"] == "CNRY-pod-identity-token"


async def test_container_credentials_are_asked_on_this_machine_only(aws: AwsStandIn):
    async with tokens(aws, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/steal"}) as cloud:
        with pytest.raises(RemoteError, match="neither https nor of this machine"):
            await cloud.bucket_aws(identity(), "eu-west-1")
    assert not cloud.web.asked


async def test_s11_2_oci_aws_public_registry(aws: AwsStandIn, irsa: dict[str, str]):
    """It gives out tokens in us-east-1 only."""
    async with tokens(aws, irsa) as cloud:
        assert (await cloud.registry("aws", "public.ecr.aws", identity()))[0] == "AWS"
    assert cloud.web.asked == [
        "POST https://sts.us-east-1.amazonaws.com/",
        "POST https://api.ecr-public.us-east-1.amazonaws.com/",
    ]


async def test_s11_2_object_identity_takes_the_role_of_its_annotation(aws: AwsStandIn, irsa: dict[str, str]):
    account = Account(IRSA)
    mine = identity(account, annotations={"eks.amazonaws.com/role-arn": ROLE})
    async with tokens(aws, irsa) as cloud:
        await cloud.registry("aws", REGISTRY, mine)
    assert account.audiences == ["sts.amazonaws.com"]
    assert assumed(aws)["RoleArn"] == ROLE
    assert assumed(aws)["RoleSessionName"] == "puller.apps.eu-west-1.fluxcd.io"


async def test_a_session_name_is_no_longer_than_aws_allows(aws: AwsStandIn):
    mine = identity(Account(IRSA), annotations={"eks.amazonaws.com/role-arn": ROLE}, namespace="n" * 63)
    async with tokens(aws) as cloud:
        await cloud.registry("aws", REGISTRY, mine)
    assert len(assumed(aws)["RoleSessionName"]) == 64


@pytest.mark.parametrize(
    "role", ["", "admin", "arn:aws:iam::1:user/x", ROLE + "\n", "arn:aws:iam::1:role/" + "x" * 201]
)
async def test_s11_2_object_identity_without_a_role_asks_nobody(aws: AwsStandIn, irsa: dict[str, str], role: str):
    mine = identity(Account(IRSA), annotations={"eks.amazonaws.com/role-arn": role})
    async with tokens(aws, irsa) as cloud:
        with pytest.raises(RemoteError, match=r"'apps/puller': annotation '.*' holds no role"):
            await cloud.registry("aws", REGISTRY, mine)
    assert not cloud.web.asked


async def test_s11_2_bucket_aws_asks_the_sts_of_its_region(aws: AwsStandIn, irsa: dict[str, str]):
    async with tokens(aws, irsa) as cloud:
        keys = await cloud.bucket_aws(identity(kind="Bucket"), "cn-north-1")
        await cloud.bucket_aws(identity(kind="Bucket"))
    assert keys.session_token.startswith("CNRY-aws-session-")
    assert cloud.web.asked == [
        "POST https://sts.cn-north-1.amazonaws.com.cn/",
        "POST https://sts.us-east-1.amazonaws.com/",  # AWS_REGION
    ]


async def test_s11_2_bucket_aws_sts_endpoint_beats_the_region(aws: AwsStandIn, irsa: dict[str, str]):
    endpoint = "https://vpce-1-abc.sts.eu-west-1.vpce.amazonaws.com"
    async with tokens(aws, irsa) as cloud:
        cloud.web.hosts["vpce-1-abc.sts.eu-west-1.vpce.amazonaws.com"] = aws.url
        await cloud.bucket_aws(identity(kind="Bucket"), "eu-west-1", endpoint)
    assert cloud.web.asked == [f"POST {endpoint}/"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://sts.amazonaws.com",
        "https://sts.example.com",
        "https://sts.amazonaws.com.example.com",
        "https://example.com/sts.amazonaws.com",
        "https://user@sts.amazonaws.com",
        "no url",
    ],
)
async def test_I09_an_sts_endpoint_that_is_none_gets_no_token(aws: AwsStandIn, irsa: dict[str, str], endpoint: str):
    """It would be given what proves our identity."""
    async with tokens(aws, irsa) as cloud:
        with pytest.raises(RemoteError, match="invalid STS endpoint"):
            await cloud.bucket_aws(identity(kind="Bucket"), "eu-west-1", endpoint)
    assert not cloud.web.asked


async def test_I09_sts_answers_10_mib(aws: AwsStandIn, irsa: dict[str, str]):
    async def huge(request, ask):
        return Answer(200, {}, b"<x>" + b" " * (10 << 20) + b"</x>")

    async with tokens(aws, irsa) as cloud:
        with aws.behave("/", huge), pytest.raises(RemoteError, match="larger than 262144 bytes") as caught:
            await cloud.bucket_aws(identity(kind="Bucket"), "eu-west-1")
    assert caught.value.rule == "size"


async def test_s11_2_sdk_variables_lead_to_other_endpoints(aws: AwsStandIn, irsa: dict[str, str]):
    given = irsa | {"AWS_ENDPOINT_URL_STS": f"{aws.url}/", "AWS_ENDPOINT_URL_ECR": aws.url}
    async with tokens(aws, given) as cloud:
        await cloud.registry("aws", REGISTRY, identity())
    assert cloud.web.asked == [f"POST {aws.url}/"] * 2


async def test_s11_2_object_identity_needs_a_region(aws: AwsStandIn):
    mine = identity(Account(IRSA), annotations={"eks.amazonaws.com/role-arn": ROLE}, kind="Bucket")
    async with tokens(aws) as cloud:
        with pytest.raises(RemoteError, match="needs an AWS region"):
            await cloud.bucket_aws(mine)


async def test_s11_2_the_daemon_needs_a_region_for_sts(aws: AwsStandIn, irsa: dict[str, str]):
    del irsa["AWS_REGION"]
    async with tokens(aws, irsa) as cloud:
        with pytest.raises(RemoteError, match="no AWS region"):
            await cloud.bucket_aws(identity(kind="Bucket"))
        with pytest.raises(RemoteError, match="invalid AWS region"):
            await cloud.bucket_aws(identity(kind="Bucket"), "eu-west-1.example.com/x?")


async def test_s11_2_git_aws_codecommit(aws: AwsStandIn):
    url = "https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/demo"
    async with tokens(aws, now=lambda: 1440938160.0) as cloud:
        auth = await cloud.git("aws", url, identity(kind="GitRepository"))
    access, _, session = auth.username.partition("%")
    assert (access in aws.secrets, aws.secrets[access][1]) == (True, session)
    assert re.fullmatch(r"20150830T123600Z[0-9a-f]{64}", auth.password)
    assert auth.bearer == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://git-codecommit.eu-west-1.amazonaws.com/v1/repos/demo",
        "https://git-codecommit.eu-west-1.amazonaws.com.example.com/v1/repos/demo",
        "https://example.com/v1/repos/demo",
        "https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/demo/more",
        "ssh://git-codecommit.eu-west-1.amazonaws.com/v1/repos/demo",
        "https://[",
    ],
)
async def test_s11_2_git_aws_is_for_codecommit_over_https_only(aws: AwsStandIn, url: str):
    async with tokens(aws) as cloud:
        with pytest.raises(RemoteError, match="CodeCommit"):
            await cloud.git("aws", url, identity(kind="GitRepository"))
    assert not cloud.web.asked


@pytest.mark.parametrize(
    "host",
    [
        "ghcr.io",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.example.com",
        "x.123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com:5000",
        "public.ecr.aws.example.com",
    ],
)
async def test_s11_2_oci_aws_is_for_its_own_registries(aws: AwsStandIn, host: str):
    async with tokens(aws) as cloud:
        with pytest.raises(RemoteError, match=f"invalid AWS registry: '{re.escape(host)}'"):
            await cloud.registry("aws", host, identity())
    assert not cloud.web.asked


async def test_without_any_identity_it_says_so(aws: AwsStandIn):
    async def gone(request, ask):
        return Answer(404)

    async with tokens(aws) as cloud:
        with aws.behave("/latest/*", gone), pytest.raises(NoCredentialsError, match="has no AWS identity"):
            await cloud.registry("aws", REGISTRY, identity())
    async with tokens(aws, {"AWS_EC2_METADATA_DISABLED": "true"}) as cloud:
        with pytest.raises(NoCredentialsError, match="metadata disabled"):
            await cloud.registry("aws", REGISTRY, identity())
    assert not cloud.web.asked


async def test_a_refusal_keeps_the_code_and_not_the_token(aws: AwsStandIn):
    """The stand-in's message quotes the token that it was shown."""
    mine = identity(Account("CNRY-wrong-token-0123456789"), annotations={"eks.amazonaws.com/role-arn": ROLE})
    async with tokens(aws) as cloud:
        with pytest.raises(RemoteError) as caught:
            await cloud.registry("aws", REGISTRY, mine)
    assert caught.value.message == "AWS STS: the server answered 403: InvalidIdentityToken: not ours: ***"
