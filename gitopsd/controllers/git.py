"""GitRepositories for the source pipeline: which revision is wanted, is it stored already, and what is in it.

A part of the source controller. Knows `spec/source.md` 5; who may enter is `git_access`, who has to have signed is
`git_verification`, what else goes in is `git_includes`, and the protocol itself is `fetch.git`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from gitopsd.api.meta import Artifact, ConditionType, Reason
from gitopsd.api.resource import Resource
from gitopsd.api.source import GitRepository
from gitopsd.artifact.ignore import IgnoreError, apply_ignore
from gitopsd.artifact.tree import FileTree
from gitopsd.controllers.git_access import GitAccess
from gitopsd.controllers.git_includes import GitIncludes
from gitopsd.controllers.git_verification import GitVerification
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged, building, outdated
from gitopsd.fetch import git
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from gitopsd.krm.objects import Obj
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import offload

_SUBJECT_LENGTH = 50


@dataclass(frozen=True)
class _Run:
    """One run's view of one GitRepository."""

    source: GitRepository
    current: Artifact | None
    status: StatusSession
    includes: GitIncludes
    verification: GitVerification

    async def has(self, revision: str) -> bool:
        """Whether just this is stored: the revision, made and verified as it would be today (`spec/source.md` 5.4)."""
        spec, seen = self.source.spec, self.source.status
        return (
            self.current is not None
            and revision == self.current.revision
            and self.status.is_true(ConditionType.ARTIFACT_IN_STORAGE)
            and spec.ignore == seen.observed_ignore
            and spec.recurse_submodules == seen.observed_recurse_submodules
            and spec.sparse_checkout == seen.observed_sparse_checkout
            and self.includes.are_current
            and await self.verification.is_current()
        )


class GitSource:
    """The Git kind of source."""

    model: type[Resource] = GitRepository
    link = ""
    failures = (
        ConditionType.STORAGE_OPERATION_FAILED,
        ConditionType.FETCH_FAILED,
        ConditionType.INCLUDE_UNAVAILABLE,
    )

    def __init__(self, services: Services, fetcher: GitFetcher) -> None:
        self._services = services
        self._fetcher = fetcher

    def is_static(self, source: GitRepository) -> bool:
        """Never."""
        return False

    async def fetch(
        self, source: GitRepository, current: Artifact | None, status: StatusSession
    ) -> Fetched | Unchanged:
        """Look what the remote has; fetch it unless it is stored in just this form."""
        services = self._services
        run = _Run(source, current, status, GitIncludes(services, source), GitVerification(services, source, status))
        run.verification.begin()
        try:
            request = await self._request(source)
            await run.includes.find(status)
            key = source.key
            revision = await self._fetcher.resolve(request, max_age=self._allowed_age(run), follower=key)
            age = self._fetcher.age(key)
            if await run.has(revision):
                return _unchanged(revision, age)
            if current is None or revision != current.revision:
                building(status, f"building artifact: new upstream revision '{revision}'")
            found = await self._fetcher.fetch(request, revision)
        except FetchError as error:
            raise SourceError(ConditionType.FETCH_FAILED, error.reason, error.message, stalls=error.stalls) from error
        if await run.has(found.revision):
            return _unchanged(found.revision, age)
        status.delete(ConditionType.FETCH_FAILED)
        await run.verification.check(found)
        return await self._made(run, found, age)

    async def restore(self, source: GitRepository, artifact: Artifact, obj: Obj) -> Fetched | None:
        """The commit that is stored, made as it was; what was included then is not known any more."""
        seen, commit = source.status, artifact.revision.rpartition(":")[2]
        if seen.observed_include:
            return None
        request = replace(
            await self._request(source),
            ref=GitRef(commit=commit),
            recurse_submodules=seen.observed_recurse_submodules,
            sparse=seen.observed_sparse_checkout,
            leave_out=True,
            ignore=seen.observed_ignore,
        )
        try:
            found = await self._fetcher.fetch(request)
        except FetchError as error:
            raise SourceError(ConditionType.FETCH_FAILED, error.reason, error.message) from error
        tree = found.tree if found.is_filtered else await _filtered(found.tree, seen.observed_ignore)
        return Fetched(artifact.revision, f"{commit}.tar.gz", tree, stored="", told="")

    def _allowed_age(self, run: _Run) -> float:
        """How old (seconds) a look at the remote may be: a run that only its interval caused shares those of others.

        Less than the interval by the jitter of two timers, so that the next look is never later than it would be alone.
        """
        seen, status = run.source.status, run.status
        is_ready = any(one.type == ConditionType.READY and one.is_true for one in seen.conditions)
        if run.current is None or status.is_requested or not is_ready or seen.observed_generation != status.generation:
            return 0.0
        spread = 2 * self._services.settings.interval_jitter_percentage / 100
        return run.source.spec.interval_seconds * max(1 - spread, 0.0)

    async def _made(self, run: _Run, found: git.Fetched, age: float) -> Fetched:
        """The artifact of what was fetched and verified."""
        source, revision = run.source, found.revision
        if run.current is None or revision != run.current.revision:
            outdated(run.status, Reason.NEW_REVISION, f"new upstream revision '{revision}'")
        tree = await run.includes.lay_over(found.tree) if source.spec.include else found.tree
        return Fetched(
            revision=revision,
            file_name=f"{found.commit}.tar.gz",
            content=tree if found.is_filtered else await _filtered(tree, source.spec.ignore),
            stored=f"stored artifact for revision '{revision}'",
            told=f"stored artifact for commit '{_cut(found.message_subject)}'",
            observed=_observed(source) | run.includes.observed,
            age=age,
        )

    async def _request(self, source: GitRepository) -> GitRequest:
        """What to ask for. Who we are may have to be asked of others first, which the object's timeout bounds too."""
        spec = source.spec
        try:
            async with asyncio.timeout(spec.timeout_seconds):
                access = await GitAccess(self._services, source).find()
        except TimeoutError as error:
            message = f"failed to configure authentication options: no answer within {spec.timeout_seconds:g}s"
            raise FetchError(Reason.AUTHENTICATION_FAILED, message) from error
        ref = spec.ref
        return GitRequest(
            url=spec.url,
            ref=GitRef() if ref is None else GitRef(ref.branch, ref.tag, ref.semver, ref.name, ref.commit),
            auth=access.auth,
            account=access.account,
            timeout=spec.timeout_seconds,
            recurse_submodules=spec.recurse_submodules,
            sparse=spec.sparse_checkout,
            # Rules apply to the whole of what is merged, so nothing is left out before that.
            leave_out=not spec.include,
            ignore=spec.ignore,
        )


async def _filtered(tree: FileTree, ignore: str | None) -> FileTree:
    try:
        return await offload(apply_ignore, tree, ignore)
    except IgnoreError as error:
        message = f"failed to load source ignore patterns from repository: {error}"
        raise SourceError(ConditionType.STORAGE_OPERATION_FAILED, Reason.SOURCE_IGNORE_ERROR, message) from error


def _cut(subject: str) -> str:
    return f"{subject[:_SUBJECT_LENGTH]}..." if len(subject) > _SUBJECT_LENGTH else subject


def _unchanged(revision: str, age: float) -> Unchanged:
    return Unchanged(
        stored=f"stored artifact for revision '{revision}'",
        told=f"no changes since last reconciliation: observed revision '{revision}'",
        recovered=f"stored artifact for commit '{revision}'",
        told_reason=Reason.GIT_OPERATION_SUCCEEDED,
        age=age,
    )


def _observed(source: GitRepository) -> dict[str, object]:
    spec = source.spec
    return {
        "observedIgnore": spec.ignore,
        "observedRecurseSubmodules": spec.recurse_submodules or None,
        "observedSparseCheckout": list(spec.sparse_checkout) or None,
    }
