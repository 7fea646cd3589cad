"""Every recording, played against gitopsd on the real control plane.

All scenarios that were selected are played at the same time, a few at once, each in namespaces and with servers of its
own; a test waits for its own one. What comes later is listed in `later.yaml`, what differs on purpose in
`differences.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.compare import Difference, difference_text, expected, load_differences, rows_of
from tests.conformance.runner import Run
from tests.conformance.scenario import Scenario, load_yaml, names
from tests.controlplane import ControlPlane
from tests.daemon import Daemon

HERE = Path(__file__).parent
LATER: dict[str, str] = load_yaml(HERE / "later.yaml") or {}
DIFFERENCES: list[Difference] = load_differences(HERE / "differences.yaml")
PLAYED = [name for name in names() if name not in LATER]
AT_ONCE = 6


@pytest.fixture(scope="module")
def daemon(control_plane: ControlPlane) -> Iterator[Daemon]:
    """The daemon that the recordings are compared with."""
    daemon = Daemon(control_plane.kubeconfig)
    try:
        yield daemon.start()
    finally:
        daemon.close()


class Runs:
    """Scenarios being played, a few at once."""

    def __init__(self, pool: ThreadPoolExecutor, control_plane: ControlPlane, daemon: Daemon) -> None:
        self._pool = pool
        self._control_plane = control_plane
        self._daemon = daemon
        self._futures: dict[str, Future[None]] = {}

    def play(self, name: str) -> Future[None]:
        """Play a scenario, once."""
        if name not in self._futures:
            self._futures[name] = self._pool.submit(_play, name, self._control_plane, self._daemon)
        return self._futures[name]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, control_plane: ControlPlane, daemon: Daemon) -> Iterator[Runs]:
    """Every selected scenario begins to be played; a worker of several knows only one by one what is its own."""
    with ThreadPoolExecutor(AT_ONCE, "golden") as pool:
        runs = Runs(pool, control_plane, daemon)
        if not hasattr(request.config, "workerinput"):
            for item in request.session.items:
                if isinstance(item, pytest.Function) and item.get_closest_marker("golden"):
                    runs.play(str(item.callspec.params["name"]))
        yield runs
        pool.shutdown(cancel_futures=True)


def _play(name: str, control_plane: ControlPlane, daemon: Daemon) -> None:
    run = Run(Scenario.load(name), control_plane.api, storage=daemon.address("storage"))
    try:
        observed = run.play()
        wanted = expected(run.scenario.golden, [row for row in DIFFERENCES if row.scenario == name])
        text = difference_text(wanted, observed)
        if text:
            raise AssertionError(text)
    except AssertionError as error:
        raise AssertionError(f"{error}\nlog:\n{_log_of(daemon, run.namespace)}") from error


def _log_of(daemon: Daemon, namespace: str) -> str:
    lines = [line for line in daemon.log_text().splitlines() if namespace in line]
    return "\n".join(f"  {line[:600]}" for line in lines[-30:])


@pytest.mark.golden
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLAYED)
def test_what_an_observer_sees_is_what_was_recorded(name: str, runs: Runs) -> None:
    failure = runs.play(name).exception()
    if isinstance(failure, AssertionError):
        pytest.fail(f"{name}: {Scenario.load(name).why}\n{failure}", pytrace=False)
    assert failure is None, failure


def test_lists_name_scenarios_that_exist_and_rows_that_say_why() -> None:
    rows = rows_of((HERE.parent.parent / "docs" / "differences.md").read_text())
    assert set(LATER) <= set(names())
    assert all(LATER.values())
    for difference in DIFFERENCES:
        assert difference.scenario in PLAYED, difference
        assert difference.reason, difference
        assert difference.row in rows, difference
