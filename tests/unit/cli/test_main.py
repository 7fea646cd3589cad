"""How a command line ends (`spec/cli.md` 2.1 and 2.2), without a cluster."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from gitopsd.cli import main as cli
from gitopsd.cli.flags import CommandError
from gitopsd.errors import GitopsdError


def ends(*arguments):
    """Run a line in a fresh interpreter, without any configuration to be found."""
    done = subprocess.run(
        [sys.executable, "-m", "gitopsd", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"HOME": "/nonexistent", "PATH": "", "LC_ALL": "C", "PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), 'unknown command "nope" for "gitopsd"'),
        (("get", "nope"), 'unknown command "nope" for "gitopsd get"'),
        (("get", "ks", "--nope"), "unknown flag: --nope"),
        (("bootstrap", "git"), "bootstrap is not supported by gitopsd"),
        (("get", "ks", "-n", "No!"), 'namespace must be a valid DNS label: "No!"'),
        (("get", "ks", "--timeout", "soon"), 'invalid argument "soon" for "--timeout" flag: invalid duration "soon"'),
        (("get", "ks", "--kubeconfig", "/nope"), "the kubeconfig /nope does not exist"),
        (("get", "ks", "--token", "t"), "no cluster is configured: name one with --server, --context or a kubeconfig"),
        (("version", "-o", "xml"), "--output must be json or yaml, not xml"),
    ],
)
def test_every_error_is_one_line_and_status_one(arguments, message):
    """spec/cli.md 2.2: printed once as `✗ <error>`, no usage text, whatever the locale."""
    assert ends(*arguments) == (1, "", f"✗ {message}\n")


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("-h",), ("get",), ("get", "sources", "--help"), ("suspend", "ks", "-h")]
)
def test_help_is_no_error(arguments):
    """A group without a command explains itself."""
    status, out, err = ends(*arguments)
    assert (status, err) == (0, "")
    assert out.startswith("Usage: gitopsd")


def test_the_first_help_lists_every_verb():
    """They are listed without being imported."""
    _, out, _ = ends("--help")
    for verb in ("check", "get", "reconcile", "suspend", "resume", "logs", "events", "version", "stats", "tree", "run"):
        assert f"\n  {verb} " in out


def test_help_loads_nothing_that_needs_a_network():
    """Help and mistakes answer at once."""
    code = (
        "import sys; from gitopsd.cli.main import main; main(['--help']);"
        "print(sorted({'aiohttp', 'asyncio', 'msgspec', 'yaml', 'gitopsd.kube'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_of_the_tool_needs_no_cluster():
    """spec/cli.md 11, --client."""
    status, out, err = ends("version", "--client", "-o", "json")
    assert (status, err) == (0, "")
    assert out.startswith('{\n  "flux": "v')


@pytest.mark.parametrize("verb", sorted(cli._VERBS))
def test_every_verb_can_be_imported(verb):
    """The table of verbs names modules that exist."""
    assert isinstance(cli.root().get_command(click.Context(cli.root()), verb), click.Command)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (CommandError("it failed"), 1, "✗ it failed\n"),
        (CommandError("drift", code=2), 2, "✗ drift\n"),
        (GitopsdError("of a library"), 1, "✗ of a library\n"),
        (ValueError("a mistake of ours"), 1, "✗ ValueError: a mistake of ours\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_no_error_is_a_traceback(error, status, said, monkeypatch, capsys):
    """spec/cli.md 2.2; Ctrl-C ends quietly."""

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(cli.Root, "invoke", fail)
    assert status == cli.main(["get"])
    assert tuple(capsys.readouterr()) == ("", said)
