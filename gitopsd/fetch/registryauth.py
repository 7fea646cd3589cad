"""How a registry is told who asks: basic authentication, and the token servers of the distribution project.

Theory of operation. A registry says once, in a challenge, what it wants. For basic authentication that is the header
itself. Otherwise a token server, its "realm", gives out a token for one scope, in exchange for a password, an identity
token, or nothing; it is kept until shortly before it expires, and equal wishes at one time ask once.

Knows challenges, tokens and where credentials may go; refuses to know what is asked for.
Invariants: a password goes to the registry and to its realm and nowhere else, the realm over https when the registry
speaks https; a token goes to the registry alone (spec/hostile-inputs.md F14); no message holds any of them.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from gitopsd.fetch.auth import basic
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.flights import Flights
from gitopsd.fetch.http import AGENT, Access, HttpClient, TlsIdentity, origin_of
from gitopsd.fetch.proxy import Proxy
from gitopsd.fetch.registryanswers import RegistryError, masked, refusal

IDENTITY_TOKEN_USER: Final = "<token>"  # noqa: S105 - the user name that says what the password is
_ANSWER_LIMIT: Final = 256 << 10
_LONGEST_TOKEN: Final = 64 << 10
_MOST_TOKENS: Final = 512
# Seconds; the first when a token server does not say, as the distribution project has it.
_SHORTEST_LIFE: Final = 60.0
_LONGEST_LIFE: Final = 3600.0
_MARGIN: Final = 10.0
_PARAMETER = re.compile(r'[\s,]*([A-Za-z0-9_-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?=[\s,]|\Z)")
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class RegistryAccess:
    """Who we are towards a registry, and the way there.

    `token` is sent as it is as a bearer token. A `password` of the user `<token>` is an identity token, exchanged at
    the registry's token server. With `plain_http` a registry that does not speak TLS is asked over plain HTTP.
    `timeout` bounds each call (seconds).
    """

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    tls: TlsIdentity = field(default_factory=TlsIdentity)
    proxy: Proxy | None = None
    plain_http: bool = False
    timeout: float = 60.0

    @property
    def way(self) -> RegistryAccess:
        """How to get there, whoever asks and however long it may take."""
        return RegistryAccess(tls=self.tls, proxy=self.proxy, plain_http=self.plain_http)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any message."""
        found = (self.password, self.token, basic(self.username, self.password).partition(" ")[2], *self._proxy_secrets)
        return tuple(secret for secret in found if secret)

    @property
    def _proxy_secrets(self) -> tuple[str, ...]:
        return () if self.proxy is None else (self.proxy.password, self.proxy.authorization.partition(" ")[2])

    @property
    def authorization(self) -> str:
        """What is sent to a registry or a token server that wants a password; empty without one."""
        if self.username == IDENTITY_TOKEN_USER or not (self.username or self.password):
            return ""
        return basic(self.username, self.password)

    def carrying(self, authorization: str) -> Access:
        """The same for one request, with the given header."""
        return Access(authorization, self.tls, self.proxy)


@dataclass(frozen=True)
class Challenge:
    """What a registry wants: `scheme` is `basic`, `bearer`, or empty for nothing."""

    scheme: str = ""
    realm: str = ""
    service: str = ""


OPEN: Final = Challenge()


def read_challenge(headers: Iterable[str]) -> Challenge:
    """The challenge of an answer's `WWW-Authenticate` headers that we can meet; of several, tokens come first."""
    found = [challenge for header in headers for challenge in _challenges(header)]
    for scheme in ("bearer", "basic"):
        for challenge in found:
            if challenge.scheme == scheme and (challenge.realm or scheme == "basic"):
                return challenge
    return OPEN


def _challenges(header: str) -> list[Challenge]:
    """All challenges of one header, each a scheme with parameters."""
    found: list[Challenge] = []
    at = 0
    while True:
        parameter = _PARAMETER.match(header, at)
        scheme = None if parameter else _SCHEME.match(header, at)
        if parameter and found:
            name = parameter[1].lower()
            value = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[2] is not None else parameter[3]
            if name in {"realm", "service"}:
                found[-1] = replace(found[-1], **{name: value})
        elif scheme:
            found.append(Challenge(scheme[1].lower()))
        else:
            return found
        at = (parameter or scheme).end()  # type: ignore[union-attr]


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


@dataclass(frozen=True)
class _Wish:
    """A token for `scope` that the challenge's realm gives to somebody."""

    challenge: Challenge
    scope: str
    access: RegistryAccess
    is_foreign: bool  # the realm is another host than the registry


class Tokens:
    """Answers to challenges, tokens among them kept while they live."""

    def __init__(self, web: HttpClient) -> None:
        self._web = web
        self._kept: OrderedDict[_Wish, tuple[str, float]] = OrderedDict()
        self._flights: Flights[tuple[str, float] | RemoteError] = Flights()

    async def authorization(
        self, challenge: Challenge, registry: str, scope: str, access: RegistryAccess, *, unlike: str = ""
    ) -> str:
        """The Authorization header that meets a challenge of the registry with this base URL; empty for none.

        A kept token that was refused is given as `unlike`, and not returned again. Raises RemoteError.
        """
        if not challenge.scheme:
            # Some registries let everybody in at their door and refuse further inside.
            return f"Bearer {access.token}" if access.token else access.authorization
        if access.token:
            return f"Bearer {access.token}"
        if challenge.scheme == "basic":
            return access.authorization
        wish = _Wish(challenge, scope, replace(access, timeout=0.0), is_foreign=_check_realm(challenge, registry))
        kept = self._living(wish)
        if kept and kept != unlike:
            return kept
        self._kept.pop(wish, None)
        return await self._fetch(wish)

    def _living(self, wish: _Wish) -> str:
        authorization, until = self._kept.get(wish, ("", 0.0))
        return authorization if asyncio.get_running_loop().time() < until else ""

    async def _fetch(self, wish: _Wish) -> str:
        async def ask() -> tuple[str, float] | RemoteError:
            try:
                return await self._exchange(wish)
            except RemoteError as error:
                return error

        found = await self._flights.share(wish, ask)
        if isinstance(found, RemoteError):
            raise copy.copy(found) from found
        self._kept[wish] = found
        self._kept.move_to_end(wish)
        while len(self._kept) > _MOST_TOKENS:
            self._kept.popitem(last=False)
        return found[0]

    async def _exchange(self, wish: _Wish) -> tuple[str, float]:
        """A new token as a header, and until when (loop time) it is good."""
        access = wish.access
        try:
            if access.username == IDENTITY_TOKEN_USER:
                body = await self._post(wish, {"grant_type": "refresh_token", "refresh_token": access.password})
            else:
                body = await self._get(wish)
        except RemoteError as error:
            masked(error, access.secrets)
            raise
        return _token(body)

    async def _get(self, wish: _Wish) -> bytes:
        """Ask as every token server can be asked: with basic authentication, or as nobody in particular."""
        challenge, access = wish.challenge, wish.access
        query = urlencode([(k, v) for k, v in (("service", challenge.service), ("scope", wish.scope)) if v])
        url = challenge.realm.partition("#")[0]
        url += ("&" if "?" in url else "?") + query
        asking = access.carrying(access.authorization)
        async with self._web.request(
            "GET", url, access=asking, headers={"Accept": "application/json"}, is_foreign=wish.is_foreign
        ) as answer:
            if answer.status != 200:
                raise await refusal(answer, _asked(challenge))
            return await answer.read(_ANSWER_LIMIT, "token server's answer")

    async def _post(self, wish: _Wish, grant: dict[str, str]) -> bytes:
        """Ask as OAuth 2.0 has it; not along a redirect, for the body is the secret."""
        challenge = wish.challenge
        form = grant | {"service": challenge.service, "scope": wish.scope, "client_id": AGENT.partition("/")[0]}
        async with self._web.request(
            "POST",
            challenge.realm.partition("#")[0],
            access=wish.access.carrying(""),
            headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
            body=urlencode(form, quote_via=quote_plus).encode(),
            follow=False,
            is_foreign=wish.is_foreign,
        ) as answer:
            if answer.status != 200:
                raise await refusal(answer, _asked(challenge))
            return await answer.read(_ANSWER_LIMIT, "token server's answer")


def _asked(challenge: Challenge) -> str:
    return f"no token from {printable(urlsplit(challenge.realm).netloc.rpartition('@')[2], 256)}"


def _check_realm(challenge: Challenge, registry: str) -> bool:
    """Whether the realm is on another host. Raises RemoteError when a password must not go there."""
    try:
        scheme, host, _ = origin_of(challenge.realm)
    except ValueError:
        raise RemoteError("the registry's token server has an address that cannot be used", rule="realm") from None
    if scheme != "https" and registry.startswith("https:"):
        raise RemoteError("the registry speaks https, but sends to a token server over http", rule="realm")
    return host != origin_of(registry)[1]


def _token(body: bytes) -> tuple[str, float]:
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
    except (msgspec.DecodeError, RecursionError):
        raise RegistryError("the token server's answer cannot be read") from None
    token = answer.token or answer.access_token
    if not token or len(token) > _LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise RegistryError("the token server's answer holds no usable token")
    life = min(max(answer.expires_in or 0.0, _SHORTEST_LIFE), _LONGEST_LIFE)
    return f"Bearer {token}", asyncio.get_running_loop().time() + life - _MARGIN
