"""Which of the references that a server listed is the wanted one.

Knows `spec/source.md` 5.3 down to ties between tags, and what it means that nothing was found; refuses to know when to
list. Remembers when commits were made: facts about hashes, which never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gitopsd.api.meta import Reason
from gitopsd.fetch.errors import FetchError, RemoteError, printable
from gitopsd.fetch.gitref import GitRef, Target, UnresolvedError, newest_tags, target_of
from gitopsd.fetch.gitremote import COMMITS_ONLY, Remote
from gitopsd.fetch.gittree import peel, read_commit
from gitopsd.fetch.gitwire import PackRequest, Ref

_KEPT_TIMES = 10_000


class Targets:
    """Chooses among references."""

    def __init__(self) -> None:
        self._commit_times: dict[str, int] = {}

    async def choose(self, remote: Remote, ref: GitRef, refs: Mapping[str, Ref]) -> Target:
        """The target of `ref`, whose prefixes were listed. Asks `remote` when that takes more than the listing.

        Raises UnresolvedError, RemoteError or FetchError when it is not there.
        """
        names = _named(ref, refs)
        if not names:
            raise await _absent(remote, ref)
        if not self._is_settled(names, refs):
            await self._look_up(remote, {refs[name] for name in names})
        return self._chosen(ref, names, refs)

    def settled(self, ref: GitRef, refs: Mapping[str, Ref]) -> tuple[bool, Target | None]:
        """Whether `refs` alone says what `ref` names, and if so, what: None for nothing that could be fetched."""
        try:
            names = _named(ref, refs)
        except UnresolvedError:
            return True, None
        if not names:
            return True, None
        if not self._is_settled(names, refs):
            return False, None
        return True, self._chosen(ref, names, refs)

    def _is_settled(self, names: Sequence[str], refs: Mapping[str, Ref]) -> bool:
        found = {refs[name].target for name in names}
        return len(found) == 1 or found <= self._commit_times.keys()

    def _chosen(self, ref: GitRef, names: Sequence[str], refs: Mapping[str, Ref]) -> Target:
        """Of tags with equal versions, the one whose commit is the latest; of those the last by name."""
        name = max(names, key=lambda name: (self._commit_times.get(refs[name].target, 0), name))
        return target_of(name.removeprefix("refs/tags/") if ref.is_range else ref.label, refs[name])

    async def _look_up(self, remote: Remote, found: set[Ref]) -> None:
        """Find out when commits were made."""
        if len(self._commit_times) > _KEPT_TIMES:
            self._commit_times.clear()
        unknown = tuple({ref.hash for ref in found if ref.target not in self._commit_times})
        pack = await remote.fetch(PackRequest(unknown, filter=COMMITS_ONLY))
        for wanted in unknown:
            commit = read_commit(pack, peel(pack, wanted)[0])
            self._commit_times[commit.hash] = commit.time


def _named(ref: GitRef, refs: Mapping[str, Ref]) -> Sequence[str]:
    """The listed names that `ref` may mean: of a range all tags of the highest version, else at most one."""
    if ref.is_range:
        return newest_tags(ref.semver, {name: one for name, one in refs.items() if name.startswith("refs/tags/")})
    return [name for name in ref.candidates if name in refs][:1]


async def _absent(remote: Remote, ref: GitRef) -> Exception:
    if ref.name:
        return UnresolvedError(f"unable to resolve ref '{printable(ref.name, 256)}' to a specific commit")
    if await remote.is_empty():
        if ref.is_branch:
            return FetchError(Reason.EMPTY_GIT_REPOSITORY, "git repository is empty")
        return RemoteError("remote repository is empty")
    return missing(ref.short or ref.candidates[0])


def missing(wanted: str) -> RemoteError:
    """The error for a reference that the server does not have."""
    return RemoteError(f'couldn\'t find remote ref "{printable(wanted, 256)}"')
