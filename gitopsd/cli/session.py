"""One verb at work: a connection, a namespace, a deadline.

Turns global flags into a client and runs a verb's coroutine; knows no verb. Everything that needs the network is
imported here, on demand, so that help and mistakes on the command line answer at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gitopsd.cli import console, kubeconfig
from gitopsd.cli.flags import CommandError, GlobalFlags, is_dns_label

if TYPE_CHECKING:
    from gitopsd.kube.client import KubeClient, KubeSettings
    from gitopsd.kube.credentials import Credentials

DEADLINE = "context deadline exceeded"


@dataclass(frozen=True)
class Session:
    """What a verb works with. `namespace` is already decided, whoever decided it."""

    client: KubeClient
    flags: GlobalFlags
    namespace: str

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """End the block after `--timeout` with the error that scripts look for.

        Notes on the cancellation tell a person what was waited for; they come first, as warnings.
        """
        limit = asyncio.timeout(self.flags.timeout)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            for note in getattr(error.__cause__, "__notes__", ()):
                console.warning(note)
            raise CommandError(DEADLINE) from None


Work = Callable[[Session], Awaitable[int | None]]


def run(work: Work, *, limited: bool = True) -> None:
    """Run a verb; what it returns is the exit status, None is success.

    `limited` ends it after `--timeout`; verbs that have more to say at that moment keep the time themselves.
    """
    flags = GlobalFlags.current()
    # Files are read here, before there is an event loop that they could hold up.
    settings, credentials = kubeconfig.settings_of(flags)
    status = asyncio.run(_run(work, flags, settings, credentials, limited=limited))
    if status:
        raise click.exceptions.Exit(status)


async def _run(
    work: Work, flags: GlobalFlags, settings: KubeSettings, credentials: Credentials | None, *, limited: bool
) -> int | None:
    from gitopsd.kube.client import KubeClient

    async with KubeClient.connect(settings, credentials) as client:
        session = Session(client, flags, _namespace(client, flags))
        if not limited:
            return await work(session)
        async with session.deadline():
            return await work(session)


def _namespace(client: KubeClient, flags: GlobalFlags) -> str:
    if flags.follows_context:
        namespace = client.namespace or "default"
    else:
        namespace = flags.namespace or flags.default_namespace(console.warning)
    if not is_dns_label(namespace):
        raise CommandError(f'namespace must be a valid DNS label: "{namespace}"')
    return namespace
