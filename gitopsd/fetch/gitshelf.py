"""What is kept of one repository, as a conversation with its server uses it, and who is about to add to it.

Knows which requests may share what was fetched, and when waiting for another fetch is cheaper than fetching; refuses to
know how things are kept (`gitcache`) and asked for (`gitremote`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gitopsd.fetch.auth import GitAuth
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitcache import Kept, ObjectCache
from gitopsd.fetch.gitobjects import COMMIT, Objects
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitspool import Stop
from gitopsd.fetch.gittree import peel
from gitopsd.fetch.giturl import GitURL
from gitopsd.fetch.gitview import laid_over

RepositoryKey = tuple[GitURL, GitAuth | str, bool]
_Work = tuple[str, asyncio.Event]


def repository_key(url: GitURL, auth: GitAuth, account: str, is_foreign: bool) -> RepositoryKey:
    """What two requests have in common that may share what a server said: address, credentials and rules."""
    return url, account or auth, is_foreign


class Shelves:
    """The shelves of all repositories. Used within one event loop."""

    def __init__(self, cache: ObjectCache) -> None:
        self._cache = cache
        self._under_way: dict[RepositoryKey, list[_Work]] = {}

    def shelf(self, key: RepositoryKey) -> Shelf:
        """The shelf of one repository."""
        return Shelf(self._cache, key, self._under_way)


class Shelf:
    """What is kept of one repository. All but `wait_for_others` and `at_work` blocks."""

    def __init__(self, cache: ObjectCache, key: RepositoryKey, under_way: dict[RepositoryKey, list[_Work]]) -> None:
        self._cache = cache
        self._key = key
        self._under_way = under_way

    async def wait_for_others(self, want: str, *, anything: bool) -> bool:
        """Wait for a fetch of `want`, or of `anything` of this repository, that is under way; False if there is none.

        Of those who want what nobody has yet, one fetches everything, and the others what is left.
        """
        work = next((done for what, done in self._under_way.get(self._key, ()) if anything or what == want), None)
        if work is None:
            return False
        await work.wait()
        return True

    @contextmanager
    def at_work(self, want: str) -> Iterator[None]:
        """Tell others that `want` is being fetched."""
        mine = (want, asyncio.Event())
        all_work = self._under_way.setdefault(self._key, [])
        all_work.append(mine)
        try:
            yield
        finally:
            all_work.remove(mine)
            if not all_work:
                self._under_way.pop(self._key, None)
            mine[1].set()

    def open(self, want: str, stop: Stop) -> Kept | None:
        """What is kept, for one who looks for `want`."""
        kept = self._cache.open(self._key, stop)
        if kept is not None and kept.holds(want):
            self._cache.touch(self._key, want)
        return kept

    def keep(self, pack: Pack, want: str, stop: Stop, *, anew: bool) -> None:
        """Keep a pack that stands alone; `anew` lets go of what was kept before."""
        if anew:
            self._cache.forget(self._key)
        self._add(pack, pack, want, stop, None)

    def lay(self, pack: Pack, kept: Kept, want: str, stop: Stop) -> Objects:
        """Lay an update over what is kept, and keep it. Raises RemoteError when the two are not all of `want`."""
        found = laid_over(pack, kept, want, stop)
        if found is pack:
            self.keep(pack, want, stop, anew=True)
        else:
            self._add(pack, found, want, stop, kept)
        return found

    def _add(self, pack: Pack, found: Objects, want: str, stop: Stop, base: Kept | None) -> None:
        try:
            commit = peel(found, want)[0]
            is_commit = found.get(bytes.fromhex(commit))[0] == COMMIT
        except RemoteError:
            return  # whoever reads it will be told what is wrong with it
        if is_commit:
            self._cache.keep(self._key, pack, (want, commit), stop, base=base)
