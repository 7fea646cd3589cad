"""The engine: another process that renders, and the only door to it.

Theory of operation. The engine is a Go program (`engine/`) that answers requests on its standard input and output, many
at a time; the frames are described in `engine/frames.go`. It starts on first use, a second process only when the first
has all it may have. It is told how long it may take, and it answers when the work has really ended: a process that
still owes an answer some time after the request was given up is ended. A process that ends by itself was brought down
by one of the requests in it: they are run again *one at a time* in a process of their own, the quarantine; whoever
brings that one down too is refused, and the others get their answers. So no input can harm the daemon, and no tenant
another.

Knows pipes, deadlines and processes; refuses to know what a request means to a controller. The trees it is given are
read by the engine where they are (`SharedTree`), they are not sent. The engine has no network: what a build needs from
elsewhere is fetched by the function this module was given, and only if the caller allows it.
Invariants: every request ends, with a result or with an EngineError; an error's text is safe to show; what was refused
before use is counted in `gitopsd_refused_inputs_total`.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import orjson
import structlog

from gitopsd import metrics
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj
from gitopsd.tasks import TaskScope, offload

log = structlog.get_logger()

_FRAME = struct.Struct(">IBII")  # length of what follows, kind, request, length of the header
_FIXED = _FRAME.size - 4
_REQUEST, _CANCEL, _ANSWER, _FAILURE = 1, 2, 3, 4

# More requests than this in one process wait outside: each takes memory there, and it has no more cores to give.
_REQUESTS_PER_PROCESS = 4
# How long (seconds) a process may owe an answer to a request that was given up, and how long it may take to end.
_OVERDUE = 3.0
_CLOSING = 2.0
# How often a request is sent again after a process was ended because of another request.
_INNOCENT_TRIES = 4
_LARGE = 1 << 20
_REMOTE_ROUNDS = 8
_REMOTE_REFERENCES = 100
_REMOTE_BYTES = 256 << 20


class EngineError(GitopsdError):
    """The engine gave no result. The text is safe to show."""


class BuildError(EngineError):
    """The input is wrong, in the words that its author is to read. `rule` names the bound it broke, if any."""

    def __init__(self, message: str, rule: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.rule = rule


class ChartError(BuildError):
    """A chart cannot be read or packaged; `step` is metadata, load, values, dependencies or package."""

    def __init__(self, message: str, rule: str = "", step: str = "") -> None:
        super().__init__(message, rule)
        self.step = step


class EngineTimeout(EngineError):  # noqa: N818 - the name says what happened, as TimeoutError does
    """There was no result within the time that the caller gave."""


class EngineRefused(EngineError):  # noqa: N818 - it is a verdict about the input
    """The input brought the engine down twice; it will not be tried again."""


class SharedTree(Protocol):
    """A tree of files that another process can read in place (`artifact.tree.FileTree`)."""

    @property
    def digest(self) -> str:
        """What the content is known by."""

    @property
    def size(self) -> int:
        """Bytes of the tar."""

    def shared_path(self) -> str:
        """Where the tar can be opened, as long as this tree is referenced."""


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs. `memory` is in bytes, for one process; `path` is beside the interpreter if not given."""

    path: Path | None = None
    processes: int = 2
    memory: int = 512 << 20
    test_methods: bool = False

    @property
    def program(self) -> Path:
        """The executable."""
        return self.path or Path(sys.executable).with_name("gitopsd-engine")


@dataclass(frozen=True)
class BuildSpec:
    """What to build of a tree.

    `fields` are those of the Kustomization's spec that shape its build, named as there: targetNamespace, namePrefix,
    nameSuffix, patches, components, ignoreMissingComponents, images, buildMetadata. `variables` of None means that
    there is no substitution at all, an empty mapping that there is one without variables.
    """

    path: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] | None = None
    strict: bool = True


@dataclass(frozen=True)
class BuildResult:
    """The objects in build order, and the digest of their YAML text (`sha256:<hex>`, `spec/kustomize.md` 1.3).

    `remote` tells that something came from outside of the tree: the same inputs may give another result next time.
    """

    objects: list[Obj]
    digest: str
    remote: bool = False


@dataclass(frozen=True)
class GitReference:
    """A Git repository that a kustomization refers to; an empty `ref` is the default branch."""

    url: str
    ref: str
    path: str
    submodules: bool


@dataclass(frozen=True)
class RemoteReference:
    """Something outside of the tree that a build needs: the file at `url`, or if that is no YAML the repository."""

    reference: str
    shown: str
    url: str = ""
    git: GitReference | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> RemoteReference:
        """Read the engine's form."""
        git = raw.get("git")
        return cls(raw["reference"], raw["shown"], raw.get("url", ""), GitReference(**git) if git else None)


RemoteFetcher = Callable[[RemoteReference], Awaitable[SharedTree | bytes]]
"""Fetch a remote reference by the daemon's own rules: bytes for a file, a whole tree for a repository."""


class Engine:
    """Builds and substitutes. An asynchronous context: its processes end with it."""

    def __init__(self, settings: EngineSettings, *, fetch_remote: RemoteFetcher | None = None) -> None:
        """Start nothing yet. Without `fetch_remote`, remote bases are refused."""
        self._settings = settings
        self._fetch_remote = fetch_remote
        self._scope = TaskScope("engine")
        self._stack = AsyncExitStack()
        self._processes: list[_Process] = []
        self._starting = asyncio.Lock()
        self._slots = asyncio.Semaphore(settings.processes * _REQUESTS_PER_PROCESS)
        self._quarantine = asyncio.Lock()
        self._is_closing = False

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._scope)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closing = True
        try:
            await asyncio.gather(*(process.close() for process in self._processes))
        finally:
            await self._stack.__aexit__(exc_type, exc, traceback)

    async def failure(self) -> None:
        """Wait until this module itself fails, which it never should, and raise its error."""
        await self._scope.failure()

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [process.pid for process in self._processes]

    async def build(
        self, tree: SharedTree, spec: BuildSpec, *, subject: str, timeout: float, remote_bases: bool = False
    ) -> BuildResult:
        """Make the objects that a Kustomization stands for: `spec/kustomize.md` 3.4, 3.5 and 3.7.

        `subject` is the object on whose behalf this is done, for messages. `timeout` (seconds) includes fetching.
        Raises BuildError, EngineTimeout or EngineRefused.
        """
        remotes: dict[str, SharedTree | bytes] = {}
        try:
            async with asyncio.timeout(timeout):
                for _ in range(_REMOTE_ROUNDS):
                    try:
                        return await self._build(tree, spec, remotes, subject, timeout)
                    except _RemoteNeededError as needed:
                        if not remote_bases or self._fetch_remote is None:
                            metrics.refused_inputs.labels("engine", needed.rule).inc()
                            raise
                        await self._fetch(needed.references, remotes)
        except TimeoutError as error:
            raise EngineTimeout(f"no result within {timeout:g}s") from error
        raise BuildError(f"kustomize build failed: remote bases refer to others more than {_REMOTE_ROUNDS} times")

    async def _build(
        self,
        tree: SharedTree,
        spec: BuildSpec,
        remotes: Mapping[str, SharedTree | bytes],
        subject: str,
        timeout: float,
    ) -> BuildResult:
        parts = [content for content in remotes.values() if isinstance(content, bytes)]
        header = {
            "tree": _announced(tree),
            "path": spec.path,
            "fields": dict(spec.fields),
            "variables": None if spec.variables is None else dict(spec.variables),
            "strict": spec.strict,
            "remotes": [
                {"reference": reference, "part": parts.index(content)}
                if isinstance(content, bytes)
                else {"reference": reference, "tree": _announced(content)}
                for reference, content in remotes.items()
            ],
        }
        holds = (tree, *remotes.values())
        answer = await self.request("build", header, parts, subject=subject, timeout=timeout, holds=holds)
        (objects,) = answer.parts
        decoded = orjson.loads(objects) if len(objects) < _LARGE else await offload(orjson.loads, objects)
        return BuildResult(decoded, answer.header["digest"], remote=bool(remotes))

    async def _fetch(self, references: Sequence[RemoteReference], remotes: dict[str, SharedTree | bytes]) -> None:
        assert self._fetch_remote is not None
        for reference in references:
            if len(remotes) >= _REMOTE_REFERENCES:
                raise BuildError(f"kustomize build failed: more than {_REMOTE_REFERENCES} remote bases")
            try:
                remotes[reference.reference] = await self._fetch_remote(reference)
            except GitopsdError as error:
                message = f"kustomize build failed: remote base '{reference.shown}': {error}"
                raise BuildError(message, "remote-base") from error
            if sum(_size(content) for content in remotes.values()) > _REMOTE_BYTES:
                message = f"kustomize build failed: remote bases hold more than {_REMOTE_BYTES} bytes together"
                raise BuildError(message, "remote-bytes")

    async def substitute(
        self, documents: Sequence[str], variables: Mapping[str, str], *, strict: bool, subject: str, timeout: float
    ) -> list[str | BuildError]:
        """Replace the variables in each document; an error stands where that one's result would be."""
        header = {"variables": dict(variables), "strict": strict}
        parts = [document.encode() for document in documents]
        answer = await self.request("substitute", header, parts, subject=subject, timeout=timeout)
        return [
            BuildError(error) if error else part.decode()
            for error, part in zip(answer.header["errors"], answer.parts, strict=True)
        ]

    async def request(
        self,
        method: str,
        header: Mapping[str, Any],
        parts: Sequence[bytes] = (),
        *,
        subject: str,
        timeout: float,
        holds: Sequence[object] = (),
    ) -> Answer:
        """Send any request and return its answer; for methods that have no function of their own here.

        `holds` are kept as long as the engine works on it, even if the caller is cancelled: the trees it reads.
        """
        request = _Request(method, dict(header), parts, timeout, holds)
        began = time.monotonic()
        result = "error"
        try:
            async with asyncio.timeout(timeout), self._slots:
                answer = await self._attempt(request, subject)
            result = "success"
        except (TimeoutError, EngineTimeout) as error:
            result = "timeout"
            raise EngineTimeout(f"no result within {timeout:g}s") from error
        except EngineRefused:
            result = "refused"
            raise
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        finally:
            metrics.engine_requests.labels(method, result).inc()
            metrics.engine_seconds.labels(method).observe(time.monotonic() - began)
        return answer

    async def _attempt(self, request: _Request, subject: str) -> Answer:
        for _ in range(_INNOCENT_TRIES):
            process = await self._least_loaded()
            try:
                return await process.ask(request)
            except _StoppedError:
                continue
            except _CrashedError:
                return await self._alone(request, subject)
        raise EngineError("the engine was restarted again and again because of other requests")

    async def _alone(self, request: _Request, subject: str) -> Answer:
        """Run one request that was in a process that crashed, with nothing beside it."""
        async with self._quarantine:
            process = await self._start("quarantine")
            try:
                return await process.ask(request)
            except _CrashedError as error:
                metrics.refused_inputs.labels("engine", "crash").inc()
                log.warning("the engine was brought down twice by one request", subject=subject, method=request.method)
                raise EngineRefused(
                    f"{subject} brought the engine down twice and is not tried again ({error})"
                ) from error
            except _StoppedError as error:
                raise EngineError(str(error)) from error
            finally:
                await asyncio.shield(process.close())

    async def _least_loaded(self) -> _Process:
        async with self._starting:
            usable = [process for process in self._processes if process.is_usable]
            best = min(usable, key=lambda process: process.load, default=None)
            if best is not None and (best.load < _REQUESTS_PER_PROCESS or len(usable) >= self._settings.processes):
                return best
            process = await self._start("pool")
            process.is_usable = True
            return process

    async def _start(self, role: str) -> _Process:
        """Start a process. Nothing of our environment reaches it: no PATH, no HOME, no credentials."""
        if self._is_closing:
            raise EngineError("the engine is being shut down")
        settings = self._settings
        arguments = [f"--memory={settings.memory}", *(["--test-methods"] if settings.test_methods else [])]
        try:
            child = await asyncio.create_subprocess_exec(
                settings.program,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": "", "HOME": "", "GOTRACEBACK": "single"},
                limit=_LARGE,
                start_new_session=True,  # what a terminal sends to us is not meant for it
            )
        except OSError as error:
            raise EngineError(f"{settings.program.name} cannot be started: {error.strerror}") from error
        process = _Process(child, settings.memory // 2)
        self._processes.append(process)
        metrics.engine_processes.inc()
        log.debug("engine process started", pid=child.pid, role=role)
        self._scope.start(f"log {child.pid}", process.relay())
        self._scope.start(f"process {child.pid}", self._watch(process))
        return process

    async def _watch(self, process: _Process) -> None:
        try:
            await process.serve()
        finally:
            self._processes.remove(process)
            metrics.engine_processes.dec()


@dataclass(frozen=True)
class Answer:
    """An answer as it came: its header, and its payload in parts."""

    header: Mapping[str, Any]
    parts: Sequence[bytes]


@dataclass(frozen=True)
class _Request:
    method: str
    header: dict[str, Any]
    parts: Sequence[bytes]
    timeout: float
    holds: Sequence[object]

    def frame(self, number: int) -> list[bytes]:
        header = {**self.header, "method": self.method, "timeout": self.timeout, "parts": [*map(len, self.parts)]}
        encoded = orjson.dumps(header)
        length = _FIXED + len(encoded) + sum(map(len, self.parts))
        return [_FRAME.pack(length, _REQUEST, number, len(encoded)), encoded, *self.parts]


class _StoppedError(Exception):
    """The process was ended by us, for another request's sake."""


class _CrashedError(Exception):
    """The process ended by itself while this request was in it."""


class _RemoteNeededError(BuildError):
    def __init__(self, message: str, rule: str, references: Sequence[RemoteReference]) -> None:
        super().__init__(message, rule)
        self.references = references


class _Pending:
    """A request that a process owes an answer for; once it was given up, the process must answer before `overdue`."""

    def __init__(self, request: _Request, answer: asyncio.Future[Answer]) -> None:
        self.request = request
        self.answer = answer
        self.overdue: asyncio.TimerHandle | None = None

    def settle(self) -> bool:
        """It is over; tells whether somebody still waits."""
        if self.overdue is not None:
            self.overdue.cancel()
        return not self.answer.done()


class _Process:
    """One engine process, from its start to its end."""

    def __init__(self, child: asyncio.subprocess.Process, enough: int) -> None:
        """`enough` bytes of memory in use, and it takes no further requests."""
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self.pid = child.pid
        self.is_usable = False
        self._child = child
        self._stdin, self._stdout, self._stderr = child.stdin, child.stdout, child.stderr
        self._enough = enough
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._stopped_for = ""
        self._last_words = ""
        self._silent = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def load(self) -> int:
        """Requests in it, cancelled ones that still run included."""
        return len(self._pending)

    async def ask(self, request: _Request) -> Answer:
        """Send a request and wait for its answer.

        Cancelling tells the engine to stop; a process that does not, in time, is ended.
        """
        if self._ended.is_set() or self._stopped_for:
            raise _StoppedError("the engine is being restarted")
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        pending = self._pending[number] = _Pending(request, loop.create_future())
        self._write(*request.frame(number))
        try:
            return await pending.answer
        except asyncio.CancelledError:
            if number in self._pending:
                pending.overdue = loop.call_later(_OVERDUE, self._stop, "stuck")
                self._write(_FRAME.pack(_FIXED, _CANCEL, number, 0))
            raise

    def _write(self, *data: bytes) -> None:
        # A process that is gone is noticed at its other end, where all its requests are told.
        with suppress(ConnectionError, RuntimeError):
            self._stdin.writelines(data)

    def _stop(self, reason: str) -> None:
        """End it now; what else is in it will be sent to another process."""
        if self._ended.is_set() or self._stopped_for:
            return
        self.is_usable = False
        self._stopped_for = reason
        metrics.engine_restarts.labels(reason).inc()
        log.info("ending an engine process", pid=self.pid, reason=reason)
        with suppress(ProcessLookupError):
            self._child.kill()

    async def serve(self) -> None:
        """Deliver its answers until it ends, and tell those that still wait."""
        try:
            await self._deliver()
            await self._child.wait()
            await self._silent.wait()
        finally:
            # Cancelled, or a bug in here: then nobody reads its answers any more.
            if self._child.returncode is None:
                with suppress(ProcessLookupError):
                    self._child.kill()
            self.is_usable = False
            self._ended.set()
            self._forget_all()

    async def _deliver(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length, kind, number, size = _FRAME.unpack(await self._stdout.readexactly(_FRAME.size))
                body = await self._stdout.readexactly(length - _FIXED)
                self._settle(number, kind, orjson.loads(body[:size]), memoryview(body)[size:])

    def _settle(self, number: int, kind: int, header: dict[str, Any], payload: memoryview) -> None:
        answer = Answer(header, _cut(payload, header["parts"])) if kind == _ANSWER else _failure(header)
        pending = self._pending.pop(number, None)
        if pending is not None and pending.settle():
            if isinstance(answer, Answer):
                pending.answer.set_result(answer)
            else:
                pending.answer.set_exception(answer)
        if header["memory"] > self._enough and self.is_usable:
            self.is_usable = False
            metrics.engine_restarts.labels("memory").inc()
            log.info("replacing an engine process that has grown", pid=self.pid, bytes=header["memory"])
        if not self.is_usable and not self._pending and not self._stopped_for:
            self._stdin.close()

    def _forget_all(self) -> None:
        crashed = not self._stopped_for
        if crashed and self._pending:
            metrics.engine_restarts.labels("crash").inc()
            log.error("an engine process ended by itself", pid=self.pid, requests=self.load, words=self._last_words)
        for pending in self._pending.values():
            if not pending.settle():
                continue
            if crashed:
                pending.answer.set_exception(_CrashedError(self._last_words or "it ended without a word"))
            else:
                pending.answer.set_exception(_StoppedError("the engine was restarted because of another request"))
        self._pending.clear()

    async def relay(self) -> None:
        """Pass on what it logs; remember how a fatal error begins, for the stack that follows says little."""
        try:
            while line := await self._next_line():
                if not self._last_words and line.startswith(("fatal error:", "panic:", "runtime:", "SIG")):
                    self._last_words = line[:200].rstrip()
                log.debug("engine", pid=self.pid, line=line[:1000].rstrip())
        finally:
            self._silent.set()

    async def _next_line(self) -> str:
        try:
            return (await self._stderr.readline()).decode("utf-8", "replace")
        except ValueError:
            return "(a line that is too long)"

    async def close(self) -> None:
        """End it in good order: no further requests, and it ends when its input does."""
        self.is_usable = False
        self._stopped_for = self._stopped_for or "shutdown"
        self._stdin.close()
        try:
            async with asyncio.timeout(_CLOSING):
                await self._ended.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._child.kill()
            await self._ended.wait()


def _size(content: SharedTree | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.size


def _announced(tree: SharedTree) -> dict[str, Any]:
    return {"path": tree.shared_path(), "digest": tree.digest, "size": tree.size}


def _cut(payload: memoryview, lengths: Sequence[int]) -> list[bytes]:
    parts = []
    for length in lengths:
        parts.append(bytes(payload[:length]))
        payload = payload[length:]
    return parts


def _failure(header: Mapping[str, Any]) -> EngineError:
    rule = header.get("rule", "")
    message = header["message"]
    match header["class"]:
        case "remote":
            references = [RemoteReference.parse(raw) for raw in header["references"]]
            return _RemoteNeededError(message, rule, references)
        case "build" | "chart":
            if rule:
                metrics.refused_inputs.labels("engine", rule).inc()
            return ChartError(message, rule, header["step"]) if "step" in header else BuildError(message, rule)
        case "timeout":
            return EngineTimeout("no result in time")
    return EngineError(message)
