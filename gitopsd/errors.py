"""The root of all our errors, and the three ways in which a reconcile can end early.

Libraries' own exceptions become ours at the edges (`kube`, `fetch`, `engine`, `artifact`); the original is chained.
Every message here may be shown to a user: it holds no credentials, no query strings and no path of our file system.
"""

from __future__ import annotations

import unicodedata

# In bytes of UTF-8; the engine cuts its messages at the same length.
LONGEST_MESSAGE = 4096
_UNFIT = frozenset({"Cc", "Cf"})


def presentable(message: str) -> str:
    """Make a message fit to be shown: valid UTF-8, not too long, and nothing but line ends moves a cursor."""
    if not (message.isascii() and message.isprintable()):
        message = message.encode("utf-8", "replace").decode()
        message = "".join(" " if one != "\n" and unicodedata.category(one) in _UNFIT else one for one in message)
    raw = message.encode()
    if len(raw) <= LONGEST_MESSAGE:
        return message
    return raw[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "..."


class GitopsdError(Exception):
    """Anything that gitopsd itself reports as wrong."""


class ReconcileError(GitopsdError):
    """A reconcile that ended early. `reason` goes into the Ready condition, the text into its message.

    Whatever a server, a library or a file put into the text, conditions, events and logs get it presentable.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = presentable(message)
        super().__init__(self.message)


class RetryError(ReconcileError):
    """It failed, and may pass next time.

    `again_in` fixes the delay in seconds (a Kustomization's `retryInterval`); without it each try waits longer.
    """

    def __init__(self, reason: str, message: str, *, again_in: float | None = None) -> None:
        super().__init__(reason, message)
        self.again_in = again_in


class WaitError(ReconcileError):
    """Nothing failed; what is needed is not there yet.

    An event is expected to wake the object; `again_in` (seconds) is only the safety net behind it.
    """

    def __init__(self, reason: str, message: str, *, again_in: float) -> None:
        super().__init__(reason, message)
        self.again_in = again_in


class StallError(ReconcileError):
    """No retry can help until somebody changes the object: do not look again."""
