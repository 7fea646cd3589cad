"""HelmCharts for the source pipeline: the chart that a source has now, is it stored already, and what was made of it.

A part of the source controller. Knows the conditions and events of `spec/source.md` 8; how a chart is built is
`helmchart_build`, where Helm repositories are asked `helmchart_repositories`. What wakes a chart is
`source_references`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from gitopsd.api.meta import SOURCE_GROUP, Artifact, ConditionType, Reason
from gitopsd.api.resource import DecodeError, Resource
from gitopsd.api.source import HelmChart, HelmRepository
from gitopsd.artifact.archive import ArchiveError
from gitopsd.artifact.store import StoreError
from gitopsd.controllers.helmchart_build import RepositoryBuild, TreeBuild, Wish
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged, building, outdated
from gitopsd.helm.chart import Build, ChartBuildError, Failure
from gitopsd.krm.objects import Obj, get_in
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import offload

_KINDS: Final = ("HelmRepository", "GitRepository", "Bucket")
# Words of a failure that make it one of authentication (`spec/source.md` 8.5). A number only as a word of its own:
# ports and digests have it, too.
_UNAUTHENTICATED = re.compile(r"\b401\b|unauthorized|authentication required|tls|unknown certificate authority")
# Failures of the conversation with a Helm repository, which can be ones of authentication.
_OF_CONVERSATION: Final = (Failure.PULL, Failure.REFERENCE)


class _Origin(NamedTuple):
    """Where a chart comes from: the source, decoded if it is a HelmRepository, and its artifact if it has one."""

    repository: HelmRepository | None
    artifact: Artifact | None


class HelmChartSource:
    """The HelmChart kind of source."""

    model: type[Resource] = HelmChart
    link = "latest.tar.gz"
    failures = (ConditionType.STORAGE_OPERATION_FAILED, ConditionType.FETCH_FAILED, ConditionType.BUILD_FAILED)

    def __init__(self, services: Services) -> None:
        self._services = services

    def is_static(self, source: HelmChart) -> bool:
        """Never."""
        return False

    async def fetch(self, source: HelmChart, current: Artifact | None, status: StatusSession) -> Fetched | Unchanged:
        """Build the chart that the source has now, unless it is what is stored."""
        verified = status.get(ConditionType.SOURCE_VERIFIED)
        if source.spec.verify is None or (verified is not None and verified.status == "False"):
            status.delete(ConditionType.SOURCE_VERIFIED)
        origin = await self._origin(source, status)
        stored = status.get(ConditionType.ARTIFACT_IN_STORAGE)
        is_confirmed = stored is not None and stored.is_true and stored.observed_generation == status.generation
        wish = Wish(source, current, is_confirmed, lambda build: _announce(status, build))
        try:
            build = await self._build(wish, origin)
        except ChartBuildError as error:
            raise _failure(status, error, of_repository=origin.repository is not None) from error
        except SourceError as error:
            raise _unknown(status, error) from error
        return self._conclude(source, status, build)

    # -- where it comes from -------------------------------------------------------------------------------------------

    async def _origin(self, chart: HelmChart, status: StatusSession) -> _Origin:
        obj = self._source_object(chart)
        repository = None
        if chart.source_key.kind == "HelmRepository":
            try:
                repository = HelmRepository.from_object(obj)
            except DecodeError as error:
                raise _unavailable(str(error)) from error
        if repository is not None and repository.spec.is_oci:
            return _Origin(repository, None)
        artifact = await self._artifact(chart, obj)
        if artifact is None:
            raise self._no_artifact(chart, status)
        status.fields["observedSourceArtifactRevision"] = artifact.revision
        return _Origin(repository, artifact)

    def _source_object(self, chart: HelmChart) -> Obj:
        key = chart.source_key
        if key.kind not in _KINDS:
            failure = _unavailable(f"unsupported source kind '{key.kind}', must be one of: {', '.join(_KINDS)}")
            told = (Reason.UNSUPPORTED_SOURCE_KIND, failure.message)
            raise SourceError(failure.condition, failure.reason, failure.message, stalls=True, told=told)
        obj = self._services.listers[key.kind].get(key)
        if obj is None:
            raise _unavailable(f'{key.kind}.{SOURCE_GROUP} "{key.name}" not found')
        return obj

    async def _artifact(self, chart: HelmChart, obj: Obj) -> Artifact | None:
        """What the source's own status tells of, if it is stored: as announced, or as the cache heard before that."""
        store, key = self._services.store, chart.source_key
        recorded, latest = get_in(obj, "status", "artifact"), store.latest(key)
        try:
            cached = None if recorded is None else msgspec.convert(recorded, Artifact)
        except msgspec.ValidationError:
            return None
        artifact = cached
        if cached is None or latest is not None:
            is_known = latest is not None and cached is not None and cached.digest == latest.digest
            artifact = latest if is_known else store.announced(key)
        if artifact is None or await offload(store.path, artifact) is None:
            return None
        return artifact

    def _no_artifact(self, chart: HelmChart, status: StatusSession) -> SourceError:
        """Not a failure: the source's first artifact wakes the chart."""
        reference = chart.spec.source_ref
        message = f"no artifact available for {reference.kind} source '{reference.name}'"
        self._services.event(status.obj, "Trace", Reason.NO_SOURCE_ARTIFACT, message)
        return SourceError(ConditionType.FETCH_FAILED, Reason.NO_SOURCE_ARTIFACT, message, quiet=True)

    # -- what is made of it --------------------------------------------------------------------------------------------

    async def _build(self, wish: Wish, origin: _Origin) -> Build:
        if origin.repository is not None:
            return await RepositoryBuild(self._services, wish, origin.repository, origin.artifact).run()
        assert origin.artifact is not None
        try:
            tree = await self._services.store.files(origin.artifact)
        except (StoreError, ArchiveError) as error:
            raise SourceError(ConditionType.FETCH_FAILED, Reason.FAILED, f"failed to open source: {error}") from error
        return await TreeBuild(self._services, wish, tree, origin.artifact.revision).run()

    def _conclude(self, chart: HelmChart, status: StatusSession, build: Build) -> Fetched | Unchanged:
        status.delete(ConditionType.BUILD_FAILED)
        if build.verified:
            message = f"verified signature of version {build.version}"
            status.mark(ConditionType.SOURCE_VERIFIED, "True", Reason.SUCCEEDED, message)
        elif build.verified is not None:
            status.delete(ConditionType.SOURCE_VERIFIED)
        if build.dependencies:
            text = f"resolved {build.dependencies} chart dependencies"
            self._services.event(status.obj, "Trace", Reason.RESOLVED_DEPENDENCIES, text)
        summary = build.summary
        if build.content is None:
            up_to_date = f"artifact up-to-date with remote revision: '{build.version}'"
            return Unchanged(summary, up_to_date, summary, reason=build.reason, event_reason=build.reason)
        merged = list(build.values_files) if chart.spec.ignore_missing_values_files else []
        return Fetched(
            revision=build.version,
            file_name=build.file_name,
            content=build.content,
            stored=summary,
            told=summary,
            reason=build.reason,
            event_reason=build.reason,
            recovered_reason=build.reason,
            observed={"observedChartName": build.name, "observedValuesFiles": merged or None},
            not_stored="unable to copy Helm chart to storage",
        )


def _announce(status: StatusSession, build: Build) -> None:
    """Another chart is wanted than the one that is stored."""
    if get_in(status.fields, "artifact") is None:
        building(status, f"building artifact: {build.summary}")
    else:
        outdated(status, Reason.NEW_CHART, build.summary)


def _unavailable(message: str) -> SourceError:
    return SourceError(ConditionType.FETCH_FAILED, Reason.SOURCE_UNAVAILABLE, f"failed to get source: {message}")


def _failure(status: StatusSession, error: ChartBuildError, *, of_repository: bool) -> SourceError:
    """The condition of a failed build; of the two that can tell of one, only it remains."""
    failure, message = error.failure, str(error)
    if of_repository and failure in _OF_CONVERSATION and _UNAUTHENTICATED.search(message) is not None:
        message = f"failed to authenticate with the Helm repository: {message}"
        return _unknown(status, SourceError(failure.condition, Reason.AUTHENTICATION_FAILED, message))
    if failure.condition is ConditionType.BUILD_FAILED:
        status.delete(ConditionType.FETCH_FAILED)
    else:
        status.delete(ConditionType.BUILD_FAILED)
    told = SourceError(failure.condition, failure.reason, message, stalls=failure.stalls)
    if failure is Failure.VERIFICATION:
        status.mark(ConditionType.SOURCE_VERIFIED, "False", Reason.VERIFICATION_ERROR, told.message)
    return told


def _unknown(status: StatusSession, error: SourceError) -> SourceError:
    """What is no failure of the build itself (`spec/source.md` 8.5): the event keeps its reason, the condition not."""
    if error.condition is ConditionType.BUILD_FAILED:
        status.delete(ConditionType.FETCH_FAILED)
        return error
    status.delete(ConditionType.BUILD_FAILED)
    if error.condition is ConditionType.SOURCE_VERIFIED:
        status.mark(ConditionType.SOURCE_VERIFIED, "False", error.reason, error.message)
    unknown = Failure.UNKNOWN
    return SourceError(
        unknown.condition,
        unknown.reason,
        f"{unknown.summary}: {error.message}",
        stalls=error.stalls,
        told=(error.reason, error.message),
    )
