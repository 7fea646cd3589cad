"""A few at a time, started in order, with an outcome that does not depend on who was quicker.

Knows tasks and nothing else. When one item fails, nothing new begins, what has begun is brought to its end (a write
must not be cut off in the middle), and the failure of the earliest item is the one that is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gitopsd.errors import GitopsdError

T = TypeVar("T")
R = TypeVar("R")


async def side_by_side(
    items: Sequence[T], work: Callable[[T], Awaitable[R]], *, limit: int, catch: type[GitopsdError]
) -> list[R]:
    """Run `work` on every item, at most `limit` at a time; the results stand in the order of the items.

    Raises the `catch` error of the earliest item that failed, after all that had begun has ended. Any other exception
    cancels what runs. On cancellation everything that runs is cancelled with it.
    """
    if len(items) == 1:
        return [await work(items[0])]
    results: dict[int, R] = {}
    failures: dict[int, GitopsdError] = {}
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for at, item in waiting:
            try:
                results[at] = await work(item)
            except catch as error:
                failures[at] = error
            if failures:
                return

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(limit, len(items))):
            tasks.create_task(worker())
    if failures:
        raise failures[min(failures)]
    return [results[at] for at in range(len(items))]
