"""Getting to a registry: over TLS or not, with what it wants to see, and again when it changed its mind.

Theory of operation. The first question to a registry is that for its version, which everybody may ask: whether it
speaks TLS and what it wants of those who enter is kept from then on, for each way that leads there. A request carries
what that calls for. Refused as unauthorized, it is made once more with what the refusal calls for.

Knows the version check and 401; refuses to know the rest of the API. Invariants: without `plain_http`, nothing is ever
sent over plain HTTP; with it, only to a registry that does not speak TLS at all. Only the registry itself says what it
wants to see, never a server that it redirects to.
"""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.flights import Flights
from gitopsd.fetch.http import Answer, HttpClient, origin_of
from gitopsd.fetch.registryaddress import Repository
from gitopsd.fetch.registryanswers import RegistryError, masked
from gitopsd.fetch.registryauth import OPEN, Challenge, RegistryAccess, Tokens, read_challenge

_MOST_DOORS: Final = 512
# How long (seconds) a registry that may speak plain HTTP is waited for to speak TLS: a firewall may swallow that.
_TLS_PATIENCE: Final = 5.0
# What servers say over plain HTTP that have come to speak TLS.
_WRONG_WAY: Final = frozenset((400, 401, 421, 426))


@dataclass(frozen=True)
class _Door:
    """One way into a registry: its base URL and its last challenge."""

    base: str
    challenge: Challenge

    @property
    def is_plain(self) -> bool:
        """It leads over plain HTTP."""
        return self.base.startswith("http:")


class Doors:
    """Sends requests to registries, with the credentials that each wants."""

    def __init__(self, web: HttpClient) -> None:
        self._web = web
        self._tokens = Tokens(web)
        self._doors: OrderedDict[tuple[str, RegistryAccess], _Door] = OrderedDict()
        self._flights: Flights[_Door | RemoteError] = Flights()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        repository: Repository,
        path: str,
        access: RegistryAccess,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """Ask for `path`, below the registry's root, and hand out the answer, whatever its status.

        Raises RemoteError. The caller sets the time limit.
        """
        scope = f"repository:{repository.path}:pull"
        door = await self._door(repository.host, access)
        authorization = await self._tokens.authorization(door.challenge, door.base, scope, access)
        challenged = False
        while True:
            async with self._web.request(
                method, door.base + path, access=access.carrying(authorization), headers=headers
            ) as answer:
                challenge = OPEN if challenged else _challenge(answer, door.base)
                if challenge == OPEN or (challenge.scheme == "basic" and authorization == access.authorization):
                    with _masking(authorization):
                        yield answer
                    return
            challenged = True
            door = self._remember(repository.host, access, _Door(door.base, challenge))
            authorization = await self._tokens.authorization(challenge, door.base, scope, access, unlike=authorization)

    async def _door(self, host: str, access: RegistryAccess) -> _Door:
        door = self._doors.get((host, access.way))
        if door is not None:
            return door

        async def find() -> _Door | RemoteError:
            try:
                return await self._find(host, access)
            except RemoteError as error:
                return error

        found = await self._flights.share((host, access.way), find)
        if isinstance(found, RemoteError):
            raise copy.copy(found) from found
        return self._remember(host, access, found)

    def _remember(self, host: str, access: RegistryAccess, door: _Door) -> _Door:
        key = (host, access.way)
        self._doors[key] = door
        self._doors.move_to_end(key)
        while len(self._doors) > _MOST_DOORS:
            self._doors.popitem(last=False)
        return door

    def failed(self, host: str, access: RegistryAccess, error: RemoteError) -> None:
        """Forget a registry that could not be reached, or not in this way: it may be something else by now."""
        key = (host, access.way)
        door = self._doors.get(key)
        if isinstance(error, RegistryError) and not (door and door.is_plain and error.status in _WRONG_WAY):
            return
        self._doors.pop(key, None)

    async def _find(self, host: str, access: RegistryAccess) -> _Door:
        if not access.plain_http:
            return await self._knock(f"https://{host}", access)
        patience = min(_TLS_PATIENCE, access.timeout / 2)
        try:
            async with asyncio.timeout(patience):
                return await self._knock(f"https://{host}", access)
        except TimeoutError:
            failure = RemoteError(f"no answer from {host} within {patience:g}s")
        except RemoteError as error:
            # A registry that does speak TLS, but with a wrong certificate, is not to be asked without.
            if isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError):
                raise
            failure = error
        return await self._knock(f"http://{host}", access, failure)

    async def _knock(self, base: str, access: RegistryAccess, failure: RemoteError | None = None) -> _Door:
        """Ask for the version; `failure` is what was wrong with TLS, if that was tried."""
        async with self._web.request("GET", f"{base}/v2/", access=access.carrying("")) as answer:
            # So servers answer on a port on which they do speak TLS.
            if failure is not None and answer.status == 400:
                raise failure
            return _Door(base, _challenge(answer, base))


def _challenge(answer: Answer, base: str) -> Challenge:
    """What the registry itself wants; where it redirects to, nobody may name a server that gets our passwords."""
    if answer.status != 401 or origin_of(answer.url) != origin_of(base):
        return OPEN
    return read_challenge(answer.headers.getall("WWW-Authenticate", ()))


@contextmanager
def _masking(authorization: str) -> Iterator[None]:
    """Whoever reads the answer: what it repeats of the header that was sent is not for others."""
    try:
        yield
    except RemoteError as error:
        masked(error, (authorization.partition(" ")[2],))
        raise
