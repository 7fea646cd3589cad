"""The tool as a process: signals, pipes, environment (`spec/cli.md` 2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.flows.commandline import KUSTOMIZE, SOURCE, cli_fixture, ready, until  # noqa: F401


@pytest.fixture
def start(cli):
    """Start the tool in the test's namespace; what it is given is closed at the end."""
    started = []

    def run(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "gitopsd", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(cli.control_plane.folder),
                "KUBECONFIG": str(cli.control_plane.kubeconfig),
                "FLUX_SYSTEM_NAMESPACE": cli.namespace,
                "PYTHONPATH": ":".join(sys.path),
                **environment,
            },
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_an_interrupt_ends_quietly(cli, start):
    """Ctrl-C: status 130, not a word."""
    cli.create(SOURCE, "GitRepository", "a")
    process = start("get", "sources", "git", "--watch")
    assert process.stdout.readline().startswith(b"NAME")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")


def test_an_interrupted_wait_ends_quietly(cli, start):
    """Also where a deadline would have explained itself."""
    cli.create(KUSTOMIZE, "Kustomization", "a", ready("False", "broken"))
    process = start("reconcile", "ks", "a")
    lines = [process.stderr.readline() for _ in range(3)]
    assert lines[-1] == "◎ waiting for Kustomization reconciliation\n".encode()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 130


def test_a_reader_that_has_seen_enough_is_no_error(cli, start):
    """`gitopsd get … | head -1`."""
    cli.create(SOURCE, "GitRepository", "a")
    process = start("get", "sources", "git", "--watch")
    assert process.stdout.readline().startswith(b"NAME")
    process.stdout.close()
    cli.create(SOURCE, "GitRepository", "b")
    process.wait(timeout=20)
    assert process.stderr.read() == b""
    assert process.returncode == 141


def test_rows_of_a_stream_are_not_held_back(cli, start):
    """A reader at the other end of a pipe sees each row when it happens."""
    cli.create(SOURCE, "GitRepository", "a")
    process = start("get", "sources", "git", "--watch", "--no-header")
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(iter(process.stdout.readline, b"")))
    reader.start()
    until(lambda: len(seen) == 1)
    cli.create(SOURCE, "GitRepository", "b")
    until(lambda: len(seen) == 2)
    process.terminate()
    reader.join()
    assert [row.split(b"\t")[0] for row in seen] == [b"a", b"b"]


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_symbols_are_the_same_in_every_locale(cli, start, locale):
    """spec/cli.md 2.1: bytes are UTF-8."""
    cli.create(SOURCE, "GitRepository", "a", ready(message="grün"))
    out, err = start("get", "sources", "git", LC_ALL=locale, LANG=locale, PYTHONUTF8="0").communicate(timeout=20)
    assert err == b""
    assert "grün".encode() in out
    _, err = start("suspend", "source", "git", "a", LC_ALL=locale, LANG=locale, PYTHONUTF8="0").communicate(timeout=20)
    assert err.startswith("► suspending source git a".encode())


def test_kubeconfig_may_be_a_list_of_files(cli, start, tmp_path):
    """As kubectl reads KUBECONFIG; missing files are passed over."""
    empty = tmp_path / "empty"
    empty.write_text("apiVersion: v1\nkind: Config\n")
    listed = f"/nonexistent:{empty}:{cli.control_plane.kubeconfig}"
    for arguments in ((), ("--as", "admin", "--as-group", "system:masters")):
        out, err = start("get", "ks", *arguments, KUBECONFIG=listed).communicate(timeout=20)
        assert (out, err) == (b"", f'✗ no Kustomization objects found in "{cli.namespace}" namespace\n'.encode())


def test_an_invalid_namespace_in_the_environment_is_told_and_passed_over(start):
    """spec/cli.md 2.3."""
    _, err = start("get", "ks", FLUX_SYSTEM_NAMESPACE="Not Valid").communicate(timeout=20)
    first, second = err.decode().splitlines()
    assert first == '⚠️ ignoring invalid FLUX_SYSTEM_NAMESPACE: "Not Valid"'
    assert second == '✗ no Kustomization objects found in "flux-system" namespace'


def test_the_tool_runs_where_no_kubeconfig_is_but_the_usual_one(cli, start):
    """~/.kube/config."""
    folder = cli.control_plane.folder / "home"
    (folder / ".kube").mkdir(parents=True, exist_ok=True)
    (folder / ".kube" / "config").write_bytes(cli.control_plane.kubeconfig.read_bytes())
    process = start("get", "all", KUBECONFIG="", HOME=str(folder))
    assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 0
