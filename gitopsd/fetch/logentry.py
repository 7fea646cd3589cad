"""Entries of a transparency log as cosign kept them beside signatures before version 3, and what they prove.

Such an entry comes with a promise: the log signed that it will include the entry, and when it saw it. It carries no
proof of inclusion, which is why the sigstore library does not take it; the promise is what cosign itself relies on.

Knows the promise and the `hashedrekord` body; refuses to know certificates beyond comparing them. Pure.
Invariant: an entry counts only for the very signature, content and certificate that it was made for (CVE-2022-36056).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from cryptography import x509

from gitopsd.fetch.errors import printable
from gitopsd.fetch.fulcio import read_certificate
from gitopsd.fetch.imagesignatures import SimpleSignature, VerifyError, is_signed, sha256

# 9999-12-31; a time beyond has no `datetime`.
_LAST_SECOND: Final = 253402300799


class _Content(msgspec.Struct, frozen=True):
    content: bytes


class _SignatureOf(msgspec.Struct, frozen=True, rename="camel"):
    content: bytes
    public_key: _Content


class _Hash(msgspec.Struct, frozen=True):
    algorithm: str
    value: str


class _Data(msgspec.Struct, frozen=True):
    hash: _Hash


class _Spec(msgspec.Struct, frozen=True):
    data: _Data
    signature: _SignatureOf


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str
    spec: _Spec


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    body: str
    integrated_time: int = msgspec.field(name="integratedTime")
    log_index: int = msgspec.field(name="logIndex")
    log_id: str = msgspec.field(name="logID")


class LogEntry(msgspec.Struct, frozen=True):
    """An entry with its promise."""

    promise: bytes = msgspec.field(name="SignedEntryTimestamp")
    payload: _Payload = msgspec.field(name="Payload")

    @property
    def time(self) -> datetime:
        """When the log saw it."""
        return datetime.fromtimestamp(self.payload.integrated_time, UTC)


def read_entry(raw: bytes) -> LogEntry:
    """Read the annotation. Raises VerifyError."""
    if not raw:
        raise VerifyError("it has no entry of a transparency log")
    try:
        entry = msgspec.json.decode(raw, type=LogEntry)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise VerifyError("its log entry cannot be read") from None
    if not 0 < entry.payload.integrated_time <= _LAST_SECOND:
        raise VerifyError("its log entry has an impossible time")
    return entry


def check_promise(entry: LogEntry, logs: Mapping[bytes, object]) -> None:
    """Raise VerifyError unless one of `logs` promised to include the entry."""
    payload = entry.payload
    try:
        key = logs.get(bytes.fromhex(payload.log_id))
    except ValueError:
        key = None
    if key is None:
        raise VerifyError(f"its log entry is of a log that was not trusted then, {printable(payload.log_id, 80)}")
    signed = {
        "body": payload.body,
        "integratedTime": payload.integrated_time,
        "logID": payload.log_id,
        "logIndex": payload.log_index,
    }
    canonical = json.dumps(signed, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()
    if not is_signed(key, entry.promise, canonical):
        raise VerifyError("its log entry was not signed by the log")


def check_body(entry: LogEntry, signature: SimpleSignature, certificate: x509.Certificate) -> None:
    """Raise VerifyError unless the entry is about this signature."""
    try:
        encoded = msgspec.json.encode(entry.payload.body)
        body = msgspec.json.decode(msgspec.json.decode(encoded, type=bytes), type=_Body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise VerifyError("its log entry is not about a signature") from None
    if body.kind != "hashedrekord" or body.api_version != "0.0.1":
        raise VerifyError(f"its log entry is of kind '{printable(body.kind, 32)}', not 'hashedrekord'")
    logged = body.spec
    is_same = (
        logged.data.hash.algorithm == "sha256"
        and logged.data.hash.value == sha256(signature.payload)
        and logged.signature.content == signature.signature
        and read_certificate(logged.signature.public_key.content) == certificate
    )
    if not is_same:
        raise VerifyError("its log entry is about another signature")
