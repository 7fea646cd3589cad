"""Builds the real API server and its companions into a cache outside the checkout, once.

Every folder beside this file is a Go module that pins its programs; the key of a build is a digest of what it is made
from (`go.mod`, `go.sum`, flags), so an unchanged checkout finds everything in place and a changed one never mixes.
A program appears under its name only when it is complete. Needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
if __package__ in {None, ""}:
    sys.path.insert(0, str(HERE.parent.parent))

from tools.go_toolchain import ToolchainError, cache_root, exclusive, go_command, go_environment  # noqa: E402

FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")


@dataclass(frozen=True)
class Module:
    """One folder beside this file: the programs it pins, and which version texts are linked into them."""

    folder: str
    programs: Mapping[str, str]  # name -> import path
    versioned_by: str  # the requirement of go.mod whose version the programs report
    variables: tuple[str, ...] = ()  # set to that version
    constants: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return HERE / self.folder

    @property
    def version(self) -> str:
        text = (self.source / "go.mod").read_text()
        match = re.search(rf"^\s*{re.escape(self.versioned_by)} (v\S+)", text, re.MULTILINE)
        if match is None:
            raise ToolchainError(f"{self.folder}/go.mod does not require {self.versioned_by}")
        return match[1]

    @property
    def linker_flags(self) -> str:
        version = self.version
        major, minor = version.removeprefix("v").split(".")[:2]
        values = dict.fromkeys(self.variables, version)
        values |= {name: text.format(major=major, minor=minor) for name, text in self.constants.items()}
        return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in values.items())])

    @property
    def key(self) -> str:
        digest = hashlib.sha256()
        for part in ((self.source / "go.mod").read_bytes(), (self.source / "go.sum").read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
        digest.update(repr((FLAGS, self.linker_flags, sorted(self.programs.items()))).encode())
        return digest.hexdigest()[:16]

    @property
    def bin(self) -> Path:
        return cache_root() / "controlplane" / f"{self.folder}-{self.key}" / "bin"


_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")

MODULES = (
    Module(
        "kubernetes",
        {
            "etcd": "go.etcd.io/etcd/server/v3",
            "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
            "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
            "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
            "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        },
        versioned_by="k8s.io/kubernetes",
        variables=tuple(f"{package}.gitVersion" for package in _VERSION_PACKAGES),
        constants={
            f"{package}.git{part}": f"{{{part.lower()}}}"
            for package in _VERSION_PACKAGES
            for part in ("Major", "Minor")
        },
    ),
    Module(
        "kwok",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        versioned_by="sigs.k8s.io/kwok",
        variables=("sigs.k8s.io/kwok/pkg/consts.Version",),
    ),
    Module(
        "helm",
        {"helm": "helm.sh/helm/v4/cmd/helm"},
        versioned_by="helm.sh/helm/v4",
        variables=("helm.sh/helm/v4/internal/version.version",),
    ),
    Module(
        "registry",
        {"registry": "github.com/distribution/distribution/v3/cmd/registry"},
        versioned_by="github.com/distribution/distribution/v3",
        variables=("github.com/distribution/distribution/v3/version.version",),
    ),
)


def paths() -> dict[str, Path]:
    """Where each program is or will be, by name; nothing is built."""
    return {name: module.bin / name for module in MODULES for name in module.programs}


def binaries(only: frozenset[str] | None = None) -> dict[str, Path]:
    """Build what is missing, showing progress on standard error; returns every program's path by name."""
    wanted = {name: path for name, path in paths().items() if only is None or name in only}
    missing = [name for name, path in wanted.items() if not path.is_file()]
    if missing:
        _build(missing)
    return wanted


def _build(missing: list[str]) -> None:
    started = time.monotonic()
    go = go_command()
    print(f"building {', '.join(missing)} into {cache_root()} (once; minutes if nothing is cached)", file=sys.stderr)
    number = 0
    for module in MODULES:
        programs = {name: package for name, package in module.programs.items() if name in missing}
        if not programs:
            continue
        with exclusive(module.bin.parent):
            for leftover in module.bin.glob(".*.unfinished"):
                leftover.unlink()
            for name, package in programs.items():
                number += 1
                if not (module.bin / name).is_file():  # another builder may have been at work while we waited
                    with Progress(
                        f"[{number}/{len(missing)}] {name} ({module.folder} {module.version})", started
                    ) as progress:
                        _build_one(go, module, name, package, progress.note)
    print(f"built in {time.monotonic() - started:.0f}s", file=sys.stderr)


def _build_one(go: Path, module: Module, name: str, package: str, note: Callable[[str], None]) -> None:
    module.bin.mkdir(parents=True, exist_ok=True)
    unfinished = module.bin / f".{name}.unfinished"
    command = [str(go), "build", "-v", *FLAGS, "-ldflags", module.linker_flags, "-o", str(unfinished), package]
    child = subprocess.Popen(
        command,
        cwd=module.source,
        env=go_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.setpriority(os.PRIO_PROCESS, child.pid, 10)
    try:
        said = _follow(child, note)
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
    if child.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise ToolchainError(f"{name} could not be built:\n{''.join(said[-40:])}")
    unfinished.rename(module.bin / name)


def _follow(child: subprocess.Popen[str], note: Callable[[str], None]) -> list[str]:
    """Read what `go build -v` says to its end: downloads and package names are progress, the rest is for an error."""
    said: list[str] = []
    downloads = packages = 0
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("go: downloading "):
            downloads += 1
        elif re.fullmatch(r"[\w./~+-]+\n", line):
            packages += 1
        else:
            said.append(line)
        note(
            f"{downloads} modules fetched, {packages} packages compiled"
            if downloads
            else f"{packages} packages compiled"
        )
    child.wait()
    return said


class Progress:
    """One line that ticks while a step runs: in place on a terminal, now and then elsewhere."""

    def __init__(self, title: str, started: float) -> None:
        self._title = title
        self._total = started
        self._started = time.monotonic()
        self._note = ""
        self._done = threading.Event()
        self._live = sys.stderr.isatty()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def note(self, text: str) -> None:
        """What is to be said beside the time."""
        self._note = text

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        self._done.set()
        self._ticker.join()
        self._say("failed" if exc_type else "done", last=True)

    def _tick(self) -> None:
        self._say("")
        while not self._done.wait(0.5 if self._live else 10):
            self._say(self._note or "working")

    def _say(self, text: str, *, last: bool = False) -> None:
        now = time.monotonic()
        line = f"{self._title}  {now - self._started:.0f}s (total {now - self._total:.0f}s)  {text}"
        if self._live:
            print(f"\r\x1b[K{line[:160]}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print-bin-dirs", action="store_true", help="print the folders as one PATH; build nothing")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"build only these of: {', '.join(paths())}")
    arguments = parser.parse_args()
    if arguments.print_bin_dirs:
        print(os.pathsep.join(str(module.bin) for module in MODULES))
        return 0
    unknown = set(arguments.programs) - set(paths())
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    try:
        binaries(frozenset(arguments.programs) or None)
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what is complete is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
