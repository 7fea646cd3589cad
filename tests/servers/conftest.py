"""Servers for the tests of the servers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.git import GitServer, git_environment

Git = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def git_server() -> Iterator[GitServer]:
    with GitServer() as server:
        yield server


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """The git client, without any configuration but the test's; returns what happened."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=git_environment(tmp_path, **environment),
            check=False,
            timeout=20,
        )

    return run
