"""Log lines as `flux logs` reads them (spec/cli.md 17.3)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gitopsd import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_the_keys_and_every_one_a_reader_parses_is_a_string(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    with logs.bound(controllerKind="Kustomization", name="app", namespace="shop"):
        structlog.get_logger().error("it failed", error=ValueError("why"))
    (line,) = lines(capsys)
    assert line["level"] == "error"
    assert line["msg"] == "it failed"
    assert line["error"] == "why"
    assert (line["controllerKind"], line["name"], line["namespace"]) == ("Kustomization", "app", "shop")
    assert str(line["ts"]).endswith("Z")
    assert all(isinstance(line[key], str) for key in ("ts", "level", "msg", "error"))


def test_no_level_is_called_warning(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    structlog.get_logger().warning("careful")
    assert lines(capsys)[0]["level"] == "info"


def test_a_line_stays_below_64_kib(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    structlog.get_logger().info("x" * 200_000)
    (text,) = capsys.readouterr().out.splitlines()
    assert len(text) < 64 * 1024


def test_a_library_speaks_through_the_same_door(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("some.library").error("trouble")
    (line,) = lines(capsys)
    assert (line["msg"], line["logger"], line["level"]) == ("trouble", "some.library", "error")


def test_the_level_is_a_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("error")
    structlog.get_logger().info("unheard")
    assert lines(capsys) == []
