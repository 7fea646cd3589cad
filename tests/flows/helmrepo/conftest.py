"""Indexes from real servers on loopback: downloads without a cluster, and HelmRepositories with one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from gitopsd.fetch.http import HttpClient
from tests.servers.helmrepo import HelmRepo


@pytest.fixture
def charts() -> Iterator[HelmRepo]:
    with HelmRepo() as server:
        server.package("demo", "1.0.0")
        server.package("demo", "1.1.0")
        yield server


@pytest.fixture
async def web() -> AsyncIterator[HttpClient]:
    found = HttpClient()
    yield found
    await found.aclose()
    gc.collect()
    assert len(asyncio.all_tasks()) == 1
