from __future__ import annotations

import pytest

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.proxy import EnvironmentProxies, parse_proxy, proxy_from_secret


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://proxy", "http://proxy:80"),
        ("https://proxy", "https://proxy:443"),
        ("socks5://proxy:9050/", "socks5://proxy:9050"),
        ("proxy:3128", "http://proxy:3128"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_address_is_taken_apart(address, url):
    assert parse_proxy(address).url == url


def test_credentials_come_from_the_keys_else_from_the_address():
    proxy = proxy_from_secret({"address": b"http://a:b%40@p:1", "username": b"u", "password": b"x@y"})
    assert proxy.url_with_credentials == "http://u:x%40y@p:1"
    assert parse_proxy("http://a:b%40@p:1").password == "b@"
    assert parse_proxy("http://p").authorization == ""
    assert parse_proxy("http://u:p@h").authorization == "Basic dTpw"


@pytest.mark.parametrize("address", ["ftp://p", "http://", "http://p:x", "http://a b", "http://" + "a" * 3000])
def test_A35_an_address_that_cannot_be_used_is_refused(address):
    with pytest.raises(ValueError):
        parse_proxy(address)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "is_direct"),
    [
        ("", "example.com", 443, False),
        ("*", "example.com", 443, True),
        ("example.com", "example.com", 443, True),
        ("example.com", "git.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        (".example.com", "example.com", 443, False),
        (".example.com", "git.example.com", 443, True),
        ("*.example.com", "git.example.com", 443, True),
        ("example.com:8443", "example.com", 443, False),
        ("example.com:8443", "example.com", 8443, True),
        ("10.0.0.0/8, example.org", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("::1/128", "::2", 443, False),
        ("", "localhost", 443, True),
        ("", "127.0.0.1", 443, True),
    ],
)
def test_exceptions_are_read_as_go_reads_them(no_proxy, host, port, is_direct):
    proxies = EnvironmentProxies("http://p:1", "http://p:2", no_proxy)
    found = proxies.for_address("https", host, port)
    assert (found is None) == is_direct


def test_each_scheme_has_its_own_proxy():
    proxies = EnvironmentProxies("http://p:1", "http://p:2")
    assert proxies.for_address("http", "h", 80) == parse_proxy("http://p:1")
    assert proxies.for_address("https", "h", 443) == parse_proxy("http://p:2")
    assert EnvironmentProxies().for_address("https", "h", 443) is None


@pytest.mark.parametrize("address", ["ftp://proxy", "http://user:secret@/", "http://[::1", "http://h:port"])
def test_A35_an_environment_that_cannot_be_used_is_told_without_its_secrets(address):
    with pytest.raises(RemoteError, match="HTTPS_PROXY of the daemon's environment: proxy URL") as caught:
        EnvironmentProxies(https=address).for_address("https", "h", 443)
    assert "secret" not in caught.value.message
    assert EnvironmentProxies(https=address).for_address("http", "h", 80) is None
