"""Label selectors and the rules of who is woken."""

from __future__ import annotations

import pytest

from gitopsd.runtime.triggers import Selector


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "b"}, True),
        ("a=b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!sharding.fluxcd.io/key", {"sharding.fluxcd.io/key": "one"}, False),
        ("a in (x, y)", {"a": "y"}, True),
        ("a in (x, y)", {"a": "z"}, False),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y)", {"a": "x"}, False),
        ("a in (x,y),b=c", {"a": "x", "b": "c"}, True),
        ("a in (x,y),b=c", {"a": "x"}, False),
    ],
)
def test_a_selector_means_what_kubernetes_says(text: str, labels: dict[str, str], expected: bool) -> None:
    """spec/runtime.md 6.2"""
    assert Selector(text).matches(labels) is expected
