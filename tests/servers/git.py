"""A real Git server on loopback: smart HTTP in protocol versions 0 to 2 in front of repositories made by tests.

The bytes come from the installed `git upload-pack`, so a client meets what it would meet anywhere. Repositories are
filled through `git fast-import`, in a few milliseconds per commit, with fixed authors and dates: the same calls give
the same hashes. Nothing here reads the user's Git configuration.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import zlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.certificates import Authority
from tests.processes import quiet_environment
from tests.servers.loopback import Answer, LoopbackServer

File = str | bytes | Mapping[str, str] | None
_EPOCH = 1767225600  # 2026-01-01T00:00:00Z, the date of every first commit
_SERVICES = ("git-upload-pack", "git-receive-pack")


def git_environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which `git` sees no configuration but the repository's."""
    settings = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
    return quiet_environment(HOME=str(home), LC_ALL="C", **settings, **more)


def pkt(*lines: bytes | str) -> bytes:
    """Pkt-lines, one for each argument."""
    encoded = [line.encode() if isinstance(line, str) else line for line in lines]
    return b"".join(b"%04x%s" % (len(line) + 4, line) for line in encoded)


FLUSH = b"0000"


def advertisement(refs: Iterable[tuple[str, str]], capabilities: str = "side-band-64k ofs-delta shallow") -> bytes:
    """A version 0 advertisement, made by hand: pairs of reference name and hash, true or not."""
    body, first = pkt("# service=git-upload-pack\n") + FLUSH, True
    for name, sha in refs:
        body += pkt(f"{sha} {name}\0{capabilities}\n" if first else f"{sha} {name}\n")
        first = False
    return body + FLUSH


class Repository:
    """One bare repository and its history."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.commits: list[str] = []  # in the order they were made
        self._environment = git_environment(path)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(path), cwd=path.parent)

    def git(self, *arguments: str, stdin: bytes | None = None, cwd: Path | None = None) -> str:
        """Run git in the repository and return what it printed, without white space around it."""
        done = subprocess.run(
            ["git", *arguments],
            input=stdin,
            capture_output=True,
            cwd=cwd or self.path,
            env=self._environment,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="replace").strip()

    def configure(self, key: str, value: str) -> None:
        """Set a key of the repository's configuration, such as `uploadpack.allowAnySHA1InWant`."""
        self.git("config", key, value)

    def commit(
        self,
        files: Mapping[str, File] | None = None,
        *,
        message: str = "change",
        branch: str = "main",
        tag: str | None = None,
        annotated: bool | str = False,
        parents: Sequence[str] | None = None,
    ) -> str:
        """Commit on top of `branch` and return the hash.

        A file is its content, `None` to delete it, `{"exec": text}`, `{"link": target}` or `{"submodule": hash}`.
        `parents` rewrites the branch: the new commit follows these instead, or nothing (an empty sequence).
        """
        ref = f"refs/heads/{branch}"
        if parents is None:
            tip = self.ref(ref)
            parents = [tip] if tip else []
        stamp = f"A U Thor <author@example.com> {_EPOCH + len(self.commits)} +0000"
        lines = [f"commit {ref}".encode(), b"mark :1", f"author {stamp}".encode(), f"committer {stamp}".encode()]
        lines.append(_data(message))
        # `from` alone moves the branch; without it fast-import would go on from where the branch is.
        lines = [f"reset {ref}".encode(), *lines] if not parents else lines
        lines += [f"{'merge' if number else 'from'} {parent}".encode() for number, parent in enumerate(parents)]
        for path, content in (files or {}).items():
            lines += _change(path, content)
        lines += [b"", b"get-mark :1", b"done", b""]
        sha = self.git("fast-import", "--quiet", "--force", "--done", stdin=b"\n".join(lines))
        self.commits.append(sha)
        if tag:
            self.tag(tag, sha, annotated=annotated)
        return sha

    def tag(self, name: str, target: str | None = None, *, annotated: bool | str = False) -> None:
        """Set a tag, moving it if it exists; an annotated one gets the text of `annotated` as its message."""
        target = target or self.commits[-1]
        if not annotated:
            return self.set_ref(f"refs/tags/{name}", target)
        message = annotated if isinstance(annotated, str) else f"{name}\n"
        when = _EPOCH + len(self.commits)
        text = (
            f"object {target}\ntype commit\ntag {name}\ntagger A U Thor <author@example.com> {when} +0000\n\n{message}"
        )
        return self.set_ref(f"refs/tags/{name}", self.put("tag", text.encode()))

    def reset(self, branch: str, sha: str) -> None:
        """Move a branch, forwards, backwards or anywhere."""
        self.set_ref(f"refs/heads/{branch}", sha)

    def delete_branch(self, branch: str) -> None:
        """Delete a branch."""
        self.git("update-ref", "-d", f"refs/heads/{branch}")

    def delete_tag(self, name: str) -> None:
        """Delete a tag."""
        self.git("update-ref", "-d", f"refs/tags/{name}")

    def ref(self, name: str) -> str | None:
        """The hash that a full reference name points at, or None."""
        loose = self.path / name
        if loose.is_file():
            return loose.read_text().strip()
        packed = self.path / "packed-refs"
        if packed.is_file():
            match = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", packed.read_text(), re.MULTILINE)
            return match[1] if match else None
        return None

    def set_ref(self, name: str, sha: str) -> None:
        """Point a reference anywhere, without asking git whether that makes sense."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{sha}\n")

    def put(self, kind: str, content: bytes) -> str:
        """Store a raw object, well-formed or not, and return its hash."""
        whole = f"{kind} {len(content)}\0".encode() + content
        sha = hashlib.sha1(whole).hexdigest()
        path = self.path / "objects" / sha[:2] / sha[2:]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zlib.compress(whole, 1))
        return sha

    def put_tree(self, entries: Iterable[tuple[str, bytes, str]]) -> str:
        """Store a tree of (mode, name, hash) exactly as given, sorted or not, and return its hash."""
        parts = [mode.encode() + b" " + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries]
        return self.put("tree", b"".join(parts))

    def put_commit(self, tree: str, *, message: str = "raw", parents: Sequence[str] = (), branch: str = "main") -> str:
        """Store a commit of a raw tree, point the branch at it and return its hash."""
        stamp = f"A U Thor <author@example.com> {_EPOCH + len(self.commits)} +0000"
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {stamp}", f"committer {stamp}"]
        sha = self.put("commit", "\n".join([*lines, "", message]).encode())
        self.commits.append(sha)
        self.reset(branch, sha)
        return sha


def _data(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return b"data %d\n%s" % (len(content), content)


def _quoted(path: str) -> bytes:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode()


def _change(path: str, content: File) -> list[bytes]:
    match content:
        case None:
            return [b"D " + _quoted(path)]
        case {"exec": text}:
            return [b"M 100755 inline " + _quoted(path), _data(text)]
        case {"link": target}:
            return [b"M 120000 inline " + _quoted(path), _data(target)]
        case {"submodule": sha}:
            return [f"M 160000 {sha} ".encode() + _quoted(path)]
        case str() | bytes():
            return [b"M 100644 inline " + _quoted(path), _data(content)]
    raise TypeError(f"{path}: {content!r} is no file")


class GitServer(LoopbackServer):
    """Serves its repositories at `<url>/<name>.git`.

    Below `/private/` it wants user `user` and password `pass`, below `/bearer/` the token `token`; `/denied/` always
    refuses; `/slow/` answers after `slow_seconds`. Behind these prefixes are the same repositories.
    """

    slow_seconds = 8.0

    def __init__(self, *, authority: Authority | None = None) -> None:
        self.repositories: dict[str, Repository] = {}
        super().__init__(name="git", authority=authority)
        self.protect("/private/", basic=("user", "pass"))
        self.protect("/bearer/", bearer="token")
        self.protect("/denied/")

    def repository(self, name: str) -> Repository:
        """The repository of that name (slashes allowed, no suffix), made on first use."""
        if name not in self.repositories:
            path = self.folder / "repositories" / f"{name}.git"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.repositories[name] = Repository(path, name)
        return self.repositories[name]

    async def answer(self, request: web.Request, path: str) -> Answer:
        """Speak smart HTTP for the repository that the path names."""
        for prefix in ("/private/", "/bearer/", "/slow/"):
            if path.startswith(prefix):
                path = path.removeprefix(prefix.rstrip("/"))
                if prefix == "/slow/":
                    await asyncio.sleep(self.slow_seconds)
        for service in _SERVICES:
            if path.endswith("/info/refs") and request.query.get("service") == service:
                return await self._advertise(request, path.removesuffix("/info/refs"), service)
            if path.endswith(f"/{service}") and request.method == "POST":
                return await self._serve(request, path.removesuffix(f"/{service}"), service)
        return Answer(404, {"Content-Type": "text/plain"}, b"Repository not found.\n")

    async def _advertise(self, request: web.Request, path: str, service: str) -> Answer:
        repository = self.find(path)
        if repository is None:
            return Answer(404, {"Content-Type": "text/plain"}, b"Repository not found.\n")
        version = request.headers.get("Git-Protocol", "")
        head = b"" if "version=2" in version else pkt(f"# service={service}\n") + FLUSH
        body = _run(repository, service, version, b"", "--http-backend-info-refs")
        kind = f"application/x-{service}-advertisement"
        return Answer(200, {"Content-Type": kind, "Cache-Control": "no-cache"}, _after(head, body))

    async def _serve(self, request: web.Request, path: str, service: str) -> Answer:
        repository = self.find(path)
        if repository is None:
            return Answer(404, {"Content-Type": "text/plain"}, b"Repository not found.\n")
        sent = await request.read()  # aiohttp has undone its Content-Encoding
        body = _run(repository, service, request.headers.get("Git-Protocol", ""), sent)
        return Answer(200, {"Content-Type": f"application/x-{service}-result", "Cache-Control": "no-cache"}, body)

    def find(self, path: str) -> Repository | None:
        """The repository behind a URL path, with or without `.git`."""
        return self.repositories.get(path.strip("/").removesuffix(".git"))


async def _after(head: bytes, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if head:
        yield head
    async for chunk in body:
        yield chunk


async def _run(
    repository: Repository, service: str, version: str, sent: bytes, *options: str
) -> AsyncGenerator[bytes, None]:
    command = ["git", service.removeprefix("git-"), "--stateless-rpc", *options, str(repository.path)]
    more: dict[str, Any] = {"GIT_PROTOCOL": version} if version else {}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=git_environment(repository.path, **more),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    feeding = asyncio.ensure_future(_feed(process.stdin, sent))
    try:
        while chunk := await process.stdout.read(65536):
            yield chunk
        await process.wait()
    finally:
        feeding.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
        # A client that left early left output unread; its pipe would stay open until the garbage collector complains.
        process._transport.close()  # type: ignore[attr-defined]


async def _feed(stdin: asyncio.StreamWriter, content: bytes) -> None:
    try:
        stdin.write(content)
        await stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # git has seen enough
    finally:
        stdin.close()
