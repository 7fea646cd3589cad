from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.kube.errors import BrokenAnswerError, FrameTooLargeError, GoneError, ServerError
from gitopsd.kube.frames import FrameSplitter, event_of


def split(chunks: list[bytes], bound: int = 1 << 20) -> list[bytes]:
    splitter = FrameSplitter(bound)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    splitter.end()
    return found


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and not line.isspace())), st.data())
def test_however_a_stream_is_cut_the_frames_are_the_same(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert split(chunks) == lines


def test_Q08_a_stream_that_ends_in_mid_frame_is_an_error() -> None:
    """spec/hostile-inputs.md Q08."""
    splitter = FrameSplitter(100)
    assert splitter.feed(b'{"a":1}\n{"b"') == [b'{"a":1}']
    with pytest.raises(BrokenAnswerError):
        splitter.end()


def test_blank_lines_are_no_frames() -> None:
    assert split([b"\n\r\n  \n{}\n"]) == [b"{}"]


def test_Q13_a_frame_at_its_bound_passes_and_one_byte_more_does_not() -> None:
    """spec/hostile-inputs.md Q13."""
    assert split([b"x" * 100 + b"\n"], bound=100) == [b"x" * 100]
    with pytest.raises(FrameTooLargeError):
        FrameSplitter(100).feed(b"x" * 101 + b"\n")


def test_Q13_a_frame_without_end_is_refused_before_it_ends() -> None:
    """spec/hostile-inputs.md Q13."""
    splitter = FrameSplitter(100)
    splitter.feed(b"x" * 60)
    with pytest.raises(FrameTooLargeError):
        splitter.feed(b"x" * 60)


@pytest.mark.parametrize(
    "frame",
    [
        b"garbage",
        b"[]",
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":[]}',
        b'{"type":"FOO","object":{}}',
        b'{"object":{}}',
        b'{"type":["ADDED"],"object":{}}',
        b'{"type":"ADDED","object":{}}{"type":"ADDED","object":{}}',
        b"[" * 100_000,
    ],
)
def test_Q08_what_is_no_event_is_refused_whole(frame: bytes) -> None:
    """spec/hostile-inputs.md Q08."""
    with pytest.raises(BrokenAnswerError):
        event_of(frame)


def test_error_frames_are_raised_as_what_they_say() -> None:
    def frame(code: int) -> bytes:
        return json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "old"}}).encode()

    with pytest.raises(GoneError, match="old"):
        event_of(frame(410))
    with pytest.raises(ServerError, match="old"):
        event_of(frame(500))


def test_an_event_is_its_type_and_its_object() -> None:
    event = {"type": "MODIFIED", "object": {"kind": "ConfigMap"}}
    assert event_of(json.dumps(event).encode()) == event
