"""Buckets end to end: the daemon, the real API server, a real S3 server, and one that counts what it is asked."""

from __future__ import annotations

import base64
import io
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiclient import ApiStatusError, Obj
from tests.controlplane import ControlPlane
from tests.flows.hostile import Hostile
from tests.flows.stage import SOURCE_API, Stage, condition, config_map, is_ready
from tests.servers.buckets import LoopbackS3, S3Server, is_listing, s3_page

REVISION = "source.toolkit.fluxcd.io/revision"


@pytest.fixture(scope="module")
def real_s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.check_signatures()
        yield server


@pytest.fixture
def counting() -> Iterator[LoopbackS3]:
    with LoopbackS3() as server:
        yield server


def secret(stage: Stage, name: str, **data: str) -> None:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}
    stage.api.apply(obj, stage.namespace)


def bucket(stage: Stage, endpoint: str, name: str = "app", **spec: Any) -> Obj:
    wanted = {"bucketName": "bucket", "endpoint": endpoint, "insecure": True, "interval": "10m"} | spec
    return stage.apply("Bucket", name, {field: value for field, value in wanted.items() if value is not None})


def served(url: str) -> dict[str, bytes]:
    """The files of an archive that is served."""
    with urllib.request.urlopen(url, timeout=10) as answer, tarfile.open(fileobj=io.BytesIO(answer.read())) as archive:
        files = {one.name: archive.extractfile(one) for one in archive.getmembers() if one.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


def at_another(revision: str):
    """Ready, and at another revision."""
    return lambda obj: is_ready(obj) and obj["status"]["artifact"]["revision"] != revision


def refetched(stage: Stage) -> Obj:
    return stage.handled("Bucket", stage.request("Bucket"))


def test_s9_objects_of_a_real_bucket_reach_the_cluster_and_follow_its_changes(stage: Stage, real_s3: S3Server) -> None:
    name = f"b-{stage.namespace}"
    objects = {"deploy/cm.yaml": config_map("one", key="1"), "notes.txt": "x", ".sourceignore": "*.txt\n"}
    real_s3.bucket(name, objects)
    secret(stage, "creds", accesskey=real_s3.keys[0], secretkey=real_s3.keys[1])
    bucket(stage, real_s3.address, bucketName=name, secretRef={"name": "creds"})
    stage.kustomization(path="./deploy", sourceRef={"kind": "Bucket", "name": "app"})
    seen = stage.until_ready("Bucket")
    first = seen["status"]["artifact"]
    stage.until_applied(first["revision"])
    assert (stage.get("ConfigMap", "one") or {})["data"] == {"key": "1"}
    assert condition(seen)["message"] == f"stored artifact: revision '{first['revision']}'"
    assert served(seen["status"]["url"]) == {
        "deploy/cm.yaml": objects["deploy/cm.yaml"].encode(),
        ".sourceignore": b"*.txt\n",
    }
    assert seen["status"]["url"].endswith(f"/bucket/{stage.namespace}/app/latest.tar.gz")

    real_s3.put(name, {"deploy/two.yaml": config_map("two")})
    second = refetched(stage)["status"]["artifact"]
    assert second["revision"] != first["revision"]
    stage.until_applied(second["revision"])
    assert stage.get("ConfigMap", "two") is not None

    real_s3.delete(name, "deploy/two.yaml")
    third = refetched(stage)["status"]["artifact"]
    assert (third["revision"], third["digest"]) == (first["revision"], first["digest"])
    stage.until("ConfigMap", "two", lambda obj: obj is None)

    def told() -> list[Obj]:
        return [one for one in stage.events("Bucket") if one["reason"] == "NewArtifact"]

    stage.until("Bucket", "app", lambda _: len(told()) > 0)
    assert {one["message"] for one in told()} <= {
        f"stored artifact with {count} fetched files from '{name}' bucket" for count in (1, 2)
    }
    assert all(one["metadata"]["annotations"][REVISION].startswith("sha256:") for one in told())


def test_I07_I08_failures_keep_what_is_there_and_heal_by_themselves(
    hostile: Hostile, stage: Stage, real_s3: S3Server
) -> None:
    """Wrong keys, half a Secret, no Secret, no bucket: told, and repaired without a restart."""
    hostile.secrets = ("CNRY-wrong",)
    name = f"b-{stage.namespace}"
    real_s3.bucket(name, {"cm.yaml": config_map("one")})
    good = {"accesskey": real_s3.keys[0], "secretkey": real_s3.keys[1]}
    secret(stage, "creds", **good)
    bucket(stage, real_s3.address, bucketName=name, secretRef={"name": "creds"})
    before = stage.until_ready("Bucket")["status"]["artifact"]
    secret(stage, "half", accesskey=good["accesskey"])
    secret(stage, "wrong", accesskey=good["accesskey"], secretkey="CNRY-wrong")
    cases = [
        ({"secretRef": {"name": "nope"}}, "AuthenticationFailed", f"failed to get secret '{stage.namespace}/nope': "),
        ({"secretRef": {"name": "half"}}, "AuthenticationFailed", "required fields 'accesskey' and 'secretkey'"),
        ({"secretRef": {"name": "wrong"}}, "BucketOperationFailed", "SignatureDoesNotMatch"),
        ({"bucketName": "no-such-bucket"}, "BucketOperationFailed", "bucket 'no-such-bucket' not found"),
        ({"endpoint": "127.0.0.1:1"}, "BucketOperationFailed", "cannot talk to 127.0.0.1:1: "),
        ({"endpoint": f"http://{real_s3.address}"}, "AuthenticationFailed", "is not a host, or a host and a port"),
    ]
    for changed, reason, says in cases:
        bucket(stage, **{"endpoint": real_s3.address, "bucketName": name, "secretRef": {"name": "creds"}, **changed})
        seen = stage.until(
            "Bucket",
            "app",
            lambda obj, says=says: says in condition(obj).get("message", ""),
        )
        assert (condition(seen)["status"], condition(seen)["reason"]) == ("False", reason)
        assert condition(seen, "FetchFailed")["message"] == condition(seen)["message"]
        assert condition(seen, "Reconciling")["reason"] == "ProgressingWithRetry"
        hostile.assert_fit(str(changed), condition(seen)["message"])
        assert seen["status"]["artifact"] == before
        assert served(before["url"]) == {"cm.yaml": config_map("one").encode()}
    hostile.assert_others_are_fine()
    bucket(stage, real_s3.address, bucketName=name, secretRef={"name": "creds"})
    assert stage.until_ready("Bucket")["status"]["artifact"]["revision"] == before["revision"]


HOSTILE = {
    "../../x": "leads out of the bucket",
    "a/../../b": "leads out of the bucket",
    "a\0b": "holds a NUL byte",
    "good/x": "'good' is both a file and a directory",
}


def test_I01_I02_hostile_keys_write_nothing_and_keep_the_artifact(
    hostile: Hostile, stage: Stage, counting: LoopbackS3
) -> None:
    held = counting.bucket("bucket", {"good": "1"})
    bucket(stage, counting.host)
    before = stage.until_ready("Bucket")["status"]["artifact"]
    for key, says in HOSTILE.items():

        async def listing(request, ask, key=key):
            return s3_page([("good", counting.etag("bucket", "good"), 1), (key, "e", 1)])

        with counting.behave(is_listing, listing):
            stage.request("Bucket")
            seen = stage.until("Bucket", "app", lambda obj, says=says: says in condition(obj).get("message", ""))
        assert condition(seen)["reason"] == "BucketOperationFailed"
        hostile.assert_fit(key, condition(seen)["message"])
        assert seen["status"]["artifact"] == before
    held["good"] = b"2"
    seen = stage.until("Bucket", "app", at_another(before["revision"]), timeout=40)
    assert served(seen["status"]["artifact"]["url"]) == {"good": b"2"}
    assert not list(Path(hostile.daemon.storage).glob("**/x"))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"provider": "gcp", "sts": {"provider": "ldap", "endpoint": "https://s"}},
            "STS configuration is only supported for the 'aws' and 'generic' Bucket providers",
        ),
        (
            {"provider": "azure", "sts": {"provider": "aws", "endpoint": "https://s"}},
            "STS configuration is only supported for the 'aws' and 'generic' Bucket providers",
        ),
        (
            {"provider": "aws", "sts": {"provider": "ldap", "endpoint": "https://s"}},
            "'aws' is the only supported STS provider for the 'aws' Bucket provider",
        ),
        (
            {"sts": {"provider": "aws", "endpoint": "https://s"}},
            "'ldap' is the only supported STS provider for the 'generic' Bucket provider",
        ),
        (
            {"provider": "aws", "sts": {"provider": "aws", "endpoint": "https://s", "secretRef": {"name": "s"}}},
            "spec.sts.secretRef is not required for the 'aws' STS provider",
        ),
        (
            {"provider": "aws", "sts": {"provider": "aws", "endpoint": "https://s", "certSecretRef": {"name": "s"}}},
            "spec.sts.certSecretRef is not required for the 'aws' STS provider",
        ),
        ({"serviceAccountName": "a"}, "ServiceAccountName is not supported for the 'generic' Bucket provider"),
        (
            {"provider": "aws", "serviceAccountName": "a", "secretRef": {"name": "s"}},
            "cannot set both .spec.secretRef and .spec.serviceAccountName",
        ),
        ({"provider": "other"}, "spec.provider: Unsupported value"),
        ({"sts": {"provider": "ldap", "endpoint": "ftp://s"}}, "spec.sts.endpoint in body should match"),
        ({"sts": {"provider": "ldap"}}, "spec.sts.endpoint: Required value"),
        ({"sts": {"provider": "other", "endpoint": "https://s"}}, "spec.sts.provider: Unsupported value"),
        ({"interval": "1x"}, "spec.interval in body should match"),
        ({"timeout": "1h"}, "spec.timeout in body should match"),
        ({"bucketName": None}, "spec.bucketName: Required value"),
        ({"endpoint": None}, "spec.endpoint: Required value"),
        ({"interval": None}, "spec.interval: Required value"),
    ],
)
def test_s9_1_I05_I08_I09_what_the_api_server_refuses(
    control_plane: ControlPlane, namespace: str, spec: dict[str, Any], says: str
) -> None:
    wanted = {"bucketName": "b", "endpoint": "minio:9000", "interval": "1m", "suspend": True} | spec
    wanted = {field: value for field, value in wanted.items() if value is not None}
    obj = {"apiVersion": SOURCE_API, "kind": "Bucket", "metadata": {"name": "refused"}, "spec": wanted}
    with pytest.raises(ApiStatusError) as caught:
        control_plane.api.create(obj, namespace)
    assert caught.value.status == 422
    assert says in str(caught.value)
