from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitmodules import read_modules


def test_paths_and_urls_are_read():
    text = b"""# comment
[submodule "lib"]
	path = vendor/lib
	url = https://example.com/lib.git ; comment
[submodule "with \\"quotes\\""] path = "b # c"
	URL = "../x\\\\y"
[submodule "half"]
	path = nowhere
[core]
	url = https://ignored
"""
    assert read_modules(text) == {"vendor/lib": "https://example.com/lib.git", "b # c": "../x\\y"}
    assert read_modules(b"") == {}


def test_a_line_may_go_on_and_the_last_value_counts():
    text = b'[submodule "a"]\npath = a\nurl = https://one\nurl = https://t\\\nwo\n'
    assert read_modules(text) == {"a": "https://two"}


def test_A38_includes_and_commands_are_never_interpreted():
    text = b'[include]\npath=/etc/passwd\n[submodule "a"]\npath=a\nurl=https://x\nupdate = !touch /tmp/pwned\n'
    assert read_modules(text) == {"a": "https://x"}


@pytest.mark.parametrize(
    "path", [".git/hooks", "a/.git", "../x", "/abs", "a/../b", "", ".", "a//b", "git~1/x", ".GIT", "-x"]
)
def test_A37_paths_that_leave_the_tree_or_enter_dot_git_are_refused(path):
    with pytest.raises(RemoteError, match="may not be used"):
        read_modules(f'[submodule "a"]\npath = "{path}"\nurl = https://x\n'.encode())


@pytest.mark.parametrize(
    "text",
    [
        b"[submodule",
        b'[submodule "a"]\npath = "open\n',
        b'[submodule "a"]\npath = \\q\n',
        b"= x",
        b"\xff\xfe",
        b'[submodule "a"]\npath=a\nurl=x\n[submodule "b"]\npath=a/\nurl=y\n',
        b"".join(b'[submodule "%d"]\npath=p%d\nurl=x\n' % (number, number) for number in range(1001)),
    ],
)
def test_A38_a_file_that_cannot_be_read_is_refused(text):
    with pytest.raises(RemoteError):
        read_modules(text)


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 50 << 20])
def test_A38_the_size_is_bounded(size):
    text = b"#" + b"x" * (size - 1)
    if size <= 1 << 20:
        assert read_modules(text) == {}
    else:
        with pytest.raises(RemoteError, match="larger than"):
            read_modules(text)


@given(st.binary(max_size=200))
def test_any_text_is_read_or_refused(noise):
    try:
        found = read_modules(b'[submodule "a"]\n' + noise)
    except RemoteError:
        found = {}
    assert all(not path.startswith("/") and ".." not in path.split("/") for path in found)
