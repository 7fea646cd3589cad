"""Where cosign keeps signatures: beside the artifact, in the same repository.

Since version 3 each is a Sigstore bundle in a manifest that refers to the artifact. Before, one manifest under the tag
`sha256-<hex>.sig` listed them all as layers, with the signature itself in annotations.

Knows media types, tags and annotations; refuses to know what makes a signature good. Signatures come one by one, so
that one of them is in memory at a time. Invariants: at most `MOST_SIGNATURES` are read of each kind, the newest of
those that are in order; one that cannot be read stops no other; that nobody can tell which there are is an error.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Final

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.imagesignatures import SimpleSignature, VerifyError
from gitopsd.fetch.registry import Descriptor, Registry, RegistryAccess, RegistryError, Repository
from gitopsd.tasks import offload

BUNDLE_PREFIX: Final = "application/vnd.dev.sigstore.bundle"
SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
LOG_ENTRY: Final = "dev.sigstore.cosign/bundle"

MOST_SIGNATURES: Final = 100
BUNDLE_LIMIT: Final = 4 << 20
PAYLOAD_LIMIT: Final = 128 << 10
_KEPT_REASONS: Final = 3


@dataclass
class Attempts:
    """How it went with the signatures of one artifact so far."""

    found: int = 0
    passed_over: int = 0
    reasons: list[str] = field(default_factory=list)

    def failed(self, error: RemoteError) -> None:
        """Note why one was not good; only the first few different reasons are kept."""
        if error.message not in self.reasons and len(self.reasons) < _KEPT_REASONS:
            self.reasons.append(error.message)

    async def accept(self, check: Callable[[], None]) -> bool:
        """Run a check in a thread and tell whether it passed."""
        self.found += 1
        try:
            await offload(check)
        except VerifyError as error:
            self.failed(error)
            return False
        return True

    @property
    def told(self) -> str:
        """The reasons in one line; empty if there was no signature at all."""
        counted = f"{self.passed_over} more were not looked at" if self.passed_over else ""
        return "; ".join(filter(None, [*self.reasons, counted]))


@dataclass(frozen=True)
class CosignStore:
    """The signatures of one artifact."""

    registry: Registry
    repository: Repository
    access: RegistryAccess
    artifact: Descriptor
    attempts: Attempts

    async def bundles(self) -> AsyncGenerator[bytes, None]:
        """The bundles that refer to the artifact. Raises RemoteError if it cannot be known which do."""
        found = await self.registry.referrers(self.repository, self.artifact.digest, self.access)
        bundles = [one for one in found if not one.artifact_type or one.artifact_type.startswith(BUNDLE_PREFIX)]
        for descriptor in self._newest(bundles):
            try:
                bundle = await self._bundle(descriptor)
            except RemoteError as error:
                self.attempts.found += 1
                self.attempts.failed(error)
                continue
            if bundle is not None:
                yield bundle

    async def _bundle(self, descriptor: Descriptor) -> bytes | None:
        """The bundle in a manifest, if that is what it holds."""
        if descriptor.is_index:
            return None
        manifest = await self.registry.manifest(self.repository, descriptor.digest, self.access)
        if len(manifest.layers) != 1 or not manifest.layers[0].media_type.startswith(BUNDLE_PREFIX):
            return None
        if manifest.layers[0].size > BUNDLE_LIMIT:
            raise VerifyError(f"its bundle is larger than {BUNDLE_LIMIT} bytes", rule="size")
        return await self.registry.blob(self.repository, manifest.layers[0], self.access, limit=BUNDLE_LIMIT)

    async def signatures(self) -> AsyncGenerator[SimpleSignature, None]:
        """The signatures under the artifact's tag for them. Raises RemoteError if it cannot be known what is there."""
        tag = f"{self.artifact.digest.replace(':', '-')}.sig"
        try:
            manifest = await self.registry.manifest(self.repository, tag, self.access)
        except RegistryError as error:
            if error.status == 404:
                return
            raise
        payloads: dict[str, bytes] = {}
        for layer in self._newest([one for one in manifest.layers if one.media_type == SIMPLE_SIGNING]):
            try:
                if layer.digest not in payloads:
                    payloads = {layer.digest: await self._payload(layer)}
                signature = read_signature(layer, payloads[layer.digest])
            except RemoteError as error:
                self.attempts.found += 1
                self.attempts.failed(error)
                continue
            yield signature

    async def _payload(self, layer: Descriptor) -> bytes:
        if layer.size > PAYLOAD_LIMIT:
            raise VerifyError(f"its payload is larger than {PAYLOAD_LIMIT} bytes", rule="size")
        return await self.registry.blob(self.repository, layer, self.access, limit=PAYLOAD_LIMIT)

    def _newest(self, found: list[Descriptor]) -> list[Descriptor]:
        """What is added comes last, and whoever signs again wants the new signature seen."""
        self.attempts.passed_over += max(0, len(found) - MOST_SIGNATURES)
        return found[-MOST_SIGNATURES:]


def read_signature(layer: Descriptor, payload: bytes) -> SimpleSignature:
    """Read what the annotations of a layer say about its payload. Raises VerifyError."""
    encoded = layer.annotations.get(SIGNATURE, "")
    try:
        signature = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise VerifyError(f"its annotation is no signature: {printable(encoded, 32)}") from None
    if not signature:
        raise VerifyError("it lacks its annotation")
    certificate, entry = layer.annotations.get(CERTIFICATE, ""), layer.annotations.get(LOG_ENTRY, "")
    return SimpleSignature(payload, signature, certificate.encode(), entry.encode())
