"""Submodules: what `.gitmodules` names, fetched into the places where the trees want them.

Knows how far submodules may go and which credentials they may see; refuses to know transports and packs' insides.
Invariants: a submodule of another origin gets no credentials; ten levels at most, and none that contains itself
(spec/hostile-inputs.md A36, A37). Unlike Flux, no `.git` pointer file is left in the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from gitopsd.artifact.tree import shown
from gitopsd.fetch import giturl
from gitopsd.fetch.auth import GitAuth
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitmodules import read_modules
from gitopsd.fetch.gitobjects import Objects
from gitopsd.fetch.gitremote import GitLimits, Remote, Transports
from gitopsd.fetch.gitspool import Stop
from gitopsd.fetch.gittree import Checkout, Commit, Sparse, modules_file, read_commit, read_tree
from gitopsd.fetch.giturl import GitURL

_DEEPEST = 10


@dataclass(frozen=True)
class _Level:
    """One repository whose submodules are wanted."""

    prefix: str
    url: GitURL
    pack: Objects
    commit: Commit
    modules: Mapping[str, str]
    # The repositories it is in, itself last: address and commit.
    ancestry: tuple[tuple[str, str], ...]


class Submodules:
    """Fetches the submodules of one checkout."""

    def __init__(
        self,
        transports: Transports,
        limits: GitLimits,
        url: GitURL,
        auth: GitAuth,
        deadline: float,
        packs: ExitStack,
        *,
        account: str = "",
    ) -> None:
        self._transports = transports
        self._limits = limits
        self._url = url
        self._auth = auth
        self._deadline = deadline
        self._packs = packs
        self._account = account

    async def add(self, remote: Remote, checkout: Checkout, sparse: Sparse, pack: Objects, commit: Commit) -> None:
        """Add the files of all submodules, and of theirs, to `checkout`. Raises RemoteError."""
        ancestry: tuple[tuple[str, str], ...] = ((self._url.bare, commit.hash),)
        levels = [_Level("", self._url, pack, commit, _drained(checkout), ancestry)]
        while levels:
            level = levels.pop()
            text = modules_file(level.pack, level.commit.tree, self._limits.tree)
            addresses = read_modules(text) if text is not None else {}
            _check_places(addresses, level.prefix, checkout)
            for path, wanted in level.modules.items():
                address = addresses.get(path.removeprefix(level.prefix))
                # A submodule that `.gitmodules` does not know stays the empty directory that Git makes of it.
                if address is not None:
                    url = _address(level, path, wanted, address)
                    found = await self._fetch(url, path, wanted)
                    await remote.in_thread(partial(_read, found, self._limits, sparse, checkout, path))
                    ancestry = (*level.ancestry, (url.bare, wanted))
                    levels.append(_Level(f"{path}/", url, *found, _drained(checkout), ancestry))

    async def _fetch(self, url: GitURL, path: str, wanted: str) -> tuple[Objects, Commit]:
        auth = self._auth_for(url, path)
        is_foreign = url.origin != self._url.origin
        account = "" if is_foreign else self._account
        opened = self._transports.remote(url, auth, self._deadline, self._packs, is_foreign=is_foreign, account=account)
        try:
            async with opened as remote:
                pack = await remote.commit(wanted)
        except RemoteError as error:
            raise RemoteError(f"submodule '{shown(path)}': {error.message}", rule=error.rule) from error
        return pack, read_commit(pack, wanted)

    def _auth_for(self, url: GitURL, path: str) -> GitAuth:
        """The credentials for a submodule: all of them at the same origin, else only whom to trust."""
        if url.origin == self._url.origin:
            return replace(self._auth, username=url.username or "git") if url.scheme == "ssh" else self._auth
        if url.scheme == "ssh":
            raise RemoteError(f"submodule '{shown(path)}' is at another SSH server, for which there is no identity")
        return GitAuth(ca=self._auth.ca, proxy=self._auth.proxy)


def _drained(checkout: Checkout) -> Mapping[str, str]:
    """The submodules that were found since the last call."""
    found, checkout.modules = checkout.modules, {}
    return found


def _read(
    found: tuple[Objects, Commit], limits: GitLimits, sparse: Sparse, checkout: Checkout, path: str, stop: Stop
) -> None:
    pack, commit = found
    read_tree(pack, commit.tree, limits.tree, stop, sparse, checkout, f"{path}/")


def _check_places(addresses: Mapping[str, str], prefix: str, checkout: Checkout) -> None:
    for path in addresses:
        if f"{prefix}{path}" in checkout.links or f"{prefix}{path}" in checkout.files:
            raise RemoteError(f"submodule path '{shown(path)}' is a link or a file", rule="submodule-path")


def _address(level: _Level, path: str, wanted: str, text: str) -> GitURL:
    """Where a submodule is. Raises RemoteError for an address that may not be used, and for one that leads back."""
    try:
        url = giturl.relative(level.url, text)
    except ValueError as error:
        raise RemoteError(f"submodule '{shown(path)}' has an unusable address: {error}", rule="submodule-url") from None
    if (url.bare, wanted) in level.ancestry:
        raise RemoteError(f"submodule '{shown(path)}' contains itself", rule="submodule-cycle")
    if len(level.ancestry) > _DEEPEST:
        raise RemoteError(f"submodules are nested deeper than {_DEEPEST}", rule="submodule-depth")
    return url
