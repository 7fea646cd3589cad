"""OCIRepositories from the registry to the cluster: a daemon, the real control plane, and real registries."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.apiclient import Obj
from tests.certificates import Authority
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import Stage, condition, config_map, is_ready
from tests.servers import trouble
from tests.servers.git import GitServer
from tests.servers.registry import FLUX_CONTENT, HELM_CONTENT, Blob, Registry
from tests.servers.registryfront import RegistryFront
from tests.servers.tokens import TokenServer
from tests.signers import Signatures
from tests.sigstore import new_key, public_pem

OCI = "OCIRepository"
FAILED = "FetchFailed"


class OciStage(Stage):
    """A stage whose namespace has a part of a registry of the same name."""

    registry: Registry
    daemon: Daemon

    @property
    def path(self) -> str:
        return f"{self.namespace}/app"

    def put(self, tag: str = "latest", files: Mapping[str, str | bytes] | None = None, **more: Any) -> str:
        """Push an artifact; returns the digest."""
        return self.registry.push(self.path, tag, files or {"cm.yaml": config_map("one")}, **more)

    def oci(self, name: str = "app", *, host: str = "", **spec: Any) -> Obj:
        """Apply an OCIRepository of the stage's artifact."""
        url = f"oci://{host or self.registry.host}/{self.path}"
        wanted = {"url": url, "interval": "10m", "insecure": True} | spec
        return self.apply(OCI, name, {key: value for key, value in wanted.items() if value is not None})

    def secret(self, name: str, kind: str = "Opaque", /, **data: bytes) -> None:
        """Apply a Secret; `__` in keys is a dot."""
        encoded = {key.replace("__", "."): base64.b64encode(value).decode() for key, value in data.items()}
        obj = {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"name": name}, "data": encoded}
        self.api.apply(obj, self.namespace)

    def pull_secret(self, name: str, host: str, user: str, password: str) -> None:
        """Apply what `kubectl create secret docker-registry` makes."""
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        config = {"auths": {host: {"username": user, "password": password, "auth": auth}}}
        self.secret(name, "kubernetes.io/dockerconfigjson", __dockerconfigjson=json.dumps(config).encode())

    def until_failed(self, reason: str, name: str = "app", text: str = "") -> Obj:
        """Wait until Ready is False for a reason."""

        def has_failed(obj: Obj | None) -> bool:
            ready = condition(obj)
            return ready.get("status") == "False" and ready["reason"] == reason and text in ready["message"]

        return self.until(OCI, name, has_failed)

    def ask(self, name: str = "app") -> Obj:
        """Ask for a look at the registry, and wait for the answer."""
        return self.handled(OCI, self.request(OCI, name), name)

    def told(self, name: str = "app") -> list[tuple[str, str, str]]:
        """Type, reason and message of the object's events."""
        return [(one["type"], one["reason"], one["message"]) for one in self.events(OCI, name)]

    def until_told(self, accept: Callable[[tuple[str, str, str]], bool], name: str = "app") -> None:
        """Wait for an event."""
        deadline = time.monotonic() + 10
        while not any(map(accept, self.told(name))):
            assert time.monotonic() < deadline, self.told(name)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def stage(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, daemon: Daemon, registry: Registry
) -> OciStage:
    found = OciStage(control_plane, git_server, namespace)
    found.registry, found.daemon = registry, daemon
    return found


def stored(obj: Obj) -> bytes:
    with urllib.request.urlopen(obj["status"]["artifact"]["url"]) as answer:
        return bytes(answer.read())


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        return found.getnames()


# -- the main job


def test_s10_an_artifact_reaches_the_cluster_and_so_does_its_successor(stage: OciStage) -> None:
    digest = stage.put("1.0.0")
    stage.oci(ref={"semver": "1.x"})
    stage.kustomization(sourceRef={"kind": OCI, "name": "app"})
    stage.until_applied(f"1.0.0@{digest}")
    assert stage.get("ConfigMap", "one") is not None
    digest = stage.put("1.1.0", {"cm.yaml": config_map("two")})
    stage.ask()
    stage.until_applied(f"1.1.0@{digest}")
    assert stage.get("ConfigMap", "one") is None
    assert stage.get("ConfigMap", "two") is not None


def test_s6_3_a_chart_is_kept_as_it_is(stage: OciStage) -> None:
    stage.registry.push_chart(stage.path, "demo", "1.0.0+b1")
    stage.oci(ref={"semver": "1.x"}, layerSelector={"mediaType": HELM_CONTENT, "operation": "copy"})
    obj = stage.until_ready(OCI)
    assert obj["status"]["artifact"]["revision"].startswith("1.0.0_b1@sha256:")
    assert "demo/Chart.yaml" in names(stored(obj))
    assert obj["status"]["artifact"]["metadata"]["org.opencontainers.image.title"] == "demo"


def test_s6_2_the_link_leads_to_the_newest_artifact(stage: OciStage) -> None:
    stage.put()
    stage.oci()
    obj = stage.until_ready(OCI)
    assert obj["status"]["url"].endswith(f"/ocirepository/{stage.namespace}/app/latest.tar.gz")
    with urllib.request.urlopen(obj["status"]["url"]) as answer:
        assert answer.read() == stored(obj)


def test_s6_3_an_index_is_pulled_for_linux_amd64(stage: OciStage) -> None:
    digest = stage.put("amd64", {"amd64.yaml": "a: 1\n"})
    other = stage.put("arm64", {"arm64.yaml": "a: 1\n"})
    kind = "application/vnd.oci.image.manifest.v1+json"
    entries = [
        {
            "mediaType": kind,
            "digest": one,
            "size": len(stage.registry.get(f"{stage.path}/manifests/{one}")[1]),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for one, architecture in ((other, "arm64"), (digest, "amd64"))
    ]
    index = stage.registry.push_index(stage.path, "latest", entries)
    stage.oci()
    obj = stage.until_ready(OCI)
    assert obj["status"]["artifact"]["revision"] == f"latest@{index}"
    assert names(stored(obj)) == [".", "amd64.yaml"]


def test_s6_3_links_are_skipped(stage: OciStage) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        member = tarfile.TarInfo("a.yaml")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"a: 1\n"))
    stage.put(layers=[Blob(FLUX_CONTENT, buffer.getvalue())])
    stage.oci()
    assert names(stored(stage.until_ready(OCI))) == [".", "a.yaml"]


def test_s6_1_suspend_and_a_request_meanwhile(stage: OciStage) -> None:
    """Test vector 20 for this kind."""
    digest = stage.put()
    stage.oci()
    stage.until_ready(OCI)
    stage.oci(suspend=True, ignore="x")
    stage.put(files={"b.yaml": "b: 1\n"})
    obj = stage.ask()
    assert obj["status"]["artifact"]["revision"] == f"latest@{digest}"
    assert obj["status"]["observedGeneration"] == 2
    assert "observedIgnore" not in obj["status"]
    stage.oci(suspend=False, ignore="x")
    obj = stage.until(
        OCI, "app", lambda obj: is_ready(obj) and (obj or {})["status"]["artifact"]["revision"] != f"latest@{digest}"
    )
    assert obj["status"]["observedIgnore"] == "x"


def test_s2_2_deletion_takes_the_files_along(stage: OciStage) -> None:
    stage.put()
    stage.oci()
    stage.until_ready(OCI)
    folder = stage.daemon.storage / "ocirepository" / stage.namespace / "app"
    assert folder.is_dir()
    stage.api.delete(stage.get(OCI)["apiVersion"], OCI, "app", stage.namespace)  # type: ignore[index]
    stage.until(OCI, "app", lambda obj: obj is None)
    assert not folder.exists()


# -- failures, and getting over them


def test_s6_3_a_missing_secret_is_told_and_got_over(stage: OciStage) -> None:
    with Registry(accounts={"user": "pass-word"}) as private:
        stage.registry = private
        digest = stage.put()
        stage.oci(secretRef={"name": "pull"})
        text = f"failed to get credential: failed to get secret '{stage.namespace}/pull': "
        obj = stage.until_failed("AuthenticationFailed", text=text)
        assert condition(obj, FAILED)["reason"] == "AuthenticationFailed"
        assert condition(obj, "Reconciling")["reason"] == "ProgressingWithRetry"
        assert obj["status"]["observedGeneration"] == -1
        stage.until_told(lambda one: one == ("Normal", "AuthenticationFailed", "auth secret 'pull' not found"))
        stage.until_told(lambda one: one[:2] == ("Warning", "AuthenticationFailed"))
        stage.pull_secret("pull", private.host, "user", "wrong-word")
        stage.ask()
        obj = stage.until_failed("OCIArtifactPullFailed", text="failed to determine artifact digest: ")
        assert "wrong-word" not in json.dumps(obj["status"])
        stage.pull_secret("pull", private.host, "user", "pass-word")
        stage.ask()
        obj = stage.until_ready(OCI)
        assert obj["status"]["artifact"]["revision"] == f"latest@{digest}"
        assert not condition(obj, FAILED)
    assert "pass-word" not in stage.daemon.log_text()


def test_s2_6_a_failure_that_ends_without_a_new_artifact_is_told(stage: OciStage) -> None:
    digest = stage.put()
    with RegistryFront(stage.registry) as front:
        stage.oci(host=front.host())
        stage.until_ready(OCI)
        bad = front.behave("*/manifests/*", trouble.say(500))
        obj = stage.ask()
        assert condition(obj)["reason"] == "OCIArtifactPullFailed"
        assert condition(obj, "ArtifactInStorage")["status"] == "True"
        assert obj["status"]["artifact"]["revision"] == f"latest@{digest}"
        bad.remove()
        stage.ask()
        stage.until_ready(OCI)
        message = f"stored artifact with revision 'latest@{digest}' from 'oci://{front.host()}/{stage.path}'"
        stage.until_told(lambda one: one == ("Normal", "Succeeded", message))


def test_s6_3_a_tag_in_the_url_stalls_until_the_spec_changes(stage: OciStage) -> None:
    stage.put()
    url = f"oci://{stage.registry.host}/{stage.path}"
    stage.oci(url=f"{url}:latest")
    obj = stage.until_failed("URLInvalid", text=f"URL validation failed for '{url}:latest': ")
    assert condition(obj, "Stalled")["reason"] == "URLInvalid"
    assert condition(obj, FAILED)["message"] == condition(obj)["message"]
    assert not condition(obj, "Reconciling")
    assert obj["status"]["observedGeneration"] == 1
    stage.oci()
    assert not condition(stage.until_ready(OCI), "Stalled")


def test_s6_3_a_closed_feature_gate_is_told_by_stalled_alone(stage: OciStage) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    stage.api.apply(account, stage.namespace)
    stage.oci(provider="aws", serviceAccountName="robot")
    obj = stage.until_failed("FeatureGateDisabled")
    assert condition(obj, "Stalled")["reason"] == "FeatureGateDisabled"
    assert not condition(obj, FAILED)


@pytest.mark.parametrize("operation", ["copy", "extract"])
def test_s6_3_a_storage_that_fails_is_told_in_the_operations_words(stage: OciStage, operation: str) -> None:
    digest = stage.put()
    folder = stage.daemon.storage / "ocirepository" / stage.namespace / "app"
    (folder / f"{digest}.tar.gz" / "in the way").mkdir(parents=True)
    stage.oci(layerSelector={"operation": operation})
    verb = {"copy": "copy", "extract": "archive"}[operation]
    obj = stage.until_failed("ArchiveOperationFailed", text=f"unable to {verb} artifact to storage: ")
    assert condition(obj, "StorageOperationFailed")["status"] == "True"
    assert str(stage.daemon.storage) not in condition(obj)["message"]
    (folder / f"{digest}.tar.gz" / "in the way").rmdir()
    (folder / f"{digest}.tar.gz").rmdir()
    stage.ask()
    stage.until_ready(OCI)


def test_s6_3_a_new_revision_that_cannot_be_unpacked_leaves_the_old_artifact(stage: OciStage) -> None:
    digest = stage.put()
    stage.oci()
    before = stage.until_ready(OCI)["status"]["artifact"]
    bad = stage.put(layers=[Blob(FLUX_CONTENT, b"no archive")])
    obj = stage.ask()
    assert condition(obj)["reason"] == "OCIArtifactLayerOperationFailed"
    assert obj["status"]["artifact"] == before
    text = f"new revision 'latest@{bad}' for '{stage.registry.host}/{stage.path}:latest'"
    assert (condition(obj, "ArtifactOutdated")["reason"], condition(obj, "ArtifactOutdated")["message"]) == (
        "NewRevision",
        text,
    )
    assert condition(obj, "Reconciling")["message"] == f"building artifact: {text}"
    assert digest != bad


def test_s15_pain_13_a_registry_that_hangs_holds_nobody_up(stage: OciStage) -> None:
    stage.put()
    with RegistryFront(stage.registry) as front:
        front.behave("*/blobs/*", trouble.never())
        for name in ("a", "b", "c"):
            stage.oci(name, host=front.host(), timeout="4s")
        stage.oci("good")
        stage.until_ready(OCI, "good")
        text = "failed to extract layer contents from artifact: not finished within 4s"
        stage.until_failed("OCIArtifactLayerOperationFailed", "a", text)
        front.troubles.clear()
        stage.ask("a")
        stage.until_ready(OCI, "a")


# -- who is let in


def test_s11_1_a_service_accounts_pull_secret_buys_a_token(stage: OciStage) -> None:
    with TokenServer({"user": "pass-word"}) as tokens, Registry(tokens=tokens) as private:
        stage.registry = private
        stage.put()
        account: Obj = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
        stage.api.apply(account, stage.namespace)
        stage.oci(serviceAccountName="robot")
        stage.until_failed("OCIArtifactPullFailed")
        stage.pull_secret("pull", private.host, "user", "pass-word")
        stage.api.apply(account | {"imagePullSecrets": [{"name": "pull"}]}, stage.namespace)
        stage.ask()
        stage.until_ready(OCI)
        stage.oci("lost", serviceAccountName="nobody")
        text = f"failed to get credential: serviceaccount '{stage.namespace}/nobody' not found"
        stage.until_failed("AuthenticationFailed", "lost", text)


def test_s11_1_certificates(stage: OciStage, tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    cert, key = (path.read_bytes() for path in authority.client("puller"))
    stage.put()
    stage.secret("ca", ca__crt=authority.pem)
    stage.secret("both", caFile=authority.pem, certFile=cert, keyFile=key)
    stage.secret("bad", ca__crt=b"nonsense")
    with RegistryFront(stage.registry, authority=authority) as front:
        https, mtls = front.host("https"), front.host("mtls")
        stage.oci("trusting", host=https, insecure=False, certSecretRef={"name": "ca"})
        stage.oci("known", host=mtls, insecure=False, certSecretRef={"name": "both"})
        stage.oci("blind", host=https)
        stage.oci("strict", host=https, insecure=False)
        stage.oci("broken", host=https, insecure=False, certSecretRef={"name": "bad"})
        stage.oci("plain", insecure=False)
        for name in ("trusting", "known", "blind"):
            stage.until_ready(OCI, name)
        stage.until_failed("OCIArtifactPullFailed", "strict", "bad certificate")
        url = f"oci://{https}/{stage.path}"
        stage.until_failed("AuthenticationFailed", "broken", f"failed to generate transport for '{url}': 'ca.crt'")
        stage.until_failed("OCIArtifactPullFailed", "plain", "TLS failed: the server speaks no TLS, maybe plain http")
        assert {seen.client for seen in front.requests if seen.client} == {"puller"}


# -- signatures


def test_s17_18_a_bad_signature_stands_above_everything_else(stage: OciStage) -> None:
    key, other = new_key(), new_key()
    digest = stage.put()
    stage.secret("keys", cosign__pub=public_pem(key))
    stage.oci(verify={"provider": "cosign", "secretRef": {"name": "keys"}})
    text = "failed to verify the signature using provider 'cosign': "
    obj = stage.until_failed("VerificationError", text=text)
    assert condition(obj, "SourceVerified")["status"] == "False"
    assert condition(obj)["message"] == condition(obj, "SourceVerified")["message"]
    assert not condition(obj, FAILED)
    assert "artifact" not in obj["status"]
    stage.until_told(lambda one: one[:2] == ("Warning", "VerificationError"))
    Signatures(stage.registry, stage.path, digest).with_key(key)
    stage.ask()
    obj = stage.until_ready(OCI)
    verified = condition(obj, "SourceVerified")
    assert verified["message"] == f"verified signature of revision latest@{digest}"
    assert obj["status"]["sourceVerificationFingerprint"]
    # Another key: what is stored stays, and is not believed any more.
    stage.secret("keys", cosign__pub=public_pem(other))
    obj = stage.ask()
    assert condition(obj)["reason"] == "VerificationError"
    assert obj["status"]["artifact"]["revision"] == f"latest@{digest}"
    stage.oci(verify=None)
    obj = stage.until_ready(OCI)
    assert not condition(obj, "SourceVerified")
    assert "sourceVerificationFingerprint" not in obj["status"]


# -- hostile layers


def _tar(*members: tuple[str, bytes, bytes]) -> bytes:
    """A layer of members: name, type, content (or target of a link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
            else:
                member.linkname = content.decode()
            archive.addfile(member, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return buffer.getvalue()


def _bomb() -> bytes:
    """Two GiB of zeros in one file, in two MiB."""
    member = tarfile.TarInfo("zeros")
    member.size = 2 << 30
    piece = bytes(1 << 20)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as archive:
        archive.write(member.tobuf())
        for _ in range(2 << 10):
            archive.write(piece)
        archive.write(bytes(1024))
    return buffer.getvalue()


REG = tarfile.REGTYPE
LAYERS: dict[str, Callable[[], bytes]] = {
    "E01-parent": lambda: _tar(("../x", REG, b"x")),
    "E01-absolute": lambda: _tar(("/etc/x", REG, b"x")),
    "E01-inside": lambda: _tar(("a/../../x", REG, b"x")),
    "E01-drive": lambda: _tar(("C:\\x", REG, b"x")),
    "E02-hardlink": lambda: _tar(("x", tarfile.LNKTYPE, b"/etc/passwd")),
    "E02-device": lambda: _tar(("x", tarfile.CHRTYPE, b"")),
    "E02-fifo": lambda: _tar(("x", tarfile.FIFOTYPE, b"")),
    "E03-twice": lambda: _tar(("x", REG, b"1"), ("x", tarfile.DIRTYPE, b"")),
    "E03-below": lambda: _tar(("x", REG, b"1"), ("x/y", REG, b"2")),
    "E04-bomb": _bomb,
    "E04-garbage": lambda: _tar(("x", REG, b"x")) + b"garbage" * 100,
    "E04-truncated": lambda: _tar(("x", REG, bytes(range(256)) * 400))[:-40],
    "no-gzip": lambda: b"plain text",
    "empty": lambda: b"",
}


def test_E01_E02_E03_E04_hostile_layers_are_refused_and_the_old_artifact_stays(stage: OciStage) -> None:
    digests = {}
    for name in LAYERS:
        digests[name] = stage.registry.push(f"{stage.path}/{name.lower()}", "latest", {"a.yaml": "a: 1\n"})
        stage.oci(name.lower(), url=f"oci://{stage.registry.host}/{stage.path}/{name.lower()}")
    before = {name: stage.until_ready(OCI, name.lower())["status"]["artifact"] for name in LAYERS}
    outside = sorted(path.name for path in stage.daemon.storage.parent.iterdir())
    for name, make in LAYERS.items():
        stage.registry.push(f"{stage.path}/{name.lower()}", "latest", layers=[Blob(FLUX_CONTENT, make())])
    for name in LAYERS:
        stage.request(OCI, name.lower())
    for name in LAYERS:
        text = "failed to extract layer contents from artifact: "
        obj = stage.until_failed("OCIArtifactLayerOperationFailed", name.lower(), text)
        message = condition(obj)["message"]
        assert message.isprintable(), name
        assert len(message) <= 4096, name
        assert obj["status"]["artifact"] == before[name], name
    assert sorted(path.name for path in stage.daemon.storage.parent.iterdir()) == outside
    assert not [path.name for path in stage.daemon.storage.iterdir() if "spool" in path.name]
    for name in LAYERS:
        stage.registry.push(f"{stage.path}/{name.lower()}", "latest", {"a.yaml": "a: 2\n"})
        stage.request(OCI, name.lower())
    for name in LAYERS:
        stage.until_ready(OCI, name.lower())


def test_F14_annotations_of_megabytes_do_not_reach_the_status(stage: OciStage) -> None:
    stage.put(annotations={"large": "x" * (1 << 20)})
    stage.oci()
    text = "failed to parse artifact manifest: more than 262144 bytes of annotations"
    stage.until_failed("OCIArtifactLayerOperationFailed", text=text)


def test_F14_a_manifest_of_10000_layers_is_told(stage: OciStage) -> None:
    blob = Blob("text/plain", b"x")
    stage.registry.put_blob(stage.path, blob)
    kind = "application/vnd.oci.image.manifest.v1+json"
    document = {"schemaVersion": 2, "mediaType": kind, "config": blob.descriptor, "layers": [blob.descriptor] * 10_000}
    stage.registry.put_manifest(stage.path, "latest", Blob(kind, json.dumps(document).encode()))
    stage.oci()
    text = "failed to parse artifact layers: the manifest lists more than 1000 layers"
    stage.until_failed("OCIArtifactLayerOperationFailed", text=text)
