"""What is asked of a Git repository, and the frame around every operation: its deadline, its count, its failures.

Knows what a request is and how a failure reads (spec/source.md 5.3); refuses to know what is done about it.
Invariant: what leaves the frame is a `FetchError` whose text is safe to show, or a cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gitopsd import metrics
from gitopsd.api.meta import Reason
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import CHECKOUT_FAILED, GitAuth, invalid_option, mask
from gitopsd.fetch.errors import FetchError, RemoteError, printable
from gitopsd.fetch.gitref import GitRef, UnresolvedError
from gitopsd.fetch.giturl import GitURL, mask_userinfo, parse
from gitopsd.fetch.tls import TLSMaterialError

_LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class GitRequest:
    """What to fetch from where, with which credentials, within `timeout` seconds in all.

    `is_foreign` says that not an operator but a repository named the address: rules for redirects apply to it too.
    `account` stands for credentials that change by themselves, such as tokens of clouds: requests with equal ones may
    see what was fetched for each other. Without it, the credentials themselves have to be equal.
    With `leave_out`, what the repository's ignore rules and `ignore` exclude is never unpacked; whoever merges other
    files into the tree before the rules apply does without it.
    """

    url: str
    ref: GitRef = field(default_factory=GitRef)
    auth: GitAuth = field(default_factory=GitAuth)
    timeout: float = 60.0
    recurse_submodules: bool = False
    sparse: tuple[str, ...] = ()
    is_foreign: bool = False
    account: str = ""
    leave_out: bool = False
    ignore: str | None = None


@asynccontextmanager
async def operation(name: str, request: GitRequest, doing: str) -> AsyncIterator[tuple[GitURL, float]]:
    """The frame around every operation: its deadline, its count, and its failures as FetchError."""
    url = parse(request.url)
    result = "failure"
    try:
        async with asyncio.timeout(request.timeout):
            yield url, time.monotonic() + request.timeout
        result = "success"
    except asyncio.CancelledError:
        result = "cancelled"
        raise
    except FetchError as error:
        raise failure(error, url, request, doing) from error
    except TLSMaterialError as error:
        raise invalid_option(url.scheme, str(error)) from error
    except (GitopsdError, TimeoutError, OSError) as error:
        raise failure(error, url, request, doing) from error
    finally:
        metrics.git_requests.labels(name, result).inc()


def failure(error: Exception, url: GitURL, request: GitRequest, doing: str) -> FetchError:
    """What went wrong, in the words of spec/source.md 5.3 up to the cause."""
    if isinstance(error, FetchError):
        return FetchError(error.reason, mask(error.message, request.auth.secrets), stalls=error.stalls)
    if isinstance(error, RemoteError) and error.rule:
        metrics.refused_inputs.labels("git", error.rule).inc()
    if isinstance(error, TimeoutError):
        cause = f"no answer within {request.timeout:g}s"
    elif isinstance(error, GitopsdError):
        cause = str(error)
    else:
        cause = printable(getattr(error, "strerror", None) or type(error).__name__, 128).lower()
    start = "" if isinstance(error, UnresolvedError) else f"unable to {doing} '{url.shown}': "
    message = mask(mask_userinfo(f"{CHECKOUT_FAILED}{start}{cause}"), request.auth.secrets)
    return FetchError(Reason.GIT_OPERATION_FAILED, printable(message, _LONGEST_MESSAGE))
