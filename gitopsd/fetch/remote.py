"""Remote bases: what a kustomization refers to outside of its artifact, fetched by the daemon's own rules.

Theory of operation. A reference is vetted before anything is connected. Some addresses may name a manifest or a
repository; they are tried in the order that their form suggests, and what was found is remembered for the next time.
A file is read anew for every build. Of a repository only the reference is looked up anew; the trees of commits are kept
for a while, within a budget. Equal requests at the same time are one.

Knows addresses, files and the Git client; refuses to know kustomizations, Kubernetes and whether remote bases are
allowed at all. Nobody's credentials are used: what an address carries in itself is all that is sent.
Invariants: http and https only, and never from https to http; every answer is bounded in size and time; a tree that was
fetched with an address is handed out for that very address only; every failure is a FetchError without userinfo and
query (spec/hostile-inputs.md J03, J04).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from gitopsd import metrics
from gitopsd.api.meta import Reason
from gitopsd.artifact.tree import FileTree
from gitopsd.errors import GitopsdError
from gitopsd.fetch import giturl
from gitopsd.fetch.auth import CHECKOUT_FAILED, git_auth, mask, refuse_plain_http
from gitopsd.fetch.errors import FetchError, RemoteError, printable
from gitopsd.fetch.flights import Flights
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from gitopsd.fetch.githttp import HttpClient, StatusError
from gitopsd.fetch.gitref import UnresolvedError, commit_of
from gitopsd.fetch.gitspool import PackLimits
from gitopsd.fetch.giturl import GitURL, mask_userinfo
from gitopsd.fetch.http import HttpRules
from gitopsd.fetch.proxy import EnvironmentProxies
from gitopsd.tasks import offload

_FILE_BYTES = 10 << 20
_KEPT_BYTES = 64 << 20
_KEPT_SECONDS = 900.0
_KEPT_FORMS = 1000
_LONGEST_MESSAGE = 2000
_FULL_HASH = re.compile(r"[0-9a-fA-F]{40}")


class GitBase(Protocol):
    """A repository that is referred to; an empty `ref` is its default branch."""

    @property
    def url(self) -> str: ...
    @property
    def ref(self) -> str: ...
    @property
    def submodules(self) -> bool: ...


class Reference(Protocol):
    """What is referred to: the file at `url`, or if that is no manifest (or empty) the repository `git`."""

    @property
    def url(self) -> str: ...
    @property
    def git(self) -> GitBase | None: ...


@dataclass(frozen=True)
class _Absent:
    """There is an answer, but no manifest."""

    why: str


class RemoteBases:
    """Fetches remote bases. Used within one event loop; leaving the context closes what it kept."""

    def __init__(
        self,
        *,
        proxies: Mapping[str, str] | None = None,
        max_pack_size: int = PackLimits.bytes,
        deny_private_redirects: bool = False,
        allow_http: bool = True,
        timeout: float = 45.0,
    ) -> None:
        """`timeout` (seconds) bounds each step; `allow_http` of False keeps userinfo off plain HTTP."""
        found = proxies or {}
        self._git = GitFetcher(
            proxies=found, max_pack_size=max_pack_size, deny_private_redirects=deny_private_redirects
        )
        environment = EnvironmentProxies(found.get("http", ""), found.get("https", ""), found.get("no", ""))
        self._http = HttpClient(HttpRules(deny_private_redirects=deny_private_redirects, proxies=environment))
        self._allow_http = allow_http
        self._timeout = timeout
        self._reading: Flights[bytes | _Absent] = Flights()
        self._fetching: Flights[FileTree] = Flights()
        self._trees = Kept()
        # Addresses that look like files and turned out to be repositories.
        self._repositories: OrderedDict[str, None] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections and let go of the trees that were kept."""
        self._trees.clear()
        await self._http.aclose()
        await self._git.aclose()

    async def fetch(self, reference: Reference) -> FileTree | bytes:
        """What a reference stands for now: a file's bytes, or the tree of a repository. Raises FetchError."""
        url = read_address(reference.url) if reference.url else None
        request = self._request(reference.git) if reference.git is not None else None
        if request is None:
            if url is None:
                raise _refused("it names neither a file nor a repository")
            return await self._only_file(reference.url, url)
        if url is None:
            return await self._tree(request)
        if is_repository_form(url) or reference.url in self._repositories:
            return await self._tree_or_file(request, reference.url, url)
        return await self._file_or_tree(request, reference.url, url)

    # -- files

    async def _only_file(self, text: str, url: GitURL) -> bytes:
        found = await self._file(text, url, manifest=False)
        if isinstance(found, _Absent):
            raise FetchError(Reason.BUILD_FAILED, found.why)
        return found

    async def _file(self, text: str, url: GitURL, *, manifest: bool) -> bytes | _Absent:
        return await self._reading.share((text, manifest), lambda: self._read(text, url, manifest=manifest))

    async def _read(self, text: str, url: GitURL, *, manifest: bool) -> bytes | _Absent:
        auth = git_auth(text)
        if not self._allow_http:
            refuse_plain_http(url, auth)
        try:
            async with asyncio.timeout(self._timeout), self._http.channel(url, auth, is_foreign=True) as channel:
                kind, content = await channel.read(_FILE_BYTES)
        except StatusError as error:
            return _Absent(f"the server answered {error.status}")
        except TimeoutError as error:
            raise FetchError(Reason.BUILD_FAILED, f"no answer within {self._timeout:g}s") from error
        except (GitopsdError, OSError) as error:
            raise _failure(error, auth.secrets) from error
        if manifest and not is_manifest(kind, content):
            return _Absent("what is there is no manifest")
        return content

    # -- repositories

    def _request(self, base: GitBase) -> GitRequest:
        """What to ask the Git client for. Raises FetchError for an address or a ref that may not be used."""
        url = read_address(base.url)
        auth = git_auth(base.url)
        if not self._allow_http:
            refuse_plain_http(url, auth)
        return GitRequest(
            base.url, read_ref(base.ref), auth, self._timeout, recurse_submodules=base.submodules, is_foreign=True
        )

    async def _tree(self, request: GitRequest) -> FileTree:
        try:
            return await self._fetching.share(request, lambda: self._resolved(request))
        except FetchError as error:
            raise FetchError(Reason.BUILD_FAILED, error.message.removeprefix(CHECKOUT_FAILED)) from error

    async def _resolved(self, request: GitRequest) -> FileTree:
        revision = await self._git.resolve(request)
        kept = self._trees.get(_key(request, commit_of(revision)))
        if kept is not None:
            return kept
        found = await self._git.fetch(request, revision)
        # The digest is asked for in the event loop, where there is no time to hash.
        await offload(lambda: found.tree.digest)
        self._trees.put(_key(request, found.commit), found.tree)
        return found.tree

    # -- either

    async def _tree_or_file(self, request: GitRequest, text: str, url: GitURL) -> FileTree | bytes:
        try:
            return await self._tree(request)
        except FetchError as problem:
            self._repositories.pop(text, None)
            try:
                found = await self._file(text, url, manifest=True)
            except FetchError:
                raise problem from None
            if isinstance(found, _Absent):
                raise
            return found

    async def _file_or_tree(self, request: GitRequest, text: str, url: GitURL) -> FileTree | bytes:
        found = await self._file(text, url, manifest=True)
        if not isinstance(found, _Absent):
            return found
        try:
            tree = await self._tree(request)
        except FetchError as error:
            raise FetchError(Reason.BUILD_FAILED, f"{found.why}, and as a repository: {error.message}") from error
        self._repositories[text] = None
        while len(self._repositories) > _KEPT_FORMS:
            self._repositories.popitem(last=False)
        return tree


_Key = tuple[str, str, bool]


def _key(request: GitRequest, commit: str) -> _Key:
    return request.url, commit, request.recurse_submodules


class Kept:
    """The trees of commits, for a while after they were fetched and within a budget of bytes."""

    def __init__(
        self,
        *,
        budget: int = _KEPT_BYTES,
        seconds: float = _KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._seconds = seconds
        self._clock = clock
        self._trees: OrderedDict[_Key, tuple[float, FileTree]] = OrderedDict()
        self._bytes = 0

    def get(self, key: _Key) -> FileTree | None:
        """The tree, if it is still kept."""
        self._expire()
        _, tree = self._trees.get(key, (0.0, None))
        return tree

    def put(self, key: _Key, tree: FileTree) -> None:
        """Keep a tree; the oldest go when there is no room."""
        self._expire()
        self._drop(key)
        if tree.size > self._budget:
            return
        self._trees[key] = (self._clock(), tree)
        self._bytes += tree.size
        while self._bytes > self._budget:
            self._drop(next(iter(self._trees)))

    def clear(self) -> None:
        """Let go of every tree."""
        self._trees.clear()
        self._bytes = 0

    def _expire(self) -> None:
        oldest = self._clock() - self._seconds
        while self._trees:
            key, (since, _) = next(iter(self._trees.items()))
            if since > oldest:
                return
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        _, tree = self._trees.pop(key, (0.0, None))
        if tree is not None:
            self._bytes -= tree.size


def read_address(text: str) -> GitURL:
    """Take an address apart. Raises FetchError, without the address, for one that may not be used."""
    try:
        url = giturl.read(text)
    except ValueError as error:
        # The reason quotes parts of the address, and with userinfo in it any part may be that of a password.
        raise _refused("its address cannot be taken apart" if "@" in text else str(error)) from None
    if url.scheme not in {"http", "https"}:
        raise _refused(f"only http and https are supported: over {url.scheme} nobody is let in without credentials")
    return url


def read_ref(text: str) -> GitRef:
    """What a `?ref=` asks for: a full commit hash, or a tag or branch; nothing is the default branch.

    Raises FetchError for what cannot be a name: nothing that may be taken for an option, no control characters.
    """
    if _FULL_HASH.fullmatch(text):
        return GitRef(commit=text.lower())
    ref = GitRef(short=text or "HEAD")
    try:
        is_legal = not text.startswith("-") and bool(ref.candidates)
    except UnresolvedError:
        is_legal = False
    if not is_legal:
        raise _refused("its ref is not a legal name")
    return ref


def is_repository_form(url: GitURL) -> bool:
    """Whether an address is written as those of repositories are: `//` before the path in it, `.git`, or `_git/`."""
    path = url.path.lstrip("/")
    return "//" in path or "_git/" in path or path.endswith(".git") or ".git/" in path


def is_manifest(kind: str, content: bytes) -> bool:
    """Whether an answer of this content type may be a manifest: text, and not a page for people."""
    if kind in {"text/html", "application/xhtml+xml"} or content.lstrip()[:1] == b"<" or b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refused(why: str) -> FetchError:
    metrics.refused_inputs.labels("remote-base", "reference").inc()
    return FetchError(Reason.BUILD_FAILED, f"it is refused: {why}")


def _failure(error: Exception, secrets: tuple[str, ...]) -> FetchError:
    if isinstance(error, RemoteError) and error.rule:
        metrics.refused_inputs.labels("remote-base", error.rule).inc()
    cause = str(error) if isinstance(error, GitopsdError) else type(error).__name__
    return FetchError(Reason.BUILD_FAILED, printable(mask(mask_userinfo(cause), secrets), _LONGEST_MESSAGE))
