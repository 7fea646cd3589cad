"""Log lines of controllers, read strictly and printed safely (`spec/cli.md` 7)."""

from __future__ import annotations

import json

import pytest

from gitopsd.cli.flags import CommandError
from gitopsd.cli.logs import LINE_BOUND, Filter, LineError, Lines, _options, choose_pod

ENTRY = {
    "level": "info",
    "ts": "2026-08-07T13:50:15.123Z",
    "msg": "Reconciliation finished",
    "controller": "kustomization",
    "controllerKind": "Kustomization",
    "name": "apps",
    "namespace": "flux-system",
    "reconcileID": "0",
    "extra": {"a": 1},
}


def line(**changes):
    entry = {**ENTRY, **changes}
    return json.dumps({key: value for key, value in entry.items() if value is not ...}).encode()


def test_a_line_reads_as_time_level_subject_message_and_error():
    """spec/cli.md 7, output."""
    expected = "2026-08-07T13:50:15.123Z error Kustomization/apps.flux-system - it failed because\n"
    assert expected == Filter().format(line(level="error", msg="it failed", error="because"))


def test_without_an_error_the_separator_stays():
    """spec/cli.md 7: lines end with a space."""
    assert (
        Filter().format(line())
        == "2026-08-07T13:50:15.123Z info Kustomization/apps.flux-system - Reconciliation finished \n"
    )


def test_a_line_about_no_object_has_no_subject():
    """spec/cli.md 7, lines without namespace."""
    printed = Filter().format(line(controllerKind=..., name=..., namespace=...))
    assert printed == "2026-08-07T13:50:15.123Z info  - Reconciliation finished \n"


def test_the_legacy_kind_comes_first():
    """spec/cli.md 7, kind shown."""
    assert " Old/apps.flux-system - " in Filter().format(line(**{"reconciler kind": "Old"}))


@pytest.mark.parametrize("text", [b"plain text", b"", b" {}", b"I0807 klog"])
def test_what_is_not_json_is_skipped(text):
    """spec/cli.md 7: lines starting with `{` are accepted."""
    assert Filter().format(text) is None


@pytest.mark.parametrize("key", ["ts", "level", "msg", "error", "logger", "controllerKind", "name", "namespace"])
@pytest.mark.parametrize("value", [1, 1.5, {}, [], True])
def test_S06_a_key_of_the_wrong_type_is_an_error(key, value):
    """spec/cli.md 7: keys must be JSON strings when present."""
    with pytest.raises(LineError, match=f'"{key}" is not a string'):
        Filter().format(line(**{key: value}))


@pytest.mark.parametrize("text", [b"{", b'{"a":}', b'{"msg":"\xff"}', b"{" * 60000])
def test_S06_broken_json_is_an_error_not_a_crash(text):
    """spec/hostile-inputs.md S06."""
    with pytest.raises(LineError, match="invalid JSON"):
        Filter().format(text)


def test_S06_escapes_in_a_line_are_shown_not_obeyed():
    """spec/hostile-inputs.md S06."""
    printed = Filter().format(line(msg="\x1b[2J\u202e"))
    assert "\x1b" not in printed
    assert "\\x1b[2J\\u202e" in printed


@pytest.mark.parametrize(
    ("accepted", "is_shown"),
    [
        (Filter(level="info"), True),
        (Filter(level="error"), False),
        (Filter(level="INFO"), False),
        (Filter(kind="kustomization"), True),
        (Filter(kind="HelmRelease"), False),
        (Filter(name="APPS"), True),
        (Filter(name="app"), False),
        (Filter(namespace="flux-system"), True),
        (Filter(namespace="other"), False),
    ],
)
def test_filters(accepted, is_shown):
    """spec/cli.md 7, flags: level is equality, kind and name ignore case."""
    assert is_shown is (accepted.format(line()) is not None)


def test_lines_without_namespace_are_hidden_by_a_namespace():
    """spec/cli.md 7 and 18.3: only -A shows start-up lines."""
    assert Filter(namespace="flux-system").format(line(namespace=...)) is None


def test_chunks_are_cut_into_lines_wherever_they_break():
    """A stream's chunks know nothing of lines."""
    lines = Lines()
    assert list(lines.feed(b"ab")) == []
    assert list(lines.feed(b"c\nd\r\n\ne")) == [b"abc", b"d", b""]
    assert list(lines.end()) == [b"e"]
    assert not lines.is_over


@pytest.mark.parametrize("newline", [b"", b"\n{}\n"])
def test_S06_a_line_over_the_bound_ends_the_stream(newline):
    """spec/cli.md 7: longer than 64 KiB."""
    lines = Lines()
    assert list(lines.feed(b"first\n" + b"x" * LINE_BOUND + newline)) == [b"first"]
    assert lines.is_over


def pod(
    name, *, phase="Running", ready="True", since="2026-01-01T00:00:00Z", restarts=0, created="2026-01-01T00:00:00Z"
):
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
            "containerStatuses": [{"restartCount": restarts}],
        },
    }


@pytest.mark.parametrize(
    "other",
    [
        {"phase": "Pending"},
        {"ready": "False"},
        {"since": "2026-01-02T00:00:00Z", "restarts": 9},
        {"restarts": 1},
        {"created": "2026-01-02T00:00:00Z", "restarts": 3},
    ],
)
def test_the_pod_whose_log_says_most_is_read(other):
    """spec/cli.md 7: running, ready, longest ready, most restarts, oldest."""
    assert choose_pod([pod("other", **other), pod("best", restarts=3)])["metadata"]["name"] == "best"


def test_a_pod_without_any_status_can_be_chosen():
    """Right after its creation a pod says nothing."""
    assert choose_pod([{"metadata": {"name": "new"}}])["metadata"]["name"] == "new"


def test_the_query_is_what_the_api_server_understands():
    """spec/cli.md 7, --since, --since-time, --tail."""
    assert _options(0.0, "", -1) == {}
    assert _options(90.4, "", 0) == {"sinceSeconds": "90", "tailLines": "0"}
    assert _options(0.0, "2026-08-07T13:50:15Z", 5) == {"sinceTime": "2026-08-07T13:50:15Z", "tailLines": "5"}


@pytest.mark.parametrize(
    ("since", "since_time", "message"),
    [
        (1.0, "2026-08-07T13:50:15Z", "at most one of `sinceTime` or `sinceDuration` may be specified"),
        (0.0, "yesterday", "yesterday is not a valid (RFC3339) time"),
        (0.0, "2026-08-07T13:50:15", "2026-08-07T13:50:15 is not a valid (RFC3339) time"),
    ],
)
def test_times_that_make_no_sense_are_refused(since, since_time, message):
    """spec/cli.md 7."""
    with pytest.raises(CommandError) as raised:
        _options(since, since_time, -1)
    assert message == str(raised.value)
