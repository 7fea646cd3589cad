"""The daemon as its users start it: a process of its own, on free loopback ports, with one log line a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.apiclient import NotYetError
from tests.processes import Processes, free_port, quiet_environment

T = TypeVar("T")

PROGRAM = Path(sys.executable).with_name("gitopsd")


class Daemon:
    """One `gitopsd run`. `start` returns when it is ready; it ends with `stop`, `kill`, or with this process."""

    def __init__(
        self,
        kubeconfig: Path,
        *,
        arguments: Sequence[str] = (),
        runtime_namespace: str = "flux-system",
        storage: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`storage` keeps artifacts beyond the process; without it each start has an empty folder.

        `environment` is added to that of the process.
        """
        self._processes = Processes("gitopsd-daemon")
        self._kubeconfig = kubeconfig
        self._arguments = list(arguments)
        self._namespace = runtime_namespace
        self._storage = storage
        self._environment = dict(environment or {})
        self._starts = 0
        self._ports = {name: free_port() for name in ("storage", "metrics", "health")}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process, which must be running."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def storage(self) -> Path:
        """The folder of the artifacts of this start."""
        return self._storage or self._processes.folder / f"storage-{self._starts}"

    @property
    def temporary(self) -> Path:
        """Its folder for temporary files, of all starts."""
        return self._processes.folder / "temporary"

    def address(self, name: str) -> str:
        """`host:port` of `storage`, `metrics` or `health`."""
        return f"127.0.0.1:{self._ports[name]}"

    def start(self, *, timeout: float = 30.0, wait: bool = True) -> Self:
        """Start the process and wait until /readyz says so."""
        self._starts += 1
        storage = self.storage
        storage.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [
            PROGRAM,
            "run",
            f"--storage-path={storage}",
            f"--storage-addr={self.address('storage')}",
            f"--storage-adv-addr={self.address('storage')}",
            f"--metrics-addr={self.address('metrics')}",
            f"--health-addr={self.address('health')}",
            *self._arguments,
        ]
        self.temporary.mkdir(exist_ok=True)
        environment = quiet_environment(
            KUBECONFIG=str(self._kubeconfig),
            RUNTIME_NAMESPACE=self._namespace,
            TMPDIR=str(self.temporary),
            **self._environment,
        )
        self._process = self._processes.start("gitopsd", command, env=environment)
        if wait:
            self.wait_ready(timeout=timeout)
        return self

    def wait_ready(self, *, timeout: float = 30.0) -> None:
        """Wait until the daemon is ready for work. Raises `NotYetError` with the end of its log."""
        deadline = time.monotonic() + timeout
        while True:
            last = self.get("health", "/readyz")
            if last == "ok":
                return
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self._processes.tail("gitopsd", 20)
                raise NotYetError(f"gitopsd is not ready: {last or 'no answer'}\n{log}")
            time.sleep(0.03)

    def get(self, name: str, path: str) -> str:
        """The body of an answer, whatever its status; empty without an answer."""
        try:
            with urllib.request.urlopen(f"http://{self.address(name)}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def stop(self, *, grace: float = 30.0) -> int:
        """Ask it to end; returns its exit code."""
        assert self._process is not None
        return self._processes.stop(self._process, grace=grace)

    def send(self, number: signal.Signals) -> None:
        """Send a signal and go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, *, timeout: float = 30.0) -> int:
        """Wait until it ends by itself; returns its exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._processes.kill(self._process)

    def close(self) -> None:
        """Kill what runs and remove every trace."""
        self._processes.close()

    def log_text(self) -> str:
        """Everything it wrote, over all starts."""
        path = self._processes.log("gitopsd")
        return path.read_text(errors="replace") if path.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log as objects; a line that is none is a failure of the contract."""
        whole, _, _ = self.log_text().rpartition("\n")  # the last line may be half-written
        return [json.loads(line) for line in whole.splitlines() if line.strip()]

    def until(self, find: Callable[[], T], *, timeout: float = 10.0) -> T:
        """Look at what the daemon shows of itself until `find` gives something true; returns it, or the last answer."""
        deadline = time.monotonic() + timeout
        while not (found := find()) and time.monotonic() < deadline:
            time.sleep(0.03)
        return found

    def cpu_seconds(self) -> float:
        """CPU time of the daemon and its engine processes by now."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0
        for pid in self.family():
            fields = _stat(pid)
            total += sum(int(value) for value in fields[11:15])  # own and waited-for children, user and system
        return total / ticks

    def memory(self, field: str = "VmHWM") -> int:
        """Bytes of the daemon and its engine processes: `VmHWM` is the peak, `VmRSS` what is used now."""
        total = 0
        for pid in self.family():
            for line in _read(f"/proc/{pid}/status").splitlines():
                if line.startswith(f"{field}:"):
                    total += int(line.split()[1]) * 1024
        return total

    def family(self) -> list[int]:
        """The process and its children."""
        children = _read(f"/proc/{self.pid}/task/{self.pid}/children").split()
        return [self.pid, *(int(child) for child in children)]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    text = _read(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split() or ["0"] * 20
