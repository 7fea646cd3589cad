"""Fetching from real Git servers on loopback, without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gitopsd import metrics
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from tests.servers.git import GitServer
from tests.servers.ssh import SshServer

Refusal = tuple[str, str]


def open_files() -> int:
    """How many files this process has open, but for connections that others made to its servers."""
    gc.collect()
    accepted = {f"socket:[{inode}]" for inode in _accepted()}
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(str(path.readlink()))
    return sum(link not in accepted for link in links)


def _accepted() -> Iterator[str]:
    """The inodes of connections to ports that somebody listens on: a daemon elsewhere polls the session's servers."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A"}
    return (row[9] for row in rows if row[3] != "0A" and row[1] in listening)


@pytest.fixture
def git_server() -> Iterator[GitServer]:
    with GitServer() as server:
        yield server


@pytest.fixture
def ssh_server(git_server: GitServer) -> Iterator[SshServer]:
    with SshServer(git_server) as server:
        yield server


@pytest.fixture
async def fetcher() -> AsyncIterator[GitFetcher]:
    found = GitFetcher()
    yield found
    await found.aclose()


@pytest.fixture(autouse=True)
async def nothing_left_behind(git_server: GitServer) -> AsyncIterator[None]:
    """No test leaves a task or an open file behind (spec/hostile-inputs.md 0, contract 4)."""
    before = open_files()
    yield
    for _ in range(200):
        if open_files() <= before and len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{open_files() - before} files and {len(asyncio.all_tasks()) - 1} tasks are left")


@pytest.fixture
def refusal(fetcher: GitFetcher) -> Callable[..., object]:
    """What both operations say to a request that fails: its reason and its message, which is the same for both."""

    async def ask(request: GitRequest) -> Refusal:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch(request)
        message = caught.value.message
        assert message.isprintable()
        assert len(message.encode()) <= 4096
        return caught.value.reason, message

    return ask


def refused_inputs(rule: str) -> float:
    """How often a rule refused an input so far."""
    return metrics.refused_inputs.labels("git", rule)._value.get()


def ref(**fields: str) -> GitRef:
    return GitRef(**fields)
