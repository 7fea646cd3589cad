"""Signatures that AWS published (its documentation, and the test suite of Signature Version 4)."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from gitopsd.fetch.cloud.identity import AwsKeys
from gitopsd.fetch.cloud.sigv4 import Scope, codecommit_password, sign

KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
WHEN = 1440938160.0  # 2015-08-30T12:36:00Z
SESSION = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthA"
    "x7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY"
    "9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

VECTORS = {
    "get-vanilla": ("GET", "/", {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": ("POST", "/", {}, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "get-vanilla-query-order-key-case": (
        *("GET", "/?Param2=value2&Param1=value1", {}, b""),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "post-x-www-form-urlencoded": (
        *("POST", "/", FORM, b"Param1=value1"),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}


def signature(headers: dict[str, str]) -> str:
    return headers["Authorization"].rpartition("Signature=")[2]


@pytest.mark.parametrize("name", VECTORS)
def test_requests_of_the_test_suite(name: str) -> None:
    method, path, headers, body, expected = VECTORS[name]
    url = f"https://example.amazonaws.com{path}"
    signed = sign(KEYS, Scope("us-east-1", "service", WHEN), method, url, headers, body)
    assert signature(signed) == expected
    assert signed["X-Amz-Date"] == "20150830T123600Z"


def test_the_request_of_the_documentation() -> None:
    signed = sign(
        KEYS,
        Scope("us-east-1", "iam", WHEN),
        "GET",
        "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
        {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
    )
    assert signed["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_a_session_token_is_part_of_what_is_signed() -> None:
    """post-sts-header-before of the test suite"""
    keys = AwsKeys(KEYS.access_key, KEYS.secret_key, SESSION)
    signed = sign(keys, Scope("us-east-1", "service", WHEN), "POST", "https://example.amazonaws.com/", {})
    assert signed["X-Amz-Security-Token"] == SESSION
    assert signature(signed) == "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"


def test_s11_2_a_codecommit_password_is_a_date_and_a_signature() -> None:
    """Derived step by step: the date stands without its Z in what is signed, and no body is part of it."""
    host, path = "git-codecommit.us-east-1.amazonaws.com", "/v1/repos/demo"
    request = hashlib.sha256(f"GIT\n{path}\n\nhost:{host}\n\nhost\n".encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n20150830T123600\n20150830/us-east-1/codecommit/aws4_request\n{request}"
    key = f"AWS4{KEYS.secret_key}".encode()
    for part in ("20150830", "us-east-1", "codecommit", "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    assert codecommit_password(KEYS, "us-east-1", host, path, WHEN) == f"20150830T123600Z{key.hex()}"


def test_secrets_are_not_shown() -> None:
    shown = repr(AwsKeys("AKID", "CNRY-sigv4-secret", "CNRY-sigv4-session"))
    assert "CNRY" not in shown
