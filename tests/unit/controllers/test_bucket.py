"""Buckets in the pipeline: spec/source.md 9, the rows of 11.1 about buckets, and hostile-inputs.md I05 to I09."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gitopsd.controllers.bucket import _Memory, _Place
from gitopsd.errors import RetryError, StallError
from gitopsd.fetch.errors import RemoteError
from gitopsd.kube.errors import ForbiddenError
from gitopsd.runtime.controller import Result
from tests.certificates import Authority
from tests.unit.controllers.bucketbench import Asked, BucketBench, Reply, key

GATE = "--feature-gates=ObjectLevelWorkloadIdentity=true"
KEYS = {"accesskey": "AKIAGITOPSD", "secretkey": "CNRY-secret"}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BucketBench]:
    async with BucketBench.opened(tmp_path) as bench:
        yield bench


async def fails(bench: BucketBench, reason: str, kind: type = RetryError, condition: str = "FetchFailed") -> str:
    """A run that ends in a condition: told once, and the artifact stays."""
    before = bench.status().get("artifact")
    outcome = await bench.run()
    assert type(outcome) is kind, outcome
    assert outcome.reason == reason
    status, shown, message = bench.condition(condition)  # type: ignore[misc]
    assert (status, shown) == ("True", reason), message
    assert bench.condition("Ready") == ("False", reason, message)
    assert bench.events == [("Warning", reason, message)]
    assert bench.status().get("artifact") == before
    if kind is StallError:
        assert bench.condition("Stalled") == ("True", reason, message)
        assert bench.condition("Reconciling") is None
    else:
        assert bench.condition("Reconciling")[:2] == ("True", "ProgressingWithRetry")  # type: ignore[index]
        assert bench.condition("Stalled") is None
    assert "CNRY" not in message
    return message


def revision_of(objects: dict[str, bytes], algorithm: str = "sha256") -> str:
    lines = (f"{name} {hashlib.md5(objects[name]).hexdigest()}\n" for name in sorted(objects))
    return f"{algorithm}:{hashlib.new(algorithm, ''.join(lines).encode()).hexdigest()}"


# -- runs


@pytest.mark.parametrize("other", [{"bucketName": "other"}, {"endpoint": "other:9000"}], ids=["bucket", "endpoint"])
async def test_s9_3_I04_objects_of_another_bucket_are_never_taken_for_this_ones(
    bench: BucketBench, other: dict[str, Any]
) -> None:
    """Etags need not be digests: one that counts versions says `1` everywhere."""
    bench.storage._etag = lambda _: '"1"'  # type: ignore[method-assign]
    bench.apply()
    await bench.good()
    bench.storage.objects = {"a.yaml": b"a: other\n"}
    bench.apply(**other)
    await bench.good()  # upstream sees no difference either
    bench.storage.objects["b.yaml"] = b"b: 1\n"
    await bench.good()
    assert await bench.files() == bench.storage.objects


async def test_s9_3_the_first_run_stores_an_artifact_of_the_index(bench: BucketBench) -> None:
    bench.apply(ignore="*.txt")
    bench.storage.objects |= {"b/c": b"2", "d.txt": b"ignored"}
    await bench.good()
    revision = revision_of({"a.yaml": b"a: 1\n", "b/c": b"2"})
    status = bench.status()
    assert status["artifact"]["revision"] == revision
    assert status["artifact"]["path"] == f"bucket/ns/app/{revision.removeprefix('sha256:')}.tar.gz"
    assert status["url"] == "http://localhost:9090/bucket/ns/app/latest.tar.gz"
    assert status["observedIgnore"] == "*.txt"
    assert bench.condition("ArtifactInStorage") == ("True", "Succeeded", f"stored artifact: revision '{revision}'")
    assert bench.condition("Ready") == ("True", "Succeeded", f"stored artifact: revision '{revision}'")
    assert bench.events == [("Normal", "NewArtifact", "stored artifact with 2 fetched files from 'bucket' bucket")]
    assert await bench.files() == {"a.yaml": b"a: 1\n", "b/c": b"2"}


async def test_s9_3_an_unchanged_index_downloads_nothing(bench: BucketBench) -> None:
    bench.apply()
    await bench.good()
    before = bench.status()["artifact"]
    bench.storage.asked.clear()
    await bench.good()
    assert bench.storage.downloads == []
    assert bench.events == []
    assert bench.status()["artifact"] == before


async def test_s2_6_who_asks_is_told_that_nothing_moved(bench: BucketBench) -> None:
    bench.apply()
    await bench.good()
    found = bench.cache.get(key("app"))
    assert found is not None
    annotations = {"reconcile.fluxcd.io/requestedAt": "now"}
    bench.api.put({**found, "metadata": {**found["metadata"], "annotations": annotations}})
    await bench.good()
    told = f"artifact up-to-date with remote revision: '{revision_of(bench.storage.objects)}'"
    assert bench.events == [("Trace", "ArtifactUpToDate", told)]
    assert bench.status()["lastHandledReconcileAt"] == "now"


async def test_s2_6_a_failure_that_ended_is_told(bench: BucketBench) -> None:
    bench.apply()
    await bench.good()
    bench.storage.script = lambda _: Reply(403)
    await fails(bench, "BucketOperationFailed")
    bench.storage.script = lambda _: None
    await bench.good()
    assert bench.events == [("Normal", "Succeeded", "stored artifact with 1 fetched files from 'bucket' bucket")]


async def test_s15_11_after_a_change_only_what_changed_is_downloaded(bench: BucketBench) -> None:
    bench.apply()
    bench.storage.objects |= {f"{number}": f"{number}".encode() for number in range(100)}
    await bench.good()
    bench.storage.asked.clear()
    bench.storage.objects["7"] = b"changed"
    await bench.good()
    assert bench.storage.downloads == ["7"]
    assert await bench.files() == bench.storage.objects
    bench.restart()
    bench.storage.objects["8"] = b"changed, too"
    await bench.good()
    assert bench.storage.downloads == ["8"]
    assert await bench.files() == bench.storage.objects


async def test_s3_4_a_new_index_is_told_while_it_is_fetched(bench: BucketBench) -> None:
    bench.apply()
    await bench.good()
    bench.storage.objects["b"] = b"2"

    def refuse(asked: Asked) -> Reply | None:
        return Reply(403) if asked.url.endswith("/b") else None

    bench.storage.script = refuse
    message = await fails(bench, "BucketOperationFailed")
    assert message == "fetch from bucket 'bucket' failed: failed to get 'b' object: the storage answered 403"
    told = f"new upstream revision '{revision_of(bench.storage.objects)}'"
    assert bench.condition("ArtifactOutdated") == ("True", "NewRevision", told)
    bench.storage.script = lambda _: None
    await bench.good()
    assert bench.condition("ArtifactOutdated") is None
    assert bench.condition("FetchFailed") is None


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
async def test_s4_2_the_stored_revisions_own_algorithm_decides_whether_it_is_current(
    bench: BucketBench, algorithm: str
) -> None:
    bench.apply()
    await bench.good()
    before = bench.status()["artifact"]
    bench.restart(f"--artifact-digest-algo={algorithm}")
    await bench.good()
    assert bench.status()["artifact"] == before
    bench.storage.objects["b"] = b"2"
    await bench.good()
    assert bench.status()["artifact"]["revision"] == revision_of(bench.storage.objects, algorithm)


async def test_s9_2_spec_ignore_matters_only_through_the_index(bench: BucketBench) -> None:
    bench.apply(ignore="*.txt")
    await bench.good()
    before = bench.status()["artifact"]
    bench.apply(ignore="*.png")
    await bench.good()
    assert bench.status()["artifact"] == before
    assert bench.status()["observedIgnore"] == "*.txt"
    bench.apply(ignore="*.yaml")
    await bench.good()
    assert await bench.files() == {}
    assert bench.status()["observedIgnore"] == "*.yaml"


async def test_s9_2_the_rules_file_is_in_the_artifact_and_not_in_the_count(bench: BucketBench) -> None:
    bench.apply(prefix="app/")
    bench.storage.objects = {".sourceignore": b"*.txt\n", "app/a": b"1", "app/b.txt": b"2", "other": b"3"}
    await bench.good()
    assert await bench.files() == {".sourceignore": b"*.txt\n", "app/a": b"1"}
    assert bench.status()["artifact"]["revision"] == revision_of({"app/a": b"1"})
    assert bench.events[-1][2] == "stored artifact with 1 fetched files from 'bucket' bucket"


async def test_a_lost_artifact_is_fetched_again(bench: BucketBench, tmp_path: Path) -> None:
    bench.apply()
    await bench.good()
    (tmp_path / bench.status()["artifact"]["path"]).unlink()
    bench.storage.asked.clear()
    await bench.good()
    assert bench.storage.downloads == ["a.yaml"]


async def test_s4_6_deletion_drops_the_artifact(bench: BucketBench, tmp_path: Path) -> None:
    bench.apply()
    await bench.good()
    found = bench.cache.get(key("app"))
    assert found is not None
    bench.api.put({**found, "metadata": {**found["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    assert isinstance(await bench.run(), Result)
    assert not (tmp_path / "bucket/ns/app").exists()
    assert not bench.source._memory._known
    assert not bench.source._memory._held


# -- what fails, by the table of 9.4

ABSENT = 'secrets "nope" not found'


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"secretRef": {"name": "nope"}}, f"failed to get secret 'ns/nope': {ABSENT}"),
        ({"proxySecretRef": {"name": "nope"}}, f"failed to get proxy URL: {ABSENT}"),
        (
            {"proxySecretRef": {"name": "empty"}},
            "failed to get proxy URL: invalid proxy secret: key 'address' is missing",
        ),
        ({"insecure": None, "certSecretRef": {"name": "nope"}}, f"failed to get TLS config: {ABSENT}"),
        (
            {"insecure": None, "certSecretRef": {"name": "empty"}},
            "failed to get TLS config: invalid TLS secret 'ns/empty': it holds neither 'ca.crt' nor 'tls.crt' and ",
        ),
        (
            {"insecure": None, "certSecretRef": {"name": "bad"}},
            "failed to get TLS config: 'ca.crt' holds no PEM certificate",
        ),
        (
            {"sts": {"provider": "ldap", "endpoint": "https://sts", "secretRef": {"name": "nope"}}},
            f"failed to get STS secret 'ns/nope': {ABSENT}",
        ),
        (
            {"sts": {"provider": "ldap", "endpoint": "https://sts", "secretRef": {"name": "empty"}}},
            "invalid 'empty' secret data for 'ldap' STS provider: required fields username, password",
        ),
        (
            {"sts": {"provider": "ldap", "endpoint": "https://sts", "certSecretRef": {"name": "nope"}}},
            f"failed to get STS TLS config: {ABSENT}",
        ),
        (
            {"secretRef": {"name": "empty"}},
            "invalid 'empty' secret data: required fields 'accesskey' and 'secretkey'",
        ),
        (
            {"provider": "aws", "secretRef": {"name": "empty"}},
            "invalid 'empty' secret data: required fields 'accesskey' and 'secretkey'",
        ),
        (
            {"provider": "gcp", "secretRef": {"name": "empty"}},
            "invalid 'empty' secret data: required fields 'serviceaccount'",
        ),
        (
            {"provider": "gcp", "secretRef": {"name": "bad"}},
            "invalid 'bad' secret data: the service account's key is no JSON object",
        ),
        (
            {"provider": "azure", "endpoint": "https://a.blob.core.windows.net", "secretRef": {"name": "empty"}},
            "invalid 'empty' secret data: it holds none of 'clientId', 'accountKey', 'sasKey', or 'tenantId' and "
            "'clientId' with a secret or a certificate",
        ),
        ({"endpoint": "http://minio:9000"}, "endpoint 'http://minio:9000' is not a host, or a host and a port"),
        ({"endpoint": "minio:9000/path"}, "endpoint 'minio:9000/path' is not a host, or a host and a port"),
        (
            {"provider": "azure", "endpoint": "a.blob.core.windows.net"},
            "endpoint 'a.blob.core.windows.net': the URL has scheme '', not http or https",
        ),
        (
            {"provider": "azure", "endpoint": "https://a.b.c", "secretRef": {"name": "certificate"}},
            "invalid 'certificate' secret data: ",
        ),
    ],
)
async def test_s9_4_what_is_wrong_with_references_is_told_before_anything_is_connected(
    bench: BucketBench, spec: dict[str, Any], says: str
) -> None:
    """Also I05 and I08."""
    bench.secret("empty", {})
    bench.secret("bad", {"ca.crt": "CNRY no PEM", "serviceaccount": "CNRY no JSON"})
    bench.secret("certificate", {"tenantId": "t", "clientId": "c", "clientCertificate": "CNRY no PEM"})
    bench.apply()
    await bench.good()
    bench.apply(**spec)
    bench.storage.asked.clear()
    assert (await fails(bench, "AuthenticationFailed")).startswith(says)
    assert bench.storage.asked == []


async def test_I08_a_secret_with_some_keys_missing_is_repaired_without_a_restart(bench: BucketBench) -> None:
    bench.secret("creds", {"accesskey": "AKIA"})
    bench.apply(secretRef={"name": "creds"})
    message = await fails(bench, "AuthenticationFailed")
    assert message == "invalid 'creds' secret data: required fields 'accesskey' and 'secretkey'"
    bench.secret("creds", KEYS)
    await bench.good()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"provider": "gcp"}, "STS configuration is not supported for 'gcp' bucket provider"),
        (
            {"provider": "azure", "endpoint": "https://a.b.c"},
            "STS configuration is not supported for 'azure' bucket provider",
        ),
        ({"provider": "aws"}, "STS provider 'ldap' is not supported for 'aws' bucket provider"),
        (
            {"sts": {"provider": "aws", "endpoint": "https://sts"}},
            "STS provider 'aws' is not supported for 'generic' bucket provider",
        ),
    ],
)
async def test_I09_a_token_service_that_the_provider_does_not_know_stalls(
    bench: BucketBench, spec: dict[str, Any], says: str
) -> None:
    """9.4 InvalidSTSConfiguration; what admission refuses, and an object of before may still have."""
    bench.apply(**{"sts": {"provider": "ldap", "endpoint": "https://sts"}, **spec})
    assert await fails(bench, "InvalidSTSConfiguration", StallError) == says


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("https://[::1", "failed to parse STS endpoint 'https://[::1': it is no URL"),
        ("https://", "failed to parse STS endpoint 'https://': it names no host"),
        ("http://h:port?sig=CNRY", "failed to parse STS endpoint 'http://h:port': it is no URL"),
        ("http://a b", "failed to parse STS endpoint 'http://a b': it holds characters that a URL does not have"),
    ],
)
async def test_I09_a_token_service_without_an_address_stalls(bench: BucketBench, endpoint: str, says: str) -> None:
    bench.apply(sts={"provider": "ldap", "endpoint": endpoint})
    assert await fails(bench, "URLInvalid", StallError) == says


def only(pattern: str, reply: Reply) -> Any:
    """Answer requests whose method and address hold `pattern`."""
    return lambda asked: reply if pattern in f"{asked.method} {asked.url}" else None


@pytest.mark.parametrize(
    ("pattern", "reply", "says"),
    [
        ("HEAD", Reply(404), "bucket 'bucket' not found"),
        (
            "bucket/?",
            Reply(404, b"<Error><Code>NoSuchBucket</Code></Error>"),
            "indexation of objects from bucket 'bucket' ",
        ),
        ("bucket/", Reply(403), "failed to confirm existence of 'bucket' bucket: the storage answered 403"),
        (
            "bucket/.sourceignore",
            Reply(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"),
            "failed to get Etag for '.sourceignore' object: AccessDenied: no (status 403)",
        ),
        (
            "GET http://minio:9000/bucket/?",
            Reply(400, b"<Error><Code>InvalidArgument</Code></Error>"),
            "indexation of objects from bucket 'bucket' failed: InvalidArgument (status 400)",
        ),
        (
            "bucket/a.yaml",
            Reply(400, b"<Error><Code>InvalidRequest</Code><Message>see http://h/k?sig=CNRY</Message></Error>"),
            "fetch from bucket 'bucket' failed: failed to get 'a.yaml' object: InvalidRequest: see http://h/k (status ",
        ),
    ],
    ids=["not-found", "not-found-later", "existence", "sourceignore", "listing", "object"],
)
async def test_s9_4_what_the_storage_refuses_is_told_in_its_words(
    bench: BucketBench, pattern: str, reply: Reply, says: str
) -> None:
    """Also I06 and I07."""
    bench.apply()
    bench.storage.script = only(pattern, reply)
    assert (await fails(bench, "BucketOperationFailed")).startswith(says)


async def test_s9_4_a_storage_that_cannot_be_written_is_told(bench: BucketBench, tmp_path: Path) -> None:
    bench.apply()
    (tmp_path / "bucket").write_text("in the way")
    status, reason, message = (await bench.run(), bench.condition("StorageOperationFailed"))[1] or ("", "", "")
    assert status == "True"
    assert reason in {"ArchiveOperationFailed", "DirectoryCreationFailed", "StatOperationFailed"}
    assert str(tmp_path) not in message


async def test_I02_keys_that_exclude_each_other_keep_the_artifact(bench: BucketBench) -> None:
    bench.apply()
    await bench.good()
    bench.storage.objects |= {"x": b"1", "x/y": b"2"}
    message = await fails(bench, "BucketOperationFailed")
    assert message == "fetch from bucket 'bucket' failed: 'x' is both a file and a directory"
    assert await bench.files() == {"a.yaml": b"a: 1\n"}


# -- identities, by the tables of 11


async def test_s11_1_static_keys_sign_requests_of_generic_and_aws(bench: BucketBench) -> None:
    bench.secret("creds", KEYS)
    for provider in ("generic", "aws"):
        bench.apply(provider=provider, secretRef={"name": "creds"}, region="eu-west-1")
        await bench.good()
        signed = bench.storage.asked[-1].headers["Authorization"]
        assert "Credential=AKIAGITOPSD/" in signed
        assert "/eu-west-1/s3/aws4_request" in signed
    assert bench.cloud.asked == []


async def test_I05_a_slash_at_the_end_of_an_endpoint_is_no_path(bench: BucketBench) -> None:
    bench.apply(endpoint="minio:9000/")
    await bench.good()
    assert bench.storage.asked[0].url == "http://minio:9000/bucket/"


async def test_s14_10_generic_without_a_secret_is_anonymous(bench: BucketBench) -> None:
    bench.apply()
    await bench.good()
    assert all("Authorization" not in asked.headers for asked in bench.storage.asked)


async def test_s11_2_aws_without_a_secret_asks_for_the_daemons_own_keys(bench: BucketBench) -> None:
    bench.apply(provider="aws", region="eu-west-1")
    await bench.good()
    (_, identity, region, endpoint) = bench.cloud.asked[0]
    assert (identity.kind, identity.namespace, identity.name, region, endpoint) == (
        "Bucket",
        "ns",
        "app",
        "eu-west-1",
        "",
    )
    assert identity.token is None
    asked = bench.storage.asked[-1].headers
    assert "Credential=CLOUDKEY/" in asked["Authorization"]
    assert asked["x-amz-security-token"] == "CNRY-session"
    bench.apply(sts={"provider": "aws", "endpoint": "https://sts.example.com"})
    await bench.good()
    assert bench.cloud.asked[-1][2:] == ("eu-west-1", "https://sts.example.com")


async def test_s9_4_a_cloud_that_gives_no_keys_fails_the_existence_check(bench: BucketBench) -> None:
    bench.cloud.failure = RemoteError("no keys for you")
    for provider in ("aws", "gcp"):
        bench.apply(provider=provider)
        message = await fails(bench, "BucketOperationFailed")
        assert message == "failed to confirm existence of 'bucket' bucket: no keys for you"


async def test_s9_4_a_service_account_needs_the_gate(bench: BucketBench) -> None:
    for provider in ("aws", "gcp", "azure"):
        bench.apply(provider=provider, serviceAccountName="robot", endpoint="https://a.b.c")
        assert await fails(bench, "FeatureGateDisabled", StallError) == (
            "to use spec.serviceAccountName for provider authentication please enable the ObjectLevelWorkloadIdentity "
            "feature gate in the controller"
        )


async def test_s11_2_a_service_accounts_identity_is_used_with_the_gate(tmp_path: Path) -> None:
    async with BucketBench.opened(tmp_path, GATE) as bench:
        bench.apply(provider="aws", serviceAccountName="robot")
        message = await fails(bench, "AuthenticationFailed")
        assert message == "failed to get service account 'ns/robot': serviceaccounts \"robot\" not found"
        bench.account("robot", {"eks.amazonaws.com/role-arn": "arn"})
        await bench.good()
        identity = bench.cloud.asked[0][1]
        assert (identity.service_account, identity.annotations) == ("robot", {"eks.amazonaws.com/role-arn": "arn"})
        assert identity.token is not None
        assert await identity.token("sts.amazonaws.com") == "made"


async def test_s9_4_a_token_that_the_api_server_refuses_fails_the_existence_check(tmp_path: Path) -> None:
    async with BucketBench.opened(tmp_path, GATE) as bench:
        bench.account("robot", {})
        bench.api.refusal = ForbiddenError(403, "Forbidden", 'serviceaccounts "robot" is forbidden')
        bench.cloud.asks_for_tokens = True
        for provider in ("aws", "gcp"):
            bench.apply(provider=provider, serviceAccountName="robot")
            message = await fails(bench, "BucketOperationFailed")
            assert message == (
                "failed to confirm existence of 'bucket' bucket: failed to get a token of service account 'ns/robot': "
                'serviceaccounts "robot" is forbidden'
            )


async def test_s11_2_generic_and_static_keys_never_take_an_identity(tmp_path: Path) -> None:
    async with BucketBench.opened(tmp_path, GATE, "--default-source-service-account=robot") as bench:
        bench.secret("creds", KEYS)
        bench.apply()
        await bench.good()
        bench.apply(provider="aws", secretRef={"name": "creds"})
        await bench.good()
        assert bench.cloud.asked == []
        bench.apply(provider="aws", secretRef=None)
        assert await fails(bench, "AuthenticationFailed")


async def test_s11_1_an_ldap_login_is_exchanged_for_keys(bench: BucketBench) -> None:
    bench.secret("login", {"username": "user", "password": "CNRY-pw"})
    bench.secret("proxy", {"address": "http://proxy:3128"})
    sts = {"provider": "ldap", "endpoint": "http://minio:9000/sts", "secretRef": {"name": "login"}}
    bench.apply(sts=sts, proxySecretRef={"name": "proxy"})
    keys = "<C><Credentials><AccessKeyId>LDAPKEY</AccessKeyId><SecretAccessKey>s</SecretAccessKey></Credentials></C>"
    bench.storage.script = only("/sts", Reply(200, keys.encode()))
    await bench.good()
    asked = bench.storage.asked[0]
    assert asked.method == "POST"
    assert asked.access.proxy is not None
    assert asked.access.proxy.host == "proxy"
    assert b"LDAPUsername=user&LDAPPassword=CNRY-pw" in (asked.body or b"")
    assert "Credential=LDAPKEY/" in bench.storage.asked[-1].headers["Authorization"]
    bench.storage.script = only(
        "/sts", Reply(400, b"<E><Error><Code>Denied</Code><Message>CNRY-pw</Message></Error></E>")
    )
    message = await fails(bench, "BucketOperationFailed")
    assert message == (
        "failed to confirm existence of 'bucket' bucket: the STS endpoint refused (status 400): Denied: ***"
    )


async def test_s11_1_static_keys_win_over_a_token_service_which_is_checked_nevertheless(bench: BucketBench) -> None:
    bench.secret("creds", KEYS)
    bench.apply(secretRef={"name": "creds"}, sts={"provider": "ldap", "endpoint": "http://minio:9000/sts"})
    await bench.good()
    assert all("/sts" not in asked.url for asked in bench.storage.asked)


async def test_s9_1_certificates_and_proxies_are_taken_along(bench: BucketBench, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    cert, private = (path.read_text() for path in authority.client("daemon"))
    bench.secret("tls", {"ca.crt": authority.pem, "tls.crt": cert, "tls.key": private})
    bench.secret("legacy", {"caFile": authority.pem})
    bench.secret("proxy", {"address": "socks5://proxy:1080", "username": "u", "password": "CNRY"})
    for name in ("tls", "legacy"):
        bench.apply(insecure=None, certSecretRef={"name": name}, proxySecretRef={"name": "proxy"})
        bench.storage.asked.clear()
        await bench.good()
        for asked in bench.storage.asked:
            assert asked.url.startswith("https://minio:9000/")
            assert asked.access.tls.ca == authority.pem
            assert bool(asked.access.tls.cert) is (name == "tls")
            assert asked.access.proxy is not None
            assert asked.access.proxy.url == "socks5://proxy:1080"


async def test_s9_1_certificates_are_not_read_when_insecure_nor_by_others(bench: BucketBench) -> None:
    bench.apply(certSecretRef={"name": "nope"})
    await bench.good()
    bench.storage.script = gcs_of({"a": b"1"})
    bench.apply(provider="gcp", insecure=None)
    await bench.good()


# -- Google and Azure


def gcs_of(objects: dict[str, bytes]) -> Any:
    items = ",".join(
        f'{{"name":"{name}","etag":"e-{name}","size":"{len(content)}","generation":"1"}}'
        for name, content in objects.items()
    )

    def script(asked: Asked) -> Reply | None:
        path = asked.url.partition("?")[0]
        if path.endswith("/storage/v1/b/bucket"):
            return Reply(200, b'{"name":"bucket"}')
        if path.endswith("/o"):
            return Reply(200, f'{{"items":[{items}]}}'.encode())
        name = path.rpartition("/")[2]
        return Reply(200, objects[name]) if name in objects else Reply(404)

    return script


async def test_s11_2_gcp_without_a_secret_takes_the_daemons_token(bench: BucketBench) -> None:
    bench.storage.script = gcs_of({"a": b"1", "b": b"2"})
    bench.apply(provider="gcp", endpoint="is.not.used")
    await bench.good()
    assert await bench.files() == {"a": b"1", "b": b"2"}
    lines = b"a e-a\nb e-b\n"
    assert bench.status()["artifact"]["revision"] == f"sha256:{hashlib.sha256(lines).hexdigest()}"
    assert {asked.access.authorization for asked in bench.storage.asked} == {"Bearer CNRY-gcp-token"}
    assert all(
        asked.url.startswith("https://storage.googleapis.com/storage/v1/b/bucket") for asked in bench.storage.asked
    )


async def test_s16_1_9_4_gcp_takes_keys_of_service_accounts_only(bench: BucketBench) -> None:
    bench.secret("creds", {"serviceaccount": '{"type": "external_account"}'})
    bench.apply(provider="gcp", secretRef={"name": "creds"})
    message = await fails(bench, "AuthenticationFailed")
    assert message == "invalid 'creds' secret data: only keys of type 'service_account' can be used"
    assert bench.storage.asked == []


def azure_of(objects: dict[str, bytes]) -> Any:
    rows = "".join(
        f"<Blob><Name>{name}</Name><Properties><Etag>0x{len(content)}</Etag>"
        f"<Content-Length>{len(content)}</Content-Length></Properties></Blob>"
        for name, content in objects.items()
    )
    listing = f"<EnumerationResults><Blobs>{rows}</Blobs><NextMarker /></EnumerationResults>".encode()

    def script(asked: Asked) -> Reply | None:
        if "/oauth2/" in asked.url:
            return Reply(200, b'{"access_token":"CNRY-exchanged","expires_in":3600,"token_type":"Bearer"}')
        if "comp=list" in asked.url:
            return Reply(200, listing)
        name = asked.url.partition("?")[0].rpartition("/")[2]
        return Reply(200, objects[name]) if name in objects else Reply(404)

    return script


@pytest.mark.parametrize(
    ("data", "authorization", "query"),
    [
        ({"tenantId": "t", "clientId": "c", "clientSecret": "CNRY-s"}, "Bearer CNRY-exchanged", ""),
        ({"clientId": "c"}, "Bearer CNRY-managed-token", ""),
        ({"accountKey": base64.b64encode(b"key").decode()}, "SharedKey account:", ""),
        ({"sasKey": "?sv=1&sig=CNRY"}, "", "sv=1&sig=CNRY"),
        ({"authorityHost": "https://login.example.com"}, "Bearer CNRY-azure-token", ""),
        (None, "Bearer CNRY-azure-token", ""),
    ],
    ids=["client-secret", "managed", "account-key", "sas", "authority-only", "none"],
)
async def test_s11_1_azure_proves_itself_as_its_secret_says(
    bench: BucketBench, data: dict[str, str] | None, authorization: str, query: str
) -> None:
    bench.storage.script = azure_of({"a": b"1"})
    bench.secret("creds", data or {})
    reference = {"name": "creds"} if data is not None else None
    bench.apply(provider="azure", endpoint="https://account.blob.core.windows.net", secretRef=reference)
    await bench.good()
    asked = [one for one in bench.storage.asked if "/oauth2/" not in one.url]
    for one in asked:
        found = one.access.authorization or one.headers.get("Authorization", "")
        assert found.startswith(authorization) if authorization else not found
        assert query in one.url
    line = b'a "0x1"\n'
    assert bench.status()["artifact"]["revision"] == f"sha256:{hashlib.sha256(line).hexdigest()}"


async def test_s11_2_azure_without_any_identity_is_anonymous(bench: BucketBench) -> None:
    bench.storage.script = azure_of({"a": b"1"})
    bench.cloud.is_nobody()
    bench.apply(provider="azure", endpoint="http://account.blob.core.windows.net")
    await bench.good()
    assert all(not asked.access.authorization for asked in bench.storage.asked)


async def test_a_token_is_not_sent_to_azure_without_tls(bench: BucketBench) -> None:
    bench.apply(provider="azure", endpoint="http://account.blob.core.windows.net")
    message = await fails(bench, "BucketOperationFailed")
    assert message == "failed to confirm existence of 'bucket' bucket: a bearer token cannot be sent over HTTP"
    assert bench.storage.asked == []


# -- memory


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    memory = _Memory(budget=64)
    place = _Place("generic", "minio:9000", "bucket")
    for number in range(3):
        memory.note(key(f"{number}"), "r", place, bytes(32))
    assert [memory.knows(key(f"{number}"), "r") for number in range(3)] == [False, True, True]
    memory.note(key("1"), "r2", place, bytes(16))
    assert not memory.knows(key("1"), "r")
    assert memory.knows(key("1"), "r2")
    memory.note(key("large"), "r", place, bytes(100))
    assert not memory.knows(key("large"), "r")
