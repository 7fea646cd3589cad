"""Takes event posts as a notification service would, and keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.servers.loopback import Answer, LoopbackServer, Seen


class WebhookServer(LoopbackServer):
    """Answers every POST with `status` and remembers its JSON body."""

    status = 202

    def __init__(self) -> None:
        super().__init__(name="webhook")

    async def answer(self, request: web.Request, path: str) -> Answer:
        """Accept posts, nothing else."""
        return Answer(self.status if request.method == "POST" else 405)

    @property
    def posts(self) -> list[dict[str, Any]]:
        """The bodies posted so far."""
        return _bodies(self.requests)

    def wait_for_post(self, accept: Callable[[dict[str, Any]], bool], *, timeout: float = 10.0) -> dict[str, Any]:
        """Wait for a post that `accept` is true of, and return it."""

        def find(requests: list[Seen]) -> dict[str, Any] | None:
            return next((body for body in _bodies(requests) if accept(body)), None)

        found: dict[str, Any] = self.wait_for(find, timeout=timeout)
        return found


def _bodies(requests: list[Seen]) -> list[dict[str, Any]]:
    return [json.loads(seen.body) for seen in requests if seen.method == "POST" and seen.body]
