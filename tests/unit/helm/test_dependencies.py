"""Which dependencies are missing, and where they are looked for."""

from __future__ import annotations

import pytest

from gitopsd.helm.dependencies import (
    DependencyError,
    check_version,
    first_at,
    is_local,
    local_path,
    missing,
    normalised,
    repository_url,
)
from gitopsd.helm.package import Requirement


def wanted(name: str, repository: str = "https://x/", alias: str = "", version: str = "1.x") -> Requirement:
    return Requirement(name, version, repository, alias)


@pytest.mark.parametrize(
    ("requirements", "vendored", "expected"),
    [
        ([], [], []),
        ([wanted("a"), wanted("b")], [], ["a", "b"]),
        ([wanted("a"), wanted("b")], ["a"], ["b"]),
        ([wanted("a"), wanted("b")], ["a", "b"], []),
        ([wanted("a"), wanted("b")], ["x", "y"], []),
        ([wanted("a"), wanted("a", alias="other")], ["a"], ["other"]),
        ([wanted("a", alias="one"), wanted("a", alias="two")], ["x"], ["one", "two"]),
        ([], ["x"], []),
    ],
    ids=["none", "all", "one", "nothing", "as-many-count", "alias", "aliases", "more"],
)
def test_s8_3_what_is_missing_goes_by_alias_or_name(
    requirements: list[Requirement], vendored: list[str], expected: list[str]
) -> None:
    assert list(missing(requirements, vendored)) == expected


@pytest.mark.parametrize(
    ("repository", "expected"),
    [("", True), ("file://../x", True), ("https://x", False), ("oci://x/y", False), ("@x", False), ("./x", False)],
)
def test_s8_3_local_is_what_has_no_repository_or_a_file(repository: str, expected: bool) -> None:
    assert is_local(wanted("a", repository)) is expected


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("", "deploy/chart/charts/dep"),
        ("file://../dep", "deploy/dep"),
        ("file://dep", "deploy/chart/dep"),
        ("file:///dep", "deploy/chart/dep"),
        ("file://../../../../../../etc/passwd", "etc/passwd"),
        ("file://../%2e%2e/%2e%2e/dep", "dep"),
        ("file://..", "deploy"),
    ],
)
def test_G06_a_local_dependency_stays_inside_the_source(repository: str, expected: str) -> None:
    assert local_path("deploy/chart", wanted("dep", repository)) == expected


def test_G06_an_address_that_cannot_be_read_is_told() -> None:
    with pytest.raises(DependencyError, match="failed to parse alleged local chart reference"):
        local_path("", wanted("dep", "file://[x"))


@pytest.mark.parametrize("version", ["1.x", ">=1.0.0 <2.0.0", "", "*", "1.2.3", "^1.2"])
def test_s8_3_a_local_version_must_satisfy_the_constraint(version: str) -> None:
    check_version("1.2.3", version)


@pytest.mark.parametrize(
    ("version", "message"),
    [("2.x", "can't get a valid version for constraint '2.x'"), (">>1", "invalid version/constraint format '>>1'")],
)
def test_s8_3_a_local_version_that_is_not_wanted(version: str, message: str) -> None:
    with pytest.raises(DependencyError, match=message):
        check_version("1.2.3", version)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://x", "https://x/"),
        ("https://x/", "https://x/"),
        ("https://x/charts//", "https://x/charts/"),
        ("http://x/charts?a=b", "http://x/charts/?a=b"),
        ("oci://x/charts/", "oci://x/charts"),
        ("oci://x/charts", "oci://x/charts"),
    ],
)
def test_s8_3_addresses_are_normalised(url: str, expected: str) -> None:
    assert normalised(url) == expected
    assert repository_url(wanted("a", url)) == expected


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        ("@stable", "aliased repository dependency is not supported: @stable"),
        ("alias:stable", "aliased repository dependency is not supported: alias:stable"),
        ("ftp://x/", "no chart repository for URL 'ftp://x/'"),
        ("./x", "no chart repository for URL './x'"),
        ("https://", "no chart repository for URL"),
        ("https://x y/", "invalid repository URL"),
        ("https://x:y/", "invalid repository URL"),
        ("https://[x", "invalid repository URL"),
    ],
)
def test_s8_3_repositories_that_are_refused(repository: str, message: str) -> None:
    with pytest.raises(DependencyError, match=message):
        repository_url(wanted("a", repository))


def test_G07_only_the_same_address_lends_credentials() -> None:
    repositories = [("b", "https://x/charts"), ("a", "https://x/charts/"), ("c", "https://y:x/"), ("d", "https://z")]
    assert first_at("https://x/charts/", repositories) == "a"
    assert first_at("https://z/", repositories) == "d"
    assert first_at("https://x/", repositories) == ""
    assert first_at("http://z/", repositories) == ""
