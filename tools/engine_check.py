"""Format, vet and tests of the engine, as a part of `make check`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.go_toolchain import go_command

ENGINE = Path(__file__).resolve().parents[1] / "engine"


def main() -> int:
    """Run the three; the first complaint ends it."""
    go = go_command()
    environment = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    gofmt = go.with_name("gofmt")
    unformatted = subprocess.run([gofmt, "-l", "."], cwd=ENGINE, capture_output=True, text=True, check=True).stdout
    if unformatted.strip():
        print(f"gofmt would change:\n{unformatted}", file=sys.stderr)
        return 1
    for arguments in (["vet", "./..."], ["test", "./..."]):
        done = subprocess.run([go, *arguments], cwd=ENGINE, env=environment, check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
