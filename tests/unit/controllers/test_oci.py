"""What an OCIRepository's run decides and says, with a registry, Secrets and clouds that do as a test wants."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from gitopsd import metrics
from gitopsd.api.meta import Artifact, ConditionType, Reason
from gitopsd.api.source import OCIRepository
from gitopsd.artifact.tree import FileTree
from gitopsd.controllers import oci, oci_access
from gitopsd.controllers.oci import HELM_CONTENT, LAYER_LIMIT, OCISource
from gitopsd.controllers.secrets import Secret
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged
from gitopsd.fetch.cloud.identity import Identity
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.registry import Descriptor, Manifest, RegistryAccess, Repository
from gitopsd.fetch.registrymanifest import OCI_MANIFEST, digest_of
from gitopsd.kube.errors import ApiError, NotFoundError
from gitopsd.runtime.status import StatusOwner, StatusSession
from gitopsd.tasks import TaskScope
from tests.answering import instant_threads
from tests.certificates import Authority
from tests.servers.registry import FLUX_CONTENT, tar_gz
from tests.virtual import run

URL = "oci://ghcr.io/org/app"
REPOSITORY = Repository("ghcr.io", "org/app")
Data = Mapping[str, bytes]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with instant_threads(monkeypatch, "gitopsd.controllers.oci", "gitopsd.controllers.oci_access"):
        yield


# -- stand-ins


class Registry:
    """Content by tag and digest; remembers what was asked, by whom."""

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.accesses: list[RegistryAccess] = []
        self.failures: dict[str, Exception] = {}
        self.hanging = ""

    def push(
        self, tag: str, *layers: bytes, types: tuple[str, ...] = (), annotations: Mapping[str, str] | None = None
    ) -> str:
        kinds = types or (FLUX_CONTENT,) * len(layers)
        found = [Descriptor(kind, digest_of(data), len(data)) for kind, data in zip(kinds, layers, strict=True)]
        self.blobs |= {digest_of(data): data for data in layers}
        raw = json.dumps([one.digest for one in found] + [dict(annotations or {})]).encode()
        described = Descriptor(OCI_MANIFEST, digest_of(raw), len(raw))
        manifest = Manifest(described, raw, layers=tuple(found), annotations=dict(annotations or {}))
        self.manifests |= {tag: manifest, described.digest: manifest}
        return described.digest

    async def _ask(self, call: str, what: str, access: RegistryAccess) -> None:
        self.asked.append(f"{call} {what}".strip())
        self.accesses.append(access)
        if self.hanging == call:
            await asyncio.Event().wait()
        if call in self.failures:
            raise self.failures[call]

    async def tags(self, repository: Repository, access: RegistryAccess) -> list[str]:
        await self._ask("tags", "", access)
        return [tag for tag in self.manifests if ":" not in tag]

    async def resolve(self, repository: Repository, reference: str, access: RegistryAccess) -> Descriptor:
        await self._ask("resolve", reference, access)
        if reference not in self.manifests:
            raise RemoteError("MANIFEST_UNKNOWN: manifest unknown")
        return self.manifests[reference].descriptor

    async def image(self, repository: Repository, reference: str, access: RegistryAccess) -> Manifest:
        await self._ask("image", reference, access)
        return self.manifests[reference]

    async def blob(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, *, limit: int
    ) -> bytes:
        await self._ask("blob", descriptor.digest, access)
        return self.blobs[descriptor.digest]

    async def blob_to_file(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, path: Path, *, limit: int
    ) -> None:
        await self._ask("blob_to_file", descriptor.digest, access)
        if descriptor.size > limit:
            raise RemoteError(f"the blob is larger than {limit} bytes", rule="size")
        await oci.offload(path.write_bytes, self.blobs[descriptor.digest])


class Secrets:
    """Secrets and ServiceAccounts of namespace `ns`."""

    def __init__(self) -> None:
        self.secrets: dict[str, Secret] = {}
        self.accounts: dict[str, dict[str, Any]] = {}
        self.audiences: list[str] = []
        self.is_forbidden = False

    def add(self, name: str, kind: str = "Opaque", /, **data: bytes) -> None:
        self.secrets[name] = Secret(f"ns/{name}", kind, {key.replace("__", "."): value for key, value in data.items()})

    def add_pull(self, name: str, user: str, host: str = "ghcr.io") -> None:
        config = {"auths": {host: {"username": user, "password": f"{user}-secret"}}}
        self.secrets[name] = Secret(
            f"ns/{name}", "kubernetes.io/dockerconfigjson", {".dockerconfigjson": json.dumps(config).encode()}
        )

    async def get(self, namespace: str, name: str) -> Secret:
        assert namespace == "ns"
        if self.is_forbidden:
            raise ApiError(403, "Forbidden", f'secrets "{name}" is forbidden')
        if name not in self.secrets:
            raise NotFoundError(404, "NotFound", f'secrets "{name}" not found')
        return self.secrets[name]

    async def service_account(self, namespace: str, name: str) -> dict[str, Any]:
        assert namespace == "ns"
        if name not in self.accounts:
            raise NotFoundError(404, "NotFound", f'serviceaccounts "{name}" not found')
        return self.accounts[name]

    async def token(self, namespace: str, service_account: str, audience: str) -> str:
        self.audiences.append(audience)
        return f"token of {namespace}/{service_account} for {audience}"


class Cloud:
    """Gives out one user for each provider."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Identity]] = []
        self.failure: Exception | None = None

    async def registry(self, provider: str, host: str, identity: Identity) -> tuple[str, str]:
        self.asked.append((provider, host, identity))
        if self.failure is not None:
            raise self.failure
        return f"{provider}-user", f"{provider}-secret"


class Verifier:
    """Finds signatures good, or not."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.failure: Exception | None = None
        self.result = True

    async def cosign(self, repository: Repository, artifact: Descriptor, access: RegistryAccess, **more: Any) -> None:
        await self._check("cosign", artifact, more)

    async def notation(self, repository: Repository, artifact: Descriptor, access: RegistryAccess, **more: Any) -> bool:
        await self._check("notation", artifact, more)
        return self.result

    async def _check(self, call: str, artifact: Descriptor, more: dict[str, Any]) -> None:
        assert artifact.media_type, "notation compares it with what was signed"
        self.calls.append((call, artifact.digest, more))
        if self.failure is not None:
            raise self.failure


class Session(StatusSession):
    """A session that writes nothing."""

    def progress(self) -> None:
        pass


@dataclass
class Stage:
    """One OCIRepository, its status from run to run, and all it meets."""

    folder: Path
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    registry: Registry = field(default_factory=Registry)
    secrets: Secrets = field(default_factory=Secrets)
    cloud: Cloud = field(default_factory=Cloud)
    verifier: Verifier = field(default_factory=Verifier)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    gates: dict[str, bool] = field(default_factory=lambda: {"ObjectLevelWorkloadIdentity": False})
    default_account: str = ""
    generation: int = 1
    spooled: int = 0

    def services(self) -> Services:
        def spool() -> Path:
            self.spooled += 1
            return self.folder / f"spool-{self.spooled}"

        async def give_up(path: Path) -> None:
            await oci.offload(path.unlink, missing_ok=True)

        def event(obj: Any, kind: str, reason: str, message: str) -> None:
            self.events.append((kind, reason, message))

        return cast(
            "Services",
            SimpleNamespace(
                settings=SimpleNamespace(feature_gates=self.gates, default_source_service_account=self.default_account),
                store=SimpleNamespace(spool=spool, give_up=give_up),
                secrets=self.secrets,
                registry=self.registry,
                cloud=self.cloud,
                verifier=self.verifier,
                event=event,
            ),
        )

    def obj(self) -> dict[str, Any]:
        """The object as the API server has it."""
        return {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "OCIRepository",
            "metadata": {
                "name": "app", "namespace": "ns", "uid": "u", "resourceVersion": "1", "generation": self.generation
            },
            "spec": {"url": URL, "interval": "1m", "timeout": "60s"} | self.spec,
            "status": self.status,
        }  # fmt: skip

    def restore(self) -> Fetched | None:
        """Have again what is stored."""
        obj = self.obj()
        artifact = msgspec.convert(self.status["artifact"], Artifact)
        return run(OCISource(self.services()).restore(OCIRepository.from_object(obj), artifact, obj))

    def fetch(self, **spec: Any) -> Fetched | Unchanged:
        """One run; what it would store is remembered as stored."""
        is_changed = any(self.spec.get(name) != value for name, value in spec.items())
        self.generation += bool(self.status) and is_changed
        self.spec |= spec
        obj = self.obj()

        async def scenario() -> Fetched | Unchanged:
            owner = StatusOwner(cast("Any", None), "test", frozenset(), lambda obj: "/path")
            async with TaskScope("test") as tasks:
                session = Session(owner, obj, tasks)
                recorded = self.status.get("artifact")
                current = msgspec.convert(recorded, Artifact) if recorded else None
                try:
                    found = await OCISource(self.services()).fetch(OCIRepository.from_object(obj), current, session)
                    if isinstance(found, Fetched):
                        self._store(found, session)
                    return found
                finally:
                    self.status = session._wanted()

        return run(scenario())

    def _store(self, found: Fetched, session: Session) -> None:
        session.fields["artifact"] = {
            "digest": "sha256:" + "0" * 64,
            "path": f"ocirepository/ns/app/{found.file_name}",
            "url": "http://x/",
            "revision": found.revision,
            "lastUpdateTime": "2026-01-01T00:00:00Z",
            "metadata": dict(found.metadata),
        }
        for name, value in found.observed.items():
            session.fields.pop(name, None)
            if value is not None:
                session.fields[name] = value

    def fails(self, **spec: Any) -> SourceError:
        with pytest.raises(SourceError) as caught:
            self.fetch(**spec)
        return caught.value

    def condition(self, kind: str) -> dict[str, Any]:
        return next((one for one in self.status.get("conditions", ()) if one["type"] == kind), {})

    @property
    def access(self) -> RegistryAccess:
        """Who the registry was asked by, last."""
        return self.registry.accesses[-1]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    found = Stage(tmp_path)
    found.registry.push("latest", tar_gz({"a.yaml": "a: 1\n", "img.png": "png"}))
    return found


def fetched(found: Fetched | Unchanged) -> Fetched:
    assert isinstance(found, Fetched)
    return found


def files(found: Fetched | Unchanged) -> dict[str, bytes]:
    content = fetched(found).content
    assert isinstance(content, FileTree)
    return dict(content)


# -- 6.1: every field


def test_s6_1_url_and_nothing_else_is_the_tag_latest(stage: Stage) -> None:
    found = fetched(stage.fetch())
    digest = stage.registry.manifests["latest"].descriptor.digest
    assert found.revision == f"latest@{digest}"
    assert found.file_name == f"{digest}.tar.gz"
    assert found.stored == f"stored artifact for digest 'latest@{digest}'"
    assert found.told == f"stored artifact with revision 'latest@{digest}' from '{URL}'"
    assert (found.reason, found.event_reason) == ("Succeeded", "NewArtifact")
    assert files(found) == {"a.yaml": b"a: 1\n"}
    assert stage.registry.asked[:2] == ["resolve latest", f"image {digest}"]
    assert stage.access == RegistryAccess()


@pytest.mark.parametrize(
    ("ref", "revision", "asked"),
    [
        ({"tag": "1.0.0"}, "1.0.0@{1.0.0}", ["resolve 1.0.0"]),
        ({"semver": "1.x"}, "1.2.0@{1.2.0}", ["tags", "resolve 1.2.0"]),
        ({"semver": ">=1.0.0-0", "semverFilter": ".*-rc"}, "1.3.0-rc.1@{1.3.0-rc.1}", ["tags", "resolve 1.3.0-rc.1"]),
        ({"semverFilter": "nothing", "tag": "1.0.0"}, "1.0.0@{1.0.0}", ["resolve 1.0.0"]),
        ({"digest": "{1.0.0}"}, "{1.0.0}", []),
        ({"digest": "{1.0.0}", "semver": "1.x", "tag": "latest"}, "{1.0.0}", []),
        ({"semver": "1.x", "tag": "1.0.0"}, "1.2.0@{1.2.0}", ["tags", "resolve 1.2.0"]),
        ({}, "latest@{latest}", ["resolve latest"]),
    ],
    ids=["tag", "semver", "semverFilter", "semverFilter alone", "digest", "digest first", "semver then", "empty"],
)
def test_s6_1_ref_digest_beats_semver_beats_tag(
    stage: Stage, ref: dict[str, str], revision: str, asked: list[str]
) -> None:
    for tag in ("1.0.0", "1.2.0", "1.3.0-rc.1"):
        stage.registry.push(tag, tar_gz({"tag": tag}))
    digests = {tag: manifest.descriptor.digest for tag, manifest in stage.registry.manifests.items()}

    def filled(text: str) -> str:
        for tag, digest in digests.items():
            text = text.replace(f"{{{tag}}}", digest)
        return text

    found = fetched(stage.fetch(ref={name: filled(value) for name, value in ref.items()}))
    assert found.revision == filled(revision)
    assert found.file_name == f"{found.revision.rpartition('@')[2]}.tar.gz"
    assert stage.registry.asked[: len(asked)] == asked
    assert stage.registry.asked[len(asked)].startswith("image sha256:")


def test_s6_1_layer_selector_media_type_takes_the_first_with_exactly_that_type(stage: Stage) -> None:
    one, two, three = (tar_gz({name: name}) for name in ("one", "two", "three"))
    stage.registry.push("latest", one, two, three, types=("x/one", "x/two", "x/two"))
    assert files(stage.fetch(layerSelector={"mediaType": "x/two"})) == {"two": b"two"}
    assert files(stage.fetch(layerSelector={"operation": "extract"})) == {"one": b"one"}
    assert files(stage.fetch(layerSelector=None)) == {"one": b"one"}


def test_s6_1_layer_selector_operation_copy_keeps_the_bytes(stage: Stage) -> None:
    blob = b"no archive at all"
    stage.registry.push("latest", blob)
    found = fetched(stage.fetch(layerSelector={"operation": "copy"}, ignore="*"))
    assert found.content == blob
    assert found.file_name.endswith(".tar.gz")
    assert found.observed == {"observedIgnore": "*", "observedLayerSelector": {"operation": "copy"}}
    assert found.not_stored == "unable to copy artifact to storage"


def test_s6_1_ignore_is_only_for_extract(stage: Stage) -> None:
    assert set(files(stage.fetch(ignore="*.yaml"))) == {"img.png"}
    assert stage.status["observedIgnore"] == "*.yaml"
    assert set(files(stage.fetch(ignore=""))) == {"a.yaml"}
    assert stage.status["observedIgnore"] == ""


@pytest.mark.parametrize("provider", ["aws", "azure", "gcp"])
def test_s6_1_provider_gets_the_clouds_credentials(stage: Stage, provider: str) -> None:
    stage.fetch(provider=provider)
    assert (stage.access.username, stage.access.password) == (f"{provider}-user", f"{provider}-secret")
    (asked,) = stage.cloud.asked
    assert asked[:2] == (provider, "ghcr.io")
    assert asked[2] == Identity("OCIRepository", "ns", "app")


def test_s6_1_provider_generic_asks_no_cloud(stage: Stage) -> None:
    stage.fetch(provider="generic")
    assert not stage.cloud.asked


def test_s6_1_secret_ref_has_pull_credentials(stage: Stage) -> None:
    stage.secrets.add_pull("pull", "me")
    stage.fetch(secretRef={"name": "pull"})
    assert (stage.access.username, stage.access.password) == ("me", "me-secret")


def test_s6_1_service_account_name_lends_its_pull_secrets(stage: Stage) -> None:
    stage.secrets.add_pull("one", "one", "quay.io")
    stage.secrets.add_pull("two", "two")
    stage.secrets.accounts["robot"] = {"imagePullSecrets": [{"name": "one"}, {"name": "two"}, {}]}
    stage.fetch(serviceAccountName="robot")
    assert stage.access.username == "two"


def test_s6_1_cert_secret_ref_is_the_trust_and_the_identity(stage: Stage, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    cert, key = (path.read_bytes() for path in authority.client("me"))
    stage.secrets.add("tls", tls__crt=cert, tls__key=key, ca__crt=authority.pem)
    stage.fetch(certSecretRef={"name": "tls"})
    assert stage.access.tls == TlsIdentity(authority.pem, cert, key)
    stage.secrets.add("old", certFile=cert, keyFile=key, caFile=authority.pem)
    stage.fetch(certSecretRef={"name": "old"}, ref={"tag": "latest"}, ignore="x")
    assert stage.access.tls == TlsIdentity(authority.pem, cert, key)


def test_s6_1_proxy_secret_ref_is_the_way_for_registry_and_cloud(stage: Stage) -> None:
    stage.secrets.add("proxy", address=b"http://proxy:3128", username=b"u", password=b"p")
    stage.fetch(proxySecretRef={"name": "proxy"}, provider="aws")
    proxy = stage.access.proxy
    assert proxy is not None
    assert (proxy.url, proxy.username, proxy.password) == ("http://proxy:3128", "u", "p")
    assert stage.cloud.asked[0][2].proxy == proxy


def test_s6_1_timeout_bounds_each_call(stage: Stage) -> None:
    stage.fetch(timeout="5s")
    assert stage.access.timeout == 5.0


def test_s6_1_insecure_allows_plain_http_and_any_certificate_without_cert_secret_ref(
    stage: Stage, tmp_path: Path
) -> None:
    stage.fetch(insecure=True)
    assert stage.access == RegistryAccess(plain_http=True, tls=TlsIdentity(insecure=True))
    authority = Authority(tmp_path / "ca")
    stage.secrets.add("tls", ca__crt=authority.pem)
    stage.fetch(certSecretRef={"name": "tls"})
    assert stage.access == RegistryAccess(plain_http=True, tls=TlsIdentity(authority.pem))


@pytest.mark.parametrize("provider", ["aws", "azure", "gcp"])
def test_s11_2_insecure_does_not_hand_a_clouds_token_to_anybody(stage: Stage, provider: str) -> None:
    stage.fetch(insecure=True, provider=provider)
    assert stage.access.password
    assert (stage.access.plain_http, stage.access.tls) == (False, TlsIdentity())
    stage.secrets.add_pull("pull", "me")
    stage.fetch(insecure=True, provider=provider, secretRef={"name": "pull"}, ignore="x")
    assert (stage.access.username, stage.access.plain_http) == ("me", True)


def test_s11_1_a_large_docker_configuration_is_read_in_a_thread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    real = oci_access.credentials

    def noted(*given: Any) -> tuple[str, str, str]:
        threads.append(threading.current_thread())
        return real(*given)

    monkeypatch.setattr(oci_access, "credentials", noted)
    stage.secrets.add_pull("pull", "me")
    stage.fetch(secretRef={"name": "pull"})
    assert threads
    assert threading.main_thread() not in threads


# -- 6.2 and 6.3: behaviour


def test_s6_2_observed_fields_are_those_of_what_is_stored(stage: Stage) -> None:
    stage.fetch(ignore="*.txt", layerSelector={"mediaType": FLUX_CONTENT})
    assert stage.status["observedIgnore"] == "*.txt"
    assert stage.status["observedLayerSelector"] == {"mediaType": FLUX_CONTENT}
    stage.fails(layerSelector={"mediaType": "x"})
    assert stage.status["observedLayerSelector"] == {"mediaType": FLUX_CONTENT}
    stage.fetch(ignore=None, layerSelector=None)
    assert not {"observedIgnore", "observedLayerSelector"} & set(stage.status)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"ignore": ""},
        {"ignore": "*.txt"},
        {"layerSelector": {"operation": "extract"}},
        {"layerSelector": {}},
        {"layerSelector": {"mediaType": FLUX_CONTENT, "operation": "copy"}},
    ],
    ids=str,
)
def test_s6_3_nothing_is_pulled_when_nothing_changed(stage: Stage, spec: dict[str, Any]) -> None:
    first = fetched(stage.fetch(**spec))
    asked = len(stage.registry.asked)
    again = stage.fetch()
    assert again == Unchanged(
        stored=first.stored,
        told=f"artifact up-to-date with remote revision: '{first.revision}'",
        recovered=first.told,
    )
    assert stage.registry.asked[asked:] == ["resolve latest"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"ignore": ""}),
        ({"ignore": ""}, {"ignore": None}),
        ({"ignore": "a"}, {"ignore": "b"}),
        ({}, {"layerSelector": {}}),
        ({"layerSelector": {}}, {"layerSelector": {"operation": "extract"}}),
        ({"layerSelector": {"operation": "extract"}}, {"layerSelector": {"operation": "copy"}}),
        ({"layerSelector": {}}, {"layerSelector": {"mediaType": FLUX_CONTENT}}),
        ({"layerSelector": {}}, {"layerSelector": None}),
    ],
    ids=str,
)
def test_s6_3_other_content_settings_pull_again(stage: Stage, before: dict[str, Any], after: dict[str, Any]) -> None:
    first = fetched(stage.fetch(**before))
    assert fetched(stage.fetch(**after)).revision == first.revision
    assert not stage.condition("ArtifactOutdated")


def test_s6_3_another_url_with_the_same_digest_pulls_nothing(stage: Stage) -> None:
    stage.fetch()
    assert isinstance(stage.fetch(url="oci://ghcr.io/org/other"), Unchanged)


def test_s6_3_a_digest_needs_no_request_while_nothing_changes(stage: Stage) -> None:
    digest = stage.registry.manifests["latest"].descriptor.digest
    stage.fetch(ref={"digest": digest})
    asked = len(stage.registry.asked)
    assert isinstance(stage.fetch(), Unchanged)
    assert stage.registry.asked[asked:] == []


def test_s6_3_tags_of_charts_have_underscores_for_plus(stage: Stage) -> None:
    digest = stage.registry.push("1.1.0_b2", b"chart", types=(HELM_CONTENT,))
    selector = {"mediaType": HELM_CONTENT, "operation": "copy"}
    found = fetched(stage.fetch(ref={"semver": "1.1.0+b2"}, layerSelector=selector))
    assert found.revision == f"1.1.0_b2@{digest}"
    error = stage.fails(layerSelector={"mediaType": "x"})
    assert error.message == f"failed to determine the artifact tag for '{URL}': no match found for semver: 1.1.0+b2"


def test_s6_3_annotations_become_metadata_and_origin(stage: Stage) -> None:
    annotations = {
        "org.opencontainers.image.source": "https://example.com/app",
        "org.opencontainers.image.revision": "main@sha1:abc",
        "x": "y",
    }
    stage.registry.push("latest", tar_gz({}), annotations=annotations)
    found = fetched(stage.fetch())
    assert found.metadata == annotations
    told = (
        f"stored artifact with revision '{found.revision}' from '{URL}', origin source 'https://example.com/app', "
        "origin revision 'main@sha1:abc'"
    )
    assert found.told == told
    again = stage.fetch()
    assert isinstance(again, Unchanged)
    assert again.recovered == told


@pytest.mark.parametrize("name", ["source", "revision"])
def test_s2_6_origin_is_told_only_when_both_are_known(stage: Stage, name: str) -> None:
    stage.registry.push("latest", tar_gz({}), annotations={f"org.opencontainers.image.{name}": "x"})
    assert "origin" not in fetched(stage.fetch()).told


def test_s6_3_a_new_revision_makes_the_artifact_outdated_even_if_the_run_fails_later(stage: Stage) -> None:
    stage.fetch()
    digest = stage.registry.push("latest", b"no archive")
    stage.fails()
    outdated = stage.condition("ArtifactOutdated")
    assert (outdated["status"], outdated["reason"]) == ("True", "NewRevision")
    assert outdated["message"] == f"new revision 'latest@{digest}' for 'ghcr.io/org/app:latest'"
    message = f"building artifact: new revision 'latest@{digest}' for 'ghcr.io/org/app:latest'"
    assert stage.condition("Reconciling")["message"] == message


def test_s6_3_without_an_artifact_nothing_is_outdated(stage: Stage) -> None:
    stage.fetch()
    assert not stage.condition("ArtifactOutdated")
    digest = stage.registry.manifests["latest"].descriptor.digest
    message = f"building artifact: new revision 'latest@{digest}' for 'ghcr.io/org/app:latest'"
    assert stage.condition("Ready")["message"] == message


def test_s6_3_a_reference_by_digest_is_shown_with_an_at_sign(stage: Stage) -> None:
    digest = stage.registry.manifests["latest"].descriptor.digest
    stage.fetch(ref={"digest": digest})
    assert stage.condition("Ready")["message"].endswith(f"new revision '{digest}' for 'ghcr.io/org/app@{digest}'")


def test_s6_3_links_are_skipped_and_large_layers_go_over_the_disk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gitopsd.controllers.oci._IN_MEMORY", 10)
    assert files(stage.fetch()) == {"a.yaml": b"a: 1\n"}
    assert stage.registry.asked[-1].startswith("blob_to_file")
    assert not list(tmp_path.glob("spool-*"))
    copied = fetched(stage.fetch(layerSelector={"operation": "copy"})).content
    assert isinstance(copied, Path)
    assert copied.read_bytes() == tar_gz({"a.yaml": "a: 1\n", "img.png": "png"})
    copied.unlink()
    stage.registry.push("latest", b"broken layer, and long")
    stage.fails(layerSelector=None)
    assert not list(tmp_path.glob("spool-*"))


# -- 11.1: credentials


def test_s11_1_secret_ref_and_service_account_are_combined_and_the_longest_match_wins(stage: Stage) -> None:
    stage.secrets.add_pull("pull", "host")
    stage.secrets.add_pull("longer", "path", "ghcr.io/org")
    stage.secrets.accounts["robot"] = {"imagePullSecrets": [{"name": "longer"}]}
    stage.fetch(secretRef={"name": "pull"}, serviceAccountName="robot")
    assert stage.access.username == "path"


@pytest.mark.parametrize("kind", ["Opaque", "kubernetes.io/basic-auth"])
def test_s11_1_other_types_are_ignored_and_no_cloud_is_asked(stage: Stage, kind: str) -> None:
    stage.secrets.add("pull", kind, username=b"u", password=b"p")
    stage.fetch(secretRef={"name": "pull"}, provider="aws")
    assert stage.access == RegistryAccess()
    assert not stage.cloud.asked


def test_s11_2_static_credentials_win_over_the_provider(stage: Stage) -> None:
    stage.secrets.add_pull("pull", "me")
    stage.fetch(secretRef={"name": "pull"}, provider="gcp")
    assert stage.access.username == "me"
    assert not stage.cloud.asked
    stage.secrets.accounts["robot"] = {"imagePullSecrets": [{"name": "pull"}]}
    stage.fetch(secretRef=None, serviceAccountName="robot")
    assert stage.access.username == "me"
    assert not stage.cloud.asked


def test_s11_1_a_service_account_without_pull_secrets_is_anonymous(stage: Stage) -> None:
    stage.secrets.accounts["robot"] = {}
    stage.fetch(serviceAccountName="robot")
    assert stage.access == RegistryAccess()


def test_s11_2_a_service_account_is_the_identity_where_the_gate_is_open(stage: Stage) -> None:
    stage.gates["ObjectLevelWorkloadIdentity"] = True
    annotations = {"eks.amazonaws.com/role-arn": "arn"}
    stage.secrets.accounts["robot"] = {"metadata": {"annotations": annotations}}
    stage.fetch(provider="aws", serviceAccountName="robot")
    identity = stage.cloud.asked[0][2]
    assert (identity.service_account, identity.annotations) == ("robot", annotations)
    assert identity.token is not None
    assert asyncio.run(_awaited(identity.token("sts"))) == "token of ns/robot for sts"


async def _awaited(work: Awaitable[str]) -> str:
    return await work


def test_s11_2_a_default_service_account_stands_in(stage: Stage) -> None:
    stage.gates["ObjectLevelWorkloadIdentity"] = True
    stage.default_account = "standard"
    stage.secrets.accounts["standard"] = {}
    stage.fetch(provider="aws")
    assert stage.cloud.asked[0][2].service_account == "standard"
    stage.fetch(provider="generic")
    assert stage.access == RegistryAccess()


# -- 6.3: failures


def _no_secret(stage: Stage) -> None:
    stage.spec["secretRef"] = {"name": "pull"}


def _forbidden(stage: Stage) -> None:
    stage.spec["secretRef"] = {"name": "pull"}
    stage.secrets.is_forbidden = True


def _no_account(stage: Stage) -> None:
    stage.spec["serviceAccountName"] = "robot"


def _no_account_secret(stage: Stage) -> None:
    stage.spec["serviceAccountName"] = "robot"
    stage.secrets.accounts["robot"] = {"imagePullSecrets": [{"name": "gone"}]}


def _bad_config(stage: Stage) -> None:
    stage.spec["secretRef"] = {"name": "pull"}
    stage.secrets.secrets["pull"] = Secret(
        "ns/pull", "kubernetes.io/dockerconfigjson", {".dockerconfigjson": b"{secret"}
    )


def _no_proxy(stage: Stage) -> None:
    stage.spec["proxySecretRef"] = {"name": "proxy"}


def _bad_proxy(stage: Stage) -> None:
    stage.spec["proxySecretRef"] = {"name": "proxy"}
    stage.secrets.add("proxy", address=b"ftp://x")


def _no_cloud(stage: Stage) -> None:
    stage.spec["provider"] = "aws"
    stage.cloud.failure = RemoteError("no identity here")


def _no_cloud_account(stage: Stage) -> None:
    stage.spec |= {"provider": "aws"}
    stage.gates["ObjectLevelWorkloadIdentity"] = True
    stage.default_account = "gone"


def _no_cert(stage: Stage) -> None:
    stage.spec["certSecretRef"] = {"name": "tls"}


def _half_cert(stage: Stage) -> None:
    stage.spec["certSecretRef"] = {"name": "tls"}
    stage.secrets.add("tls", tls__crt=b"x")


def _empty_cert(stage: Stage) -> None:
    stage.spec["certSecretRef"] = {"name": "tls"}
    stage.secrets.add("tls", password=b"x")


def _bad_cert(stage: Stage) -> None:
    stage.spec["certSecretRef"] = {"name": "tls"}
    stage.secrets.add("tls", ca__crt=b"no pem")


def _no_tags(stage: Stage) -> None:
    stage.spec["ref"] = {"semver": "1.x"}
    stage.registry.failures["tags"] = RemoteError("NAME_UNKNOWN: unknown")


def _no_match(stage: Stage) -> None:
    stage.spec["ref"] = {"semver": "^9"}


def _bad_range(stage: Stage) -> None:
    stage.spec["ref"] = {"semver": "one"}


def _bad_filter(stage: Stage) -> None:
    stage.spec["ref"] = {"semver": "1.x", "semverFilter": "("}


def _no_tag(stage: Stage) -> None:
    stage.spec["ref"] = {"tag": "9.9.9"}


def _bad_digest(stage: Stage) -> None:
    stage.spec["ref"] = {"digest": "sha256:abc"}


def _no_manifest(stage: Stage) -> None:
    stage.registry.failures["image"] = RemoteError("gone", rule="digest")


def _bad_manifest(stage: Stage) -> None:
    stage.registry.failures["image"] = RemoteError("the manifest cannot be read: x", rule="manifest")


def _many_layers(stage: Stage) -> None:
    stage.registry.failures["image"] = RemoteError("the manifest lists more than 1000 layers", rule="layers")


def _no_layers(stage: Stage) -> None:
    stage.registry.push("latest")


def _no_such_layer(stage: Stage) -> None:
    stage.spec["layerSelector"] = {"mediaType": "x/y"}


def _no_archive(stage: Stage) -> None:
    stage.registry.push("latest", b"no archive")


def _no_blob(stage: Stage) -> None:
    stage.registry.failures["blob"] = RemoteError("the blob does not have the digest x", rule="digest")


def _no_copy(stage: Stage) -> None:
    _no_blob(stage)
    stage.spec["layerSelector"] = {"operation": "copy"}


def _many_annotations(stage: Stage) -> None:
    stage.registry.push("latest", tar_gz({}), annotations={"a": "x" * (256 << 10)})


AUTH, PULL, LAYER = Reason.AUTHENTICATION_FAILED, Reason.OCI_ARTIFACT_PULL_FAILED, "OCIArtifactLayerOperationFailed"
TAGS = f"failed to determine the artifact tag for '{URL}': "
DIGEST = "failed to determine artifact digest: "
TRANSPORT = f"failed to generate transport for '{URL}': "
FAILURES: list[tuple[Callable[[Stage], None], str, str]] = [
    (_no_secret, AUTH, "failed to get credential: failed to get secret 'ns/pull': secrets \"pull\" not found"),
    (_forbidden, AUTH, "failed to get credential: failed to get secret 'ns/pull': secrets \"pull\" is forbidden"),
    (_no_account, AUTH, "failed to get credential: serviceaccount 'ns/robot' not found"),
    (_no_account_secret, AUTH, "failed to get credential: failed to get secret 'ns/gone': secrets \"gone\" not found"),
    (_bad_config, AUTH, "failed to get credential: the docker-registry Secret of type …"),
    (_no_proxy, AUTH, "failed to get proxy address: failed to get secret 'ns/proxy': secrets \"proxy\" not found"),
    (_bad_proxy, AUTH, "failed to get proxy address: proxy URL has scheme 'ftp', not http, https or socks5"),
    (_no_cloud, AUTH, "failed to get credential from aws: no identity here"),
    (_no_cloud_account, AUTH, 'failed to get credential from aws: serviceaccounts "gone" not found'),
    (_no_cert, AUTH, f"{TRANSPORT}failed to get secret 'ns/tls': secrets \"tls\" not found"),
    (_half_cert, AUTH, f"{TRANSPORT}…"),
    (_empty_cert, AUTH, f"{TRANSPORT}…"),
    (_bad_cert, AUTH, f"{TRANSPORT}'ca.crt' holds no PEM certificate"),
    (_no_tags, Reason.READ_OPERATION_FAILED, f"{TAGS}NAME_UNKNOWN: unknown"),
    (_no_match, Reason.READ_OPERATION_FAILED, f"{TAGS}no match found for semver: ^9"),
    (_bad_range, Reason.READ_OPERATION_FAILED, f"{TAGS}improper constraint: 'one'"),
    (_bad_filter, Reason.READ_OPERATION_FAILED, f"{TAGS}error parsing regexp: missing closing ): `(`"),
    (_no_tag, PULL, f"{DIGEST}MANIFEST_UNKNOWN: manifest unknown"),
    (_bad_digest, PULL, f"{DIGEST}'sha256:abc' is not a digest such as sha256:<64 hex digits>"),
    (_no_manifest, PULL, f"failed to pull artifact from '{URL}': gone"),
    (_bad_manifest, LAYER, "failed to parse artifact manifest: the manifest cannot be read: x"),
    (_many_annotations, LAYER, "failed to parse artifact manifest: more than 262144 bytes of annotations"),
    (_many_layers, LAYER, "failed to parse artifact layers: the manifest lists more than 1000 layers"),
    (_no_layers, LAYER, "no layers found in artifact"),
    (_no_such_layer, LAYER, "failed to find layer with media type 'x/y' in artifact"),
    (_no_archive, LAYER, "failed to extract layer contents from artifact: the archive cannot be read: …"),
    (_no_blob, LAYER, "failed to extract layer contents from artifact: the blob does not have the digest x"),
    (_no_copy, LAYER, "failed to copy layer from artifact: the blob does not have the digest x"),
]


@pytest.mark.parametrize(
    ("trouble", "reason", "text"), FAILURES, ids=[trouble.__name__.strip("_") for trouble, *_ in FAILURES]
)
def test_s6_3_each_failure_says_what_the_spec_says(
    stage: Stage, trouble: Callable[[Stage], None], reason: str, text: str
) -> None:
    trouble(stage)
    error = stage.fails()
    start, ellipsis, _ = text.partition("…")
    assert error.message.startswith(start) if ellipsis else error.message == text
    assert error.reason == reason
    assert error.condition == ConditionType.FETCH_FAILED
    assert not error.stalls
    assert error.waits is None
    assert "secret}" not in error.message


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("oci://", "a repository name must be specified"),
        (
            "oci://ghcr.io/org/app:v1",
            "repository can only contain the characters `abcdefghijklmnopqrstuvwxyz0123456789_-./`: org/app:v1",
        ),
    ],
)
def test_s6_3_a_url_that_is_none_stalls(stage: Stage, url: str, why: str) -> None:
    error = stage.fails(url=url)
    assert error.message == f"URL validation failed for '{url}': {why}"
    assert (error.reason, error.condition, error.stalls) == ("URLInvalid", "FetchFailed", True)
    assert not stage.registry.asked


def test_s6_3_a_closed_feature_gate_stalls_without_a_condition(stage: Stage) -> None:
    stage.secrets.accounts["robot"] = {}
    error = stage.fails(provider="aws", serviceAccountName="robot")
    assert error.message == (
        "to use spec.serviceAccountName for provider authentication please enable the ObjectLevelWorkloadIdentity "
        "feature gate in the controller"
    )
    assert (error.reason, error.condition, error.stalls) == ("FeatureGateDisabled", None, True)
    assert not stage.cloud.asked


def test_s2_6_a_missing_auth_secret_has_an_event_of_its_own(stage: Stage) -> None:
    _no_secret(stage)
    stage.fails()
    assert stage.events == [("Trace", "AuthenticationFailed", "auth secret 'pull' not found")]
    stage.events.clear()
    _forbidden(stage)
    stage.fails()
    assert stage.events == []


@pytest.mark.parametrize(
    ("call", "reason", "text"),
    [
        ("tags", Reason.READ_OPERATION_FAILED, f"{TAGS}not finished within 30s"),
        ("resolve", PULL, f"{DIGEST}not finished within 30s"),
        ("image", PULL, f"failed to pull artifact from '{URL}': not finished within 30s"),
        ("blob", LAYER, "failed to extract layer contents from artifact: not finished within 30s"),
    ],
)
def test_s15_pain_13_timeout_bounds_the_whole_run(stage: Stage, call: str, reason: str, text: str) -> None:
    stage.registry.push("1.0.0", tar_gz({}))
    stage.registry.hanging = call
    error = stage.fails(timeout="30s", ref={"semver": "1.x"})
    assert (error.reason, error.message) == (reason, text)


def test_refused_input_is_counted(stage: Stage) -> None:
    def count(rule: str) -> float:
        return metrics.refused_inputs.labels("registry", rule)._value.get()

    before = count("digest"), count("archive")
    _no_blob(stage)
    stage.fails()
    stage.registry.failures.clear()
    _no_archive(stage)
    stage.fails()
    assert (count("digest"), count("archive")) == (before[0] + 1, before[1] + 1)


def test_s13_a_layer_larger_than_an_artifact_may_be_is_not_asked_for(stage: Stage) -> None:
    manifest = stage.registry.manifests["latest"]
    huge = Descriptor(FLUX_CONTENT, manifest.layers[0].digest, LAYER_LIMIT + 1)
    stage.registry.manifests[manifest.descriptor.digest] = Manifest(manifest.descriptor, b"", layers=(huge,))
    for operation in ("extract", "copy"):
        error = stage.fails(layerSelector={"operation": operation})
        assert error.message.endswith(f"from artifact: the blob is larger than {1 << 30} bytes")


# -- verification


def cosign(stage: Stage, **more: Any) -> dict[str, Any]:
    stage.secrets.add("keys", a__pub=b"key a", b__pub=b"key b", other=b"no key")
    return {"verify": {"provider": "cosign", "secretRef": {"name": "keys"}} | more}


def test_s6_1_verify_with_keys_of_cosign(stage: Stage) -> None:
    revision = fetched(stage.fetch(**cosign(stage))).revision
    ((call, digest, more),) = stage.verifier.calls
    assert (call, digest) == ("cosign", revision.rpartition("@")[2])
    assert more == {"keys": {"a.pub": b"key a", "b.pub": b"key b"}, "identities": (), "trusted_root": b""}
    verified = stage.condition("SourceVerified")
    assert (verified["status"], verified["reason"]) == ("True", "Succeeded")
    assert verified["message"] == f"verified signature of revision {revision}"
    assert stage.status["sourceVerificationFingerprint"].startswith("sha256:")


def test_s6_1_verify_keyless_with_identities_and_a_root(stage: Stage) -> None:
    stage.secrets.add("root", trusted_root__json=b"{}")
    identities = [{"issuer": "^i$", "subject": "^s$"}, {"issuer": "j", "subject": "t"}]
    verify = {"provider": "cosign", "matchOIDCIdentity": identities, "trustedRootSecretRef": {"name": "root"}}
    stage.fetch(verify=verify)
    assert stage.verifier.calls[0][2] == {
        "keys": None, "identities": (("^i$", "^s$"), ("j", "t")), "trusted_root": b"{}"
    }  # fmt: skip


def notation(stage: Stage) -> dict[str, Any]:
    stage.secrets.add("keys", trustpolicy__json=b"{}", ca__crt=b"crt", other__pem=b"pem", x=b"x")
    return {"verify": {"provider": "notation", "secretRef": {"name": "keys"}}}


def test_s6_1_verify_with_notation(stage: Stage) -> None:
    stage.fetch(**notation(stage))
    call, _, more = stage.verifier.calls[0]
    assert call == "notation"
    assert more == {"policy": b"{}", "certificates": {"ca.crt": b"crt", "other.pem": b"pem"}}
    assert stage.condition("SourceVerified")["status"] == "True"


def test_s6_3_notation_may_let_pass_without_the_condition(stage: Stage) -> None:
    stage.verifier.result = False
    stage.fetch(**notation(stage))
    assert not stage.condition("SourceVerified")
    assert "sourceVerificationFingerprint" not in stage.status
    stage.fetch()
    assert len(stage.verifier.calls) == 2


def test_s6_3_a_pinned_digest_is_verified_with_its_media_type(stage: Stage) -> None:
    digest = stage.registry.manifests["latest"].descriptor.digest
    stage.fetch(ref={"digest": digest}, **cosign(stage))
    assert stage.registry.asked[0] == f"resolve {digest}"


@pytest.mark.parametrize("when", ["nothing", "revision", "generation", "failed", "keys"])
def test_s6_3_what_is_verified_is_verified_again_only_when_due(stage: Stage, when: str) -> None:
    stage.fetch(**cosign(stage))
    if when == "revision":
        stage.registry.push("latest", tar_gz({"b": "b"}))
    elif when == "generation":
        stage.generation += 1
    elif when == "failed":
        stage.condition("SourceVerified")["status"] = "False"
    elif when == "keys":
        stage.secrets.add("keys", a__pub=b"another key")
    stage.fetch()
    assert len(stage.verifier.calls) == (1 if when == "nothing" else 2)


def test_s16_another_key_that_does_not_fit_is_noticed_without_a_new_revision(stage: Stage) -> None:
    stage.fetch(**cosign(stage))
    stage.secrets.add("keys", a__pub=b"another key")
    stage.verifier.failure = RemoteError("no matching signatures were found")
    stage.fails()
    stage.fails()
    assert stage.condition("SourceVerified")["status"] == "False"
    assert len(stage.verifier.calls) == 3
    stage.secrets.add("keys", a__pub=b"key a", b__pub=b"key b")
    stage.verifier.failure = None
    assert isinstance(stage.fetch(), Unchanged)
    assert stage.condition("SourceVerified")["status"] == "True"


def test_s16_what_an_older_version_verified_counts(stage: Stage) -> None:
    stage.fetch(**cosign(stage))
    del stage.status["sourceVerificationFingerprint"]
    assert isinstance(stage.fetch(), Unchanged)
    assert len(stage.verifier.calls) == 1
    assert stage.status["sourceVerificationFingerprint"]


def test_s16_keys_that_cannot_be_read_do_not_undo_what_was_verified(stage: Stage) -> None:
    stage.fetch(**cosign(stage))
    fingerprint = stage.status["sourceVerificationFingerprint"]
    stage.secrets.is_forbidden = True
    assert isinstance(stage.fetch(), Unchanged)
    assert stage.status["sourceVerificationFingerprint"] == fingerprint
    stage.registry.push("latest", tar_gz({"b": "b"}))
    assert "is forbidden" in stage.fails().message


def test_s3_1_without_verify_the_condition_goes(stage: Stage) -> None:
    stage.fetch(**cosign(stage))
    assert isinstance(stage.fetch(verify=None), Unchanged)
    assert not stage.condition("SourceVerified")
    assert "sourceVerificationFingerprint" not in stage.status


def test_s3_1_a_false_condition_goes_at_the_start_even_if_the_registry_is_away(stage: Stage) -> None:
    stage.verifier.failure = RemoteError("bad")
    stage.fails(**cosign(stage))
    assert stage.condition("SourceVerified")["status"] == "False"
    stage.registry.failures["resolve"] = RemoteError("away")
    stage.fails()
    assert not stage.condition("SourceVerified")


NO_SIGNATURE = "no matching signatures were found for 'ghcr.io/org/app@"


@pytest.mark.parametrize(
    ("verify", "data", "provider", "text"),
    [
        ({"provider": "cosign", "secretRef": {"name": "keys"}}, None, "cosign", "failed to get secret 'ns/keys': …"),
        ({"provider": "cosign", "secretRef": {"name": "keys"}}, {"x": b""}, "cosign", f"{NO_SIGNATURE}…"),
        (
            {"provider": "cosign", "trustedRootSecretRef": {"name": "keys"}},
            None,
            "cosign keyless",
            "failed to get secret 'ns/keys': …",
        ),
        (
            {"provider": "cosign", "trustedRootSecretRef": {"name": "keys"}},
            {},
            "cosign keyless",
            "'trusted_root.json' not found in secret 'ns/keys'",
        ),
        ({"provider": "notation"}, None, "notation", "verification secret cannot be empty…"),
        (
            {"provider": "notation", "secretRef": {"name": "keys"}},
            {"ca.crt": b""},
            "notation",
            "'trustpolicy.json' not found in secret 'ns/keys'",
        ),
        (
            {"provider": "notation", "secretRef": {"name": "keys"}},
            {"trustpolicy.json": b"{}"},
            "notation",
            "no certificates found in secret 'ns/keys'",
        ),
    ],
)
def test_s6_3_trust_that_is_not_there_fails_the_verification(
    stage: Stage, verify: dict[str, Any], data: dict[str, bytes] | None, provider: str, text: str
) -> None:
    if data is not None:
        stage.secrets.secrets["keys"] = Secret("ns/keys", "Opaque", data)
    error = stage.fails(verify=verify)
    start = f"failed to verify the signature using provider '{provider}': {text.partition('…')[0]}"
    assert error.message.startswith(start)
    assert (error.reason, error.condition, error.stalls) == ("VerificationError", None, False)
    failed = stage.condition("SourceVerified")
    assert (failed["status"], failed["reason"], failed["message"]) == ("False", "VerificationError", error.message)
    assert not stage.verifier.calls


@pytest.mark.parametrize(("provider", "keyless"), [("cosign", False), ("cosign keyless", True), ("notation", False)])
def test_s6_3_a_bad_signature_stores_nothing(stage: Stage, provider: str, keyless: bool) -> None:
    stage.verifier.failure = RemoteError("bad signature")
    spec = notation(stage) if provider == "notation" else cosign(stage)
    error = stage.fails(**({"verify": {"provider": "cosign"}} if keyless else spec))
    assert error.message == f"failed to verify the signature using provider '{provider}': bad signature"
    assert "artifact" not in stage.status
    assert not [line for line in stage.registry.asked if line.startswith(("image", "blob"))]


def test_s6_1_timeout_bounds_the_verification(stage: Stage) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    stage.verifier.cosign = never  # type: ignore[method-assign]
    error = stage.fails(**cosign(stage))
    assert error.message == "failed to verify the signature using provider 'cosign': not finished within 60s"


def test_pull_credentials_are_not_in_any_message(stage: Stage) -> None:
    stage.secrets.add_pull("pull", "me")
    stage.fetch(secretRef={"name": "pull"})
    assert "me-secret" not in repr(stage.access)
    assert base64.b64encode(b"me:me-secret").decode() not in repr(stage.access)


def test_s15_7_what_is_stored_can_be_had_again_whatever_is_wanted_now(stage: Stage) -> None:
    stage.registry.push("latest", tar_gz({"a.yaml": b"1", "b.md": b"2"}))
    first = stage.fetch(ignore="*.md")
    assert isinstance(first, Fetched)
    stage.registry.push("latest", tar_gz({"c.yaml": b"3"}))
    stage.spec |= {"ignore": None, "ref": {"tag": "other"}}
    again = stage.restore()
    assert again is not None
    assert (again.revision, again.file_name, again.content) == (first.revision, first.file_name, first.content)
