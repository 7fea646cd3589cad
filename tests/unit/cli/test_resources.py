"""Words for kinds, as kubectl takes them."""

from __future__ import annotations

import pytest

from gitopsd.cli.flags import CommandError
from gitopsd.cli.resources import find, rows
from gitopsd.krm.objects import GVK


def resource(plural, kind, singular, *short):
    return {
        "resource": plural,
        "responseKind": {"kind": kind},
        "singularResource": singular,
        "shortNames": list(short),
        "scope": "Namespaced",
    }


DOCUMENT = {
    "items": [
        {"metadata": {}, "versions": [{"version": "v1", "resources": [resource("events", "Event", "event", "ev")]}]},
        {
            "metadata": {"name": "events.k8s.io"},
            "versions": [
                {"version": "v1", "resources": [resource("events", "Event", "event", "ev")]},
                {"version": "v1beta1", "resources": [resource("events", "Event", "", "ev")]},
            ],
        },
        {"metadata": {"name": "broken"}, "versions": [{"version": "v1"}]},
    ]
}


@pytest.mark.parametrize(
    ("word", "gvk"),
    [
        ("event", GVK("", "v1", "Event")),
        ("EVENTS", GVK("", "v1", "Event")),
        ("ev", GVK("", "v1", "Event")),
        ("ev.events.k8s.io", GVK("events.k8s.io", "v1", "Event")),
        ("events.v1beta1.events.k8s.io", GVK("events.k8s.io", "v1beta1", "Event")),
        ("events.v1.", GVK("", "v1", "Event")),
    ],
)
def test_a_word_names_the_first_kind_it_fits(word, gvk):
    """Core kinds first, then in the server's order; a group or version narrows it."""
    assert gvk == find(rows(DOCUMENT), word).gvk


@pytest.mark.parametrize("word", ["", "pods", "events.nope", "events.v2.events.k8s.io"])
def test_an_unknown_word_is_told_as_kubectl_tells_it(word):
    """One line."""
    with pytest.raises(CommandError, match="the server doesn't have a resource type"):
        find(rows(DOCUMENT), word)
