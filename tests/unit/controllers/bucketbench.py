"""The Bucket kind of source in its real pipeline, with everything outside replaced: API server, storages, clouds."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from multidict import CIMultiDict

from gitopsd.api.source import Bucket
from gitopsd.artifact.store import ArtifactStore
from gitopsd.controllers.bucket import BucketSource
from gitopsd.controllers.secrets import Secrets
from gitopsd.controllers.source import Parts, Services, SourceReconciler
from gitopsd.errors import ReconcileError
from gitopsd.fetch.cloud.identity import AwsKeys, Identity, NoCredentialsError
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import ANYBODY, Access, HttpClient
from gitopsd.krm.objects import Obj, ObjectKey, key_of
from gitopsd.kube.lister import Store
from gitopsd.runtime.controller import Result
from gitopsd.runtime.status import StatusOwner
from gitopsd.settings import Settings, parse
from gitopsd.tasks import TaskScope, offload
from tests.unit.controllers.gitbench import NAMESPACE, Bench, FakeApi, _lending_slot, _merge

PATH = f"/apis/source.toolkit.fluxcd.io/v1/namespaces/{NAMESPACE}/buckets/"


class BucketApi(FakeApi):
    """Writes of Buckets reach the cache at once."""

    async def patch(self, path: str, body: Obj, **_: Any) -> Obj:
        obj = copy.deepcopy(self._cache.get(key(path.removeprefix(PATH).removesuffix("/status"))))
        assert obj is not None
        _merge(obj, {part: value for part, value in body.items() if part != "metadata"})
        finalizers = (body.get("metadata") or {}).get("finalizers")
        if finalizers is not None:
            obj["metadata"]["finalizers"] = finalizers
        return self.put(obj)


@dataclass
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    url: str
    headers: Mapping[str, str]
    access: Access
    body: bytes | None


class _Answer:
    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = CIMultiDict(reply.headers)
        self._body = reply.body

    async def read(self, limit: int, what: str = "answer") -> bytes:
        return b"".join([piece async for piece in self.pieces(limit, what)])

    async def pieces(self, limit: int, what: str = "answer", *, as_sent: bool = False) -> AsyncIterator[bytes]:
        if len(self._body) > limit:
            raise RemoteError(f"the {what} is larger than {limit} bytes", rule="size")
        yield self._body


class FakeStorage(HttpClient):
    """An S3 storage with addresses by path; `script` may answer instead, or raise."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {"a.yaml": b"a: 1\n"}
        self.script: Callable[[Asked], Reply | None] = lambda _: None
        self.asked: list[Asked] = []

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        access: Access = ANYBODY,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        **_: Any,
    ) -> AsyncIterator[Any]:
        asked = Asked(method, url, dict(headers or {}), access, body)
        self.asked.append(asked)
        yield _Answer(self.script(asked) or self._reply(asked))

    @property
    def downloads(self) -> list[str]:
        """The keys that were asked for since the last time."""
        paths = [unquote(urlsplit(one.url).path).split("/", 2)[2] for one in self.asked if one.method == "GET"]
        self.asked.clear()
        return sorted(path for path in paths if path and path != ".sourceignore")

    def _reply(self, asked: Asked) -> Reply:
        parts = urlsplit(asked.url)
        key = unquote(parts.path).split("/", 2)[2]
        if asked.method == "HEAD":
            return Reply()
        if not key:
            prefix = dict(parse_qsl(parts.query)).get("prefix", "")
            return Reply(200, self._listing(prefix))
        if key not in self.objects:
            return Reply(404, b"<Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>")
        if asked.headers.get("If-Match", self._etag(key)) != self._etag(key):
            return Reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        return Reply(200, self.objects[key])

    def _etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest()}"'

    def _listing(self, prefix: str) -> bytes:
        rows = "".join(
            f"<Contents><Key>{quote(key)}</Key><ETag>{self._etag(key)}</ETag><Size>{len(content)}</Size></Contents>"
            for key, content in self.objects.items()
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><EncodingType>url</EncodingType>{rows}</ListBucketResult>".encode()


class FakeCloud:
    """Hands out what is wanted, and remembers to whom; `failure` is raised instead."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None
        self.asks_for_tokens = False  # as workload identity does

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure

    async def _ask(self, identity: Identity) -> None:
        if self.asks_for_tokens and identity.token is not None:
            await identity.token("audience")

    async def bucket_aws(self, identity: Identity, region: str = "", sts_endpoint: str = "") -> AwsKeys:
        self._note("aws", identity, region, sts_endpoint)
        await self._ask(identity)
        return AwsKeys("CLOUDKEY", "CNRY-cloud-secret", "CNRY-session")

    async def bucket_token(self, provider: str, identity: Identity) -> str:
        self._note(provider, identity)
        await self._ask(identity)
        return f"CNRY-{provider}-token"

    async def azure_managed_identity(self, client_id: str, identity: Identity) -> str:
        self._note("managed", client_id, identity)
        return "CNRY-managed-token"

    def is_nobody(self) -> None:
        """The daemon has no identity."""
        self.failure = NoCredentialsError("no identity is configured")


class BucketBench(Bench):
    """Buckets, their storage, and what was told about them."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.cache: Store[Obj] = Store()
        self.api = BucketApi(self.cache)
        self.storage = FakeStorage()
        self.cloud = FakeCloud()
        self.events: list[tuple[str, str, str]] = []
        self.settings = settings
        self.store = ArtifactStore(
            folder, advertised="localhost:9090", budget=1 << 20, digest_algorithm=settings.artifact_digest_algo
        )
        self.tasks = TaskScope("bench")
        self.recorder: Any = SimpleNamespace(event=self._event)
        self.restart()

    def restart(self, *flags: str) -> None:
        """Forget what only the process knew; flags may be other ones from now on."""
        if flags:
            with ThreadPoolExecutor(1) as pool:
                self.settings = pool.submit(parse, [*flags], {}).result()
        services = Services(
            client=self.api,  # type: ignore[arg-type]
            settings=self.settings,
            store=self.store,
            engine=None,  # type: ignore[arg-type]
            recorder=self.recorder,
            web=self.storage,
            secrets=Secrets(self.api),  # type: ignore[arg-type]
            registry=None,  # type: ignore[arg-type]
            indexes=None,  # type: ignore[arg-type]
            cloud=self.cloud,  # type: ignore[arg-type]
            verifier=None,  # type: ignore[arg-type]
            listers={"Bucket": self.cache},
        )
        owner = StatusOwner(
            self.api,  # type: ignore[arg-type]
            "source-controller",
            Bucket.OWNED,
            lambda obj: PATH + str(obj["metadata"]["name"]),
        )
        informer: Any = SimpleNamespace(lister=self.cache)
        self.source = BucketSource(services)  # type: ignore[assignment]
        parts = Parts(informer, self.store, self.recorder, owner, self.tasks, self.settings)
        self._reconciler: SourceReconciler[Bucket] = SourceReconciler(self.source, parts)

    @classmethod
    @asynccontextmanager
    async def opened(cls, folder: Path, *flags: str) -> AsyncIterator[BucketBench]:
        bench = cls(folder, await offload(parse, [*flags], {}))
        await bench.store.open()
        async with bench.tasks:
            yield bench

    def apply(self, name: str = "app", **spec: Any) -> None:
        """Create an object or give it another spec; `None` removes a field."""
        found = copy.deepcopy(self.cache.get(key(name)))
        if found is None:
            found = {
                "apiVersion": "source.toolkit.fluxcd.io/v1",
                "kind": "Bucket",
                "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "generation": 0},
                "spec": {"bucketName": "bucket", "endpoint": "minio:9000", "insecure": True, "interval": "10m"},
                "status": {"observedGeneration": -1},
            }
        found["spec"] |= spec
        found["spec"] = {name: value for name, value in found["spec"].items() if value is not None}
        found["metadata"]["generation"] += 1
        self.api.put(found)

    def status(self, name: str = "app") -> Obj:
        found = self.cache.get(key(name))
        assert found is not None
        return found.get("status") or {}

    async def files(self, name: str = "app") -> dict[str, bytes]:
        """What is in the newest artifact."""
        artifact = self.store.latest(key(name))
        assert artifact is not None
        return await offload(dict, await self.store.files(artifact))

    async def run(self, name: str = "app") -> Result | ReconcileError:
        """One run; what it ended with. What was told before is forgotten."""
        self.events.clear()
        run: Any = SimpleNamespace(key=key(name), lending_slot=_lending_slot, is_gone=False)
        try:
            return await self._reconciler.reconcile(run)
        except ReconcileError as error:
            return error


def key(name: str) -> ObjectKey:
    """The identity of a Bucket of the bench."""
    return ObjectKey("source.toolkit.fluxcd.io", "Bucket", NAMESPACE, name)


__all__ = ["Asked", "BucketBench", "FakeCloud", "Reply", "key", "key_of"]
