"""How addresses in registries are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.registryaddress import Repository, check_reference, is_digest, is_tag, parse_repository

SHA256 = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("oci://ghcr.io/stefanprodan/manifests/podinfo", "ghcr.io", "stefanprodan/manifests/podinfo"),
        ("oci://127.0.0.1:5000/app", "127.0.0.1:5000", "app"),
        ("oci://localhost:5000/a/b", "localhost:5000", "a/b"),
        ("oci://registry:80/a_b/c.d-e", "registry:80", "a_b/c.d-e"),
        ("oci://[::1]:5000/app", "[::1]:5000", "app"),
        ("oci://docker.io/nginx", "index.docker.io", "library/nginx"),
        ("oci://index.docker.io/library/nginx", "index.docker.io", "library/nginx"),
        ("oci://nginx", "index.docker.io", "library/nginx"),
        ("oci://fluxcd/flux", "index.docker.io", "fluxcd/flux"),
        ("oci://localhost/app", "index.docker.io", "localhost/app"),
    ],
)
def test_s6_1_url_names_a_host_and_a_path(url: str, host: str, path: str) -> None:
    assert parse_repository(url) == Repository(host, path)


CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789_-./"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://ghcr.io/a/b", "URL must be in format 'oci://<domain>/<org>/<repo>'"),
        ("oci://", "a repository name must be specified"),
        ("oci://ghcr.io/", "repository must be between 2 and 255 characters in length: "),
        ("oci://ghcr.io/a", "repository must be between 2 and 255 characters in length: a"),
        ("oci://ghcr.io/" + "a" * 256, "repository must be between 2 and 255 characters in length: " + "a" * 256),
        ("oci://ghcr.io/org/repo:1.0", f"repository can only contain the characters `{CHARACTERS}`: org/repo:1.0"),
        (
            f"oci://ghcr.io/org/repo@{SHA256}",
            f"repository can only contain the characters `{CHARACTERS}`: org/repo@{SHA256}",
        ),
        ("oci://ghcr.io/Org/repo", f"repository can only contain the characters `{CHARACTERS}`: Org/repo"),
        ("oci://ghcr.io/org/re po", f"repository can only contain the characters `{CHARACTERS}`: org/re po"),
        ("oci://ghcr.io/org/../etc", "repository can have no empty, '.' or '..' parts: org/../etc"),
        ("oci://ghcr.io//org", "repository can have no empty, '.' or '..' parts: /org"),
        ("oci://user:pass@ghcr.io/org/repo", "registries must be valid RFC 3986 URI authorities: user:pass@ghcr.io"),
        ("oci://gh\ncr.io/org/repo", "registries must be valid RFC 3986 URI authorities: gh cr.io"),
        ("oci://ghcr.io:99999/org/repo", "registries must be valid RFC 3986 URI authorities: ghcr.io:99999"),
        ("oci://ghcr.io:port/org/repo", "registries must be valid RFC 3986 URI authorities: ghcr.io:port"),
    ],
)
def test_s6_3_a_url_that_is_none_is_told_why(url: str, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_repository(url)
    assert str(caught.value) == text


@given(st.text())
def test_whatever_is_read_can_stand_in_a_url(text: str) -> None:
    found, refusal = None, ""
    try:
        found = parse_repository(f"oci://{text}")
    except ValueError as error:
        refusal = str(error)
    assert refusal.isprintable()
    if found is None:
        return
    assert found.shown.isascii()
    assert not set(found.shown) & set("?#@ %\\")
    assert ".." not in found.path.split("/")


def test_references_are_shown_as_people_write_them() -> None:
    repository = Repository("ghcr.io", "org/app")
    assert repository.reference("1.0") == "ghcr.io/org/app:1.0"
    assert repository.reference(SHA256) == f"ghcr.io/org/app@{SHA256}"


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("1.0_b-2", ""),
        ("Latest", ""),
        (SHA256, ""),
        ("sha512:" + "0" * 128, ""),
        ("", "tag must be between 1 and 128 characters in length: "),
        ("a" * 129, "tag must be between 1 and 128 characters in length: " + "a" * 129),
        ("1.0/../..", "tag can only contain the characters"),
        ("sha256:abc", "'sha256:abc' is not a digest such as sha256:<64 hex digits>"),
        ("md5:" + "0" * 32, "is not a digest"),
    ],
)
def test_a_reference_is_a_tag_or_a_digest(reference: str, text: str) -> None:
    if not text:
        check_reference(reference)
        return
    with pytest.raises(ValueError) as caught:
        check_reference(reference)
    assert text in str(caught.value)


def test_digests_and_tags_are_told_apart() -> None:
    assert is_digest(SHA256)
    assert not is_digest(SHA256.upper())
    assert not is_digest(SHA256 + "0")
    assert is_tag("v1.0.0")
    assert not is_tag("v1/0")
    assert not is_tag("")
