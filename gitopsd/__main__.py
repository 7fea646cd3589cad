"""The program's entrance: `gitopsd run` is the daemon, anything else is the command line tool."""

from __future__ import annotations

import sys


def main() -> int:
    """Run what the first argument says; the result is the exit status."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        from gitopsd import daemon

        return daemon.main(arguments[1:])
    from gitopsd.cli.main import main as run_cli

    return run_cli(arguments)


if __name__ == "__main__":
    sys.exit(main())
