"""OCIRepositorys for the source pipeline."""

from __future__ import annotations

from gitopsd.api.meta import Artifact, ConditionType
from gitopsd.api.resource import Resource
from gitopsd.api.source import OCIRepository
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged
from gitopsd.runtime.status import StatusSession


class OCISource:
    """The OCIRepository kind of source."""

    model: type[Resource] = OCIRepository
    link = "latest.tar.gz"
    failures = (ConditionType.STORAGE_OPERATION_FAILED, ConditionType.FETCH_FAILED)

    def __init__(self, services: Services) -> None:
        self._services = services

    def is_static(self, source: OCIRepository) -> bool:
        """Never."""
        return False

    async def fetch(
        self, source: OCIRepository, current: Artifact | None, status: StatusSession
    ) -> Fetched | Unchanged:
        """Not supported yet."""
        raise SourceError(None, "NotSupported", "OCIRepository is not supported yet", stalls=True)
