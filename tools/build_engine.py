"""Build the engine, the Go program behind `gitopsd/engine.py`, and put it where the daemon finds it.

    python tools/build_engine.py [TARGET]

TARGET is `gitopsd-engine` beside the Python interpreter if not given. What was built once from the same sources is
taken from a cache. Needs nothing but the standard library, and fetches a Go toolchain if there is none
(`tools/go_toolchain.py`).
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.go_toolchain import ToolchainError, cache_root, exclusive, go_command, go_environment

SOURCE = Path(__file__).resolve().parent.parent / "engine"
NAME = "gitopsd-engine"


def sources() -> list[Path]:
    """Everything the program is made of, in a fixed order."""
    code = [path for path in SOURCE.glob("*.go") if not path.name.endswith("_test.go")]
    return sorted([*code, SOURCE / "go.mod", SOURCE / "go.sum"])


def fingerprint() -> str:
    """What tells one build from another: the sources, and the machine they are built for."""
    hashed = hashlib.sha256(f"{sys.platform} {platform.machine()}".encode())
    for path in sources():
        hashed.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:20]


def cached() -> Path:
    """The program, from the cache or freshly built into it."""
    folder = cache_root() / "engine" / fingerprint()
    program = folder / NAME
    if program.is_file():
        return program
    with exclusive(folder.parent):
        if not program.is_file():
            _compile(program)
            _forget_others(folder)
    return program


def _compile(program: Path) -> None:
    print(
        "building the engine; the first time its libraries are fetched and compiled, too", file=sys.stderr, flush=True
    )
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(".unfinished")
    command = [str(go_command()), "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(unfinished), "."]
    done = subprocess.run(command, cwd=SOURCE, env=go_environment(), check=False)
    if done.returncode != 0:
        raise ToolchainError("the engine could not be built")
    unfinished.replace(program)


def _forget_others(folder: Path, *, keep: int = 5) -> None:
    """Keep only the latest few builds: one takes some 20 MiB."""
    others = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def install(target: Path) -> Path:
    """Put the program at `target`; a running one is replaced, not overwritten."""
    program = cached()
    if target.is_file() and filecmp.cmp(target, program, shallow=False):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{NAME}-", dir=target.parent)
    os.close(descriptor)
    shutil.copyfile(program, name)
    Path(name).chmod(0o755)
    Path(name).replace(target)
    return target


def main(arguments: list[str]) -> int:
    """Run as a program."""
    target = Path(arguments[0]) if arguments else Path(sys.executable).with_name(NAME)
    try:
        print(install(target))
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
