"""What the API server refused, and what kept us from asking it: one family of errors.

`error_of` is the only place that turns an answer into an error. A `Status` body speaks for itself: its message is kept
verbatim (cut, control characters escaped), because users compare it with what kubectl shows. Any other body may come
from a proxy, hold markup or secrets, and is never shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from gitopsd.errors import GitopsdError

# spec/hostile-inputs.md 1, general contract 3: no message is longer.
_MESSAGE_BOUND = 4096
_MAX_CAUSES = 100
# spec/hostile-inputs.md Q05: nobody may put a request to sleep for a day.
RETRY_AFTER_BOUND = 60.0
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Cause(NamedTuple):
    """One entry of a Status' `details.causes`."""

    field: str
    reason: str
    message: str


class ApiError(GitopsdError):
    """The API server answered, and the answer was no. `str()` is the server's own text."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What exactly was wrong, one entry for each field, as far as the server says."""
        causes = self.details.get("causes")
        if not isinstance(causes, list):
            return ()
        return tuple(
            Cause(_text(cause.get("field")), _text(cause.get("reason")), _text(cause.get("message")))
            for cause in causes[:_MAX_CAUSES]
            if isinstance(cause, Mapping)
        )


class InvalidError(ApiError):
    """422 or 400: no retry helps until the object changes."""


class UnauthorizedError(ApiError):
    """401: the server does not know us, also after the credentials were read again."""


class ForbiddenError(ApiError):
    """403: the server knows us and refuses."""


class NotFoundError(ApiError):
    """404: the object, or the whole kind, is not there."""

    @property
    def is_kind_missing(self) -> bool:
        """Whether the path itself is unknown: the kind is not served (any more)."""
        return not self.details.get("name")


class ConflictError(ApiError):
    """409: somebody else wrote first, or owns a field."""

    @property
    def is_field_conflict(self) -> bool:
        """Whether another field manager owns what an apply wanted to set."""
        return any(cause.reason == "FieldManagerConflict" for cause in self.causes)


class AlreadyExistsError(ConflictError):
    """409 of a create: the name is taken."""


class GoneError(ApiError):
    """410: the resourceVersion or the continue token is too old; list again."""


class TooManyRequestsError(ApiError):
    """429: asked too often; `retry_after` says when the server wants to hear from us again."""


class ServerError(ApiError):
    """5xx: the server could not, though it may later."""


class UnreachableError(GitopsdError):
    """No answer: refused, reset, timed out, or no trust in the certificate."""

    def __init__(self, message: str, *, is_unsent: bool = False, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_unsent = is_unsent  # the request never left: repeating it cannot do anything twice
        self.is_final = is_final  # asking again at once would end the same way


class UntrustedServerError(UnreachableError):
    """The server showed a certificate that we have no reason to trust, or spoke no TLS at all."""


class BrokenAnswerError(UnreachableError):
    """An answer came and was cut short, malformed or over its bound; nothing of it is used."""


class FrameTooLargeError(BrokenAnswerError):
    """A watch event over its bound: resuming the watch would meet it again."""


_CLASSES: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: TooManyRequestsError,
}


def error_of(status: int, body: bytes, *, retry_after: str | None = None) -> ApiError:
    """Make an error of one answer: its HTTP status, its body, its `Retry-After` header."""
    said = _status_in(body)
    if said is None:
        return _class_of(status, "")(status, "", _unsaid(status), retry_after=retry_after_seconds(retry_after))
    return error_of_status(said, status=status, retry_after=retry_after)


def error_of_status(said: Mapping[str, Any], *, status: int = 0, retry_after: str | None = None) -> ApiError:
    """Make an error of a Status object, as a body or an ERROR event of a watch carries it."""
    code = said.get("code")
    status = status or (code if isinstance(code, int) else 500)
    reason = _text(said.get("reason"))
    details = said.get("details")
    details = details if isinstance(details, dict) else {}
    wait = retry_after_seconds(retry_after)
    if wait is None and isinstance(details.get("retryAfterSeconds"), int):
        wait = retry_after_seconds(str(details["retryAfterSeconds"]))
    message = _text(said.get("message")) or _unsaid(status)
    return _class_of(status, reason)(status, reason, message, details=details, retry_after=wait)


def retry_after_seconds(header: str | None) -> float | None:
    """Read `Retry-After`: seconds or a date, at most a minute; None when it says nothing usable."""
    if not header:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return min(float(header[:9]), RETRY_AFTER_BOUND)
    try:
        seconds = parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_BOUND)


def _class_of(status: int, reason: str) -> type[ApiError]:
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExistsError
    if status >= 500:
        return ServerError
    return _CLASSES.get(status, ApiError)


def _status_in(body: bytes) -> dict[str, Any] | None:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and said.get("kind") == "Status" else None


def _unsaid(status: int) -> str:
    """The text of an answer that does not explain itself."""
    if status == 404:
        return "the server could not find the requested resource"
    try:
        return f"the API server answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the API server answered {status}"


def _text(value: Any) -> str:
    """Untrusted text, safe to show: bounded and without control characters."""
    if not isinstance(value, str):
        return ""
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value[: _MESSAGE_BOUND + 1])
    return text if len(text) <= _MESSAGE_BOUND else text[: _MESSAGE_BOUND - 1] + "…"
