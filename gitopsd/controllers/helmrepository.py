"""HelmRepositorys for the source pipeline."""

from __future__ import annotations

from gitopsd.api.meta import Artifact, ConditionType
from gitopsd.api.resource import Resource
from gitopsd.api.source import HelmRepository
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged
from gitopsd.runtime.status import StatusSession


class HelmRepositorySource:
    """The HelmRepository kind of source."""

    model: type[Resource] = HelmRepository
    link = "index.yaml"
    failures = (ConditionType.STORAGE_OPERATION_FAILED, ConditionType.FETCH_FAILED)

    def __init__(self, services: Services) -> None:
        self._services = services

    def is_static(self, source: HelmRepository) -> bool:
        """Never."""
        return False

    async def fetch(
        self, source: HelmRepository, current: Artifact | None, status: StatusSession
    ) -> Fetched | Unchanged:
        """Not supported yet."""
        raise SourceError(None, "NotSupported", "HelmRepository is not supported yet", stalls=True)
