"""Puts signatures beside artifacts in a registry, where cosign and notation put them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.notary import ARTIFACT_TYPE, JWS
from tests.servers.registry import INDEX, Blob, Registry
from tests.sigstore import BUNDLE, Private, Signed, b64, key_bundle, sign, simple_payload

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = Blob("application/vnd.oci.empty.v1+json", b"{}")
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"

Layer = tuple[Blob, dict[str, str]]


class Signatures:
    """The signatures of one artifact."""

    def __init__(self, registry: Registry, repository: str, digest: str) -> None:
        self.registry = registry
        self.repository = repository
        self.digest = digest
        status, raw = registry.get(f"{repository}/manifests/{digest}", f"{MANIFEST}, {INDEX}")
        assert status == 200, status
        self.descriptor = {"mediaType": json.loads(raw)["mediaType"], "digest": digest, "size": len(raw)}
        self._referring: list[dict[str, Any]] = []

    # -- cosign 3

    def with_key(self, key: Private) -> None:
        """Sign as `cosign sign --key` of version 3 does."""
        self.bundle(key_bundle(key, self.digest))

    def keyless(self, signer: Signed) -> None:
        """Sign as `cosign sign` of version 3 does."""
        self.bundle(signer.bundle(self.digest))

    def bundle(self, made: dict[str, Any] | bytes) -> None:
        """Attach a bundle."""
        raw = made if isinstance(made, bytes) else json.dumps(made).encode()
        self.attach(BUNDLE, Blob(BUNDLE, raw))

    # -- cosign 2

    def with_key_before_3(self, key: Private, *, payload: bytes = b"") -> None:
        """Sign as `cosign sign --key` of version 2 does."""
        payload = payload or simple_payload(self.digest)
        self.simple([simple_layer(payload, sign(key, payload))])

    def keyless_before_3(self, signer: Signed) -> None:
        """Sign as `cosign sign` of version 2 does."""
        payload = simple_payload(self.digest)
        signature, entry = signer.simple(payload)
        annotations = {
            "dev.sigstore.cosign/certificate": signer.pem.decode(),
            "dev.sigstore.cosign/bundle": json.dumps(entry),
        }
        self.simple([simple_layer(payload, signature, **annotations)])

    def simple(self, layers: Sequence[Layer]) -> None:
        """Replace the manifest of signatures under the tag for them."""
        blobs = {blob.digest: blob for blob, _ in layers}
        for blob in (EMPTY, *blobs.values()):
            self.registry.put_blob(self.repository, blob)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": EMPTY.descriptor,
            "layers": [blob.descriptor | {"annotations": annotations} for blob, annotations in layers],
        }
        raw = json.dumps(manifest).encode()
        self.registry.put_manifest(self.repository, f"{self.digest.replace(':', '-')}.sig", Blob(MANIFEST, raw))

    # -- notation

    def notation(self, envelope: bytes, media_type: str = JWS) -> str:
        """Attach an envelope; returns the digest of its manifest."""
        return self.attach(ARTIFACT_TYPE, Blob(media_type, envelope))

    def attach(self, artifact_type: str, *layers: Blob) -> str:
        """Push a manifest that refers to the artifact, and list it where registries without that API have it."""
        for blob in (EMPTY, *layers):
            self.registry.put_blob(self.repository, blob)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact_type,
            "config": EMPTY.descriptor,
            "layers": [blob.descriptor for blob in layers],
            "subject": self.descriptor,
        }
        blob = Blob(MANIFEST, json.dumps(manifest).encode())
        self.registry.put_manifest(self.repository, blob.digest, blob)
        if not any(one["digest"] == blob.digest for one in self._referring):
            self._referring.append(blob.descriptor | {"artifactType": artifact_type})
        self.registry.push_index(self.repository, self.digest.replace(":", "-"), self._referring)
        return blob.digest


def simple_layer(payload: bytes, signature: bytes, **annotations: str) -> Layer:
    """A layer of a manifest of signatures."""
    return Blob(SIMPLE_SIGNING, payload), {"dev.cosignproject.cosign/signature": b64(signature), **annotations}
