"""Which files of a source do not go into its artifact: `.sourceignore`, `spec.ignore` and the default lists.

The rules are those of go-git, not of git (spec/source.md 4.4): each path is judged alone, the last pattern that matches
decides, a pattern for a directory matches everything below it, and `!` may bring back a child of an excluded directory.

Theory of operation. Patterns are numbered by priority and grouped by the directory they are scoped to. In a group,
patterns for a single name are looked up by name (a dict, then wildcards once per distinct name), longer ones by their
first part; only what remains is tried one by one. The highest number that matches a path decides. A name with one star
is a prefix and a suffix; any other wildcard becomes a regular expression of atomic groups, which never goes back over a
star, so that no pattern takes more than linear time. The bounds keep the product of patterns and paths small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gitopsd.artifact.tree import FileTree, TreeError, decode_path, encode_path, selection, shown

IGNORE_FILE: Final = ".sourceignore"
VCS_PATTERNS: Final = (".git/", ".gitignore", ".gitmodules", ".gitattributes")
DEFAULT_PATTERNS: Final = (
    *("*.jpg", "*.jpeg", "*.gif", "*.png", "*.wmv", "*.flv", "*.tar.gz", "*.zip"),
    *(".github/", ".circleci/", ".travis.yml", ".gitlab-ci.yml", "appveyor.yml", ".drone.yml", "cloudbuild.yaml"),
    *("codeship-services.yml", "codeship-steps.yml"),
    *("**/.goreleaser.yml", "**/.sops.yaml", "**/.flux.yaml"),
)
MAX_TEXT: Final = 1 << 20
"""Bytes of all ignore rules of one source together."""
MAX_TRIALS: Final = 20_000_000
"""Patterns tried on paths or names for one source: a few seconds of work."""
MAX_EXPRESSIONS: Final = 10_000
"""Patterns of one source that need a regular expression: compiling them takes about a second."""

Matcher = Callable[[str, bool], bool]
NameTest = Callable[[str], object]


class IgnoreError(TreeError):
    """Ignore rules that are too long or too costly."""


def apply_ignore(tree: FileTree, spec_ignore: str | None) -> FileTree:
    """The tree without what its own rules, `spec.ignore` and the defaults exclude. Blocking. Raises IgnoreError."""
    rules = {_folder(path): tree[path] for path in tree if path.rpartition("/")[2] == IGNORE_FILE and _fits(tree, path)}
    ignored = ignore_matcher(spec_ignore, rules)
    files = [path for path in tree if not ignored(path, False)]
    directories = [path for path in sorted(tree.directories()) if not ignored(path, True)]
    if len(files) == len(tree) and len(directories) == len(tree.directories()):
        return tree
    return selection(tree, files, directories)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _fits(tree: FileTree, path: str) -> bool:
    if tree.length(path) > MAX_TEXT:
        raise IgnoreError(f"'{shown(path)}' is longer than {MAX_TEXT} bytes")
    return ".git" not in path.split("/")


def ignore_matcher(
    spec_ignore: str | None, sourceignore: Mapping[str, bytes | str], *, defaults: bool = True
) -> Matcher:
    """Compile rules into `ignored(path, is_directory)`.

    `sourceignore` maps a directory (`` is the root) to the content of its `.sourceignore`. Without `defaults` neither
    the version control list nor the default list counts (buckets, spec/source.md 9.2). The matcher itself raises
    IgnoreError once it was asked too much. Raises IgnoreError for rules that are too long.
    """
    texts = [(directory, _text(sourceignore[directory])) for directory in sorted(sourceignore, key=_walk_order)]
    texts.append(("", spec_ignore or ""))
    if sum(len(text) for _, text in texts) > MAX_TEXT:
        raise IgnoreError(f"the ignore rules are longer than {MAX_TEXT} bytes")
    own = [(directory, line) for directory, text in texts for line in _lines(text)]
    if not defaults:
        return _Rules(own).ignored
    lists = VCS_PATTERNS if own else (*VCS_PATTERNS, *DEFAULT_PATTERNS)
    return _Rules([*(("", line) for line in lists), *own]).ignored


def _walk_order(directory: str) -> bytes:
    return encode_path(directory).replace(b"/", b"\0") if directory else b""


def _text(content: bytes | str) -> str:
    return content if isinstance(content, str) else decode_path(content)


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if not line.startswith("#") and line.strip():
            yield line.removesuffix("\r")


@dataclass(slots=True)
class _Line:
    """One line of rules. `steps` are the names to find in order, each with whether directories may lie before it."""

    steps: list[tuple[str, bool]]
    includes: bool
    only_directories: bool

    @property
    def is_name(self) -> bool:
        """It is one name, to be found anywhere."""
        return len(self.steps) == 1 and self.steps[0][1]


def _parse(line: str) -> _Line | None:
    """Read one line; None when nothing can ever match it."""
    includes = line.startswith("!")
    text = line.removeprefix("!")
    if not text.endswith("\\ "):
        text = text.rstrip(" ")
    only_directories = text.endswith("/")
    text = text.removesuffix("/")
    if "/" not in text:
        return _Line([(text, True)], includes, only_directories) if text else None
    steps: list[tuple[str, bool]] = []
    between = False
    parts = text.split("/")
    for index, part in enumerate(parts):
        if part == "":
            between = False
        elif part == "**":
            between = index < len(parts) - 1
        elif "**" in part:
            return None
        else:
            steps.append((part, between))
            between = False
    return _Line(steps, includes, only_directories) if steps else None


class _Pattern(NamedTuple):
    """A line ready for use."""

    steps: list[tuple[NameTest, bool]]
    includes: bool
    only_directories: bool


@dataclass(slots=True)
class _Group:
    """The patterns that are scoped to one directory, by their numbers."""

    names: dict[str, list[int]] = field(default_factory=dict)
    wild_names: list[tuple[int, NameTest]] = field(default_factory=list)
    by_first: dict[str, list[int]] = field(default_factory=dict)
    others: list[int] = field(default_factory=list)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)


class _Rules:
    """All patterns of one source."""

    def __init__(self, lines: Iterable[tuple[str, str]]) -> None:
        self._patterns: list[_Pattern] = []
        self._groups: dict[str, _Group] = {}
        self._tests: dict[str, NameTest | None] = {}
        self._expressions = 0
        self._trials = 0
        for directory, text in lines:
            line = _parse(text)
            if line is not None:
                self._add(directory, line)

    def _add(self, directory: str, line: _Line) -> None:
        steps: list[tuple[NameTest, bool]] = []
        for text, is_free in line.steps:
            test = self._test(text)
            if test is None:
                return
            steps.append((test, is_free))
        number = len(self._patterns)
        self._patterns.append(_Pattern(steps, line.includes, line.only_directories))
        group = self._groups.setdefault(directory, _Group())
        first, is_free = line.steps[0]
        is_literal = not _SPECIAL.search(first)
        if line.is_name and is_literal:
            group.names.setdefault(first, []).append(number)
        elif line.is_name:
            group.wild_names.append((number, steps[0][0]))
        elif is_literal and not is_free:
            group.by_first.setdefault(first, []).append(number)
        else:
            group.others.append(number)

    def _test(self, text: str) -> NameTest | None:
        """What tells whether a name is meant by `text`; None when `text` is malformed and means nothing."""
        if text not in self._tests:
            simple = _simple(text)
            if simple is None:
                self._expressions += 1
                if self._expressions > MAX_EXPRESSIONS:
                    raise IgnoreError(f"more than {MAX_EXPRESSIONS} ignore rules have complex wildcards")
                simple = _expression(text)
            self._tests[text] = simple
        return self._tests[text]

    def ignored(self, path: str, is_directory: bool) -> bool:
        """Tell whether `path` is excluded."""
        parts = path.split("/")
        best = -1
        for depth in range(len(parts)):
            group = self._groups.get("/".join(parts[:depth]))
            if group is not None:
                best = self._best(group, parts[depth:], is_directory, best)
        return best >= 0 and not self._patterns[best].includes

    def _best(self, group: _Group, parts: Sequence[str], is_directory: bool, best: int) -> int:
        """The highest number of a pattern of `group` that matches, or `best`."""
        last = len(parts) - 1
        for index, name in enumerate(parts):
            for_directory, for_file = self._named(group, name)
            best = max(best, for_directory if is_directory or index < last else for_file)
        for candidates in (group.by_first.get(parts[0], ()), group.others):
            for number in reversed(candidates):
                if number <= best:
                    break
                self._spend(1)
                if _matches(self._patterns[number], parts, is_directory):
                    best = number
                    break
        return best

    def _named(self, group: _Group, name: str) -> tuple[int, int]:
        """The highest number of a one-name pattern that matches `name`: of any, and of those that take files."""
        found = group.seen.get(name)
        if found is None:
            self._spend(len(group.wild_names))
            numbers = [*group.names.get(name, ()), *(number for number, test in group.wild_names if test(name))]
            takes_files = [number for number in numbers if not self._patterns[number].only_directories]
            found = group.seen[name] = (max(numbers, default=-1), max(takes_files, default=-1))
        return found

    def _spend(self, amount: int) -> None:
        self._trials += amount
        if self._trials > MAX_TRIALS:
            raise IgnoreError("the ignore rules are too many for the files of the source")


def _matches(pattern: _Pattern, parts: Sequence[str], is_directory: bool) -> bool:
    """Find the steps of a pattern from the first part on; what lies below the last one matches too."""
    at = 0
    for test, is_free in pattern.steps:
        end = len(parts) if is_free else at + 1
        while at < end:
            if at >= len(parts):
                return False
            at += 1
            if test(parts[at - 1]):
                break
        else:
            return False
    return at < len(parts) or is_directory or not pattern.only_directories


_SPECIAL = re.compile(r"[*?\[\\]")


def _simple(text: str) -> NameTest | None:
    """The test of a name without wildcards, or with one star only."""
    if not _SPECIAL.search(text):
        return text.__eq__
    start, star, end = text.partition("*")
    if not star or _SPECIAL.search(start) or _SPECIAL.search(end):
        return None
    shortest = len(start) + len(end)
    return lambda name: len(name) >= shortest and name.startswith(start) and name.endswith(end)


_TOKEN = re.compile(r"(\*+)|(\?)|\[(\^?+)((?:\\.|[^\]\\])(?:\\.|[^\]\\])*)\]|\\(.)|([^*?\[\\])", re.DOTALL)
_RANGE = re.compile(r"(\\.|[^\]\\-])(?:-(\\.|[^\]\\-]))?", re.DOTALL)


def _expression(text: str) -> NameTest | None:
    """The test of any name pattern, a regular expression that never goes back over a star; None when it is malformed.

    Each star takes as little as lets the piece after it match, once and for all: that is enough for globs.
    """
    pieces: list[str] = [""]
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        star, one, negation, members, escaped, plain = token.groups()
        if star is not None:
            pieces.append("")
        elif one is not None:
            pieces[-1] += "."
        elif members is not None:
            ranges = _ranges(members)
            if ranges is None:
                return None
            pieces[-1] += f"[{negation}{ranges}]" if ranges else "[^\\s\\S]" if not negation else "."
        else:
            pieces[-1] += re.escape(escaped if escaped is not None else plain)
    first, *others = pieces
    if not others:
        return re.compile(first, re.DOTALL).fullmatch
    *middle, last = others
    body = "".join(f"(?>.*?{piece})" for piece in middle if piece)
    return re.compile(f"{first}{body}.*{last}", re.DOTALL).fullmatch


def _ranges(members: str) -> str | None:
    """The inside of a bracket expression, with ranges that run backwards left out; None when it is malformed."""
    found: list[str] = []
    at = 0
    while at < len(members):
        match = _RANGE.match(members, at)
        if match is None:
            return None
        at = match.end()
        low, high = (_unescaped(end) for end in match.groups())
        assert low is not None
        if high is None or low <= high:
            found.append(re.escape(low) + (f"-{re.escape(high)}" if high is not None else ""))
    return "".join(found)


def _unescaped(end: str | None) -> str | None:
    return end.removeprefix("\\") or "\\" if end is not None and len(end) > 1 else end
