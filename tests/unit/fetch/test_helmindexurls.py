"""Addresses around a Helm repository."""

from __future__ import annotations

import pytest

from gitopsd.fetch.helmindexurls import chart_url, index_url, may_send_credentials, shown_url

BASE = "https://charts.example.com/stable"


@pytest.mark.parametrize(
    ("repository", "index"),
    [
        (BASE, f"{BASE}/index.yaml"),
        (f"{BASE}/", f"{BASE}/index.yaml"),
        ("http://h", "http://h/index.yaml"),
        ("http://h:8080/a?token=x&y=z", "http://h:8080/a/index.yaml?token=x&y=z"),
        ("http://h/a#part", "http://h/a/index.yaml"),
    ],
)
def test_s7_4_the_index_is_below_the_url_and_keeps_its_query(repository: str, index: str) -> None:
    assert index_url(repository) == index


@pytest.mark.parametrize("repository", ["http://[::1", "http://h:port/", "http://h/a b", "http://h/\x1b"])
def test_s7_4_an_address_that_cannot_be_read_is_told(repository: str) -> None:
    with pytest.raises(ValueError, match="the address"):
        index_url(repository)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("demo-1.0.0.tgz", f"{BASE}/demo-1.0.0.tgz"),
        ("charts/demo.tgz", f"{BASE}/charts/demo.tgz"),
        ("../x.tgz", "https://charts.example.com/x.tgz"),
        ("../../../x.tgz", "https://charts.example.com/x.tgz"),
        ("/x.tgz", "https://charts.example.com/x.tgz"),
        ("//evil/x", "https://evil/x"),
        ("http://169.254.169.254/", "http://169.254.169.254/"),
        ("https://other/x.tgz?a=b", "https://other/x.tgz?a=b"),
        ("oci://ghcr.io/charts/demo", "oci://ghcr.io/charts/demo"),
    ],
)
def test_F07_addresses_of_charts_are_resolved_against_that_of_the_index(written: str, url: str) -> None:
    assert chart_url(BASE, written) == url
    assert chart_url(f"{BASE}/", written) == url


@pytest.mark.parametrize("written", ["file:///etc/passwd", "ftp://h/x", "data:,x", "http:///x", "javascript:x", "a b"])
def test_F07_charts_come_by_http_https_and_oci_only(written: str) -> None:
    with pytest.raises(ValueError, match="the address"):
        chart_url(BASE, written)


def test_s7_4_a_query_of_the_repository_goes_to_its_own_charts_only() -> None:
    base = "https://h/charts?token=secret"
    assert chart_url(base, "x.tgz") == "https://h/charts/x.tgz?token=secret"
    assert chart_url(base, "x.tgz?v=1") == "https://h/charts/x.tgz?v=1"
    assert chart_url(base, "//evil/x.tgz") == "https://evil/x.tgz"
    assert chart_url(base, "https://evil/x.tgz") == "https://evil/x.tgz"


@pytest.mark.parametrize(
    ("chart", "may"),
    [
        (f"{BASE}/x.tgz", True),
        ("https://charts.example.com:443/x.tgz", True),
        ("https://CHARTS.example.com/x.tgz", True),
        ("https://charts.example.com:8443/x.tgz", False),
        ("http://charts.example.com/x.tgz", False),
        ("https://example.com/x.tgz", False),
        ("https://charts.example.com.evil/x.tgz", False),
        ("https://charts.example.com@evil/x.tgz", False),
        ("oci://charts.example.com/x", False),
        ("not an address", False),
    ],
)
def test_F08_credentials_go_to_the_same_origin_only(chart: str, may: bool) -> None:
    assert may_send_credentials(BASE, chart, pass_credentials=False) is may


def test_F08_with_pass_credentials_they_go_wherever_the_index_leads() -> None:
    assert may_send_credentials(BASE, "https://other/x.tgz", pass_credentials=True)
    assert not may_send_credentials(BASE, "oci://other/x", pass_credentials=True)


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown_url("https://user:pass@h:1/a?token=x#f") == "https://h:1/a"
    assert shown_url("http://[::1") == "(an address that cannot be read)"
