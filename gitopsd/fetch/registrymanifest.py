"""Manifests and indexes of registries, in their OCI and Docker forms: bytes to values.

Knows the media types and what a manifest may hold; refuses to know how one is asked for. Pure.
Invariants: a manifest has the digest it was asked by; descriptors have digests that content can be checked with and
sizes that are none of a joke; counts and bytes are bounded (spec/hostile-inputs.md F14).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.registryaddress import is_digest

MANIFEST_LIMIT: Final = 4 << 20
"""Bytes of one manifest or index."""
MOST_LAYERS: Final = 1000
MOST_MANIFESTS: Final = 10_000
"""Entries of one index."""
_MOST_ANNOTATIONS: Final = 1000
_LARGEST_SIZE: Final = 1 << 62

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES: Final = frozenset((OCI_INDEX, DOCKER_INDEX))
IMAGES: Final = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
ACCEPT: Final = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX))


@dataclass(frozen=True)
class Descriptor:
    """What content is, how long, and by which digest it is found. `platform` (`linux/amd64`) stands in indexes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""
    platform: str = ""

    @property
    def is_index(self) -> bool:
        """It lists manifests instead of layers."""
        return self.media_type in INDEXES


@dataclass(frozen=True)
class Manifest:
    """A manifest (`config`, `layers`) or an index (`manifests`); `raw` are the bytes that its digest stands for."""

    descriptor: Descriptor
    raw: bytes = field(repr=False)
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    manifests: tuple[Descriptor, ...] = ()
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def is_index(self) -> bool:
        """It lists manifests instead of layers."""
        return self.descriptor.is_index


def digest_of(content: bytes, like: str = "sha256:") -> str:
    """The digest of `content`, by the algorithm of the digest `like`."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


class _Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    media_type: str = ""
    size: int = 0
    annotations: dict[str, str] | None = None
    artifact_type: str = ""
    platform: _Platform | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""
    artifact_type: str = ""
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    annotations: dict[str, str] | None = None
    subject: _Descriptor | None = None


_DECODER = msgspec.json.Decoder(_Document)


def parse_manifest(raw: bytes, content_type: str, digest: str) -> Manifest:
    """Read what the registry sent as `digest`. Raises RemoteError."""
    if digest_of(raw, digest) != digest:
        raise RemoteError(f"the manifest does not have the digest {digest}", rule="digest")
    try:
        found = _DECODER.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        _media_type(_Document(), content_type)
        raise RemoteError(f"the manifest cannot be read: {printable(str(error), 256)}", rule="manifest") from None
    media_type = _media_type(found, content_type)
    entries = found.manifests or []
    layers = found.layers or []
    if len(layers) > MOST_LAYERS:
        raise RemoteError(f"the manifest lists more than {MOST_LAYERS} layers", rule="layers")
    if len(entries) > MOST_MANIFESTS:
        raise RemoteError(f"the index lists more than {MOST_MANIFESTS} manifests", rule="manifests")
    return Manifest(
        descriptor=Descriptor(
            media_type, digest, len(raw), _annotations(found.annotations), printable(found.artifact_type, 256)
        ),
        raw=raw,
        config=None if found.config is None else _descriptor(found.config),
        layers=tuple(map(_descriptor, layers)),
        annotations=_annotations(found.annotations),
        manifests=tuple(map(_descriptor, entries)),
        artifact_type=printable(found.artifact_type, 256),
        subject=None if found.subject is None else _descriptor(found.subject),
    )


def _media_type(found: _Document, content_type: str) -> str:
    """What the document says it is, or what the registry says; the same bytes must not be read in two ways."""
    announced = content_type.partition(";")[0].strip().lower()
    media_type = found.media_type or announced
    if media_type not in INDEXES | IMAGES:
        raise RemoteError(f"unsupported media type of the manifest: '{printable(media_type, 128)}'", rule="manifest")
    if media_type in INDEXES and found.layers:
        raise RemoteError("the index lists layers", rule="manifest")
    if media_type in IMAGES and found.manifests:
        raise RemoteError("the manifest lists manifests", rule="manifest")
    return media_type


def _descriptor(found: _Descriptor) -> Descriptor:
    if not is_digest(found.digest):
        raise RemoteError(f"the manifest holds the digest '{printable(found.digest, 160)}'", rule="digest")
    if not 0 <= found.size <= _LARGEST_SIZE:
        raise RemoteError("the manifest holds an impossible size", rule="manifest")
    platform = "" if found.platform is None else f"{found.platform.os}/{found.platform.architecture}"
    return Descriptor(
        found.media_type,
        found.digest,
        found.size,
        _annotations(found.annotations),
        found.artifact_type,
        printable(platform, 128),
    )


def _annotations(found: Mapping[str, Any] | None) -> Mapping[str, str]:
    if found is None:
        return {}
    if len(found) > _MOST_ANNOTATIONS:
        raise RemoteError(f"the manifest holds more than {_MOST_ANNOTATIONS} annotations", rule="manifest")
    return dict(found)
