"""How a HelmChart's chart is built: from a tree, or from a Helm repository.

A part of the source controller. Knows the order of steps, and which failure each has (`spec/source.md` 8.3, 8.5);
refuses to know conditions and events. Everything raises ChartBuildError; SourceError where it is not the chart that is
wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from gitopsd import metrics
from gitopsd.api.meta import Artifact, ConditionType, Reason
from gitopsd.api.source import HelmChart, HelmRepository, OCIVerification
from gitopsd.apply.parallel import side_by_side
from gitopsd.artifact.tree import FileTree, clamp_path
from gitopsd.controllers.helmchart_repositories import ChartRepositories
from gitopsd.controllers.source import Services, SourceError
from gitopsd.controllers.source_trust import Trust, provider_name, read_trust, verify_image
from gitopsd.engine import ChartError, EngineError, EngineRefused
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import mask
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmcharts import ChartNotFoundError, ChartRepository, IndexCharts, Offer, RegistryCharts
from gitopsd.helm.chart import Build, ChartBuildError, Failure, build_metadata, check_name, merged_files, with_metadata
from gitopsd.helm.dependencies import DependencyError, check_version, is_local, local_path, missing, repository_url
from gitopsd.helm.package import ChartEngine, ChartPlace, Package, PackageOrder, Requirement
from gitopsd.tasks import offload

_AT_ONCE: Final = 4
# Bytes of all archives that a chart's dependencies are downloaded as.
_MOST_DEPENDENCIES: Final = 100 << 20
_LOCAL: Final = {
    "metadata": Failure.REFERENCE,
    "values": Failure.VALUES,
    "dependencies": Failure.DEPENDENCY,
}
_REMOTE: Final = {"metadata": Failure.PULL, "values": Failure.VALUES}


@dataclass(frozen=True)
class Wish:
    """A chart that is wanted, and what is stored of it. `known` is called when its name and version are.

    `is_confirmed` tells that what is stored was made, or found to be right, for the spec as it is now: only then may
    it be kept. That a generation was observed is not enough, it may have failed.
    """

    chart: HelmChart
    current: Artifact | None
    is_confirmed: bool
    known: Callable[[Build], None]

    @property
    def values_files(self) -> tuple[str, ...]:
        """The values files to merge."""
        return merged_files(self.chart.spec.values_files)

    def begin(self, name: str, version: str, *, is_packaged: bool) -> Build | None:
        """The build that is stored already; None when there is none, or the spec has changed since.

        The stored file is not opened for this: its name and version are in the status of the chart.
        """
        status, current = self.chart.status, self.current
        is_same = current is not None and (status.observed_chart_name, current.revision) == (name, version)
        if is_same and self.is_confirmed:
            merged = status.observed_values_files or self.values_files
            return Build(name, version, merged, is_complete=True, is_packaged=is_packaged)
        if not is_same:
            self.known(Build(name, version))
        return None


def chart_engine(services: Services, chart: HelmChart, tree: FileTree | None = None) -> ChartEngine:
    """The engine, bounded as the settings say."""
    settings = services.settings
    return ChartEngine(
        services.engine, chart.key.subject, settings.helm_chart_max_size, settings.helm_chart_file_max_size, tree
    )


class TreeBuild:
    """Builds a chart that lies in a tree, as a directory or an archive."""

    def __init__(self, services: Services, wish: Wish, tree: FileTree, revision: str) -> None:
        """`revision` is that of the tree's artifact."""
        self._services = services
        self._wish = wish
        self._tree = tree
        self._revision = revision
        self._charts = chart_engine(services, wish.chart, tree)

    async def run(self) -> Build:
        """Find out which chart it is, and package it unless that is stored."""
        wish, spec = self._wish, self._wish.chart.spec
        if not spec.chart:
            raise ChartBuildError(Failure.REFERENCE, "no path set for local chart reference")
        place = ChartPlace(clamp_path(spec.chart))
        with _engine(_LOCAL, Failure.PACKAGE):
            found = await self._charts.identify(place)
        revision = self._revision if spec.reconcile_strategy == "Revision" else ""
        metadata = build_metadata(revision, wish.chart.metadata.generation, spec.values_files)
        version = with_metadata(found.version, metadata)
        is_packaged = not found.is_archive or bool(metadata)
        stored = wish.begin(found.name, version, is_packaged=is_packaged)
        if stored is not None:
            return stored
        build = Build(found.name, version, is_complete=True, is_packaged=is_packaged)
        if not is_packaged:
            return replace(build, content=await offload(self._tree.__getitem__, place.path))
        return await self._package(place, build)

    async def _package(self, place: ChartPlace, build: Build) -> Build:
        spec = self._wish.chart.spec
        order = PackageOrder(build.version, self._wish.values_files, spec.ignore_missing_values_files)
        with _engine(_LOCAL, Failure.PACKAGE):
            package = await self._charts.package(place, order)
        count = 0
        if package.archive is None:
            found = await self._dependencies(place, package)
            count = len(found)
            with _engine(_LOCAL, Failure.PACKAGE):
                package = await self._charts.package(place, replace(order, dependencies=found))
        return replace(build, values_files=package.values_files, content=package.archive, dependencies=count)

    async def _dependencies(self, place: ChartPlace, package: Package) -> list[ChartPlace]:
        """The missing dependencies, some at a time; which of several failures is told depends on nobody's speed."""
        wanted = list(missing(package.requirements, package.vendored).items())
        async with ChartRepositories(self._services, self._wish.chart.metadata.namespace) as repositories:
            seeker = _Seeker(self._charts, repositories, place.path)
            try:
                return await side_by_side(wanted, seeker.find, limit=_AT_ONCE, catch=DependencyError)
            except DependencyError as error:
                raise ChartBuildError(Failure.DEPENDENCY, str(error)) from error


class _Seeker:
    """Finds the dependencies of one chart, which lies at `path` in the tree."""

    def __init__(self, charts: ChartEngine, repositories: ChartRepositories, path: str) -> None:
        self._charts = charts
        self._repositories = repositories
        self._path = path
        self._bytes = 0

    async def find(self, item: tuple[str, Requirement]) -> ChartPlace:
        """Raises DependencyError that names the dependency."""
        name, requirement = item
        is_remote = not is_local(requirement)
        what = f"failed to add {'remote' if is_remote else 'local'} dependency '{name}'"
        try:
            return await (self._remote(requirement) if is_remote else self._local(requirement))
        except GitopsdError as error:
            raise DependencyError(f"{what}: {error}") from error

    async def _local(self, requirement: Requirement) -> ChartPlace:
        place = ChartPlace(local_path(self._path, requirement))
        shown = f"'/{place.path}' (reference '{requirement.repository}')"
        try:
            found = await self._charts.identify(place)
        except ChartError as error:
            raise DependencyError(f"failed to load chart from {shown}: {error}") from error
        check_version(found.version, requirement.version)
        return place

    async def _remote(self, requirement: Requirement) -> ChartPlace:
        url = repository_url(requirement)
        try:
            repository = await self._repositories.at(url, requirement.name)
        except GitopsdError as error:
            raise DependencyError(f"failed to get chart downloader for URL '{url}': {error}") from error
        with _masked(repository):
            offer = await repository.find(requirement.name, requirement.version)
            content = await self._download(repository, offer)
        self._bytes += len(content)
        if self._bytes > _MOST_DEPENDENCIES:
            raise DependencyError(f"the chart's dependencies take more than {_MOST_DEPENDENCIES} bytes")
        place = ChartPlace(archive=content)
        try:
            await self._charts.identify(place)
        except ChartError as error:
            text = f"failed to load downloaded archive of version '{offer.version}': {error}"
            raise DependencyError(text) from error
        return place

    async def _download(self, repository: ChartRepository, offer: Offer) -> bytes:
        try:
            return await repository.download(offer)
        except RemoteError as error:
            raise RemoteError(
                f"chart download of version '{offer.version}' failed: {error}", rule=error.rule
            ) from error


class RepositoryBuild:
    """Builds a chart of a Helm repository."""

    def __init__(self, services: Services, wish: Wish, source: HelmRepository, artifact: Artifact | None) -> None:
        """`artifact` is the repository's index, None for one in a registry."""
        self._services = services
        self._wish = wish
        self._source = source
        self._artifact = artifact
        self._charts = chart_engine(services, wish.chart)

    async def run(self) -> Build:
        """Find the version, verify its signature where that is demanded, and fetch it unless it is stored."""
        chart = self._wish.chart
        check_name(chart.spec.chart)
        async with ChartRepositories(self._services, chart.metadata.namespace) as repositories:
            repository = await self._repository(repositories)
            trust = await self._trust()
            offer = await self._find(repository)
            verified: bool | None = None
            if trust is not None:
                offer, verified = await self._verify(repository, offer, trust)
            build = await self._build(repository, offer)
        return replace(build, verified=verified)

    async def _repository(self, repositories: ChartRepositories) -> IndexCharts | RegistryCharts:
        try:
            return await repositories.of(self._source, self._wish.chart.spec.chart, self._artifact)
        except RemoteError as error:
            text = f"failed to get chart version for remote reference: {error}"
            raise ChartBuildError(Failure.PULL, text) from error

    async def _find(self, repository: IndexCharts | RegistryCharts) -> Offer:
        spec = self._wish.chart.spec
        what = "failed to get chart version for remote reference"
        try:
            with _masked(repository):
                offer = await repository.find(spec.chart, spec.version)
        except RemoteError as error:
            failure = Failure.REFERENCE if isinstance(error, ChartNotFoundError) else Failure.PULL
            raise ChartBuildError(failure, f"{what}: {error}") from error
        if offer.name != spec.chart:
            # An index may say anything, and the name becomes a part of addresses.
            raise ChartBuildError(Failure.PULL, f"{what}: the index has another chart's entry as '{spec.chart}'")
        return offer

    async def _build(self, repository: ChartRepository, offer: Offer) -> Build:
        wish, chart = self._wish, self._wish.chart
        metadata = build_metadata("", chart.metadata.generation, chart.spec.values_files)
        version = with_metadata(offer.version, metadata)
        stored = wish.begin(offer.name, version, is_packaged=bool(metadata))
        if stored is not None:
            return stored
        try:
            with _masked(repository):
                content = await repository.download(offer)
        except RemoteError as error:
            text = f"failed to download chart for remote reference: {error}"
            raise ChartBuildError(Failure.PULL, text) from error
        build = Build(offer.name, version, is_complete=True, is_packaged=bool(metadata), content=content)
        place = ChartPlace(archive=content)
        with _engine(_REMOTE, Failure.PACKAGE, load="failed to load downloaded chart: "):
            if not metadata:
                await self._charts.identify(place)
                return build
            order = PackageOrder(version, wish.values_files, chart.spec.ignore_missing_values_files)
            package = await self._charts.package(place, order)
        return replace(build, content=package.archive, values_files=package.values_files)

    # -- signatures ----------------------------------------------------------------------------------------------------

    async def _trust(self) -> Trust | None:
        """Who must have signed, None where nobody must."""
        chart, verify = self._wish.chart, self._wish.chart.spec.verify
        if verify is None:
            return None
        try:
            trust = await read_trust(self._services.secrets, chart.metadata.namespace, verify)
            if not trust.keys and not trust.is_keyless and verify.secret_ref is not None:
                name = f"{chart.metadata.namespace}/{verify.secret_ref.name}"
                raise RemoteError(f"no public keys found in secret '{name}'")
        except RemoteError as error:
            raise _untrusted(verify, error) from error
        return trust

    async def _verify(self, repository: IndexCharts | RegistryCharts, offer: Offer, trust: Trust) -> tuple[Offer, bool]:
        """The offer with the digest that was verified, and whether it was or only passed."""
        if not isinstance(repository, RegistryCharts):
            raise ChartBuildError(Failure.VERIFICATION, "only charts in OCI repositories can be verified")
        seconds = self._source.spec.timeout_seconds
        try:
            with _masked(repository):
                async with asyncio.timeout(seconds):
                    pinned, descriptor = await repository.pinned(offer)
                    where = repository.repository(offer.name)
                    verified = await verify_image(self._services.verifier, where, descriptor, repository.access, trust)
        except (RemoteError, TimeoutError) as error:
            text = str(error) or f"no complete answer within {seconds:g}s"
            message = f"failed to verify '{offer.name}' chart with version '{offer.version}': {text}"
            raise ChartBuildError(Failure.VERIFICATION, message) from error
        return pinned, verified


def _untrusted(verify: OCIVerification, error: RemoteError) -> SourceError:
    message = f"failed to verify the signature using provider '{provider_name(verify)}': {error}"
    return SourceError(ConditionType.SOURCE_VERIFIED, Reason.VERIFICATION_ERROR, message)


@contextmanager
def _masked(repository: ChartRepository) -> Iterator[None]:
    """No credential of the repository is in an error of it; what was refused is counted."""
    try:
        yield
    except RemoteError as error:
        if error.rule:
            metrics.refused_inputs.labels("helm", error.rule).inc()
        message = mask(error.message, repository.secrets)
        if message == error.message:
            raise
        kind = ChartNotFoundError if isinstance(error, ChartNotFoundError) else RemoteError
        raise kind(message, rule=error.rule) from None


@contextmanager
def _engine(failures: dict[str, Failure], otherwise: Failure, *, load: str = "") -> Iterator[None]:
    """Turn what the engine says into the failure of a build."""
    try:
        yield
    except ChartError as error:
        prefix = load if error.step == "load" else ""
        raise ChartBuildError(failures.get(error.step, otherwise), f"{prefix}{error}") from error
    except EngineRefused as error:
        text = f"{otherwise.summary}: {error}"
        raise SourceError(otherwise.condition, otherwise.reason, text, stalls=True) from error
    except EngineError as error:
        raise ChartBuildError(otherwise, str(error)) from error
