"""Flags as scripts write them: anywhere on the line, in Go's spellings (`spec/cli.md` 2.3)."""

from __future__ import annotations

import click
import pytest

from gitopsd.cli.flags import (
    DURATION,
    GLOBAL_OPTIONS,
    CommandError,
    GlobalFlags,
    Verb,
    Verbs,
    is_dns_label,
    persistent_option,
    split_commas,
    stored,
)


@pytest.fixture
def line():
    """A small tree of commands; calling the fixture runs a line and returns what the verb saw."""

    def run(*args):
        seen = {}

        def verb(**own):
            seen.update(flags=GlobalFlags.current(), stored=dict(stored()), own=own)

        top = Verbs("top", persistent=GLOBAL_OPTIONS)
        middle = Verbs("middle", persistent=(persistent_option("-A", "--all-namespaces", is_flag=True),))
        params = [
            click.Argument(["names"], nargs=-1),
            click.Option(["--wait/--no-wait"], default=None),
            click.Option(["--types"], multiple=True, callback=split_commas),
            click.Option(["-f", "--follow"], is_flag=True),
        ]
        middle.add_command(Verb("verb", callback=verb, params=params))
        middle.aliases["v"] = "verb"
        top.add_command(middle)
        top.main(list(args), prog_name="top", standalone_mode=False)
        return seen

    return run


@pytest.mark.parametrize(
    "args",
    [
        ("-n", "x", "middle", "verb"),
        ("middle", "-n", "x", "verb"),
        ("middle", "verb", "-n", "x"),
        ("middle", "verb", "-n=x"),
        ("middle", "verb", "--namespace=x"),
        ("middle", "verb", "-nx"),
        ("-n", "y", "middle", "verb", "name", "-n", "x"),
    ],
)
def test_a_global_flag_may_stand_anywhere(line, args):
    """The innermost one wins."""
    assert line(*args)["flags"].namespace == "x"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("middle", "-A", "verb"), True),
        (("middle", "verb", "-A"), True),
        (("middle", "verb", "--all-namespaces=true"), True),
        (("middle", "verb", "-A=false"), False),
        (("middle", "-A", "verb", "name"), True),
        (("middle", "verb"), False),
    ],
)
def test_a_groups_flag_may_stand_before_or_after_its_verb(line, args, expected):
    """What a level does not say keeps what another said."""
    assert expected is line(*args)["stored"]["all_namespaces"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [((), None), (("--wait",), True), (("--wait=true",), True), (("--wait=false",), False), (("--no-wait",), False)],
)
def test_a_boolean_that_was_not_given_is_told_from_false(line, args, expected):
    """resume waits by default for one name only, so it must know."""
    assert expected is line("middle", "verb", *args)["own"]["wait"]


def test_list_flags_take_commas_and_repetition(line):
    """`--types A,B --types C`."""
    assert line("middle", "verb", "--types", "A,B", "--types=C")["own"]["types"] == ("A", "B", "C")


def test_what_follows_two_dashes_is_left_alone(line):
    """A name may look like a flag."""
    assert line("middle", "verb", "--", "--wait=true")["own"]["names"] == ("--wait=true",)


def test_a_command_answers_to_its_other_names(line):
    """Aliases of spec/cli.md 2.4."""
    assert line("middle", "v", "x")["own"]["names"] == ("x",)


def test_an_unknown_command_is_an_error_in_one_line(line):
    """As cobra words it."""
    with pytest.raises(CommandError, match=r'^unknown command "nope" for "top middle"$'):
        line("middle", "nope")


@pytest.mark.parametrize(
    ("text", "seconds"), [("5m0s", 300.0), ("30s", 30.0), ("1h", 3600.0), ("1.5s", 1.5), ("100ms", 0.1)]
)
def test_timeouts_are_go_durations(line, text, seconds):
    """spec/cli.md 2.3, --timeout."""
    assert seconds == line("middle", "verb", "--timeout", text)["flags"].timeout


def test_the_default_timeout_is_five_minutes(line):
    """spec/cli.md 2.3."""
    assert line("middle", "verb")["flags"].timeout == 300.0


def test_a_bad_duration_names_the_flag():
    """One line that says what is wrong."""
    with pytest.raises(click.BadParameter, match='invalid argument "soon" for "--since" flag'):
        DURATION.convert("soon", click.Option(["--since"]), None)


@pytest.mark.parametrize("namespace", ["", "Upper", "-a", "a_b", "a" * 64, "a/b", "a\n"])
def test_an_invalid_namespace_is_refused(line, namespace):
    """spec/cli.md 2.3."""
    with pytest.raises(CommandError, match=r"^namespace must be a valid DNS label"):
        line("middle", "verb", "-n", namespace)


def test_dns_labels():
    """Letters, digits and inner dashes, at most 63."""
    assert is_dns_label("a-1")
    assert is_dns_label("a" * 63)
    assert not is_dns_label("a-")


def test_the_namespace_is_flux_system_unless_the_environment_says_otherwise(line, monkeypatch):
    """spec/cli.md 2.3: not the context's."""
    monkeypatch.delenv("FLUX_SYSTEM_NAMESPACE", raising=False)
    flags = line("middle", "verb")["flags"]
    assert flags.default_namespace(pytest.fail) == "flux-system"
    monkeypatch.setenv("FLUX_SYSTEM_NAMESPACE", "gitops")
    assert flags.default_namespace(pytest.fail) == "gitops"


def test_an_invalid_namespace_of_the_environment_is_passed_over_with_a_warning(line, monkeypatch):
    """spec/cli.md 2.3."""
    monkeypatch.setenv("FLUX_SYSTEM_NAMESPACE", "Not Valid")
    warned = []
    assert line("middle", "verb")["flags"].default_namespace(warned.append) == "flux-system"
    assert warned == ['ignoring invalid FLUX_SYSTEM_NAMESPACE: "Not Valid"']


@pytest.mark.parametrize(
    ("args", "environment", "follows"),
    [
        ((), "", False),
        ((), "anything", True),
        (("--ns-follows-kube-context",), "", True),
        (("--ns-follows-kube-context", "-n", "x"), "", False),
    ],
)
def test_the_contexts_namespace_is_used_when_asked_for_and_nothing_else_was_given(
    line, monkeypatch, args, environment, follows
):
    """spec/cli.md 2.3."""
    monkeypatch.setenv("FLUX_NS_FOLLOWS_KUBE_CONTEXT", environment)
    assert follows is line("middle", "verb", *args)["flags"].follows_context


def test_groups_to_impersonate_may_be_repeated(line):
    """spec/cli.md 2.3, --as-group."""
    flags = line("middle", "verb", "--as", "me", "--as-group", "a", "--as-group", "b,c")["flags"]
    assert (flags.as_user, flags.as_groups) == ("me", ("a", "b", "c"))
