"""GitRepositories for the source pipeline: which revision is wanted, is it stored already, and what is in it.

A part of the source controller. Knows `spec/source.md` 5; the protocol itself is `fetch.git`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gitopsd.api.meta import Artifact, ConditionType, Reason
from gitopsd.api.resource import Resource
from gitopsd.api.source import GitRepository
from gitopsd.artifact.ignore import IgnoreError, apply_ignore
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged, outdated
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import GitAuth, git_auth, refuse_plain_http
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from gitopsd.fetch.giturl import parse
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import offload

_SUBJECT_LENGTH = 50


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

    def unsupported(self, source: GitRepository) -> str:
        """The first field that asks for what comes later."""
        spec = source.spec
        asked = {
            f"spec.provider {spec.provider}": spec.provider != "generic",
            "spec.serviceAccountName": bool(spec.service_account_name),
            "spec.verify": spec.verify is not None,
            "spec.include": bool(spec.include),
        }
        return next((name for name, is_asked in asked.items() if is_asked), "")

    async def fetch(
        self, source: GitRepository, current: Artifact | None, status: StatusSession
    ) -> Fetched | Unchanged:
        """Look what the remote has; fetch it unless it is stored in just this form."""
        unsupported = self.unsupported(source)
        if unsupported:
            raise SourceError(None, "NotSupported", f"{unsupported} is not supported yet", stalls=True)
        try:
            request = await self._request(source)
            revision = await self._fetcher.resolve(request)
            if current is not None and revision == current.revision and self._is_same_content(source, status):
                return _unchanged(revision)
            if current is None or revision != current.revision:
                outdated(status, Reason.NEW_REVISION, f"new upstream revision '{revision}'")
            found = await self._fetcher.fetch(request, revision)
        except FetchError as error:
            raise SourceError(ConditionType.FETCH_FAILED, error.reason, error.message, stalls=error.stalls) from error
        if current is not None and found.revision == current.revision and self._is_same_content(source, status):
            return _unchanged(found.revision)
        try:
            tree = await offload(apply_ignore, found.tree, source.spec.ignore)
        except IgnoreError as error:
            message = f"failed to load source ignore patterns from repository: {error}"
            raise SourceError(ConditionType.STORAGE_OPERATION_FAILED, Reason.SOURCE_IGNORE_ERROR, message) from error
        return Fetched(
            revision=found.revision,
            file_name=f"{found.commit}.tar.gz",
            content=tree,
            stored=f"stored artifact for revision '{found.revision}'",
            told=f"stored artifact for commit '{_cut(found.message_subject)}'",
            observed=_observed(source),
        )

    def _is_same_content(self, source: GitRepository, status: StatusSession) -> bool:
        """Whether what is stored was made with today's settings (`spec/source.md` 5.4)."""
        spec, seen = source.spec, source.status
        return (
            status.is_true(ConditionType.ARTIFACT_IN_STORAGE)
            and spec.ignore == seen.observed_ignore
            and spec.recurse_submodules == seen.observed_recurse_submodules
            and spec.include == seen.observed_include
            and spec.sparse_checkout == seen.observed_sparse_checkout
        )

    async def _request(self, source: GitRepository) -> GitRequest:
        spec = source.spec
        url = parse(spec.url)
        auth = await self._auth(source)
        if not self._services.settings.insecure_allow_http:
            refuse_plain_http(url, auth)
        ref = spec.ref
        return GitRequest(
            url=spec.url,
            ref=GitRef() if ref is None else GitRef(ref.branch, ref.tag, ref.semver, ref.name, ref.commit),
            auth=auth,
            timeout=spec.timeout_seconds,
            recurse_submodules=spec.recurse_submodules,
            sparse=spec.sparse_checkout,
        )

    async def _auth(self, source: GitRepository) -> GitAuth:
        spec, namespace = source.spec, source.metadata.namespace
        data: Mapping[str, bytes] | None = None
        proxy: Mapping[str, bytes] | None = None
        name = ""
        if spec.proxy_secret_ref is not None:
            proxy_name = f"{namespace}/{spec.proxy_secret_ref.name}"
            proxy = await self._secret(namespace, spec.proxy_secret_ref.name, _PROXY_UNREADABLE.format(proxy_name))
        if spec.secret_ref is not None:
            name = f"{namespace}/{spec.secret_ref.name}"
            # The prefix is really doubled upstream, and dashboards match on it.
            prefix = f"failed to get secret '{name}': failed to get secret '{name}': "
            data = await self._secret(namespace, spec.secret_ref.name, prefix)
        return git_auth(spec.url, data, secret=name, proxy=proxy)

    async def _secret(self, namespace: str, name: str, problem: str) -> Mapping[str, bytes]:
        try:
            secret = await self._services.secrets.get(namespace, name)
        except GitopsdError as error:
            message = f"{problem}{error}"
            raise SourceError(ConditionType.FETCH_FAILED, Reason.AUTHENTICATION_FAILED, message) from error
        return secret.data


_PROXY_UNREADABLE = "failed to configure proxy options: failed to get secret '{}': "


def _cut(subject: str) -> str:
    return f"{subject[:_SUBJECT_LENGTH]}..." if len(subject) > _SUBJECT_LENGTH else subject


def _unchanged(revision: str) -> Unchanged:
    return Unchanged(
        stored=f"stored artifact for revision '{revision}'",
        told=f"no changes since last reconciliation: observed revision '{revision}'",
        recovered=f"stored artifact for commit '{revision}'",
        told_reason=Reason.GIT_OPERATION_SUCCEEDED,
    )


def _observed(source: GitRepository) -> dict[str, object]:
    spec = source.spec
    return {
        "observedIgnore": spec.ignore,
        "observedRecurseSubmodules": spec.recurse_submodules or None,
        "observedInclude": [item.to_builtins() for item in spec.include] or None,
        "observedSparseCheckout": list(spec.sparse_checkout) or None,
    }
