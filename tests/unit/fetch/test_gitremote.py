from __future__ import annotations

from gitopsd.fetch.auth import GitAuth
from gitopsd.fetch.gitremote import Servers
from gitopsd.fetch.giturl import parse
from gitopsd.fetch.gitwire import Advertisement

SERVER = Advertisement(2, {"ls-refs": "", "fetch": ""})
URL = parse("https://example.com/a.git")


def test_a_server_is_believed_for_a_quarter_of_an_hour():
    now = [0.0]
    servers = Servers(lambda: now[0])
    servers.remember(URL, GitAuth(), SERVER)
    now[0] = 900.0
    assert servers.get(URL, GitAuth()) is SERVER
    now[0] = 901.0
    assert servers.get(URL, GitAuth()) is None


def test_what_one_was_told_is_not_believed_for_another():
    servers = Servers()
    servers.remember(URL, GitAuth(username="u", password="p"), SERVER)
    assert servers.get(URL, GitAuth()) is None
    assert servers.get(parse("https://example.com/b.git"), GitAuth(username="u", password="p")) is None
    servers.forget(URL, GitAuth(username="u", password="p"))
    assert servers.get(URL, GitAuth(username="u", password="p")) is None


def test_only_so_many_are_remembered():
    servers = Servers()
    for number in range(5000):
        servers.remember(parse(f"https://example.com/{number}.git"), GitAuth(), SERVER)
    assert servers.get(parse("https://example.com/0.git"), GitAuth()) is None
    assert servers.get(parse("https://example.com/4999.git"), GitAuth()) is SERVER
