"""The Git kind of source in its real pipeline, with everything outside replaced: API server, remote, clouds."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gitopsd.api.source import GitRepository
from gitopsd.artifact.store import ArtifactStore
from gitopsd.artifact.tree import FileTree
from gitopsd.controllers.git import GitSource
from gitopsd.controllers.secrets import Secrets
from gitopsd.controllers.source import Parts, Services, SourceReconciler
from gitopsd.errors import ReconcileError
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import Fetched, GitRequest
from gitopsd.fetch.giturl import parse as parse_url
from gitopsd.krm.objects import Obj, ObjectKey, key_of
from gitopsd.kube.errors import NotFoundError
from gitopsd.kube.informer import Change
from gitopsd.kube.lister import Identity, Store
from gitopsd.runtime.controller import Result
from gitopsd.runtime.status import StatusOwner
from gitopsd.settings import Settings, parse
from gitopsd.tasks import TaskScope, offload
from tests.signing import commit_object

NAMESPACE = "ns"
PATH = f"/apis/source.toolkit.fluxcd.io/v1/namespaces/{NAMESPACE}/gitrepositories/"


class FakeApi:
    """Secrets and ServiceAccounts to be read, and status writes that reach the cache at once."""

    def __init__(self, cache: Store[Obj]) -> None:
        self.objects: dict[str, Obj] = {}
        self.created: list[tuple[str, Obj]] = []
        self.refusal: Exception | None = None  # of whatever is to be created
        self._cache = cache
        self._version = 100
        self._created: dict[str, int] = {}

    async def get(self, path: str) -> Obj:
        if path not in self.objects:
            kind, name = path.split("/")[-2:]
            raise NotFoundError(404, "NotFound", f'{kind} "{name}" not found')
        return self.objects[path]

    async def create(self, path: str, body: Obj) -> Obj:
        if self.refusal is not None:
            raise self.refusal
        self.created.append((path, body))
        return {"status": {"token": "made"}}

    async def patch(self, path: str, body: Obj, **_: Any) -> Obj:
        name = path.removeprefix(PATH).removesuffix("/status")
        obj = copy.deepcopy(self._cache.get(key(name)))
        version = (body.get("metadata") or {}).get("resourceVersion")
        if obj is None or (version is not None and int(version) < self._created.get(obj["metadata"]["uid"], 0)):
            raise NotFoundError(404, "NotFound", f'gitrepositories "{name}" not found')
        _merge(obj, {part: value for part, value in body.items() if part != "metadata"})
        finalizers = (body.get("metadata") or {}).get("finalizers")
        if finalizers is not None:
            obj["metadata"]["finalizers"] = finalizers
        return self.put(obj)

    def put(self, obj: Obj) -> Obj:
        self._version += 1
        self._created.setdefault(obj["metadata"]["uid"], self._version)
        obj["metadata"]["resourceVersion"] = str(self._version)
        self._cache.put(key_of(obj), Identity(obj["metadata"]["uid"], str(self._version)), obj)
        return copy.deepcopy(obj)


def _merge(target: Obj, patch: Mapping[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = copy.deepcopy(value)


class FakeRemote:
    """What the remote has; `failure` is raised instead. `asked` are the operations in their order."""

    def __init__(self) -> None:
        self.commit = commit_object("first")
        self.tag = b""
        self.files: dict[str, bytes] = {"a.yaml": b"a: 1\n"}
        self.label: str | None = None
        self.failure: FetchError | None = None
        self.requests: list[GitRequest] = []
        self.asked: list[str] = []
        self.allowed: list[float] = []
        self.seen_ago = 0.0
        self.moves_to: bytes | None = None
        self.before_fetch: Callable[[], None] = lambda: None

    @property
    def sha(self) -> str:
        return hashlib.sha1(b"commit %d\0" % len(self.commit) + self.commit).hexdigest()

    def revision(self, request: GitRequest) -> str:
        label = self.label if self.label is not None else request.ref.label
        return f"{label}@sha1:{self.sha}"

    async def resolve(self, request: GitRequest, *, max_age: float = 0.0, follower: object = None) -> str:
        self._ask("resolve", request)
        self.allowed.append(max_age)
        return self.revision(request)

    def age(self, follower: object) -> float:
        assert isinstance(follower, ObjectKey)
        return self.seen_ago

    async def fetch(self, request: GitRequest, revision: str | None = None) -> Fetched:
        self._ask("fetch", request)
        self.before_fetch()
        if self.moves_to is not None:
            self.commit, self.moves_to = self.moves_to, None
        subject = self.commit.partition(b"\n\n")[2].partition(b"\n")[0].decode()
        tree = await offload(FileTree.build, self.files)
        return Fetched(self.revision(request), self.sha, subject, tree, self.commit, self.tag)

    def _ask(self, what: str, request: GitRequest) -> None:
        parse_url(request.url)
        self.asked.append(what)
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure


class Bench:
    """GitRepositories, their remote, and what was told about them."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.cache: Store[Obj] = Store()
        self.api = FakeApi(self.cache)
        self.remote = FakeRemote()
        self.events: list[tuple[str, str, str]] = []
        self.listeners: list[Callable[[Change[Obj]], None]] = []
        self.cloud: Any = SimpleNamespace()
        self.settings = settings
        self.store = ArtifactStore(folder, advertised="localhost:9090", budget=1 << 20)
        self.tasks = TaskScope("bench")
        recorder: Any = SimpleNamespace(event=self._event)
        services = Services(
            client=self.api,  # type: ignore[arg-type]
            settings=self.settings,
            store=self.store,
            engine=None,  # type: ignore[arg-type]
            recorder=recorder,
            web=None,  # type: ignore[arg-type]
            secrets=Secrets(self.api),  # type: ignore[arg-type]
            registry=None,  # type: ignore[arg-type]
            indexes=None,  # type: ignore[arg-type]
            cloud=self.cloud,
            verifier=None,  # type: ignore[arg-type]
            listers={"GitRepository": self.cache},
        )
        owner = StatusOwner(
            self.api,  # type: ignore[arg-type]
            "source-controller",
            GitRepository.OWNED,
            lambda obj: PATH + str(obj["metadata"]["name"]),
        )
        informer: Any = SimpleNamespace(lister=self.cache)
        self.parts = Parts(informer, self.store, recorder, owner, self.tasks, self.settings)
        self.source = GitSource(services, self.remote)  # type: ignore[arg-type]
        self._reconciler: SourceReconciler[GitRepository] = SourceReconciler(self.source, self.parts)

    @classmethod
    @asynccontextmanager
    async def opened(cls, folder: Path, *flags: str) -> AsyncIterator[Bench]:
        bench = cls(folder, await offload(parse, [*flags], {}))
        await bench.store.open()
        async with bench.tasks:
            yield bench

    def _event(
        self, _component: str, _obj: Obj, kind: str, reason: str, message: str, _annotations: Any = None
    ) -> None:
        self.events.append((kind, str(reason), message))

    # -- objects -----------------------------------------------------------------------------------------------

    def apply(self, name: str = "app", *, uid: str = "", **spec: Any) -> None:
        """Create an object or give it another spec; `None` removes a field."""
        found = copy.deepcopy(self.cache.get(key(name)))
        if found is None:
            found = {
                "apiVersion": "source.toolkit.fluxcd.io/v1",
                "kind": "GitRepository",
                "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid or f"uid-{name}", "generation": 0},
                "spec": {"url": "https://example.com/app.git", "interval": "10m", "ref": {"branch": "main"}},
                "status": {"observedGeneration": -1},
            }
        found["spec"] |= spec
        found["spec"] = {field: value for field, value in found["spec"].items() if value is not None}
        found["metadata"]["generation"] += 1
        self.api.put(found)

    def vanish(self, name: str = "app") -> None:
        """Let an object be gone at once, finalizer or not, and tell the listeners."""
        old = self.cache.get(key(name))
        self.cache.drop(key(name))
        for listener in self.listeners:
            listener(Change("DELETED", key(name), old, None))

    def request(self, token: str, name: str = "app") -> None:
        """Ask for a run, as with `requestedAt`."""
        found = copy.deepcopy(self.cache.get(key(name)))
        assert found is not None
        found["metadata"].setdefault("annotations", {})["reconcile.fluxcd.io/requestedAt"] = token
        self.api.put(found)

    def secret(self, name: str, data: Mapping[str, bytes | str]) -> None:
        raw = {entry: value.encode() if isinstance(value, str) else value for entry, value in data.items()}
        encoded = {entry: base64.b64encode(value).decode() for entry, value in raw.items()}
        self.api.objects[f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"] = {"type": "Opaque", "data": encoded}

    def forget_secret(self, name: str) -> None:
        del self.api.objects[f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"]

    def account(self, name: str, annotations: Mapping[str, str]) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}"
        self.api.objects[path] = {"metadata": {"name": name, "annotations": dict(annotations)}}

    def status(self, name: str = "app") -> Obj:
        found = self.cache.get(key(name))
        assert found is not None
        return found.get("status") or {}

    def condition(self, kind: str, name: str = "app") -> tuple[str, str, str] | None:
        """Status, reason and message; None when it is not there."""
        rows = self.status(name).get("conditions") or []
        found = next((row for row in rows if row["type"] == kind), None)
        return None if found is None else (found["status"], found["reason"], found["message"])

    async def files(self, name: str = "app") -> dict[str, bytes]:
        """What is in the newest artifact."""
        artifact = self.store.latest(key(name))
        assert artifact is not None
        return await offload(dict, await self.store.files(artifact))

    # -- runs --------------------------------------------------------------------------------------------------

    async def run(self, name: str = "app") -> Result | ReconcileError:
        """One run; what it ended with. What was told before is forgotten."""
        self.events.clear()
        self.remote.asked.clear()
        self.remote.requests.clear()
        run: Any = SimpleNamespace(key=key(name), lending_slot=_lending_slot, is_gone=False)
        try:
            return await self._reconciler.reconcile(run)
        except ReconcileError as error:
            return error

    async def reconcile(self, run: Any) -> Result:
        """One run of the test's own."""
        return await self._reconciler.reconcile(run)

    async def good(self, name: str = "app") -> None:
        """One run that has to succeed."""
        outcome = await self.run(name)
        assert isinstance(outcome, Result), outcome
        assert self.condition("Ready", name)[0] == "True"  # type: ignore[index]


@asynccontextmanager
async def _lending_slot(_seconds: float, _is_outdated: Any = None) -> AsyncIterator[None]:
    yield


def key(name: str) -> ObjectKey:
    """The identity of a GitRepository of the bench."""
    return ObjectKey("source.toolkit.fluxcd.io", "GitRepository", NAMESPACE, name)


__all__ = ["NAMESPACE", "Bench", "key"]
