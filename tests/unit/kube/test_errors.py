from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest

from gitopsd.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
    error_of,
    error_of_status,
    retry_after_seconds,
)


def status(code: int, reason: str = "", message: str = "no", **details: object) -> bytes:
    return json.dumps(
        {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message, "details": details}
    ).encode()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", InvalidError),
        (401, "Unauthorized", UnauthorizedError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (409, "Conflict", ConflictError),
        (409, "AlreadyExists", AlreadyExistsError),
        (410, "Expired", GoneError),
        (413, "RequestEntityTooLarge", ApiError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", TooManyRequestsError),
        (500, "InternalError", ServerError),
        (503, "ServiceUnavailable", ServerError),
    ],
)
def test_each_status_has_its_error(code: int, reason: str, kind: type[ApiError]) -> None:
    error = error_of(code, status(code, reason))
    assert type(error) is kind
    assert (error.status, error.reason) == (code, reason)


def test_the_servers_text_is_kept_to_the_letter() -> None:
    text = 'admission webhook "x.example.com" denied the request:\n\tbecause “no” → 42 % done'
    assert str(error_of(403, status(403, "Forbidden", text))) == text


def test_a_text_of_the_server_is_bounded_and_carries_no_control_characters() -> None:
    text = str(error_of(422, status(422, "Invalid", "\x1b[31mred\x00" + "x" * 100_000)))
    assert text.startswith("\\x1b[31mred\\x00xxx")
    assert len(text) <= 4096


@pytest.mark.parametrize(
    "body",
    [
        b"<html>token=CNRY-secret</html>",
        b'{"kind":"Other","message":"CNRY-secret"}',
        b'"CNRY-secret"',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_body_that_is_no_status_is_never_shown(body: bytes) -> None:
    assert str(error_of(502, body)) == "the API server answered 502 Bad Gateway"
    assert str(error_of(404, body)) == "the server could not find the requested resource"
    assert str(error_of(599, body)) == "the API server answered 599"


def test_causes_of_a_field_conflict_are_read() -> None:
    causes = [{"reason": "FieldManagerConflict", "message": 'conflict with "x"', "field": ".data.a"}, "junk"]
    error = error_of(409, status(409, "Conflict", causes=causes))
    assert isinstance(error, ConflictError)
    assert error.is_field_conflict
    assert error.causes[0].field == ".data.a"
    assert len(error.causes) == 1


def test_a_missing_kind_is_told_from_a_missing_object() -> None:
    missing_object = error_of(404, status(404, "NotFound", name="x", kind="configmaps"))
    missing_kind = error_of(404, b"404 page not found")
    assert isinstance(missing_object, NotFoundError)
    assert isinstance(missing_kind, NotFoundError)
    assert not missing_object.is_kind_missing
    assert missing_kind.is_kind_missing


def test_Q05_retry_after_is_read_bounded_and_junk_is_nothing() -> None:
    """spec/hostile-inputs.md Q05."""
    assert retry_after_seconds("1") == 1
    assert retry_after_seconds("30") == 30
    assert retry_after_seconds("86400") == 60
    assert retry_after_seconds("9" * 400) == 60
    assert retry_after_seconds("-5") is None
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds("²") is None
    assert retry_after_seconds(None) is None
    in_date = retry_after_seconds(formatdate(time.time() + 20, usegmt=True))
    assert in_date is not None
    assert 10 < in_date <= 20
    assert retry_after_seconds(formatdate(time.time() - 20, usegmt=True)) == 0
    assert retry_after_seconds(formatdate(time.time() + 90_000, usegmt=True)) == 60


def test_the_wait_a_status_asks_for_counts_where_no_header_says_it() -> None:
    assert error_of(504, status(504, "Timeout", retryAfterSeconds=7)).retry_after == 7
    assert error_of(504, status(504, "Timeout", retryAfterSeconds=7), retry_after="3").retry_after == 3


def test_an_error_frame_without_a_code_is_a_server_error() -> None:
    assert isinstance(error_of_status({"kind": "Status", "message": "?"}), ServerError)
    assert isinstance(error_of_status({"kind": "Status", "code": 410}), GoneError)
