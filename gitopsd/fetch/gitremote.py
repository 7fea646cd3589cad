"""One repository at the other end of a conversation: its references and its packs, whatever carries them.

Theory of operation. Over HTTP, version 2 of the protocol needs no greeting once it is known what the server can do:
`Servers` remembers that for a while, so that looking for changes is a single request. A server that no longer answers
to it is greeted again. Packs are read in a thread, which ends when its caller is cancelled or the time is up. Where
something is kept of the repository (`gitcache`), the server is told, and sends only what is new; when anything is wrong
with its answer, everything is fetched at once.

Knows which transport a URL needs and when to ask again; refuses to know what is wanted and why.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar

from gitopsd import metrics
from gitopsd.fetch.auth import GitAuth, SshRules
from gitopsd.fetch.errors import AskedInVainError, RemoteError
from gitopsd.fetch.gitcache import Kept, ObjectCache
from gitopsd.fetch.githttp import HttpClient
from gitopsd.fetch.gitobjects import Objects
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitref import UnresolvedError
from gitopsd.fetch.gitshelf import Shelf, Shelves, repository_key
from gitopsd.fetch.gitspool import PackBuffer, PackLimits, Stop
from gitopsd.fetch.gittree import TreeBounds
from gitopsd.fetch.giturl import GitURL
from gitopsd.fetch.gitwire import (
    Advertisement,
    Channel,
    PackRequest,
    Ref,
    WireLimits,
    fetch_pack,
    list_refs,
    read_advertisement,
)
from gitopsd.fetch.http import HttpRules
from gitopsd.tasks import compute, offload

T = TypeVar("T")

_KEPT_SERVERS = 4096
_TRUSTED_FOR = 900.0
# A filter of partial clones: commits without any tree.
COMMITS_ONLY = "tree:0"


@dataclass(frozen=True)
class GitLimits:
    """All bounds of this package, and where packs wait that are too large for memory."""

    wire: WireLimits = field(default_factory=WireLimits)
    pack: PackLimits = field(default_factory=PackLimits)
    tree: TreeBounds = field(default_factory=TreeBounds)
    spool: Path | None = None


class Servers:
    """What servers of HTTP repositories said of themselves, for a quarter of an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[GitURL, GitAuth], tuple[float, Advertisement]] = OrderedDict()

    def get(self, url: GitURL, auth: GitAuth) -> Advertisement | None:
        """What is still believed of a server."""
        since, server = self._known.get((url, auth), (0.0, None))
        if server is not None and self._clock() - since > _TRUSTED_FOR:
            del self._known[url, auth]
            return None
        return server

    def remember(self, url: GitURL, auth: GitAuth, server: Advertisement) -> None:
        """Believe `server` from now on."""
        self._known[url, auth] = (self._clock(), server)
        self._known.move_to_end((url, auth))
        while len(self._known) > _KEPT_SERVERS:
            self._known.popitem(last=False)

    def forget(self, url: GitURL, auth: GitAuth) -> None:
        """Ask again next time."""
        self._known.pop((url, auth), None)


class Transports:
    """The clients behind every conversation."""

    def __init__(self, http: HttpRules, ssh: SshRules, limits: GitLimits, cache: ObjectCache | None = None) -> None:
        self._http = HttpClient(http)
        self._ssh_rules = ssh
        self._ssh: _Opener | None = None
        self._servers = Servers()
        self._limits = limits
        self._shelves = None if cache is None else Shelves(cache)

    async def aclose(self) -> None:
        """Close every kept connection."""
        await self._http.aclose()

    @asynccontextmanager
    async def remote(
        self,
        url: GitURL,
        auth: GitAuth,
        deadline: float,
        packs: ExitStack,
        *,
        is_foreign: bool = False,
        account: str = "",
    ) -> AsyncIterator[Remote]:
        """Talk to one repository until `deadline` (a `time.monotonic()`). Its packs live as long as `packs`.

        `is_foreign` says that not the operator but a repository named the address. `account` stands for the credentials
        where these change by themselves.
        """
        shelf = self._shelves.shelf(repository_key(url, auth, account, is_foreign)) if self._shelves else None
        async with AsyncExitStack() as channels:
            known: _Known | None = None
            if url.scheme != "ssh":
                known = _Known(self._servers, url, auth)

            async def connect() -> Channel:
                if url.scheme == "ssh":
                    ssh = await self._ssh_client()
                    return await channels.enter_async_context(ssh.channel(url, auth))
                return await channels.enter_async_context(self._http.channel(url, auth, is_foreign=is_foreign))

            remote = Remote(connect, known, self._limits, Stop(deadline), packs, shelf)
            try:
                yield remote
            except BaseException:
                remote.stop.cancel()
                raise
            # Its packs may be read for longer than the conversation lasts.
            packs.callback(remote.stop.cancel)

    async def _ssh_client(self) -> _Opener:
        """The client for SSH, loaded when the first URL needs it: a quarter of a second and 27 MiB."""
        if self._ssh is None:
            module = await offload(import_module, "gitopsd.fetch.gitssh")
            self._ssh = module.SshClient(self._ssh_rules)
        return self._ssh


class _Opener(Protocol):
    """Opens conversations."""

    def channel(self, url: GitURL, auth: GitAuth) -> AbstractAsyncContextManager[Channel]: ...


@dataclass(frozen=True)
class _Known:
    """The memory of one server over HTTP."""

    servers: Servers
    url: GitURL
    auth: GitAuth

    def get(self) -> Advertisement | None:
        return self.servers.get(self.url, self.auth)

    def remember(self, server: Advertisement, channel: Channel) -> None:
        # Of a redirect nothing is remembered: it may lead elsewhere next time.
        if server.version == 2 and not channel.was_redirected:
            self.servers.remember(self.url, self.auth, server)

    def forget(self) -> None:
        self.servers.forget(self.url, self.auth)


class Remote:
    """A repository that can be asked. `stop` is when to end, for what works on its packs in threads."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Channel]],
        known: _Known | None,
        limits: GitLimits,
        stop: Stop,
        packs: ExitStack,
        shelf: Shelf | None = None,
    ) -> None:
        self._connect = connect
        self._known = known
        self._limits = limits
        self._packs = packs
        self._shelf = shelf
        self._channel: Channel | None = None
        self._server: Advertisement | None = None
        self._is_greeted = False
        self.stop = stop

    async def refs(self, prefixes: Sequence[str]) -> Mapping[str, Ref]:
        """The references whose names begin like one of `prefixes`."""
        return await self._ask(lambda channel, server: list_refs(channel, server, prefixes, self._limits.wire))

    async def is_empty(self) -> bool:
        """Whether there is no reference at all."""
        server = await self._believed()
        if server.refs is not None:
            return not server.refs
        try:
            return not await list_refs(await self._open(), server, ["refs/"], WireLimits(references=1))
        except RemoteError as error:
            if error.rule == "references":
                return False
            raise

    async def fetch(self, request: PackRequest) -> Objects:
        """Fetch a pack and check all of it. Raises AskedInVainError when the server refuses what is wanted.

        Of single commits and tags, what is kept is not fetched again.
        """
        if self._shelf is None or request.depth != 1 or request.filter or len(request.wants) != 1:
            return await self._receive(request, "full")
        shelf, want = self._shelf, request.wants[0]
        kept = await self._kept(shelf, want)
        has_waited = False
        # Where others fetched in vain, or what cannot be kept, waiting is of no use again.
        while (kept is None and not has_waited) or (kept is not None and not kept.holds(want)):
            if not await shelf.wait_for_others(want, anything=kept is None):
                break
            kept, has_waited = await self._kept(shelf, want), True
        if kept is not None and kept.holds(want):
            metrics.git_packs.labels("kept").inc()
            return kept
        with shelf.at_work(want):
            return await self._fetch_new(shelf, kept, want)

    async def _kept(self, shelf: Shelf, want: str) -> Kept | None:
        kept = await self.in_thread(lambda stop: shelf.open(want, stop))
        if kept is not None:
            self._packs.callback(kept.close)
        return kept

    async def _fetch_new(self, shelf: Shelf, kept: Kept | None, want: str) -> Objects:
        if kept is not None:
            try:
                return await self._update(shelf, kept, want)
            except RemoteError:
                await self.renew()
        pack = await self._receive(PackRequest((want,)), "full")
        await self.in_thread(lambda stop: shelf.keep(pack, want, stop, anew=kept is not None))
        return pack

    async def _update(self, shelf: Shelf, kept: Kept, want: str) -> Objects:
        pack = await self._receive(PackRequest((want,), haves=kept.haves), "update", kept, again=False)
        return await self.in_thread(lambda stop: shelf.lay(pack, kept, want, stop))

    async def _receive(
        self, request: PackRequest, kind: str, outside: Objects | None = None, *, again: bool = True
    ) -> Pack:
        async def question(channel: Channel, server: Advertisement) -> PackBuffer:
            buffer = PackBuffer(self._limits.pack, self._limits.spool)
            self._packs.callback(buffer.close)
            await fetch_pack(channel, server, request, buffer, self._limits.wire)
            return buffer

        buffer = await self._ask(question, again=again)
        metrics.git_packs.labels(kind).inc()
        metrics.git_pack_bytes.labels(kind).inc(buffer.size)
        return await self.in_thread(lambda stop: Pack(buffer.content(), self._limits.pack, stop, outside=outside))

    async def commit(self, wanted: str) -> Objects:
        """Fetch one commit by its hash; where the server refuses that, from the history of its branches.

        Raises UnresolvedError when no branch has it.
        """
        try:
            return await self.fetch(PackRequest((wanted,)))
        except AskedInVainError:
            # Servers may hang up after a refusal.
            await self.renew()
        tips = tuple({ref.hash for ref in (await self.refs(["refs/heads/"])).values()})
        missing = UnresolvedError(f"unable to resolve commit object for '{wanted}': object not found")
        if not tips:
            raise missing
        if await self.can_filter():
            commits = await self.fetch(PackRequest(tips, depth=0, filter=COMMITS_ONLY))
            if wanted not in commits:
                raise missing
        pack = await self.fetch(PackRequest(tips, depth=0))
        if wanted not in pack:
            raise missing
        return pack

    async def can_filter(self) -> bool:
        """Whether the server leaves out of a pack what a filter names."""
        return (await self._believed()).offers("fetch", "filter")

    async def renew(self) -> None:
        """Begin a new conversation."""
        self._channel = None
        self._server = None
        self._is_greeted = False

    async def in_thread(self, work: Callable[[Stop], T]) -> T:
        """Run blocking work that watches `stop`; it ends soon after its caller is cancelled."""
        try:
            return await compute(work, self.stop)
        except asyncio.CancelledError:
            self.stop.cancel()
            raise

    async def _ask(self, question: Callable[[Channel, Advertisement], Awaitable[T]], *, again: bool = True) -> T:
        server = await self._believed()
        try:
            return await question(await self._open(), server)
        except RemoteError as error:
            # Unless we only believed to know the server, and it did not understand us.
            if not again or self._is_greeted or error.rule or isinstance(error, AskedInVainError):
                raise
        return await question(await self._open(), await self._greeted())

    async def _open(self) -> Channel:
        if self._channel is None:
            self._channel = await self._connect()
        return self._channel

    async def _believed(self) -> Advertisement:
        """What the server can do: as it said in this conversation, or not long ago."""
        if self._server is None and self._known is not None:
            self._server = self._known.get()
        return self._server or await self._greeted()

    async def _greeted(self) -> Advertisement:
        channel = await self._open()
        packets = await channel.hello()
        self._server = await read_advertisement(packets, self._limits.wire, over_http=self._known is not None)
        self._is_greeted = True
        if self._known is not None:
            self._known.remember(self._server, channel)
        return self._server
