"""Git repositories: which commit a reference names now, and the files of a commit.

Theory of operation. A request is worked on once, however many ask for it at the same time: equal requests, credentials
included, share one flight. A flight is one conversation within one deadline; cancelling the last who waits closes its
socket. Only as much as is needed is asked for: references by prefix, packs of one commit without history. History is
fetched in two cases only: a pinned commit that the server does not give out by its hash, and, without any files where
the server can do that, a pinned commit that has to be on a branch.

Knows `spec.ref`, submodules and what to do when a server cannot; refuses to know Kubernetes and ignore rules.
Invariants: what is returned was checked against the commit's own hash; nothing is left on disk; every failure is a
`FetchError` whose text is safe to show.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gitopsd import metrics
from gitopsd.api.meta import Reason
from gitopsd.artifact.tree import FileTree
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import CHECKOUT_FAILED, GitAuth, SshRules, invalid_option, mask
from gitopsd.fetch.errors import AskedInVainError, FetchError, RemoteError, printable
from gitopsd.fetch.flights import Flights
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitref import GitRef, Target, UnresolvedError, known_target, newest_tags, target_of
from gitopsd.fetch.gitremote import COMMITS_ONLY, GitLimits, Remote, Transports
from gitopsd.fetch.gitspool import PackLimits
from gitopsd.fetch.gittree import Checkout, Commit, Sparse, leave_out, peel, read_commit, read_tree
from gitopsd.fetch.giturl import GitURL, mask_userinfo, parse
from gitopsd.fetch.gitwire import PackRequest, Ref, WireLimits
from gitopsd.fetch.http import HttpRules
from gitopsd.fetch.proxy import EnvironmentProxies
from gitopsd.fetch.submodules import Submodules
from gitopsd.fetch.tls import TLSMaterialError

__all__ = ["Fetched", "GitFetcher", "GitLimits", "GitRef", "GitRequest"]

_LONGEST_MESSAGE = 4000
_KEPT_TIMES = 10_000


@dataclass(frozen=True)
class GitRequest:
    """What to fetch from where, with which credentials, within `timeout` seconds in all.

    `is_foreign` says that not an operator but a repository named the address: rules for redirects apply to it too.
    With `leave_out`, what the repository's ignore rules and `ignore` exclude is never unpacked; whoever merges other
    files into the tree before the rules apply does without it.
    """

    url: str
    ref: GitRef = field(default_factory=GitRef)
    auth: GitAuth = field(default_factory=GitAuth)
    timeout: float = 60.0
    recurse_submodules: bool = False
    sparse: tuple[str, ...] = ()
    is_foreign: bool = False
    leave_out: bool = False
    ignore: str | None = None


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
    ) -> None:
        """`proxies` are those of the environment: `http`, `https` and the exceptions under `no`."""
        found = proxies or {}
        self._limits = limits or GitLimits(
            wire=WireLimits(pack_bytes=max_pack_size), pack=PackLimits(bytes=max_pack_size), spool=spool
        )
        self._transports = Transports(
            HttpRules(
                deny_private_redirects=deny_private_redirects,
                proxies=EnvironmentProxies(found.get("http", ""), found.get("https", ""), found.get("no", "")),
            ),
            SshRules(ssh_kex_algorithms, ssh_host_key_algorithms),
            self._limits,
        )
        self._resolving: Flights[str] = Flights()
        self._fetching: Flights[Fetched] = Flights()
        # When a tag's commit was made: a fact about a hash, which never changes.
        self._commit_times: dict[str, int] = {}

    async def aclose(self) -> None:
        """Close the connections that were kept for further requests."""
        await self._transports.aclose()

    async def resolve(self, request: GitRequest) -> str:
        """The revision that `request.ref` names now, asked as cheaply as possible.

        A pinned commit is known without asking. Raises FetchError.
        """
        async with self._operation("resolve", request, "list remote for"):
            pinned = request.ref.pinned_revision
        if pinned is not None:
            return pinned
        key = ("resolve", request.url, request.ref, request.auth, request.timeout, request.is_foreign)
        return await self._resolving.share(key, lambda: self._resolve(request))

    async def fetch(self, request: GitRequest, revision: str | None = None) -> Fetched:
        """The files of `revision`, as `resolve` gave it, or of what `request.ref` names now. Raises FetchError.

        When the reference moved meanwhile and the server no longer gives out the old commit, it is the new one.
        """
        return await self._fetching.share(("fetch", request, revision), lambda: self._fetch(request, revision))

    async def _resolve(self, request: GitRequest) -> str:
        async with (
            self._operation("resolve", request, "list remote for") as (url, deadline),
            self._conversation(url, request, deadline) as (remote, _),
        ):
            return (await self._target(remote, request.ref)).revision

    async def _fetch(self, request: GitRequest, known: str | None) -> Fetched:
        async with (
            self._operation("fetch", request, "clone") as (url, deadline),
            self._conversation(url, request, deadline) as (remote, packs),
        ):
            if request.ref.wanted_commit:
                target, pack = await self._pinned(remote, request.ref)
            else:
                target, pack = await self._moving(remote, request.ref, known)
            commit, tag = await remote.in_thread(lambda stop: _commit_behind(pack, target))
            modules = Submodules(self._transports, self._limits, url, request.auth, deadline, packs)
            tree, is_filtered = await self._tree(request, remote, modules, pack, commit)
            return Fetched(target.revision, commit.hash, commit.subject, tree, commit.raw, tag, is_filtered)

    @asynccontextmanager
    async def _conversation(
        self, url: GitURL, request: GitRequest, deadline: float
    ) -> AsyncIterator[tuple[Remote, ExitStack]]:
        with ExitStack() as packs:
            opened = self._transports.remote(url, request.auth, deadline, packs, is_foreign=request.is_foreign)
            async with opened as remote:
                yield remote, packs

    async def _pinned(self, remote: Remote, ref: GitRef) -> tuple[Target, Pack]:
        commit = ref.wanted_commit
        target = Target(ref.pinned_revision or "", commit, commit)
        pack = await self._history(remote, ref.branch, commit) if ref.branch and not ref.name else None
        return target, pack or await remote.commit(commit)

    async def _history(self, remote: Remote, branch: str, commit: str) -> Pack | None:
        """Make sure that `commit` is on `branch`. Returns its pack when that took fetching everything."""
        wanted = GitRef(branch=branch).reference
        tip = (await remote.refs([wanted])).get(wanted)
        if tip is None:
            raise _missing(wanted)
        if tip.target == commit:
            return None
        pack = await remote.fetch(PackRequest((tip.hash,), depth=0, filter=COMMITS_ONLY))
        if commit not in pack:
            shown = printable(branch, 256)
            raise UnresolvedError(f"unable to resolve commit object for '{commit}': object not found on '{shown}'")
        return None if await remote.can_filter() else pack

    async def _moving(self, remote: Remote, ref: GitRef, known: str | None) -> tuple[Target, Pack]:
        target = known_target(ref, known) if known else None
        if target is not None:
            try:
                return target, await remote.fetch(PackRequest((target.want,)))
            except AskedInVainError:
                # It moved since it was listed.
                await remote.renew()
        target = await self._target(remote, ref)
        return target, await remote.fetch(PackRequest((target.want,)))

    async def _target(self, remote: Remote, ref: GitRef) -> Target:
        """List what `ref` needs, and choose. Raises UnresolvedError or RemoteError when it is not there."""
        if ref.is_range:
            refs = await remote.refs(["refs/tags/"])
            name = await self._newest(remote, refs, newest_tags(ref.semver, refs))
            return target_of(name.removeprefix("refs/tags/"), refs[name])
        wanted = ref.candidates
        refs = await remote.refs(wanted)
        found = next((refs[name] for name in wanted if name in refs), None)
        if found is not None:
            return target_of(ref.label, found)
        if ref.name:
            raise UnresolvedError(f"unable to resolve ref '{printable(ref.name, 256)}' to a specific commit")
        if await remote.is_empty():
            if ref.is_branch:
                raise FetchError(Reason.EMPTY_GIT_REPOSITORY, "git repository is empty")
            raise RemoteError("remote repository is empty")
        raise _missing(ref.short or wanted[0])

    async def _newest(self, remote: Remote, refs: Mapping[str, Ref], names: Sequence[str]) -> str:
        """Of tags with equal versions, the one whose commit is the latest; of those the last by name."""
        if len({refs[name].target for name in names}) == 1:
            return names[-1]
        if len(self._commit_times) > _KEPT_TIMES:
            self._commit_times.clear()
        unknown = tuple({refs[name].hash for name in names if refs[name].target not in self._commit_times})
        if unknown:
            pack = await remote.fetch(PackRequest(unknown, filter=COMMITS_ONLY))
            for found in unknown:
                commit = read_commit(pack, peel(pack, found)[0])
                self._commit_times[commit.hash] = commit.time
        return max(names, key=lambda name: (self._commit_times.get(refs[name].target, 0), name))

    async def _tree(
        self, request: GitRequest, remote: Remote, modules: Submodules, pack: Pack, commit: Commit
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

    @asynccontextmanager
    async def _operation(self, name: str, request: GitRequest, doing: str) -> AsyncIterator[tuple[GitURL, float]]:
        """The frame around every operation: its deadline, its count, and its failures as FetchError."""
        url = parse(request.url)
        result = "failure"
        try:
            async with asyncio.timeout(request.timeout):
                yield url, time.monotonic() + request.timeout
            result = "success"
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        except FetchError as error:
            raise FetchError(error.reason, mask(error.message, request.auth.secrets), stalls=error.stalls) from error
        except TLSMaterialError as error:
            raise invalid_option(url.scheme, str(error)) from error
        except (GitopsdError, TimeoutError, OSError) as error:
            raise _failure(error, url, request, doing) from error
        finally:
            metrics.git_requests.labels(name, result).inc()


def _missing(wanted: str) -> RemoteError:
    return RemoteError(f'couldn\'t find remote ref "{printable(wanted, 256)}"')


def _built(checkout: Checkout, request: GitRequest) -> tuple[FileTree, bool]:
    is_filtered = request.leave_out and leave_out(checkout, request.ignore)
    return FileTree.build(checkout.contents(), checkout.executables, checkout.directories), is_filtered


def _commit_behind(pack: Pack, target: Target) -> tuple[Commit, bytes]:
    """The commit that was asked for, and the tag that names it. What came must be what was listed."""
    commit, tag = peel(pack, target.want)
    if commit != target.commit:
        raise RemoteError(f"the server listed commit {target.commit} but sent {commit}", rule="commit")
    return read_commit(pack, commit), tag


def _failure(error: Exception, url: GitURL, request: GitRequest, doing: str) -> FetchError:
    """What went wrong, in the words of spec/source.md 5.3 up to the cause."""
    if isinstance(error, RemoteError) and error.rule:
        metrics.refused_inputs.labels("git", error.rule).inc()
    if isinstance(error, TimeoutError):
        cause = f"no answer within {request.timeout:g}s"
    elif isinstance(error, GitopsdError):
        cause = str(error)
    else:
        cause = printable(getattr(error, "strerror", None) or type(error).__name__, 128).lower()
    start = "" if isinstance(error, UnresolvedError) else f"unable to {doing} '{url.shown}': "
    message = mask(mask_userinfo(f"{CHECKOUT_FAILED}{start}{cause}"), request.auth.secrets)
    return FetchError(Reason.GIT_OPERATION_FAILED, printable(message, _LONGEST_MESSAGE))
