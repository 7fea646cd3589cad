"""Storages that others wrote, and the ways to a storage: TLS, client certificates, proxies, regions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from gitopsd.fetch.bucketazure import AzureBucket, AzurePlace
from gitopsd.fetch.bucketgcs import GcsBucket
from gitopsd.fetch.buckets3 import S3Bucket, S3Place
from gitopsd.fetch.bucketsigning import SharedKey
from gitopsd.fetch.cloud.identity import AwsKeys
from gitopsd.fetch.http import Access, HttpClient, TlsIdentity
from gitopsd.fetch.proxy import parse_proxy
from tests.certificates import Authority
from tests.flows.buckets.conftest import BUCKET, KEYS, Reader, connects, s3_client
from tests.flows.git.proxies import proxy
from tests.servers.buckets import GcsServer, LoopbackAzure, LoopbackS3, S3Server
from tests.servers.loopback import Answer

ODD = {"a.yaml": "a", "dir/b c+d.yaml": "b", "dir/é/ß#&%.yaml": "c", "empty": "", "x=1,y": "d"}


@pytest.fixture(scope="module")
def real_s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.check_signatures()
        yield server


def moto(web: HttpClient, server: S3Server, bucket: str, keys: AwsKeys | None, region: str = "") -> Reader:
    place = S3Place(server.address, bucket, region, insecure=True)
    return Reader(connects(lambda: S3Bucket(web, place, keys, Access())), bucket)


async def test_s9_a_real_s3_server_is_read_with_signed_requests(real_s3: S3Server, web):
    real_s3.bucket("real-bucket", {**ODD, ".sourceignore": "*.txt\n", "n.txt": "", "folder/": ""})
    keys = AwsKeys(*real_s3.keys)
    reader = moto(web, real_s3, "real-bucket", keys)
    assert await reader.read() == {".sourceignore": b"*.txt\n", **{key: text.encode() for key, text in ODD.items()}}
    index = await reader.look()
    lines = "".join(f"{key} {hashlib.md5(ODD[key].encode()).hexdigest()}\n" for key in sorted(ODD, key=str.encode))
    assert index.revision("sha256") == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    real_s3.put("real-bucket", {"a.yaml": "changed"})
    real_s3.delete("real-bucket", "empty")
    assert (await reader.read())["a.yaml"] == b"changed"
    assert await moto(web, real_s3, "nope", keys).refusal() == "bucket 'nope' not found"


async def test_s9_2_a_real_listing_of_many_pages(real_s3: S3Server, web):
    real_s3.bucket("many-pages", {f"{number:04d}": "" for number in range(1100)})
    assert len(await moto(web, real_s3, "many-pages", AwsKeys(*real_s3.keys)).look()) == 1100


async def test_I07_a_real_server_refuses_wrong_keys_in_its_words(real_s3: S3Server, web):
    real_s3.bucket("closed-bucket")
    for keys in (AwsKeys(real_s3.keys[0], "CNRY-wrong"), AwsKeys("AKIANOBODY", "CNRY-wrong")):
        message = await moto(web, real_s3, "closed-bucket", keys).refusal()
        assert message.startswith("failed to confirm existence of 'closed-bucket' bucket: ")
        assert "SignatureDoesNotMatch" in message or "InvalidAccessKeyId" in message


async def test_s9_a_stand_in_of_googles_storage_is_read(web):
    with GcsServer() as server:
        # It cannot keep everything that is a key.
        objects = {key: text for key, text in ODD.items() if key.isascii() and text}
        server.bucket("google-bucket", objects)

        def make() -> GcsBucket:
            return GcsBucket(web, "google-bucket", Access("Bearer token"), endpoint=server.endpoint)

        reader = Reader(connects(make), "google-bucket")
        assert await reader.read() == {key: text.encode() for key, text in objects.items()}
        server.put("google-bucket", {"a.yaml": "changed"})
        assert (await reader.read())["a.yaml"] == b"changed"


async def test_s11_1_azures_shared_key_signs_every_request(azure: LoopbackAzure, web):
    azure.key = b"CNRY shared key"
    azure.bucket(BUCKET, {key: text for key, text in ODD.items() if text} | {"pages/1": "1"})
    azure.page_size = 2
    place = AzurePlace(azure.url, BUCKET)
    reader = Reader(connects(lambda: AzureBucket(web, place, Access(), SharedKey("account", azure.key))))
    assert len(await reader.read()) == 5
    wrong = Reader(connects(lambda: AzureBucket(web, place, Access(), SharedKey("account", b"CNRY other"))))
    assert "AuthenticationFailed: Server failed to authenticate the request (status 403)" in await wrong.refusal()


# The way there


async def test_s9_1_a_private_authority_and_a_client_certificate(s3: LoopbackS3, web, tmp_path):
    s3.bucket(BUCKET, {"a": "1"})
    cert, key = (path.read_bytes() for path in s3.authority.client("the daemon"))
    trusting = TlsIdentity(ca=s3.authority.pem)
    known = TlsIdentity(ca=s3.authority.pem, cert=cert, key=key)
    for host, tls in ((s3.https_host, trusting), (s3.mtls_host, known)):
        reader = Reader(connects(lambda host=host, tls=tls: s3_client(web, host, insecure=False, tls=tls)))
        assert await reader.read() == {"a": b"1"}
    assert s3.requests[-1].client == "the daemon"
    for host, tls in (
        (s3.https_host, TlsIdentity()),
        (s3.https_host, TlsIdentity(ca=Authority(tmp_path / "stranger").pem)),
        (s3.mtls_host, trusting),
    ):
        reader = Reader(connects(lambda host=host, tls=tls: s3_client(web, host, insecure=False, tls=tls)))
        assert "failed to confirm existence of 'bucket' bucket: " in await reader.refusal()


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_s11_1_a_proxy_is_used_for_everything(s3: LoopbackS3, web, kind: str):
    s3.bucket(BUCKET, {"a": "1", "b": "2"})
    async with proxy(kind, login="user:pass") as between:
        way = parse_proxy(between.address.decode().replace("://", "://user:pass@"))
        tls = TlsIdentity(ca=s3.authority.pem)
        reader = Reader(connects(lambda: s3_client(web, s3.https_host, insecure=False, tls=tls, proxy=way)))
        assert len(await reader.read()) == 2
        plain = Reader(connects(lambda: s3_client(web, s3.host, proxy=way)))
        assert len(await plain.read()) == 2
        assert between.targets
        refused = parse_proxy(between.address.decode().replace("://", "://user:CNRY@"))
        wrong = Reader(connects(lambda: s3_client(web, s3.https_host, insecure=False, tls=tls, proxy=refused)))
        assert "proxy" in await wrong.refusal()


# Regions


@pytest.mark.parametrize("where", ["head", "header", "body"])
async def test_s9_1_a_region_that_the_storage_names_is_taken(s3: LoopbackS3, web, where: str):
    s3.bucket(BUCKET, {"a": "1"})

    async def elsewhere(request, ask):
        if "/eu-central-1/s3/" in request.headers.get("Authorization", ""):
            return await ask()
        named = {"x-amz-bucket-region": "eu-central-1"}
        if request.method == "HEAD":
            return Answer(400, named if where == "head" else {})
        region = "<Region>eu-central-1</Region>" if where == "body" else ""
        body = f"<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong</Message>{region}</Error>"
        return Answer(400, named if where == "header" else {}, body.encode())

    with s3.behave("*", elsewhere):
        assert await Reader(connects(lambda: s3_client(web, s3.host))).read() == {"a": b"1"}
        fixed = Reader(connects(lambda: s3_client(web, s3.host, region="us-east-1")))
        assert "AuthorizationHeaderMalformed: wrong (status 400)" in await fixed.refusal()


async def test_s9_1_a_storage_that_names_ever_other_regions_is_asked_twice(s3: LoopbackS3, web):
    s3.bucket(BUCKET, {"a": "1"})
    count = 0

    async def elsewhere(request, ask):
        nonlocal count
        count += 1
        return Answer(403, {"x-amz-bucket-region": f"region-{count}"})

    with s3.behave("*", elsewhere):
        assert "answered 403" in await Reader(connects(lambda: s3_client(web, s3.host))).refusal()
    assert count == 3


async def test_s11_1_keys_with_a_session_token_are_signed_with_it(s3: LoopbackS3, web):
    s3.session_token = "CNRY/session+token=="
    s3.bucket(BUCKET, {"a": "1"})
    keys = AwsKeys(KEYS.access_key, KEYS.secret_key, s3.session_token)
    assert await Reader(connects(lambda: s3_client(web, s3.host, keys))).read() == {"a": b"1"}


async def test_objects_that_are_stored_compressed_stay_so(s3: LoopbackS3, web):
    s3.bucket(BUCKET, {"a.json": "not really gzip"})

    async def encoded(request, ask):
        answer = await ask()
        return Answer(answer.status, {**answer.headers, "Content-Encoding": "gzip"}, answer.body)

    with s3.behave(lambda request: request.path.endswith(".json"), encoded):
        assert await Reader(connects(lambda: s3_client(web, s3.host))).read() == {"a.json": b"not really gzip"}
