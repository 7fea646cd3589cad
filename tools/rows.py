"""`make rows`: which rows of the hostile-input table, and which sections of the source chapter, have a test.

A test that proves a row carries its number in its name (`test_A07_…`, or `test_..._A07`), one of `spec/source.md` that
of the section (`test_s6_3_…`; a row of the test vectors as `test_s17_12_…`). Rows and sections are kept in
`tests/rows.txt` and `tests/sections.txt`, one a line, with their titles; the script prints its lists and never fails.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NUMBER = re.compile(r"(?:def |func )(?:test_|Test_?)(\w*)")
_SECTION = re.compile(r"(?:def |func )test_s(\d+)(?:_(\d+))?(?=_[A-Za-z])|(?:def |func )test_s(17)_")
_ROW = re.compile(r"(?<![A-Za-z0-9])([A-T][0-9]{2})(?![0-9])")


def rows() -> dict[str, str]:
    """Every row's number and title."""
    lines = (ROOT / "tests" / "rows.txt").read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines if line)


def tested() -> dict[str, list[str]]:
    """Row numbers and the files whose tests name them."""
    found: dict[str, list[str]] = {}
    for path in sorted([*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "engine").glob("*_test.go")]):
        for name in _NUMBER.findall(path.read_text()):
            for number in _ROW.findall(name.replace("_", " ")):
                files = found.setdefault(number, [])
                if path.name not in files:
                    files.append(path.name)
    return found


def sections() -> dict[str, str]:
    """Every section's number and title."""
    lines = (ROOT / "tests" / "sections.txt").read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines if line)


def proved() -> Counter[str]:
    """How many tests name each section."""
    found: Counter[str] = Counter()
    for path in [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "engine").glob("*_test.go")]:
        for first, second, vectors in _SECTION.findall(path.read_text()):
            found[vectors or (f"{first}.{second}" if second and first != "17" else first)] += 1
    return found


def main() -> None:
    """Print the rows with a test, then those without; then the sections with the number of their tests."""
    known, found = rows(), tested()
    for number, title in known.items():
        if number in found:
            print(f"{number}  {', '.join(found[number])}: {title}")
    missing = [number for number in known if number not in found]
    print(f"\n{len(known) - len(missing)} of {len(known)} rows have a test. Without one:")
    for number in missing:
        print(f"{number}  {known[number]}")
    tests = proved()
    print("\nTest functions for each section of the source chapter:")
    for number, title in sections().items():
        print(f"{tests[number]:4}  {number}  {title}")


if __name__ == "__main__":
    main()
