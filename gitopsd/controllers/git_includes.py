"""What a GitRepository includes: the artifacts of other GitRepositories, and their files at their places.

A part of the source controller. Knows `spec/source.md` 5.5; how trees are laid over each other is `artifact.merge`.
Invariants: an include is never fetched, only read from the storage; who includes itself, over others or not, waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gitopsd.api.meta import Artifact, ConditionType, Reason
from gitopsd.api.source import GitInclude, GitRepository
from gitopsd.artifact.archive import ArchiveError
from gitopsd.artifact.merge import Overlay, OverlayError, merge
from gitopsd.artifact.store import StoreError
from gitopsd.artifact.tree import FileTree, TreeError
from gitopsd.controllers.dependency_cycle import cycle
from gitopsd.controllers.source import Services, SourceError, building
from gitopsd.controllers.source_references import includes_of
from gitopsd.krm.objects import Obj, ObjectKey, get_in
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import offload

_DIFFER: Final = "included artifacts differ from last observed includes"
# How soon (seconds) an artifact that was there may be there again: its source is fetching it.
_SOON: Final = 5.0


class GitIncludes:
    """The includes of one GitRepository in one run. Everything raises SourceError."""

    def __init__(self, services: Services, source: GitRepository) -> None:
        self._services = services
        self._source = source
        self._lister = services.listers[GitRepository.GVK.kind]
        self.artifacts: Sequence[Artifact] = ()

    async def find(self, status: StatusSession) -> None:
        """Take the artifacts as they are now, and say so when they are not those of the last time."""
        self.artifacts = [await self._artifact(include) for include in self._source.spec.include]
        status.delete(ConditionType.INCLUDE_UNAVAILABLE)
        recorded = self._source.status.included_artifacts
        if not _have_other_revisions(self.artifacts, recorded):
            return
        if recorded and get_in(status.fields, "artifact") is not None:
            status.mark(ConditionType.ARTIFACT_OUTDATED, "True", Reason.INCLUDE_CHANGE, _DIFFER)
        building(status, f"building artifact: {_DIFFER}")

    @property
    def are_current(self) -> bool:
        """Whether the stored artifact was made of just these (`spec/source.md` 5.4)."""
        spec, seen = self._source.spec, self._source.status
        return (
            spec.include == seen.observed_include
            and len(self.artifacts) == len(seen.included_artifacts)
            and all(
                (now.revision, now.digest) == (then.revision, then.digest)
                for now, then in zip(self.artifacts, seen.included_artifacts, strict=True)
            )
        )

    @property
    def observed(self) -> dict[str, object]:
        """The fields of the status that go with the new artifact."""
        return {
            "observedInclude": [include.to_builtins() for include in self._source.spec.include] or None,
            "includedArtifacts": [artifact.to_builtins() for artifact in self.artifacts] or None,
        }

    async def lay_over(self, tree: FileTree) -> FileTree:
        """The tree with the files of all includes at their places, in the order of the list."""
        includes = self._source.spec.include
        overlays = [
            Overlay(await self._files(include, artifact), include.from_path, include.destination)
            for include, artifact in zip(includes, self.artifacts, strict=True)
        ]
        try:
            return await offload(merge, tree, overlays)
        except OverlayError as error:
            include = includes[error.number]
            if error.is_misplaced:
                message = f"path calculation for include '{include.repository.name}' failed: {error}"
                raise SourceError(ConditionType.STORAGE_OPERATION_FAILED, Reason.ILLEGAL_PATH, message) from error
            raise _copy_failure(include, error) from error
        except TreeError as error:
            raise _copy_failure(includes[-1], error) from error

    async def _files(self, include: GitInclude, artifact: Artifact) -> FileTree:
        try:
            return await self._services.store.files(artifact)
        except (StoreError, ArchiveError) as error:
            raise _copy_failure(include, error) from error

    # -- which artifacts ---------------------------------------------------------------------------------------

    async def _artifact(self, include: GitInclude) -> Artifact:
        name = include.repository.name
        key = self._source.key._replace(name=name)
        found = self._lister.get(key)
        pause = self._services.settings.requeue_dependency
        if found is None:
            message = f"could not get resource for include '{name}': {key.kind}.{key.group} \"{name}\" not found"
            raise SourceError(ConditionType.INCLUDE_UNAVAILABLE, Reason.NOT_FOUND, message, waits=pause)
        message = f"no artifact available for include '{name}'"
        way = cycle(self._source.key, key, self._lister.get, lambda _, obj: includes_of(obj))
        artifact = await self._newest(key, found)
        if artifact is None or way:
            if way:
                message += f", the includes have a cycle: {' -> '.join(one.name for one in way)}"
            elif get_in(found, "status", "artifact") is not None:
                pause = min(pause, _SOON)
            raise SourceError(ConditionType.INCLUDE_UNAVAILABLE, Reason.NO_ARTIFACT, message, waits=pause)
        return artifact

    async def _newest(self, key: ObjectKey, obj: Obj) -> Artifact | None:
        """What the other's own status tells of: as announced, or as the cache heard a moment before that."""
        store, cached = self._services.store, _artifact_of(obj)
        latest = store.latest(key)
        if cached is None or latest is not None:
            is_known = latest is not None and cached is not None and cached.digest == latest.digest
            return latest if is_known else store.announced(key)
        # The other has not run since we started. What it stored then may be there.
        try:
            await store.files(cached)
        except (StoreError, ArchiveError):
            return None
        return cached


def _artifact_of(obj: Obj) -> Artifact | None:
    recorded = get_in(obj, "status", "artifact")
    try:
        return None if recorded is None else msgspec.convert(recorded, Artifact)
    except msgspec.ValidationError:
        return None


def _have_other_revisions(now: Sequence[Artifact], then: Sequence[Artifact]) -> bool:
    """Whether the sets of revisions differ; upstream compares just these."""
    known = {artifact.revision for artifact in then}
    return len(now) != len(then) or any(artifact.revision not in known for artifact in now)


def _copy_failure(include: GitInclude, error: Exception) -> SourceError:
    """The other's files cannot be laid where they should be."""
    places = f"from {include.from_path} to {include.destination}"
    message = f"failed to copy '{include.repository.name}' include {places}: {error}"
    return SourceError(ConditionType.STORAGE_OPERATION_FAILED, Reason.COPY_FAILURE, message)
