"""Asking an endpoint that gives out tokens: one bounded request, and its answer as JSON or words for its refusal.

Knows HTTP manners that all clouds share; refuses to know any one of them. Invariants: no redirect is followed, so what
proves an identity goes to the address that was meant and nowhere else; an answer is at most 256 KiB and comes within
half a minute; a message quotes only the fields that are meant to be read, without what was sent and without anything
that looks like a token.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as Xml

import orjson

from gitopsd.fetch.auth import mask
from gitopsd.fetch.cloud.answers import one_word
from gitopsd.fetch.cloud.identity import Identity, NoCredentialsError
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import ANYBODY, Access, HttpClient, TlsIdentity

_LIMIT = 256 * 1024
_PATIENCE = 30.0
# What the machine itself answers is there at once, or not at all.
LOCAL_PATIENCE = 5.0
_LONGEST_QUOTE = 512
_JWT = re.compile(r"eyJ[\w-]{8,}(?:\.[\w-]*)*")
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Surroundings:
    """What every provider works with: the way out, the way to the machine itself, the environment and the time."""

    web: HttpClient
    local: HttpClient
    environment: Mapping[str, str] = field(repr=False)
    now: Callable[[], float]

    def variable(self, name: str) -> str:
        """A variable of the environment, empty without one."""
        return self.environment.get(name, "")


@dataclass(frozen=True)
class Request:
    """One question. `what` begins its errors; `secrets` are never part of them."""

    what: str
    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    access: Access = ANYBODY
    secrets: Sequence[str] = field(default=(), repr=False)
    patience: float = _PATIENCE
    # Statuses besides 200 and 201 that the caller wants to judge.
    expected: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Reply:
    """A status and a whole, bounded body."""

    what: str
    status: int
    body: bytes = field(repr=False)

    def fields(self) -> Mapping[str, Any]:
        """The JSON object of the body. Raises RemoteError."""
        found = _json_object(self.body)
        if found is None:
            raise RemoteError(f"{self.what}: the answer is no JSON object")
        return found

    def text(self) -> str:
        """The body as one line of text. Raises RemoteError when it is none."""
        return one_word(self.body.decode("utf-8", "replace").strip(), self.what, "value")


class RefusalError(RemoteError):
    """The endpoint answered with a status that is no success."""

    def __init__(self, message: str, *, rule: str = "", status: int = 0) -> None:
        super().__init__(message, rule=rule)
        self.status = status


def form(what: str, url: str, values: Mapping[str, str], **more: Any) -> Request:
    """A question whose answers are given as a web form."""
    headers = {"Content-Type": _FORM, "Accept": "application/json", **more.pop("headers", {})}
    return Request(what, url, headers=headers, body=urlencode(values).encode(), **more)


def towards(identity: Identity) -> Access:
    """The way to a cloud on behalf of an object: through its proxy, trusting the system's authorities only."""
    return Access(proxy=identity.proxy, tls=TlsIdentity())


async def ask(web: HttpClient, request: Request) -> Reply:
    """Send a request and read its answer. Raises RemoteError for every status that was not expected."""
    try:
        async with (
            asyncio.timeout(request.patience),
            web.request(
                request.method,
                request.url,
                access=request.access,
                headers=request.headers,
                body=request.body,
                follow=False,
            ) as answer,
        ):
            reply = Reply(request.what, answer.status, await answer.read(_LIMIT))
    except TimeoutError:
        raise RemoteError(f"{request.what}: no answer within {request.patience:g}s") from None
    except RemoteError as error:
        message = mask(error.message, (*request.secrets, *request.access.secrets))
        raise RemoteError(f"{request.what}: {message}", rule=error.rule) from None
    if reply.status in {200, 201} or reply.status in request.expected:
        return reply
    text = _refusal(reply, (*request.secrets, *request.access.secrets))
    raise RefusalError(f"{request.what}: {text}", status=reply.status)


async def ask_machine(web: HttpClient, request: Request, cloud: str) -> Reply:
    """Ask the machine itself who we are. Raises NoCredentialsError where nobody is there who could know.

    A service that is there and in trouble is another matter: it may know a moment later.
    """
    try:
        return await ask(web, request)
    except RemoteError as error:
        if isinstance(error, RefusalError) and (error.status >= 500 or error.status == 429):
            raise
        raise NoCredentialsError(f"the daemon has no {cloud} identity: {error.message}") from error


def _refusal(reply: Reply, secrets: Sequence[str]) -> str:
    """The status, and what the server says about it in a form that is meant for people."""
    said = _reason_of_json(reply.body) or _reason_of_xml(reply.body)
    text = f"the server answered {reply.status}"
    if not said:
        return text
    # Masked before it is cut: half a secret would not be found.
    return f"{text}: {printable(_JWT.sub('***', mask(said, secrets)), _LONGEST_QUOTE)}"


def _reason_of_json(body: bytes) -> str:
    found = _json_object(body) or {}
    error = found.get("error")
    if isinstance(error, dict):  # Google's own form
        found = error
    parts = [
        found.get(name)
        for name in ("status", "error", "__type", "code", "Code", "error_description", "message", "Message")
    ]
    return ": ".join(part for part in parts if isinstance(part, str) and part)


def _reason_of_xml(body: bytes) -> str:
    tree = read_xml(body)
    if tree is None:
        return ""
    texts = (tree.findtext(".//{*}Error/{*}" + name) for name in ("Code", "Message"))
    return ": ".join(text for text in texts if text)


def read_xml(body: bytes) -> Xml.Element | None:
    """An XML document without declarations of its own; None when it is something else."""
    try:
        # As text, for in another encoding a declaration would not be seen here, but by the parser.
        text = body.decode()
        if "<!" in text or "\0" in text or not text.lstrip().startswith("<"):
            return None
        return Xml.fromstring(text)  # noqa: S314 - bounded, and nothing can be declared
    except (Xml.ParseError, ValueError, LookupError):
        return None


def _json_object(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
