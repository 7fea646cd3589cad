"""Renders config/default into manifests/install.yaml: the installation as one file that needs no kustomize.

`--write` renders it, `--check` says whether the checked-in file is up to date (exit status 1 if not). kustomize is the
one inside the pinned kubectl; the text is written by our own YAML writer, so that it depends on nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in {None, ""}:
    sys.path.insert(0, str(ROOT))

from gitopsd.krm import documents  # noqa: E402
from tools.controlplane import build  # noqa: E402

SOURCE = ROOT / "config" / "default"
BUNDLE = ROOT / "manifests" / "install.yaml"
_HEADER = "# Rendered from config/default by `make manifests`; changes belong there.\n"


def rendered() -> str:
    """Give the text of the bundle as config/default makes it now."""
    kubectl = build.binaries(frozenset({"kubectl"}))["kubectl"]
    done = subprocess.run([kubectl, "kustomize", SOURCE], capture_output=True, check=True)
    return _HEADER + documents.dump_all(documents.load_all(done.stdout, source="config/default"))


def main() -> int:
    """Write or check the bundle."""
    parser = argparse.ArgumentParser(prog="tools/manifests.py", description=main.__doc__)
    wish = parser.add_mutually_exclusive_group(required=True)
    wish.add_argument("--write", action="store_true")
    wish.add_argument("--check", action="store_true")
    text = rendered()
    if parser.parse_args().write:
        BUNDLE.write_text(text, encoding="utf-8")
        return 0
    if BUNDLE.is_file() and BUNDLE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{BUNDLE.relative_to(ROOT)} is not what config/default says; run: make manifests", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
