"""A web server for files: what Helm repositories, buckets' presigned URLs and remote bases look like from outside."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Mapping

from aiohttp import web

from tests.certificates import Authority
from tests.servers.git import GitServer
from tests.servers.loopback import Answer, LoopbackServer


class HttpServer(LoopbackServer):
    """Serves `files` (path without leading slash to content), kept in memory and changed at any time.

    Below `/private/` it wants user `user` and password `pass`, below `/denied/` it always refuses, below `/slow/` it
    answers after eight seconds; what it has no file for under these it passes on to `git`, if given.
    """

    slow_seconds = 8.0

    def __init__(self, *, git: GitServer | None = None, authority: Authority | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self._git = git
        super().__init__(name="http", authority=authority)
        self.protect("/private/", basic=("user", "pass"))
        self.protect("/denied/")

    def serve(self, files: Mapping[str, bytes | str]) -> None:
        """Add or replace files."""
        self.files |= {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}

    async def answer(self, request: web.Request, path: str) -> Answer:
        """The file behind the path, with an ETag."""
        if path.startswith("/slow/"):
            await asyncio.sleep(self.slow_seconds)
        content = self.files.get(path.lstrip("/"))
        if content is not None:
            return _file(request, path, content)
        for prefix in ("/private/", "/slow/"):
            if path.startswith(prefix):
                rest = path.removeprefix(prefix.rstrip("/"))
                content = self.files.get(rest.lstrip("/"))
                if content is not None:
                    return _file(request, path, content)
                if self._git is not None:
                    return await self._git.answer(request, rest)
        return Answer(404, {"Content-Type": "text/plain"}, b"not found\n")


def _file(request: web.Request, path: str, content: bytes) -> Answer:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    if request.headers.get("If-None-Match") == etag:
        return Answer(304, {"ETag": etag})
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    if path.endswith((".yaml", ".yml")):
        kind = "text/yaml"
    return Answer(200, {"ETag": etag, "Content-Type": kind}, content)
