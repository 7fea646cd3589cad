"""HelmCharts for the source pipeline."""

from __future__ import annotations

from gitopsd.api.meta import Artifact, ConditionType
from gitopsd.api.resource import Resource
from gitopsd.api.source import HelmChart
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged
from gitopsd.runtime.status import StatusSession


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
        """Not supported yet."""
        raise SourceError(None, "NotSupported", "HelmChart is not supported yet", stalls=True)
