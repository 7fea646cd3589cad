"""OCIRepositories for the source pipeline: which artifact is wanted, is it stored already, and what is in its layer.

A part of the source controller. Knows `spec/source.md` 6; the protocol itself is `fetch.registry`, who may enter is
`oci_access`, who may have signed is `source_trust`.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from gitopsd import metrics
from gitopsd.api.meta import ORIGIN_REVISION, ORIGIN_SOURCE, Artifact, ConditionType, Reason
from gitopsd.api.resource import Resource
from gitopsd.api.source import OCIRef, OCIRepository, OCIRepositoryVerification
from gitopsd.artifact.archive import ArchiveError, unpack
from gitopsd.artifact.ignore import IgnoreError, apply_ignore
from gitopsd.artifact.tree import DEFAULT_LIMITS, FileTree
from gitopsd.controllers.oci_access import OCIAccess
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged, outdated
from gitopsd.controllers.source_trust import Trust, provider_name, read_trust, verify_image
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.registry import Descriptor, Manifest, RegistryAccess, Repository
from gitopsd.fetch.registryaddress import is_digest
from gitopsd.fetch.registrytags import newest_tag
from gitopsd.krm.objects import Obj
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import offload

HELM_CONTENT: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
LAYER_LIMIT: Final = DEFAULT_LIMITS.content
"""Bytes of a layer, compressed as it is: no more than what an artifact may hold unpacked."""
METADATA_LIMIT: Final = 256 << 10
"""Bytes of a manifest's annotations that go into a status; as much as Kubernetes allows annotations."""
# Larger layers go over the disk.
_IN_MEMORY: Final = 8 << 20
_LAYER_FAILED: Final = Reason.OCI_ARTIFACT_LAYER_OPERATION_FAILED


@dataclass(frozen=True)
class _Wanted:
    """One look at the registry: the artifact that the object wants now."""

    source: OCIRepository
    repository: Repository
    access: RegistryAccess
    descriptor: Descriptor
    tag: str  # empty for a digest
    deadline: float  # loop time

    @property
    def revision(self) -> str:
        digest = self.descriptor.digest
        return f"{self.tag}@{digest}" if self.tag else digest

    @property
    def shown(self) -> str:
        """The reference as messages have it."""
        return self.repository.reference(self.tag or self.descriptor.digest)


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
        """Look what the registry has; pull it unless it is stored in just this form.

        All of it, the pull included, takes at most `spec.timeout`.
        """
        if _is_false(status, ConditionType.SOURCE_VERIFIED):
            status.delete(ConditionType.SOURCE_VERIFIED)
        wanted = await self._look(source, status.obj)
        is_new = current is None or current.revision != wanted.revision
        if is_new:
            outdated(status, Reason.NEW_REVISION, f"new revision '{wanted.revision}' for '{wanted.shown}'")
        fingerprint = await self._verify(wanted, status, is_new=is_new)
        if current is not None and not is_new and _is_same_content(source):
            _keep_fingerprint(status, fingerprint)
            return _unchanged(source, current)
        fetched = await self._pull(wanted)
        _keep_fingerprint(status, fingerprint)
        return fetched

    async def restore(self, source: OCIRepository, artifact: Artifact, obj: Obj) -> Fetched | None:
        """The very image that is stored, taken as it was; it was verified then."""
        seen = source.status
        ref = OCIRef(digest=artifact.revision.rpartition("@")[2])
        layer = seen.observed_layer_selector
        spec = msgspec.structs.replace(source.spec, ref=ref, ignore=seen.observed_ignore, layer_selector=layer)
        wanted = await self._look(msgspec.structs.replace(source, spec=spec), obj)
        return replace(await self._pull(wanted), revision=artifact.revision)

    # -- which artifact ----------------------------------------------------------------------------------------

    async def _look(self, source: OCIRepository, obj: Obj) -> _Wanted:
        deadline = asyncio.get_running_loop().time() + source.spec.timeout_seconds
        async with _within(source, deadline, Reason.AUTHENTICATION_FAILED, "failed to get credential"):
            repository, access = await OCIAccess(self._services, source, obj).find()
        reference = await self._reference(source, repository, access, deadline)
        what = "failed to determine artifact digest"
        async with _within(source, deadline, Reason.OCI_ARTIFACT_PULL_FAILED, what):
            if ":" in reference:
                descriptor = _pinned(reference)
            else:
                descriptor = await self._services.registry.resolve(repository, reference, access)
        tag = "" if ":" in reference else reference
        return _Wanted(source, repository, access, descriptor, tag, deadline)

    async def _reference(
        self, source: OCIRepository, repository: Repository, access: RegistryAccess, deadline: float
    ) -> str:
        """The tag or digest: digest before semver before tag (`spec/source.md` 6.3)."""
        ref = source.spec.ref or OCIRef()
        if ref.digest or not ref.semver:
            return ref.digest or ref.tag or "latest"
        what = f"failed to determine the artifact tag for '{source.spec.url}'"
        selector = source.spec.layer_selector
        is_chart = selector is not None and selector.media_type == HELM_CONTENT
        async with _within(source, deadline, Reason.READ_OPERATION_FAILED, what):
            tags = await self._services.registry.tags(repository, access)
            return await offload(newest_tag, tags, ref.semver, ref.semver_filter, underscores=is_chart)

    # -- whose artifact ----------------------------------------------------------------------------------------

    async def _verify(self, wanted: _Wanted, status: StatusSession, *, is_new: bool) -> str:
        """Demand a good signature where that is due; returns the fingerprint of the trust it was checked with.

        Due means: another revision, another generation, a check that failed, or other keys than the last time.
        """
        verify = wanted.source.spec.verify
        if verify is None:
            status.delete(ConditionType.SOURCE_VERIFIED)
            return ""
        before = _verified_with(status, wanted.source)
        is_due = is_new or before is None
        try:
            async with asyncio.timeout_at(wanted.deadline):
                trust = await self._trust(wanted.source, verify)
                if not is_due and before in {"", trust.fingerprint}:
                    return trust.fingerprint
                is_due = True
                verified = await self._verify_signature(wanted, trust)
        except (RemoteError, TimeoutError) as error:
            if not is_due:
                # Nothing that is served now depends on keys which cannot be read.
                return before or ""
            why = str(error) or f"not finished within {wanted.source.spec.timeout}"
            message = f"failed to verify the signature using provider '{provider_name(verify)}': {why}"
            failure = SourceError(None, Reason.VERIFICATION_ERROR, message)
            status.mark(ConditionType.SOURCE_VERIFIED, "False", failure.reason, failure.message)
            raise failure from error
        if not verified:
            return ""
        message = f"verified signature of revision {wanted.revision}"
        status.mark(ConditionType.SOURCE_VERIFIED, "True", Reason.SUCCEEDED, message)
        return trust.fingerprint

    async def _trust(self, source: OCIRepository, verify: OCIRepositoryVerification) -> Trust:
        root = verify.trusted_root_secret_ref
        namespace = source.metadata.namespace
        return await read_trust(self._services.secrets, namespace, verify, root.name if root is not None else "")

    async def _verify_signature(self, wanted: _Wanted, trust: Trust) -> bool:
        descriptor = wanted.descriptor
        if not descriptor.media_type:
            descriptor = await self._services.registry.resolve(wanted.repository, descriptor.digest, wanted.access)
        return await verify_image(self._services.verifier, wanted.repository, descriptor, wanted.access, trust)

    # -- its content -------------------------------------------------------------------------------------------

    async def _pull(self, wanted: _Wanted) -> Fetched:
        source = wanted.source
        manifest = await self._manifest(wanted)
        layer = _select(source, manifest)
        selector = source.spec.layer_selector
        copies = selector is not None and selector.copies
        content = await (self._copy(wanted, layer) if copies else self._extract(wanted, layer))
        revision, metadata = wanted.revision, dict(manifest.annotations)
        return Fetched(
            revision=revision,
            file_name=f"{wanted.descriptor.digest}.tar.gz",
            content=content,
            stored=f"stored artifact for digest '{revision}'",
            told=_told(source, revision, metadata),
            observed={
                "observedIgnore": source.spec.ignore,
                "observedLayerSelector": None if selector is None else selector.to_builtins(),
            },
            metadata=metadata,
            not_stored=f"unable to {'copy' if copies else 'archive'} artifact to storage",
        )

    async def _manifest(self, wanted: _Wanted) -> Manifest:
        url, digest = wanted.source.spec.url, wanted.descriptor.digest
        what = f"failed to pull artifact from '{url}'"
        try:
            async with _within(wanted.source, wanted.deadline, Reason.OCI_ARTIFACT_PULL_FAILED, what):
                manifest = await self._services.registry.image(wanted.repository, digest, wanted.access)
        except SourceError as error:
            cause = error.__cause__
            words = {"manifest": "failed to parse artifact manifest", "layers": "failed to parse artifact layers"}
            if isinstance(cause, RemoteError) and cause.rule in words:
                raise _layer_failure(f"{words[cause.rule]}: {cause}") from error
            raise
        if sum(len(key) + len(value) for key, value in manifest.annotations.items()) > METADATA_LIMIT:
            raise _layer_failure(f"failed to parse artifact manifest: more than {METADATA_LIMIT} bytes of annotations")
        return manifest

    async def _extract(self, wanted: _Wanted, layer: Descriptor) -> FileTree:
        """The files of a layer, without links and what is to be ignored."""
        what = "failed to extract layer contents from artifact"
        async with _within(wanted.source, wanted.deadline, _LAYER_FAILED, what), self._blob(wanted, layer) as content:
            try:
                tree = await offload(_unpack, content)
            except ArchiveError as error:
                metrics.refused_inputs.labels("registry", "archive").inc()
                raise _layer_failure(f"{what}: {error}") from error
        try:
            return await offload(apply_ignore, tree, wanted.source.spec.ignore)
        except IgnoreError as error:
            message = f"failed to load source ignore patterns from repository: {error}"
            raise SourceError(ConditionType.STORAGE_OPERATION_FAILED, Reason.SOURCE_IGNORE_ERROR, message) from error

    async def _copy(self, wanted: _Wanted, layer: Descriptor) -> bytes | Path:
        """A layer as it is."""
        what = "failed to copy layer from artifact"
        async with _within(wanted.source, wanted.deadline, _LAYER_FAILED, what):
            if layer.size <= _IN_MEMORY:
                return await self._services.registry.blob(wanted.repository, layer, wanted.access, limit=LAYER_LIMIT)
            return await self._spool(wanted, layer)

    @asynccontextmanager
    async def _blob(self, wanted: _Wanted, layer: Descriptor) -> AsyncIterator[bytes | Path]:
        """A layer in memory or, when it is large, in a file that is gone afterwards."""
        if layer.size <= _IN_MEMORY:
            yield await self._services.registry.blob(wanted.repository, layer, wanted.access, limit=LAYER_LIMIT)
            return
        path = await self._spool(wanted, layer)
        try:
            yield path
        finally:
            await self._services.store.give_up(path)

    async def _spool(self, wanted: _Wanted, layer: Descriptor) -> Path:
        path = self._services.store.spool()
        try:
            await self._services.registry.blob_to_file(wanted.repository, layer, wanted.access, path, limit=LAYER_LIMIT)
        except OSError as error:
            message = f"unable to copy artifact to storage: {error.strerror or 'no details'}"
            raise SourceError(
                ConditionType.STORAGE_OPERATION_FAILED, Reason.ARCHIVE_OPERATION_FAILED, message
            ) from error
        return path


@asynccontextmanager
async def _within(source: OCIRepository, deadline: float, reason: str, what: str) -> AsyncIterator[None]:
    """Turn what goes wrong, or takes longer than the object's timeout, into the failure of one step."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as error:
        text = f"{what}: not finished within {source.spec.timeout}"
        raise SourceError(ConditionType.FETCH_FAILED, reason, text) from error
    except RemoteError as error:
        if error.rule:
            metrics.refused_inputs.labels("registry", error.rule).inc()
        raise SourceError(ConditionType.FETCH_FAILED, reason, f"{what}: {error}") from error


def _layer_failure(message: str) -> SourceError:
    return SourceError(ConditionType.FETCH_FAILED, _LAYER_FAILED, message)


def _pinned(digest: str) -> Descriptor:
    """What is known of an artifact without asking anybody."""
    if not is_digest(digest):
        raise RemoteError(f"'{printable(digest, 160)}' is not a digest such as sha256:<64 hex digits>")
    return Descriptor("", digest, 0)


def _select(source: OCIRepository, manifest: Manifest) -> Descriptor:
    """The layer that the object wants. Raises SourceError."""
    if not manifest.layers:
        raise _layer_failure("no layers found in artifact")
    selector = source.spec.layer_selector
    media_type = selector.media_type if selector is not None else ""
    found = next((layer for layer in manifest.layers if not media_type or layer.media_type == media_type), None)
    if found is None:
        raise _layer_failure(f"failed to find layer with media type '{media_type}' in artifact")
    return found


def _unpack(content: bytes | Path) -> FileTree:
    if isinstance(content, bytes):
        return unpack(content)
    with content.open("rb") as file:
        return unpack(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _is_same_content(source: OCIRepository) -> bool:
    """Whether what is stored was made with today's settings."""
    spec, seen = source.spec, source.status
    return spec.ignore == seen.observed_ignore and spec.layer_selector == seen.observed_layer_selector


def _verified_with(status: StatusSession, source: OCIRepository) -> str | None:
    """The fingerprint of the trust that verified this generation, empty when unknown; None if nothing did."""
    found = status.get(ConditionType.SOURCE_VERIFIED)
    if found is None or found.status != "True" or found.observed_generation != status.generation:
        return None
    return source.status.source_verification_fingerprint


def _is_false(status: StatusSession, condition: ConditionType) -> bool:
    found = status.get(condition)
    return found is not None and found.status == "False"


def _keep_fingerprint(status: StatusSession, fingerprint: str) -> None:
    if fingerprint:
        status.fields["sourceVerificationFingerprint"] = fingerprint
    else:
        status.fields.pop("sourceVerificationFingerprint", None)


def _unchanged(source: OCIRepository, current: Artifact) -> Unchanged:
    return Unchanged(
        stored=f"stored artifact for digest '{current.revision}'",
        told=f"artifact up-to-date with remote revision: '{current.revision}'",
        recovered=_told(source, current.revision, current.metadata),
    )


def _told(source: OCIRepository, revision: str, metadata: Mapping[str, str]) -> str:
    """The message of the event, with where the artifact was made from if its maker says so."""
    text = f"stored artifact with revision '{revision}' from '{source.spec.url}'"
    if ORIGIN_SOURCE not in metadata or ORIGIN_REVISION not in metadata:
        return text
    origin, at = printable(metadata[ORIGIN_SOURCE], 512), printable(metadata[ORIGIN_REVISION], 512)
    return f"{text}, origin source '{origin}', origin revision '{at}'"
