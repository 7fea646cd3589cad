"""What registries and their token servers answer when they refuse, in words that may be shown.

Knows the distribution API's form of errors; refuses to know what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec

from gitopsd.fetch.auth import mask
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Answer

E = TypeVar("E", bound=RemoteError)

_LIMIT: Final = 64 << 10
_MOST_ERRORS: Final = 3


class RegistryError(RemoteError):
    """The registry answered with an error; `status` is the HTTP status (404: there is no such thing)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def masked(error: E, secrets: Iterable[str]) -> E:
    """The same error without what a server may have repeated of our secrets."""
    error.message = mask(error.message, secrets)
    error.args = (error.message,)
    return error


class _Error(msgspec.Struct):
    code: str = ""
    message: str | None = None


class _Errors(msgspec.Struct):
    errors: list[_Error] = []
    # Token servers that follow OAuth 2.0.
    error: str = ""
    error_description: str = ""
    details: str = ""


async def refusal(answer: Answer, asked: str) -> RegistryError:
    """The error for an answer that is no success; `asked` says to what."""
    try:
        body = await answer.read(_LIMIT)
    except RemoteError:
        body = b""
    return RegistryError(f"{asked}: {_reasons(body) or _status(answer.status)}", answer.status)


def _reasons(body: bytes) -> str:
    """The errors of the body as `CODE: message`; a body of another form, a page for a browser say, is not shown."""
    try:
        found = msgspec.json.decode(body, type=_Errors)
    except (msgspec.DecodeError, RecursionError):
        return ""
    told = [(error.code, error.message or "") for error in found.errors[:_MOST_ERRORS]]
    told.append((found.error, found.error_description))
    told.append(("", found.details))
    texts = (": ".join(printable(part, 256) for part in pair if part) for pair in told)
    return "; ".join(text for text in texts if text)


def _status(status: int) -> str:
    try:
        return f"unexpected status code {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"unexpected status code {status}"
