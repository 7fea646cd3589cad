"""Git repositories: which commit a reference names now, and the files of a commit.

Theory of operation. A request is worked on once, however many ask for it at the same time: equal requests, credentials
included, share one flight. A flight is one conversation within one deadline; cancelling the last who waits closes its
socket. Looking for changes is shared further: one look at a repository answers for every reference that somebody
follows there (`gitrefs`), and who allows an answer of some age takes it from the last look. What was fetched is kept on
disk (`gitcache`), so that the next fetch brings what is new. Only as much as is needed is asked for: references by
prefix, packs of one commit without history. History is fetched in two cases only: a pinned commit that the server does
not give out by its hash, and, without any files where the server can do that, a pinned commit that has to be on a
branch.

Knows `spec.ref`, submodules and what to do when a server cannot; refuses to know Kubernetes and ignore rules.
Invariants: what is returned was checked against the commit's own hash, wherever it had been kept; on disk is only what
the cache holds; every failure is a `FetchError` whose text is safe to show.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gitopsd.api.meta import Reason
from gitopsd.artifact.tree import FileTree
from gitopsd.fetch.auth import SshRules
from gitopsd.fetch.errors import AskedInVainError, FetchError, RemoteError, printable
from gitopsd.fetch.flights import Flights
from gitopsd.fetch.gitcache import KEPT_BYTES, ObjectCache, SpoiledError
from gitopsd.fetch.gitobjects import Objects
from gitopsd.fetch.gitref import GitRef, Target, UnresolvedError, known_target
from gitopsd.fetch.gitrefs import Answer, Board, Boards, Departure
from gitopsd.fetch.gitremote import COMMITS_ONLY, GitLimits, Remote, Transports
from gitopsd.fetch.gitrequest import GitRequest, failure, operation
from gitopsd.fetch.gitshelf import repository_key
from gitopsd.fetch.gitspool import PackLimits
from gitopsd.fetch.gittargets import Targets, missing
from gitopsd.fetch.gittree import Checkout, Commit, Sparse, leave_out, peel, read_commit, read_tree
from gitopsd.fetch.giturl import GitURL, parse
from gitopsd.fetch.gitwire import PackRequest, Ref, WireLimits
from gitopsd.fetch.http import HttpRules
from gitopsd.fetch.proxy import EnvironmentProxies
from gitopsd.fetch.submodules import Submodules
from gitopsd.tasks import offload

__all__ = ["Fetched", "GitFetcher", "GitLimits", "GitRef", "GitRequest"]


@dataclass(frozen=True)
class Fetched:
    """A commit and its files. The raw objects are for verification; `tag_object` is empty without an annotated tag.

    `is_filtered` says that the ignore rules were applied already; applied twice, they may say something else.
    """

    revision: str
    commit: str
    message_subject: str
    tree: FileTree
    commit_object: bytes = field(repr=False)
    tag_object: bytes = field(default=b"", repr=False)
    is_filtered: bool = False


class GitFetcher:
    """Resolves and fetches. Used within one event loop; `aclose` closes the connections that were kept."""

    on_moved: Callable[[Any], None] | None
    """Called with each follower that a look at its repository has news for; it asks again, allowing an age."""

    def __init__(
        self,
        *,
        proxies: Mapping[str, str] | None = None,
        max_pack_size: int = PackLimits.bytes,
        deny_private_redirects: bool = False,
        ssh_kex_algorithms: tuple[str, ...] = (),
        ssh_host_key_algorithms: tuple[str, ...] = (),
        spool: Path | None = None,
        limits: GitLimits | None = None,
        cache: Path | None = None,
        cache_bytes: int = KEPT_BYTES,
    ) -> None:
        """`proxies` are those of the environment: `http`, `https` and the exceptions under `no`.

        `cache` is a folder of the fetcher's own for what is kept of repositories; without one, nothing is.
        """
        found = proxies or {}
        self._limits = limits or GitLimits(
            wire=WireLimits(pack_bytes=max_pack_size), pack=PackLimits(bytes=max_pack_size), spool=spool
        )
        self._cache = None if cache is None else ObjectCache(cache, budget=cache_bytes, limits=self._limits.pack)
        self._transports = Transports(
            HttpRules(
                deny_private_redirects=deny_private_redirects,
                proxies=EnvironmentProxies(found.get("http", ""), found.get("https", ""), found.get("no", "")),
            ),
            SshRules(ssh_kex_algorithms, ssh_host_key_algorithms),
            self._limits,
            self._cache,
        )
        self._looking: Flights[Mapping[GitRef, Answer | FetchError]] = Flights()
        self._fetching: Flights[Fetched] = Flights()
        self._boards = Boards()
        self._targets = Targets()
        self.on_moved = None

    async def open(self) -> None:
        """Remove what a process that died has kept."""
        if self._cache is not None:
            await offload(self._cache.sweep)

    async def aclose(self) -> None:
        """Close the connections that were kept for further requests, and remove what was kept of repositories."""
        await self._transports.aclose()
        if self._cache is not None:
            await offload(self._cache.clear)

    async def resolve(self, request: GitRequest, *, max_age: float = 0.0, follower: Hashable = None) -> str:
        """The revision that `request.ref` names now, asked as cheaply as possible. Raises FetchError.

        With `max_age` (seconds), an answer that is younger will do, whoever asked for it. A `follower` hears through
        `on_moved` of news that others are the first to see; None is nobody. A pinned commit is known without asking.
        """
        async with operation("resolve", request, "list remote for"):
            pinned = request.ref.pinned_revision
            if pinned is None:
                _ = request.ref.prefixes  # a name that cannot be one must not spoil the look of others
        board = self._boards.board(
            repository_key(parse(request.url), request.auth, request.account, request.is_foreign)
        )
        if pinned is not None:
            await self._follow(board, follower)
            if follower is not None:
                board.attend(follower)
            return pinned
        answer = board.answer(request.ref, max_age)
        if answer is None:
            departure = board.join(request.ref, request.timeout, follower, strict=max_age <= 0)
            found = await self._looking.share(departure, lambda: self._look(request, board, departure))
            seen = found[request.ref]
            if isinstance(seen, FetchError):
                raise FetchError(seen.reason, seen.message, stalls=seen.stalls) from seen
            answer = seen
        await self._follow(board, follower)
        if follower is not None and board.follow(follower, request.ref, answer, max_age):
            self._wake([follower])
        return answer.target.revision

    def age(self, follower: Hashable) -> float:
        """How many seconds ago the server said what `follower` was told last; for deciding when to look again."""
        return self._boards.age(follower)

    async def forget(self, follower: Hashable) -> None:
        """Somebody follows nothing any more; what only he needed is removed from disk."""
        await self._drop(self._boards.forget(follower))

    async def _follow(self, board: Board, follower: Hashable) -> None:
        if follower is not None:
            await self._drop(self._boards.follow(board, follower))

    async def _drop(self, board: Board | None) -> None:
        if board is not None and self._cache is not None:
            await offload(self._cache.forget, board.key)

    def _wake(self, followers: Sequence[Hashable]) -> None:
        if self.on_moved is not None:
            for follower in followers:
                self.on_moved(follower)

    async def fetch(self, request: GitRequest, revision: str | None = None) -> Fetched:
        """The files of `revision`, as `resolve` gave it, or of what `request.ref` names now. Raises FetchError.

        When the reference moved meanwhile and the server no longer gives out the old commit, it is the new one.
        """
        return await self._fetching.share(("fetch", request, revision), lambda: self._fetch(request, revision))

    async def _look(
        self, request: GitRequest, board: Board, departure: Departure
    ) -> Mapping[GitRef, Answer | FetchError]:
        """List what those aboard want to know, and what else is followed; pin it and wake whom it concerns."""
        try:
            async with (
                operation("resolve", request, "list remote for") as (url, deadline),
                self._conversation(url, request, deadline) as (remote, _),
            ):
                await asyncio.sleep(0)  # whoever asks in this moment comes along
                since = board.leave(departure)
                prefixes, refs = await self._list(remote, board, departure)
                found: dict[GitRef, Answer | FetchError] = {}
                for ref in departure.refs:
                    try:
                        found[ref] = Answer(await self._targets.choose(remote, ref, refs), since)
                    except (RemoteError, FetchError) as error:
                        if len(departure.refs) == 1:
                            raise
                        found[ref] = failure(error, url, request, "list remote for")
        finally:
            board.arrive(departure)
        targets = {ref: None if isinstance(seen, FetchError) else seen.target for ref, seen in found.items()}
        for ref in board.others(departure.refs, prefixes):
            is_settled, target = self._targets.settled(ref, refs)
            if is_settled:
                targets[ref] = target
        self._wake(board.pin(departure, since, targets))
        return found

    async def _list(
        self, remote: Remote, board: Board, departure: Departure
    ) -> tuple[tuple[str, ...], Mapping[str, Ref]]:
        """The references below what everybody wants; only below what those aboard want if the rest is too much."""
        prefixes = board.prefixes(departure.refs)
        own = tuple(dict.fromkeys(prefix for ref in departure.refs for prefix in ref.prefixes))
        try:
            return prefixes, await remote.refs(prefixes)
        except RemoteError:
            if prefixes == own:
                raise
            await remote.renew()
        return own, await remote.refs(own)

    async def _fetch(self, request: GitRequest, known: str | None) -> Fetched:
        async with operation("fetch", request, "clone") as (url, deadline):
            try:
                return await self._fetch_with_kept(url, request, deadline, known)
            except SpoiledError:
                return await self._fetch_with_kept(url, request, deadline, known)

    async def _fetch_with_kept(self, url: GitURL, request: GitRequest, deadline: float, known: str | None) -> Fetched:
        async with self._conversation(url, request, deadline) as (remote, packs):
            if request.ref.wanted_commit:
                target, pack = await self._pinned(remote, request.ref)
            else:
                target, pack = await self._moving(remote, request, known)
            commit, tag = await remote.in_thread(lambda stop: _commit_behind(pack, target))
            modules = Submodules(
                self._transports, self._limits, url, request.auth, deadline, packs, account=request.account
            )
            tree, is_filtered = await self._tree(request, remote, modules, pack, commit)
            return Fetched(target.revision, commit.hash, commit.subject, tree, commit.raw, tag, is_filtered)

    @asynccontextmanager
    async def _conversation(
        self, url: GitURL, request: GitRequest, deadline: float
    ) -> AsyncIterator[tuple[Remote, ExitStack]]:
        with ExitStack() as packs:
            opened = self._transports.remote(
                url, request.auth, deadline, packs, is_foreign=request.is_foreign, account=request.account
            )
            async with opened as remote:
                yield remote, packs

    async def _pinned(self, remote: Remote, ref: GitRef) -> tuple[Target, Objects]:
        commit = ref.wanted_commit
        target = Target(ref.pinned_revision or "", commit, commit)
        pack = await self._history(remote, ref.branch, commit) if ref.branch and not ref.name else None
        return target, pack if pack is not None else await remote.commit(commit)

    async def _history(self, remote: Remote, branch: str, commit: str) -> Objects | None:
        """Make sure that `commit` is on `branch`. Returns its pack when that took fetching everything."""
        wanted = GitRef(branch=branch).reference
        tip = (await remote.refs([wanted])).get(wanted)
        if tip is None:
            raise missing(wanted)
        if tip.target == commit:
            return None
        pack = await remote.fetch(PackRequest((tip.hash,), depth=0, filter=COMMITS_ONLY))
        if commit not in pack:
            shown = printable(branch, 256)
            raise UnresolvedError(f"unable to resolve commit object for '{commit}': object not found on '{shown}'")
        return None if await remote.can_filter() else pack

    async def _moving(self, remote: Remote, request: GitRequest, known: str | None) -> tuple[Target, Objects]:
        ref, target = request.ref, self._known(request, known) if known else None
        if target is not None:
            try:
                return target, await remote.fetch(PackRequest((target.want,)))
            except AskedInVainError:
                # It moved since it was listed.
                await remote.renew()
        target = await self._targets.choose(remote, ref, await remote.refs(ref.prefixes))
        return target, await remote.fetch(PackRequest((target.want,)))

    def _known(self, request: GitRequest, known: str) -> Target | None:
        """The target of a revision that was seen a moment ago."""
        key = repository_key(parse(request.url), request.auth, request.account, request.is_foreign)
        return self._boards.board(key).target(request.ref, known) or known_target(request.ref, known)

    async def _tree(
        self, request: GitRequest, remote: Remote, modules: Submodules, pack: Objects, commit: Commit
    ) -> tuple[FileTree, bool]:
        sparse, checkout = Sparse(request.sparse), Checkout()
        await remote.in_thread(lambda stop: read_tree(pack, commit.tree, self._limits.tree, stop, sparse, checkout))
        missing = sparse.missing()
        if missing is not None:
            shown = printable(missing, 256)
            raise FetchError(
                Reason.GIT_OPERATION_FAILED,
                f"failed to sparse checkout directories : sparse checkout dir '{shown}' does not exist in repository:"
                " no such file or directory",
            )
        if request.recurse_submodules:
            await modules.add(remote, checkout, sparse, pack, commit)
        return await remote.in_thread(lambda _: _built(checkout, request))


def _built(checkout: Checkout, request: GitRequest) -> tuple[FileTree, bool]:
    is_filtered = request.leave_out and leave_out(checkout, request.ignore)
    return FileTree.build(checkout.contents(), checkout.executables, checkout.directories), is_filtered


def _commit_behind(pack: Objects, target: Target) -> tuple[Commit, bytes]:
    """The commit that was asked for, and the tag that names it. What came must be what was listed."""
    commit, tag = peel(pack, target.want)
    if commit != target.commit:
        raise RemoteError(f"the server listed commit {target.commit} but sent {commit}", rule="commit")
    return read_commit(pack, commit), tag
