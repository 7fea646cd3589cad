from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.giturl import mask_userinfo, parse, relative


@pytest.mark.parametrize(
    ("text", "address", "bare"),
    [
        ("https://example.com/a/b.git", ("example.com", 443), "https://example.com/a/b.git"),
        ("http://example.com:8080/x", ("example.com", 8080), "http://example.com:8080/x"),
        ("ssh://git@example.com/a.git", ("example.com", 22), "ssh://example.com/a.git"),
        ("ssh://git@example.com:2222/~me/a", ("example.com", 2222), "ssh://example.com:2222/~me/a"),
        ("https://[::1]:3000/a.git", ("::1", 3000), "https://[::1]:3000/a.git"),
        ("HTTPS://Example.com/a%20b", ("Example.com", 443), "https://Example.com/a%20b"),
        ("https://example.com/ä", ("example.com", 443), "https://example.com/%C3%A4"),
    ],
)
def test_an_address_is_taken_apart(text, address, bare):
    url = parse(text)
    assert (url.address, url.bare) == (address, bare)


@pytest.mark.parametrize(
    "text",
    [
        "git://example.com/a.git",
        "file:///etc/passwd",
        "ext::sh -c touch% /tmp/x",
        "-oProxyCommand=touch",
        "example.com/a.git",
        "",
        "https://",
        "https:///a",
    ],
)
def test_A14_only_http_https_and_ssh_addresses_are_read(text):
    with pytest.raises(FetchError) as caught:
        parse(text)
    assert (caught.value.reason, caught.value.stalls) == ("URLInvalid", True)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://-oProxyCommand=x/r",
        "ssh://-oProxyCommand=x@host/r",
        "ssh://host/$(id)'",
        "ssh://host/a`id`",
        "ssh://host/a;b",
        "ssh://host/%24(id)",
        "ssh://host/a\nb",
        "ssh://host/a%0ab",
        "ssh://host/a%00b",
        "ssh://host/a\0b",
        "ssh://host/",
        "ssh://ho st/a",
        "https://host\r\nX-Injected: 1/a",
        "https://ho$t/a",
        "https://host%2f/a",
    ],
)
def test_A15_nothing_in_an_address_can_become_an_option_or_shell_syntax(text):
    with pytest.raises(FetchError) as caught:
        parse(text)
    assert (caught.value.reason, caught.value.stalls) == ("URLInvalid", True)
    assert caught.value.message.isprintable()


def test_a_wrong_port_is_named():
    """goldens/source/git-bad-url."""
    with pytest.raises(FetchError) as caught:
        parse("https://example.com:port/app.git")
    assert caught.value.message == (
        "failed to parse url 'https://example.com:port/app.git': invalid port 'port' after host"
    )


@pytest.mark.parametrize(
    "text",
    [
        "https://user:S3cret@host:port/a",
        "https://user:S3c/ret@host/a",
        "https://user:S3cret@ho st/a",
        "https://user:S3c@ret@host:99999/a",
        "https://user:S3cret%zz@host/a",
        "git://user:S3cret@host/a",
    ],
)
def test_A11_a_password_is_not_in_the_error_of_an_address_that_cannot_be_read(text):
    with pytest.raises(FetchError) as caught:
        parse(text)
    assert "S3c" not in caught.value.message
    assert "ret" not in caught.value.message


def test_A11_user_info_is_used_but_not_shown():
    url = parse("https://user:p%40ss@host/a.git?sig=abc")
    assert (url.username, url.password) == ("user", "p@ss")
    assert url.shown == "https://user:***@host/a.git?***"
    assert parse("https://token123@host/a").shown == "https://***@host/a"
    assert parse("ssh://git@host/a").shown == "ssh://git@host/a"
    assert "p@ss" not in repr(url)
    assert mask_userinfo("see https://user:pw@host/a and ssh://git@host/b") == (
        "see https://user:***@host/a and ssh://git@host/b"
    )


def test_what_is_below_an_address_keeps_its_query():
    assert parse("https://h/a.git/").below("/info/refs", "service=x") == "https://h/a.git/info/refs?service=x"
    assert parse("https://h/a?k=v").below("/info/refs", "service=x") == "https://h/a/info/refs?k=v&service=x"


def test_a_path_over_ssh_is_decoded_once_and_home_is_left_to_the_server():
    assert parse("ssh://h/v3/org/my%20repo").ssh_path == "/v3/org/my repo"
    assert parse("ssh://h/~bob/r").ssh_path == "~bob/r"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("../lib.git", "https://h:8443/team/lib.git"),
        ("./sub", "https://h:8443/team/app.git/sub"),
        ("../../x", "https://h:8443/x"),
        ("https://other/x.git", "https://other/x.git"),
        ("ssh://git@other/x.git", "ssh://other/x.git"),
    ],
)
def test_A36_a_submodule_address_may_be_relative(reference, expected):
    assert relative(parse("https://user:pw@h:8443/team/app.git"), reference).bare == expected


def test_A36_credentials_of_the_address_are_not_carried_to_a_relative_one():
    url = relative(parse("https://user:pw@h/team/app.git"), "../lib.git")
    assert (url.username, url.password) == ("", "")


@pytest.mark.parametrize("reference", ["../../../x", "file:///x", "-u./payload", "ext::sh", "/srv/x", "x/y", "git@h:x"])
def test_A36_other_submodule_addresses_are_refused(reference):
    with pytest.raises(ValueError):
        relative(parse("https://h/team/app.git"), reference)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    for prefix in ("", "https://", "ssh://h/"):
        try:
            url = parse(prefix + text)
        except FetchError as error:
            shown = error.message
        else:
            shown = url.shown
            assert url.bare.isascii()
            assert not url.host.startswith("-")
        assert shown.isprintable()
