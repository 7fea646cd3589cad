"""What a manifest may be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.registrymanifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MOST_LAYERS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    parse_manifest,
)

DIGEST = "sha256:" + "1" * 64
LAYER = {"mediaType": "text/plain", "digest": DIGEST, "size": 3, "annotations": {"a": "b"}}


def read(document: Any, content_type: str = OCI_MANIFEST) -> Manifest:
    raw = json.dumps(document).encode()
    return parse_manifest(raw, content_type, digest_of(raw))


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_a_manifest_has_layers(media_type: str) -> None:
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "artifactType": "application/x",
        "config": {"mediaType": "c", "digest": DIGEST, "size": 2},
        "layers": [LAYER],
        "annotations": {"k": "v"},
        "subject": {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 5},
        "somethingNew": [1],
    }
    raw = json.dumps(document).encode()
    found = read(document)
    assert found.descriptor == Descriptor(media_type, digest_of(raw), len(raw), {"k": "v"}, "application/x")
    assert found.raw == raw
    assert found.config == Descriptor("c", DIGEST, 2)
    assert found.layers == (Descriptor("text/plain", DIGEST, 3, {"a": "b"}),)
    assert found.annotations == {"k": "v"}
    assert found.subject == Descriptor(OCI_MANIFEST, DIGEST, 5)
    assert not found.is_index


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_INDEX])
def test_an_index_has_manifests(media_type: str) -> None:
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    entry = {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 7, "platform": platform, "artifactType": "t"}
    found = read({"manifests": [entry, entry | {"platform": None}]}, media_type + "; charset=utf-8")
    assert found.is_index
    assert [one.platform for one in found.manifests] == ["linux/arm64", ""]
    assert found.manifests[0].artifact_type == "t"


@pytest.mark.parametrize(
    ("document", "content_type", "text"),
    [
        ({"layers": []}, "text/html", "unsupported media type of the manifest: 'text/html'"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, OCI_MANIFEST, "unsupported"),
        ({"mediaType": OCI_INDEX, "layers": [LAYER]}, OCI_MANIFEST, "the index lists layers"),
        ({"manifests": [LAYER], "layers": [LAYER]}, OCI_MANIFEST, "the manifest lists manifests"),
        ({"layers": [LAYER | {"digest": "sha256:../../x"}]}, OCI_MANIFEST, "the manifest holds the digest"),
        ({"layers": [LAYER | {"digest": "md5:" + "0" * 32}]}, OCI_MANIFEST, "the manifest holds the digest"),
        ({"layers": [LAYER | {"size": -1}]}, OCI_MANIFEST, "impossible size"),
        ({"layers": [LAYER | {"size": 2**70}]}, OCI_MANIFEST, "impossible size"),
        ({"layers": [LAYER | {"size": "1"}]}, OCI_MANIFEST, "cannot be read"),
        ({"annotations": {str(n): "" for n in range(1001)}}, OCI_MANIFEST, "annotations"),
        ([], OCI_MANIFEST, "the manifest cannot be read"),
        ({"layers": "x"}, OCI_MANIFEST, "the manifest cannot be read"),
        ({"layers": [LAYER] * (MOST_LAYERS + 1)}, OCI_MANIFEST, "more than 1000 layers"),
        ({"manifests": [LAYER] * 10_001}, OCI_INDEX, "more than 10000 manifests"),
    ],
)
def test_F14_a_manifest_that_cannot_be_used_is_told_why(document: Any, content_type: str, text: str) -> None:
    with pytest.raises(RemoteError) as caught:
        read(document, content_type)
    assert text in caught.value.message
    assert caught.value.rule


def test_as_many_layers_as_allowed_are_fine() -> None:
    assert len(read({"layers": [LAYER] * MOST_LAYERS}).layers) == MOST_LAYERS


def test_F14_a_manifest_with_another_digest_is_refused() -> None:
    raw = b'{"layers": []}'
    with pytest.raises(RemoteError, match="does not have the digest") as caught:
        parse_manifest(raw, OCI_MANIFEST, DIGEST)
    assert caught.value.rule == "digest"
    sha512 = digest_of(raw, "sha512:")
    assert parse_manifest(raw, OCI_MANIFEST, sha512).descriptor.digest == sha512


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_whatever_is_sent_is_read_or_refused(raw: bytes) -> None:
    refusal = ""
    try:
        parse_manifest(raw, OCI_MANIFEST, digest_of(raw))
    except RemoteError as error:
        refusal = error.message
    assert refusal.isprintable()


def test_deep_nesting_is_refused() -> None:
    raw = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(RemoteError, match="cannot be read"):
        parse_manifest(raw, OCI_MANIFEST, digest_of(raw))
