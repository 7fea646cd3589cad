"""A HelmChart's runs without a cluster: a real store and a real engine; the web and registries do as a test wants."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from gitopsd.api.meta import SOURCE_GROUP, Artifact
from gitopsd.api.source import HelmChart
from gitopsd.artifact.store import ArtifactStore
from gitopsd.artifact.tree import FileTree
from gitopsd.controllers.helmchart import HelmChartSource
from gitopsd.controllers.secrets import Secret
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged
from gitopsd.engine import Engine
from gitopsd.fetch.cloud.identity import Identity
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmcharts import CHART_CONTENT
from gitopsd.fetch.helmindex import Indexes
from gitopsd.fetch.registry import Descriptor, Manifest, RegistryAccess, Repository
from gitopsd.fetch.registrymanifest import OCI_MANIFEST, digest_of
from gitopsd.krm.objects import Obj, ObjectKey
from gitopsd.kube.errors import NotFoundError
from gitopsd.runtime.status import StatusOwner, StatusSession
from gitopsd.tasks import TaskScope, offload
from tests.answering import AnsweringWeb, Asked, Reply
from tests.servers.charts import chart_archive

REPO = "https://charts.example.com"
NAMESPACE = "ns"


class Registry:
    """Charts by repository and tag; remembers what was asked, and by whom."""

    def __init__(self) -> None:
        self.charts: dict[tuple[str, str], Manifest] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.accesses: list[RegistryAccess] = []
        self.failures: dict[str, RemoteError] = {}

    def push(self, repository: str, tag: str, chart: bytes, media_type: str = CHART_CONTENT) -> str:
        """Put a chart in; returns the digest of its manifest."""
        layer = Descriptor(media_type, digest_of(chart), len(chart))
        raw = json.dumps([repository, tag, layer.digest]).encode()
        described = Descriptor(OCI_MANIFEST, digest_of(raw), len(raw))
        manifest = Manifest(described, raw, layers=(layer,))
        self.charts |= {(repository, tag): manifest, (repository, described.digest): manifest}
        self.blobs[layer.digest] = chart
        return described.digest

    def _ask(self, call: str, repository: Repository, what: str, access: RegistryAccess) -> None:
        self.asked.append(f"{call} {repository.shown} {what}".strip())
        self.accesses.append(access)
        if call in self.failures:
            raise self.failures[call]

    async def tags(self, repository: Repository, access: RegistryAccess) -> list[str]:
        self._ask("tags", repository, "", access)
        return [tag for name, tag in self.charts if name == repository.shown and ":" not in tag]

    async def resolve(self, repository: Repository, reference: str, access: RegistryAccess) -> Descriptor:
        self._ask("resolve", repository, reference, access)
        return self._found(repository, reference).descriptor

    async def image(self, repository: Repository, reference: str, access: RegistryAccess) -> Manifest:
        self._ask("image", repository, reference, access)
        return self._found(repository, reference)

    def _found(self, repository: Repository, reference: str) -> Manifest:
        if (repository.shown, reference) not in self.charts:
            raise RemoteError("MANIFEST_UNKNOWN: manifest unknown")
        return self.charts[repository.shown, reference]

    async def blob(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, *, limit: int
    ) -> bytes:
        self._ask("blob", repository, descriptor.digest, access)
        return self.blobs[descriptor.digest]


class Secrets:
    """Secrets of the namespace."""

    def __init__(self) -> None:
        self.secrets: dict[str, Secret] = {}

    def add(self, name: str, data: Mapping[str, bytes], kind: str = "Opaque") -> None:
        self.secrets[name] = Secret(f"{NAMESPACE}/{name}", kind, data)

    async def get(self, namespace: str, name: str) -> Secret:
        assert namespace == NAMESPACE
        if name not in self.secrets:
            raise NotFoundError(404, "NotFound", f'secrets "{name}" not found')
        return self.secrets[name]


class Cloud:
    """Gives out one user for each provider."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    async def registry(self, provider: str, host: str, identity: Identity) -> tuple[str, str]:
        if self.failure is not None:
            raise self.failure
        return f"{provider}-user", f"secret of {identity.kind} for {host}"


class Verifier:
    """Finds signatures good, or not."""

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.failure: RemoteError | None = None
        self.result = True

    async def cosign(self, repository: Repository, artifact: Descriptor, access: RegistryAccess, **_: Any) -> None:
        self._check(artifact)

    async def notation(self, repository: Repository, artifact: Descriptor, access: RegistryAccess, **_: Any) -> bool:
        self._check(artifact)
        return self.result

    def _check(self, artifact: Descriptor) -> None:
        self.verified.append(artifact.digest)
        if self.failure is not None:
            raise self.failure


class Lister:
    """The objects of one kind."""

    def __init__(self) -> None:
        self.objects: dict[str, Obj] = {}

    def get(self, key: ObjectKey) -> Obj | None:
        return self.objects.get(key.name) if key.namespace == NAMESPACE else None

    def list(self, *, namespace: str | None = None) -> list[Obj]:
        return list(self.objects.values()) if namespace == NAMESPACE else []


class Session(StatusSession):
    """A session that writes nothing."""

    def progress(self) -> None:
        pass


class Bench:
    """One HelmChart `app`, its status from run to run, and all it meets."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.store = ArtifactStore(folder, advertised="storage", budget=1 << 28)
        self.engine = engine
        self.files: dict[str, bytes] = {}
        self.replies: dict[str, Reply] = {}
        self.web = AnsweringWeb(self._answer)
        self.registry = Registry()
        self.secrets = Secrets()
        self.cloud = Cloud()
        self.verifier = Verifier()
        self.listers = {kind: Lister() for kind in ("HelmRepository", "GitRepository", "Bucket", "OCIRepository")}
        self.settings = SimpleNamespace(
            helm_chart_max_size=10 << 20, helm_chart_file_max_size=5 << 20, helm_index_max_size=50 << 20
        )
        self.events: list[tuple[str, str, str]] = []
        self.spec: dict[str, Any] = {"interval": "1m", "chart": "demo"}
        self.status: dict[str, Any] = {}
        self.generation = 1
        self.services = cast(
            "Services",
            SimpleNamespace(
                settings=self.settings,
                store=self.store,
                engine=engine,
                web=self.web,
                secrets=self.secrets,
                registry=self.registry,
                indexes=Indexes(),
                cloud=self.cloud,
                verifier=self.verifier,
                listers=self.listers,
                event=lambda obj, kind, reason, message: self.events.append((kind, reason, message)),
            ),
        )

    def _answer(self, asked: Asked) -> Reply:
        if asked.url in self.replies:
            return self.replies[asked.url]
        content = self.files.get(asked.url)
        return Reply(404) if content is None else Reply(200, content)

    # -- sources -------------------------------------------------------------------------------------------------------

    def source(self, kind: str, name: str, spec: Mapping[str, Any], artifact: Artifact | None = None) -> None:
        """Put a source into its lister."""
        self.listers[kind].objects[name] = {
            "apiVersion": f"{SOURCE_GROUP}/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": name, "resourceVersion": "1", "generation": 1},
            "spec": dict(spec),
            "status": {"artifact": artifact.to_builtins()} if artifact is not None else {},
        }

    async def tree(
        self, files: Mapping[str, str | bytes], revision: str = "main@sha1:" + "ab" * 20, kind: str = ""
    ) -> None:
        """Let the chart come from a GitRepository (or Bucket) `app` with these files."""
        kind = kind or "GitRepository"
        contents = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
        tree = await offload(FileTree.build, contents)
        key = ObjectKey(SOURCE_GROUP, kind, NAMESPACE, "app")
        digest = await offload(lambda: tree.digest.removeprefix("sha256:"))
        artifact = await self.store.put(key, revision, f"{digest[:40]}.tar.gz", tree)
        self.store.announce(key)
        self.source(kind, "app", {"interval": "1m", "url": "https://x/y.git"}, artifact)
        self.spec["sourceRef"] = {"kind": kind, "name": "app"}

    async def index(
        self, entries: Mapping[str, Sequence[Mapping[str, Any]]], name: str = "app", url: str = REPO, **spec: Any
    ) -> None:
        """Let the chart come from a HelmRepository with this index, the newest version of each chart first."""
        whole = {chart: [{"name": chart, "created": "2024-01-01T00:00:00Z", **one} for one in versions]
                 for chart, versions in entries.items()}  # fmt: skip
        data = json.dumps({"apiVersion": "v1", "entries": whole}).encode()
        key = ObjectKey(SOURCE_GROUP, "HelmRepository", NAMESPACE, name)
        revision = hashlib.sha256(data).hexdigest()
        artifact = await self.store.put_bytes(key, f"sha256:{revision}", f"index-{revision}.yaml", data)
        self.store.announce(key)
        self.source("HelmRepository", name, {"interval": "1m", "url": url, **spec}, artifact)
        self.spec.setdefault("sourceRef", {"kind": "HelmRepository", "name": name})

    async def serve(self, *versions: str, chart: str = "demo", digests: bool = True, **spec: Any) -> dict[str, bytes]:
        """A HelmRepository that serves these versions of a chart; returns the archives."""
        archives = {version: chart_archive(chart, version) for version in versions}
        self.files |= {f"{REPO}/{chart}-{version}.tgz": data for version, data in archives.items()}
        entries = [
            {"version": version, "urls": [f"{chart}-{version}.tgz"]}
            | ({"digest": hashlib.sha256(data).hexdigest()} if digests else {})
            for version, data in archives.items()
        ]
        await self.index({chart: entries}, **spec)
        return archives

    def oci(self, url: str = "oci://ghcr.io/charts", **spec: Any) -> None:
        """Let the chart come from a HelmRepository of type oci."""
        self.source("HelmRepository", "app", {"url": url, "type": "oci", **spec})
        self.spec["sourceRef"] = {"kind": "HelmRepository", "name": "app"}

    # -- runs ----------------------------------------------------------------------------------------------------------

    async def run(self, **spec: Any) -> Fetched | Unchanged:
        """One run, its result stored as the pipeline would; other fields of the spec make another generation."""
        if spec and self.status:
            self.generation += 1
        self.spec |= spec
        obj: Obj = {
            "apiVersion": f"{SOURCE_GROUP}/v1",
            "kind": "HelmChart",
            "metadata": {
                "name": "app", "namespace": NAMESPACE, "uid": "u", "resourceVersion": "1", "generation": self.generation
            },
            "spec": dict(self.spec),
            "status": self.status,
        }  # fmt: skip
        owner = StatusOwner(cast("Any", None), "test", frozenset(), lambda _: "/path")
        async with TaskScope("test") as tasks:
            session = Session(owner, obj, tasks)
            recorded = self.status.get("artifact")
            current = msgspec.convert(recorded, Artifact) if recorded else None
            try:
                found = await HelmChartSource(self.services).fetch(HelmChart.from_object(obj), current, session)
                session.delete("FetchFailed")
                session.mark("ArtifactInStorage", "True", found.reason, found.stored)
                if isinstance(found, Fetched):
                    self._stored(found, session)
                session.fields["observedGeneration"] = self.generation
                return found
            except SourceError as error:
                if error.condition is not None:
                    session.mark(error.condition, "True", error.reason, error.message)
                if error.stalls:
                    session.fields["observedGeneration"] = self.generation
                raise
            finally:
                session.delete("Reconciling", "Ready")
                self.status = session._wanted()

    def _stored(self, found: Fetched, session: Session) -> None:
        assert isinstance(found.content, bytes)
        session.fields["artifact"] = {
            "digest": f"sha256:{hashlib.sha256(found.content).hexdigest()}",
            "path": f"helmchart/{NAMESPACE}/app/{found.file_name}",
            "url": "http://x/",
            "revision": found.revision,
            "lastUpdateTime": "2026-01-01T00:00:00Z",
        }
        session.delete("ArtifactOutdated")
        for name, value in found.observed.items():
            session.fields.pop(name, None)
            if value is not None:
                session.fields[name] = value

    async def fetched(self, **spec: Any) -> Fetched:
        """A run that has something to store."""
        found = await self.run(**spec)
        assert isinstance(found, Fetched), found
        return found

    async def unchanged(self, **spec: Any) -> Unchanged:
        """A run that finds what is stored."""
        found = await self.run(**spec)
        assert isinstance(found, Unchanged), found
        return found

    async def fails(self, **spec: Any) -> SourceError:
        """A run that fails; nothing is left of what it downloaded."""
        with pytest.raises(SourceError) as caught:
            await self.run(**spec)
        return caught.value

    def conditions(self) -> dict[str, tuple[str, str, str]]:
        """The conditions after the last run, besides ArtifactInStorage."""
        return {
            one["type"]: (one["status"], one["reason"], one["message"])
            for one in self.status.get("conditions", ())
            if one["type"] != "ArtifactInStorage"
        }
