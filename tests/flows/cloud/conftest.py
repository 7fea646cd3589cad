"""Clouds to talk to, as they are played on loopback, and objects that want tokens of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gitopsd.fetch.cloud.tokens import CloudTokens, Identity
from tests.servers.clouds import AwsStandIn, AzureStandIn, CloudWeb, GitHubStandIn, GoogleStandIn, StandIn

Given = Callable[..., Any]


def _played(kind: type[StandIn]) -> Iterator[StandIn]:
    with kind() as server:
        yield server


@pytest.fixture(scope="module")
def _aws() -> Iterator[StandIn]:
    yield from _played(AwsStandIn)


@pytest.fixture(scope="module")
def _azure() -> Iterator[StandIn]:
    yield from _played(AzureStandIn)


@pytest.fixture(scope="module")
def _google() -> Iterator[StandIn]:
    yield from _played(GoogleStandIn)


@pytest.fixture(scope="module")
def _github() -> Iterator[StandIn]:
    yield from _played(GitHubStandIn)


def _clean(server: StandIn) -> Any:
    server.forget()
    server.lifetime = 3600
    return server


@pytest.fixture
def aws(_aws: StandIn) -> AwsStandIn:
    return _clean(_aws)


@pytest.fixture
def azure(_azure: StandIn) -> AzureStandIn:
    return _clean(_azure)


@pytest.fixture
def google(_google: StandIn) -> GoogleStandIn:
    return _clean(_google)


@pytest.fixture
def github(_github: StandIn) -> GitHubStandIn:
    return _clean(_github)


@dataclass
class Account:
    """A ServiceAccount whose tokens are asked for; remembers for which audiences."""

    value: str
    audiences: list[str] = field(default_factory=list)

    async def token(self, audience: str) -> str:
        self.audiences.append(audience)
        return self.value


def identity(account: Account | None = None, **more: Any) -> Identity:
    """An object's identity: the daemon's own, or that of `account`."""
    found: dict[str, Any] = {"kind": "OCIRepository", "namespace": "apps", "name": "podinfo"}
    if account is not None:
        found |= {"service_account": "puller", "token": account.token}
    return Identity(**(found | more))


@asynccontextmanager
async def tokens(server: StandIn, environment: dict[str, str] | None = None, **more: Any) -> AsyncIterator[Any]:
    """Tokens out of a cloud, asked at its real addresses; `.web.asked` tells which."""
    web: CloudWeb = server.web()
    found = CloudTokens(web, environment=environment, **more)
    found.web = web  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        await web.aclose()
