"""What registries are told about who asks."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.auth import basic
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.proxy import Proxy
from gitopsd.fetch.registryauth import OPEN, Challenge, RegistryAccess, Tokens, read_challenge
from tests.answering import AnsweringWeb, Asked, Reply
from tests.virtual import run

REGISTRY = "https://registry.example"
BEARER = Challenge("bearer", "https://tokens.example/token", "svc")
SCOPE = "repository:app:pull"
USER = RegistryAccess("user", "secret-password")


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ([], OPEN),
        (['Basic realm="Registry"'], Challenge("basic", "Registry")),
        (["Basic"], Challenge("basic")),
        (['Bearer realm="https://t/token",service="s",scope="x"'], Challenge("bearer", "https://t/token", "s")),
        (['bearer realm="https://t/a,b", service=s, error="invalid"'], Challenge("bearer", "https://t/a,b", "s")),
        (['Basic realm="x", Bearer realm="https://t",service="s"'], Challenge("bearer", "https://t", "s")),
        (['Basic realm="x"', 'Bearer realm="https://t"'], Challenge("bearer", "https://t")),
        ([r'Bearer realm="https://t/\"x\""'], Challenge("bearer", 'https://t/"x"')),
        (["Bearer"], OPEN),
        (["Negotiate abc=="], OPEN),
        (['realm="x"'], OPEN),
        (['Digest realm="x", Basic realm="y"'], Challenge("basic", "y")),
    ],
)
def test_challenges_are_read(headers: list[str], challenge: Challenge) -> None:
    assert read_challenge(headers) == challenge


@given(st.text(alphabet='Bearealm=",\\ \tsicv', max_size=60))
def test_any_header_is_read(header: str) -> None:
    read_challenge([header])


def test_a_long_header_is_read_quickly() -> None:
    started = time.monotonic()
    read_challenge(['Bearer realm="' + '\\"' * 4000, "a " * 4000, "=" * 8000, 'a="b",' * 2000])
    assert time.monotonic() - started < 5


def token(value: str = "token-1", **more: object) -> Reply:
    return Reply(body=json.dumps({"token": value} | more).encode())


def ask(web: AnsweringWeb, access: RegistryAccess = USER, challenge: Challenge = BEARER, **more: str) -> str:
    async def scenario() -> str:
        return await Tokens(web).authorization(challenge, REGISTRY, SCOPE, access, **more)

    return run(scenario())


def test_a_password_goes_to_the_realm_and_a_token_comes_back() -> None:
    web = AnsweringWeb(lambda asked: token())
    assert ask(web) == "Bearer token-1"
    (asked,) = web.asked
    assert asked.line == "GET https://tokens.example/token?service=svc&scope=repository%3Aapp%3Apull"
    assert asked.authorization == basic("user", "secret-password")


def test_nobody_in_particular_gets_a_token_too() -> None:
    web = AnsweringWeb(lambda asked: Reply(body=b'{"access_token": "anonymous"}'))
    assert ask(web, RegistryAccess()) == "Bearer anonymous"
    assert web.asked[0].authorization == ""


def test_a_realm_may_have_a_query() -> None:
    web = AnsweringWeb(lambda asked: token())
    ask(web, challenge=Challenge("bearer", "https://t.example/token?account=a#x"))
    assert web.lines == ["GET https://t.example/token?account=a&scope=repository%3Aapp%3Apull"]


def test_an_identity_token_is_exchanged_by_post_and_follows_no_redirect() -> None:
    web = AnsweringWeb(lambda asked: token())
    assert ask(web, RegistryAccess("<token>", "identity+token")) == "Bearer token-1"
    (asked,) = web.asked
    assert asked.line == "POST https://tokens.example/token"
    assert asked.authorization == ""
    assert not asked.follow
    assert asked.body == (
        b"grant_type=refresh_token&refresh_token=identity%2Btoken&service=svc&scope=repository%3Aapp%3Apull"
        b"&client_id=gitopsd"
    )


@pytest.mark.parametrize("challenge", [BEARER, Challenge("basic"), OPEN])
def test_a_token_of_ones_own_is_sent_as_it_is(challenge: Challenge) -> None:
    web = AnsweringWeb(lambda asked: token())
    assert ask(web, RegistryAccess(token="mine"), challenge) == "Bearer mine"
    assert not web.asked


@pytest.mark.parametrize("challenge", [Challenge("basic", "x"), OPEN])
def test_basic_authentication_needs_nobody_else(challenge: Challenge) -> None:
    web = AnsweringWeb(lambda asked: token())
    assert ask(web, USER, challenge) == basic("user", "secret-password")
    assert ask(web, RegistryAccess(), challenge) == ""
    assert not web.asked


@pytest.mark.parametrize(
    ("realm", "text"),
    [
        ("http://tokens.example/token", "the registry speaks https, but sends to a token server over http"),
        ("file:///etc/passwd", "the registry's token server has an address that cannot be used"),
        ("/token", "the registry's token server has an address that cannot be used"),
        ("https://", "the registry's token server has an address that cannot be used"),
        ("https://a b/", "the registry's token server has an address that cannot be used"),
    ],
)
def test_F14_a_realm_that_may_not_be_told_a_password(realm: str, text: str) -> None:
    web = AnsweringWeb(lambda asked: token())
    with pytest.raises(RemoteError, match=text) as caught:
        ask(web, challenge=Challenge("bearer", realm))
    assert caught.value.rule == "realm"
    assert not web.asked


def test_a_registry_over_http_may_have_a_realm_over_http() -> None:
    web = AnsweringWeb(lambda asked: token())

    async def scenario() -> str:
        challenge = Challenge("bearer", "http://tokens.example/token")
        return await Tokens(web).authorization(challenge, "http://registry.example", SCOPE, USER)

    assert run(scenario()) == "Bearer token-1"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong"}]}'), "UNAUTHORIZED: wrong"),
        (Reply(400, b'{"error":"invalid_grant","error_description":"no"}'), "invalid_grant: no"),
        (Reply(401, b'{"details":"incorrect username or password"}'), "incorrect username or password"),
        (Reply(500, b"<html>oops"), "unexpected status code 500 Internal Server Error"),
        (Reply(418, b"[" * 60_000), "unexpected status code 418"),
        (Reply(302, b"", {"Location": "https://evil.example/"}), "unexpected status code 302 Found"),
        (Reply(200, b"<html>"), "the token server's answer cannot be read"),
        (Reply(200, b"{}"), "the token server's answer holds no usable token"),
        (Reply(200, b'{"token": "a b"}'), "the token server's answer holds no usable token"),
        (Reply(200, b'{"token": "a\\r\\nX: y"}'), "the token server's answer holds no usable token"),
        (Reply(200, json.dumps({"token": "x" * 70_000}).encode()), "holds no usable token"),
        (Reply(200, b"x" * 300_000), "larger than"),
        (Reply(400, b'{"errors":[{"code":"X","message":"secret-password is wrong"}]}'), "X: *** is wrong"),
    ],
)
def test_a_token_that_is_not_given_is_told_why(reply: Reply, text: str) -> None:
    web = AnsweringWeb(lambda asked: reply)
    with pytest.raises(RemoteError) as caught:
        ask(web)
    assert text in caught.value.message
    assert str(caught.value) == caught.value.message
    assert "secret-password" not in caught.value.message
    assert "?" not in caught.value.message


def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    async def scenario() -> list[str]:
        count = iter(range(100))
        web = AnsweringWeb(lambda asked: token(f"t{next(count)}", expires_in=300))
        tokens = Tokens(web)

        async def get(access: RegistryAccess = USER, scope: str = SCOPE, unlike: str = "") -> str:
            return await tokens.authorization(BEARER, REGISTRY, scope, access, unlike=unlike)

        found = [await get(), await get()]
        await asyncio.sleep(285)
        found.append(await get(RegistryAccess("user", "secret-password", timeout=1)))
        await asyncio.sleep(10)
        found.append(await get())
        found.append(await get(scope="repository:other:pull"))
        found.append(await get(RegistryAccess("other", "secret")))
        found.append(await get(unlike="Bearer t1"))
        found.append(await get(unlike="Bearer t1"))
        return [one.removeprefix("Bearer ") for one in found]

    assert run(scenario()) == ["t0", "t0", "t0", "t1", "t2", "t3", "t4", "t4"]


@pytest.mark.parametrize(("expires_in", "kept"), [(None, 49), (1, 49), (0, 49), (-5, 49), (1e9, 3589)])
def test_a_life_that_is_not_said_or_absurd_is_bounded(expires_in: float | None, kept: int) -> None:
    async def scenario() -> int:
        more = {} if expires_in is None else {"expires_in": expires_in}
        web = AnsweringWeb(lambda asked: token(**more))
        tokens = Tokens(web)
        await tokens.authorization(BEARER, REGISTRY, SCOPE, USER)
        await asyncio.sleep(kept)
        await tokens.authorization(BEARER, REGISTRY, SCOPE, USER)
        assert len(web.asked) == 1
        await asyncio.sleep(2)
        await tokens.authorization(BEARER, REGISTRY, SCOPE, USER)
        return len(web.asked)

    assert run(scenario()) == 2


def test_equal_wishes_at_one_time_ask_once_and_fail_together() -> None:
    async def scenario(reply: Reply) -> tuple[int, list[str]]:
        async def slowly(asked: Asked) -> Reply:
            await asyncio.sleep(1)
            return reply

        web = AnsweringWeb(slowly)
        tokens = Tokens(web)
        wishes = [tokens.authorization(BEARER, REGISTRY, SCOPE, USER) for _ in range(5)]
        found = await asyncio.gather(*wishes, return_exceptions=True)
        return len(web.asked), [str(one) for one in found]

    assert run(scenario(token())) == (1, ["Bearer token-1"] * 5)
    text = "no token from tokens.example: unexpected status code 503 Service Unavailable"
    assert run(scenario(Reply(503))) == (1, [text] * 5)


def test_nothing_secret_is_shown() -> None:
    proxy = Proxy("http", "proxy", 1, "u", "proxy-password")
    access = RegistryAccess("user", "secret-password", "secret-token", TlsIdentity(key=b"secret-key"), proxy)
    assert "secret" not in repr(access).replace("RegistryAccess", "")
    assert "proxy-password" not in repr(access)
    assert {"secret-password", "secret-token", "proxy-password"} <= set(access.secrets)
