"""HTTP of the daemon: probes, metrics and artifact files, each on its own address.

Three plain servers without authentication, as upstream (`spec/runtime.md` 3, `spec/source.md` 4.5). Serves what the
artifact store resolves and nothing else: no path leaves the storage root.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from gitopsd import metrics
from gitopsd.tasks import offload
from gitopsd.web.guard import Guard

# The server's own limit on what it reads; artifact requests have no body.
_LARGEST_BODY = 64 * 1024
# How long an idle connection is kept (seconds).
_KEPT_ALIVE = 75.0


class Health:
    """Whether the daemon is ready for work, and why not."""

    def __init__(self) -> None:
        self._missing: set[str] = {"start"}

    def wait_for(self, *parts: str) -> None:
        """Not ready before each part was `reached`."""
        self._missing.update(parts)
        self._missing.discard("start")

    def reached(self, part: str) -> None:
        """One part is ready."""
        self._missing.discard(part)

    def stop(self) -> None:
        """Not ready any more: the daemon is going down."""
        self._missing.add("stopping")

    @property
    def missing(self) -> list[str]:
        """What is still missing, sorted."""
        return sorted(self._missing)


def split_address(address: str) -> tuple[str | None, int]:
    """Go's `host:port` as host (None: all) and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or None, int(port)


class WebServer:
    """The three servers; started and stopped together."""

    def __init__(self, health: Health, resolve: Callable[[str], Path | None]) -> None:
        """`resolve` turns a request path into a file or folder of the artifact storage."""
        self._health = health
        self._resolve = resolve
        self._stack = AsyncExitStack()
        self.ports: dict[str, int] = {}

    async def start(self, *, metrics_addr: str, health_addr: str, storage_addr: str) -> None:
        """Listen; an address that cannot be used is an error of the start."""
        await self._serve("health", health_addr, self._health_app())
        await self._serve("metrics", metrics_addr, self._metrics_app())
        await self._serve("storage", storage_addr, self._storage_app())

    async def stop(self) -> None:
        """Stop listening, letting answers in progress end."""
        await self._stack.aclose()

    async def _serve(self, name: str, address: str, app: web.Application) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, keepalive_timeout=_KEPT_ALIVE)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        host, port = split_address(address)
        listening = await asyncio.get_running_loop().create_server(Guard(runner.server), host, port, backlog=128)
        self._stack.callback(listening.close)
        self.ports[name] = int(listening.sockets[0].getsockname()[1])

    def _health_app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY)
        for path in ("/healthz", "/healthz/ping"):
            app.router.add_get(path, self._alive)
        for path in ("/readyz", "/readyz/ping"):
            app.router.add_get(path, self._ready)
        return app

    def _metrics_app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/metrics", _metrics)
        return app

    def _storage_app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/{path:.*}", self._file)
        return app

    async def _alive(self, request: web.Request) -> web.Response:
        if "verbose" in request.query:
            return web.Response(text="[+]ping ok\nhealthz check passed\n")
        return web.Response(text="ok")

    async def _ready(self, request: web.Request) -> web.Response:
        missing = self._health.missing
        status = 503 if missing else 200
        if "verbose" in request.query:
            lines = [f"[-]{part} failed" for part in missing] or ["[+]ping ok"]
            text = "\n".join([*lines, "readyz check " + ("failed" if missing else "passed"), ""])
            return web.Response(status=status, text=text)
        return web.Response(status=status, text="ok" if not missing else f"not ready: {', '.join(missing)}")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if not path:
            return web.Response(text="ok")  # what upstream's readiness probe asks for
        found = await offload(_regular, self._resolve, path)
        if found is None:
            raise web.HTTPNotFound
        return web.FileResponse(found)


def _regular(resolve: Callable[[str], Path | None], path: str) -> Path | None:
    """The file behind a path. Folders are not listed: their names are other namespaces' business."""
    found = resolve(path)
    return found if found is not None and found.is_file() else None


async def _metrics(request: web.Request) -> web.Response:
    # Thousands of series take long to write, and the numbers of the process are read from files.
    body = await offload(metrics.exposition)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
