"""The HelmRepository kind of source in its real pipeline, with API server and web replaced."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gitopsd.api.source import HelmRepository
from gitopsd.artifact.store import ArtifactStore
from gitopsd.controllers.helmrepository import HelmRepositorySource
from gitopsd.controllers.secrets import Secrets
from gitopsd.controllers.source import Parts, Services, SourceReconciler
from gitopsd.errors import ReconcileError
from gitopsd.fetch.helmindex import Indexes
from gitopsd.krm.objects import Obj, ObjectKey
from gitopsd.kube.lister import Store
from gitopsd.runtime.controller import Result
from gitopsd.runtime.status import StatusOwner
from gitopsd.settings import Settings, parse
from gitopsd.tasks import TaskScope, offload
from tests.answering import AnsweringWeb, Asked, Reply
from tests.unit.controllers import gitbench
from tests.unit.controllers.gitbench import NAMESPACE

PATH = f"/apis/source.toolkit.fluxcd.io/v1/namespaces/{NAMESPACE}/helmrepositories/"
URL = "https://charts.example.com/stable"
KEY = ObjectKey("source.toolkit.fluxcd.io", "HelmRepository", NAMESPACE, "charts")
INDEX = """\
apiVersion: v1
entries:
  demo:
  - name: demo
    version: 1.0.0
  - name: demo
    version: 1.1.0
"""


class FakeApi(gitbench.FakeApi):
    """Secrets to be read, and status writes that reach the cache at once."""

    async def patch(self, path: str, body: Obj, **_: Any) -> Obj:
        assert path.removesuffix("/status") == f"{PATH}charts"
        obj = copy.deepcopy(self._cache.get(KEY))
        assert obj is not None
        gitbench._merge(obj, {part: value for part, value in body.items() if part != "metadata"})
        finalizers = (body.get("metadata") or {}).get("finalizers")
        if finalizers is not None:
            obj["metadata"]["finalizers"] = finalizers
        return self.put(obj)


class HelmBench:
    """One HelmRepository, its server, and what was told about it. `reply` is what the server says next."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.cache: Store[Obj] = Store()
        self.api = FakeApi(self.cache)
        self.reply: Reply | Exception = Reply(body=INDEX.encode())
        self.pause = 0.0
        self.web = AnsweringWeb(self._answer)
        self.events: list[tuple[str, str, str]] = []
        self.indexes = Indexes()
        self.store = ArtifactStore(folder, advertised="localhost:9090", budget=1 << 20)
        self.tasks = TaskScope("bench")
        recorder: Any = SimpleNamespace(event=self._event)
        services = Services(
            client=self.api,  # type: ignore[arg-type]
            settings=settings,
            store=self.store,
            engine=None,  # type: ignore[arg-type]
            recorder=recorder,
            web=self.web,
            secrets=Secrets(self.api),  # type: ignore[arg-type]
            registry=None,  # type: ignore[arg-type]
            indexes=self.indexes,
            cloud=None,  # type: ignore[arg-type]
            verifier=None,  # type: ignore[arg-type]
            listers={"HelmRepository": self.cache},
        )
        owner = StatusOwner(
            self.api,  # type: ignore[arg-type]
            "source-controller",
            HelmRepository.OWNED,
            lambda obj: PATH + str(obj["metadata"]["name"]),
        )
        informer: Any = SimpleNamespace(lister=self.cache)
        parts = Parts(informer, self.store, recorder, owner, self.tasks, settings)
        self.source = HelmRepositorySource(services)
        self._reconciler: SourceReconciler[HelmRepository] = SourceReconciler(self.source, parts)

    @classmethod
    @asynccontextmanager
    async def opened(cls, folder: Path, *flags: str) -> AsyncIterator[HelmBench]:
        bench = cls(folder, await offload(parse, [*flags], {}))
        await bench.store.open()
        async with bench.tasks:
            yield bench

    def _event(
        self, _component: str, _obj: Obj, kind: str, reason: str, message: str, _annotations: Any = None
    ) -> None:
        self.events.append((kind, str(reason), message))

    async def _answer(self, asked: Asked) -> Reply:
        await asyncio.sleep(self.pause)
        if isinstance(self.reply, Exception):
            raise self.reply
        etag = dict(self.reply.headers).get("ETag")
        if etag is not None and asked.headers.get("If-None-Match") == etag:
            return Reply(status=304)
        return self.reply

    def apply(self, **spec: Any) -> None:
        """Create the object or give it another spec; `None` removes a field."""
        found = copy.deepcopy(self.cache.get(KEY))
        if found is None:
            found = {
                "apiVersion": "source.toolkit.fluxcd.io/v1",
                "kind": "HelmRepository",
                "metadata": {"name": "charts", "namespace": NAMESPACE, "uid": "uid-charts", "generation": 0},
                "spec": {"url": URL},
                "status": {"observedGeneration": -1},
            }
        found["spec"] |= spec
        found["spec"] = {field: value for field, value in found["spec"].items() if value is not None}
        found["metadata"]["generation"] += 1
        self.api.put(found)

    def secret(self, name: str, data: Mapping[str, bytes | str]) -> None:
        gitbench.Bench.secret(self, name, data)  # type: ignore[arg-type]

    def serve(self, text: str, **headers: str) -> None:
        """Serve another index."""
        self.reply = Reply(body=text.encode(), headers=headers)

    @property
    def obj(self) -> Obj:
        found = self.cache.get(KEY)
        assert found is not None
        return found

    @property
    def status(self) -> Obj:
        return self.obj.get("status") or {}

    def condition(self, kind: str = "Ready") -> tuple[str, str, str] | None:
        """Status, reason and message; None when it is not there."""
        found = next((row for row in self.status.get("conditions") or [] if row["type"] == kind), None)
        return None if found is None else (found["status"], found["reason"], found["message"])

    @property
    def files(self) -> list[str]:
        """Every file of the storage, hidden ones too, links and notes left out."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_symlink() and path.name != ".note"
        )

    async def run(self) -> Result | ReconcileError:
        """One run; what it ended with. What was told and asked before is forgotten."""
        self.events.clear()
        self.web.asked.clear()
        run: Any = SimpleNamespace(key=KEY, lending_slot=gitbench._lending_slot, is_gone=False)
        try:
            return await self._reconciler.reconcile(run)
        except ReconcileError as error:
            return error

    async def good(self) -> Result:
        """One run that has to succeed."""
        outcome = await self.run()
        assert isinstance(outcome, Result), outcome
        assert self.condition()[0] == "True"  # type: ignore[index]
        return outcome
