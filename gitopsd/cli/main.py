"""The command line: which verbs there are, and how a run ends.

Verbs are imported when they are called, so that help and mistakes answer at once. Exit status 0 is success, 1 an
error told in one line, 130 an interrupt; no error reaches a person as a traceback (`spec/cli.md` 2.2).
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from gitopsd.cli import console
from gitopsd.cli.flags import GLOBAL_OPTIONS, CommandError, Verbs
from gitopsd.errors import GitopsdError

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141  # what a shell reports for a process that SIGPIPE ended

# name → (module, its attribute, one line of help)
_VERBS: Final[dict[str, tuple[str, str, str]]] = {
    "check": ("install", "check", "Check what gitopsd needs, and whether it is well."),
    "debug": ("debug", "debug", "Look into what was computed for an object."),
    "events": ("events", "events", "Print the events of our objects."),
    "export": ("create", "export", "Print objects as YAML that can be applied elsewhere."),
    "get": ("get", "get", "Print the objects of a kind and their status."),
    "logs": ("logs", "logs", "Print what the controllers logged."),
    "reconcile": ("act", "reconcile_verbs", "Ask for a reconciliation now, and wait for its end."),
    "resume": ("act", "resume_verbs", "Let suspended objects go on."),
    "stats": ("stats", "stats", "Count what runs, fails and is suspended."),
    "suspend": ("act", "suspend_verbs", "Hold objects back."),
    "trace": ("trace", "trace", "Follow an object back to the commit or chart it came from."),
    "tree": ("tree", "tree", "Print what objects applied, as a tree."),
    "version": ("install", "version", "Print the versions of the CLI and of what is installed."),
}

# Verbs of flux that have not been written yet: they say so, instead of being unknown.
_MISSING: Final = frozenset(
    {
        "bootstrap",
        "build",
        "completion",
        "create",
        "delete",
        "diff",
        "envsubst",
        "install",
        "list",
        "migrate",
        "plugin",
        "pull",
        "push",
        "tag",
        "trigger",
        "uninstall",
    }
)


class Root(Verbs):
    """The verbs, each loaded when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all verbs."""
        return sorted([*_VERBS, "run"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name in _MISSING and cmd_name not in _VERBS:
            raise CommandError(f"{cmd_name} is not supported by gitopsd")
        if cmd_name not in _VERBS:
            return None
        module, attribute, _ = _VERBS[cmd_name]
        found = getattr(importlib.import_module(f"gitopsd.cli.{module}"), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        lines = {name: help_line for name, (_, _, help_line) in _VERBS.items()}
        lines["run"] = "Run the daemon (its own flags: gitopsd run --help)."
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))


def root() -> Root:
    """The command that holds all verbs."""
    return Root(
        "gitopsd",
        help="Install, watch and steer GitOps on a Kubernetes cluster, with the verbs of flux.",
        persistent=GLOBAL_OPTIONS,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    _write_utf8()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough; what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the top of the CLI: a person sees a line, not a traceback
        console.failure(_one_line(error))
        return error.code if isinstance(error, CommandError) else 1


def _run(arguments: Sequence[str]) -> int:
    try:
        # Not `main()`: it has ideas of its own about interrupts and closed pipes.
        command = root()
        with command.make_context("gitopsd", list(arguments)) as context:
            command.invoke(context)
    except click.exceptions.NoArgsIsHelpError as error:
        console.out(error.format_message() + "\n")
        return 0
    except click.NoSuchOption as error:
        raise CommandError(f"unknown flag: {error.option_name}") from error
    except click.UsageError as error:
        raise CommandError(error.message) from error
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return INTERRUPTED
    sys.stdout.flush()
    return 0


def _write_utf8() -> None:
    """The symbols are part of the contract, whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _one_line(error: Exception) -> str:
    text = str(error)
    return text if isinstance(error, GitopsdError) else f"{type(error).__name__}: {text}"
