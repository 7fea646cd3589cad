"""Child processes of tests that never outlive them, not even when the test process is killed.

A watchdog in a session of its own holds the other end of a pipe: when this process goes away, for whatever reason, the
pipe closes, and the watchdog kills what was started and removes the folder. Nothing is left to signals or to `atexit`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

_WATCHDOG = """
import os, shutil, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
groups, folder = set(), sys.argv[1]
for line in sys.stdin:
    {"+": groups.add, "-": groups.discard}[line[0]](int(line[1:]))
    if line == "-0\\n":
        sys.exit()
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
for attempt in range(50):
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.exists(folder):
        break
"""

# Below the ports that systems give to outgoing connections, so that nobody takes one while its server restarts.
_PORTS = range(18000, 30000)


def free_port() -> int:
    """A loopback port nobody listens on now, and nobody else who asks here will be given while this process lives."""
    for port in random.sample(_PORTS, 500):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if _claims.take(port):
                    return port
    raise RuntimeError("no free port on loopback")


class _Claims:
    """Which ports processes of this user have spoken for: locked bytes of one file, freed by the system."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._guard = threading.Lock()
        self._file: IO[bytes] | None = None

    def take(self, port: int) -> bool:
        with self._guard:
            if port in self._taken:
                return False
            if self._file is None:
                self._file = (Path(tempfile.gettempdir()) / f"gitopsd-test-ports-{os.getuid()}").open("ab")
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except OSError:
                return False
            self._taken.add(port)
            return True


_claims = _Claims()


class Processes:
    """Starts processes in a temporary folder; both end with `close`, or with this process."""

    def __init__(self, prefix: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
        self._running: list[subprocess.Popen[bytes]] = []
        self._watchdog = subprocess.Popen(
            [sys.executable, "-SE", "-c", _WATCHDOG, str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command` in a process group of its own; what it says is appended to `log(name)`."""
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env) if env is not None else None,
                cwd=cwd or self.folder,
                start_new_session=True,
            )
        self._running.append(process)
        self._tell(f"+{process.pid}")
        return process

    def log(self, name: str) -> Path:
        """The file with everything that the processes called `name` wrote."""
        return self.folder / f"{name}.log"

    def tail(self, name: str, lines: int = 30) -> str:
        """The last lines of `log(name)`."""
        path = self.log(name)
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def stop(self, process: subprocess.Popen[bytes], *, grace: float = 10.0) -> int:
        """Ask the process to end, kill its group after `grace` seconds; returns its exit code."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        return self.kill(process)

    def kill(self, process: subprocess.Popen[bytes]) -> int:
        """Kill the process and its group, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        if process in self._running:
            self._running.remove(process)
            self._tell(f"-{process.pid}")
        return code

    def close(self) -> None:
        """Kill everything and remove the folder; doing it twice is harmless."""
        if self._watchdog.returncode is not None:
            return
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in list(self._running):
            self.kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._tell("-0")
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        self._watchdog.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        assert self._watchdog.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.write(f"{line}\n".encode())
            self._watchdog.stdin.flush()


_shared: list[Processes] = []


def temporary_folder(name: str) -> Path:
    """A new folder that is removed when this process ends, however it ends."""
    if not _shared:
        _shared.append(Processes("gitopsd-tests"))
        atexit.register(_shared[0].close)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_shared[0].folder))


def quiet_environment(**changed: str) -> dict[str, str]:
    """This environment without what would steer children elsewhere: proxies, another cluster, Git's own settings."""
    dropped = ("_proxy", "_PROXY")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(dropped) and not name.startswith("GIT_") and name != "KUBECONFIG"
    }
    return {**kept, **changed}
