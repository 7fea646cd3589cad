"""What Git's upload-pack protocol says, versions 0 to 2, whatever carries it.

Knows packets, advertisements, reference listings and the framing of a pack; refuses to know HTTP, SSH, credentials
and what is in a pack. Strict where Git's own client is lenient: a duplicate reference, an unknown section or attribute
and a length outside the rules are errors, never skipped (spec/hostile-inputs.md A20-A23, A31).
Invariant: what is held of an answer is bounded before it is read; references with unusable names are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gitopsd.fetch.errors import AskedInVainError, RemoteError, printable
from gitopsd.fetch.gitpackets import Mark, Packets, packet

# Servers such as GitHub answer Git's protocol only to names that begin like this.
AGENT = "git/gitopsd"
CAPABILITIES_LIMIT = 64 * 1024
_HASH = re.compile(rb"[0-9a-f]{40}")
_ACKNOWLEDGED = re.compile(rb"ACK [0-9a-f]{40} (common|continue|ready)")
_LAST_ACKNOWLEDGED = re.compile(rb"ACK [0-9a-f]{40}")
_BAD_NAME = re.compile(rb"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|/\.|\.lock/|\.lock\Z|[/.]\Z")
_LONGEST_NAME = 4096


@dataclass(frozen=True)
class WireLimits:
    """How much a server may say (spec/hostile-inputs.md, bounds)."""

    references: int = 100_000
    reference_bytes: int = 64 << 20
    pack_bytes: int = 512 << 20
    # Progress texts and framing beside the pack; more is a flood.
    overhead_bytes: int = 32 << 20


class Ref(NamedTuple):
    """What a reference names; `peeled` is the object behind an annotated tag, else empty."""

    hash: str
    peeled: str = ""

    @property
    def target(self) -> str:
        """The object behind every tag."""
        return self.peeled or self.hash


@dataclass(frozen=True)
class Advertisement:
    """What a server said of itself. `refs` is None where it has to be asked for them (version 2)."""

    version: int
    capabilities: Mapping[str, str]
    refs: Mapping[str, Ref] | None = None

    def offers(self, capability: str, feature: str = "") -> bool:
        """Whether `capability` is offered, and of its value the word `feature`."""
        value = self.capabilities.get(capability)
        return value is not None and (not feature or feature in value.split())


class Channel(Protocol):
    """One conversation with a server's upload-pack, over whatever carries it."""

    @property
    def was_redirected(self) -> bool:
        """Whether the repository answers at another address than the configured one."""

    async def hello(self) -> Packets:
        """Connect, and return what the server says first."""

    async def ask(self, body: bytes) -> Packets:
        """Send a request of protocol packets, and return the answer."""


class Sink(Protocol):
    """Where a pack goes."""

    async def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises RemoteError when there are too many."""


def is_usable_name(name: bytes) -> bool:
    """Whether `name` may name a reference (the rules of `git check-ref-format`)."""
    if name == b"HEAD":
        return True
    if len(name) > _LONGEST_NAME or not name.startswith(b"refs/") or _BAD_NAME.search(name):
        return False
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


async def read_advertisement(packets: Packets, limits: WireLimits, *, over_http: bool) -> Advertisement:
    """Read what a server says when it is connected to."""
    first = await packets.line()
    if over_http and first == b"# service=git-upload-pack":
        if await packets.line() is not Mark.FLUSH:
            raise RemoteError("protocol error: the service line is not followed by a flush", rule="packet")
        first = await packets.line()
    if first == b"version 2":
        return Advertisement(2, await _capabilities(packets))
    if first == b"version 1":
        first = await packets.line()
    packets.allow(limits.reference_bytes)
    return await _advertised_refs(packets, first, limits)


async def _capabilities(packets: Packets) -> dict[str, str]:
    found: dict[str, str] = {}
    size = 0
    while (line := await packets.line()) is not Mark.FLUSH:
        if isinstance(line, Mark):
            raise RemoteError("protocol error: unexpected marker between capabilities", rule="packet")
        size += len(line)
        if size > CAPABILITIES_LIMIT:
            raise RemoteError("the server advertises too many capabilities", rule="capabilities")
        _add_capability(found, line)
    if "ls-refs" not in found or "fetch" not in found:
        raise RemoteError("the server cannot list references or fetch")
    return found


def _add_capability(found: dict[str, str], text: bytes) -> None:
    name, _, value = text.decode("utf-8", "replace").partition("=")
    found[name] = value
    if name == "object-format" and value != "sha1":
        shown = printable(value, 64)
        raise RemoteError(f"the repository has object format '{shown}', only sha1 is supported", rule="object-format")


async def _advertised_refs(packets: Packets, first: bytes | Mark, limits: WireLimits) -> Advertisement:
    capabilities: dict[str, str] = {}
    refs = _RefCollector(limits.references)
    line = first
    if isinstance(line, bytes):
        line, _, offered = line.partition(b"\0")
        if len(offered) > CAPABILITIES_LIMIT:
            raise RemoteError("the server advertises too many capabilities", rule="capabilities")
        for capability in offered.split():
            _add_capability(capabilities, capability)
    while line is not Mark.FLUSH:
        if isinstance(line, Mark):
            raise RemoteError("protocol error: unexpected marker between references", rule="packet")
        _take_advertised(refs, line)
        line = await packets.line()
    return Advertisement(0, capabilities, refs.refs)


def _take_advertised(refs: _RefCollector, line: bytes) -> None:
    found, _, name = line.partition(b" ")
    if found == b"shallow":  # the server's own history is cut; only its hash has to be one
        _checked_hash(name)
    elif name.endswith(b"^{}") and name != b"capabilities^{}":
        refs.peel(name[:-3], _checked_hash(found))
    elif name != b"capabilities^{}":
        refs.add(name, _checked_hash(found))


class _RefCollector:
    """References as they come, each once."""

    def __init__(self, limit: int) -> None:
        self.refs: dict[str, Ref] = {}
        self._seen: set[bytes] = set()
        self._limit = limit

    def add(self, name: bytes, found: str, peeled: str = "") -> None:
        if name in self._seen:
            raise RemoteError(f"reference '{printable(name, 256)}' is advertised twice", rule="duplicate-reference")
        self._seen.add(name)
        if len(self._seen) > self._limit:
            raise RemoteError(f"the server advertises more than {self._limit} references", rule="references")
        if is_usable_name(name):
            self.refs[name.decode()] = Ref(found, peeled)

    def peel(self, name: bytes, target: str) -> None:
        if name not in self._seen:
            raise RemoteError("protocol error: a peeled reference without its tag", rule="packet")
        known = self.refs.get(name.decode("utf-8", "replace"))
        if known is not None:
            if known.peeled:
                raise RemoteError(f"reference '{printable(name, 256)}' is peeled twice", rule="duplicate-reference")
            self.refs[name.decode()] = Ref(known.hash, target)


def _checked_hash(text: bytes) -> str:
    if _HASH.fullmatch(text) is None:
        raise RemoteError(f"protocol error: '{printable(text, 80)}' is not an object's hash", rule="hash")
    return text.decode()


async def list_refs(
    channel: Channel, server: Advertisement, prefixes: Sequence[str], limits: WireLimits
) -> Mapping[str, Ref]:
    """The references whose name begins with one of `prefixes`; asks only for these where the server can filter."""
    wanted = tuple(prefixes)
    if server.refs is not None:
        return {name: ref for name, ref in server.refs.items() if name.startswith(wanted)}
    arguments = ["peel", *(f"ref-prefix {prefix}" for prefix in wanted)]
    packets = await channel.ask(_command("ls-refs", server, arguments))
    packets.allow(limits.reference_bytes)
    refs = _RefCollector(limits.references)
    while (line := await packets.line()) is not Mark.FLUSH:
        if isinstance(line, Mark):
            raise RemoteError("protocol error: unexpected marker between references", rule="packet")
        _take_listed(refs, line)
    return {name: ref for name, ref in refs.refs.items() if name.startswith(wanted)}


def _take_listed(refs: _RefCollector, line: bytes) -> None:
    found, _, rest = line.partition(b" ")
    name, *attributes = rest.split(b" ")
    peeled = ""
    for attribute in attributes:
        if attribute.startswith(b"peeled:"):
            peeled = _checked_hash(attribute[7:])
        elif not attribute.startswith(b"symref-target:"):
            raise RemoteError("protocol error: a reference with an unknown attribute", rule="packet")
    refs.add(name, _checked_hash(found), peeled)


def _command(name: str, server: Advertisement, arguments: Iterable[str]) -> bytes:
    head = packet(f"command={name}")
    if server.offers("agent"):
        head += packet(f"agent={AGENT}")
    if server.offers("object-format"):
        head += packet("object-format=sha1")
    return head + b"0001" + b"".join(map(packet, arguments)) + b"0000"


@dataclass(frozen=True)
class PackRequest:
    """Which objects to ask for: those reachable from `wants`, `depth` commits deep (0: all), less what `filter` names.

    A `filter` is a hint: a server that cannot filter sends everything. `haves` are commits of which we have all files,
    but no parents: what the server sends may leave those files out, and be deltas against them.
    """

    wants: tuple[str, ...]
    depth: int = 1
    filter: str = ""
    haves: tuple[str, ...] = ()


async def fetch_pack(
    channel: Channel, server: Advertisement, request: PackRequest, sink: Sink, limits: WireLimits
) -> None:
    """Ask for a pack and feed it to `sink`. Raises AskedInVainError when the server refuses what is wanted."""
    if server.version == 2:
        packets = await channel.ask(_command("fetch", server, _fetch_arguments(server, request)))
        packets.allow(limits.pack_bytes + limits.overhead_bytes)
        await _read_sections(packets)
    else:
        _check_wants(server, request)
        packets = await channel.ask(_old_request(server, request))
        packets.allow(limits.pack_bytes + limits.overhead_bytes)
        await _read_until_pack(packets, request)
    while (data := await packets.next()) is not Mark.FLUSH:
        if isinstance(data, Mark):
            raise RemoteError("protocol error: unexpected marker in the pack", rule="packet")
        await _demultiplex(data, sink)


def _fetch_arguments(server: Advertisement, request: PackRequest) -> list[str]:
    arguments = ["no-progress", "ofs-delta"]
    if request.depth:
        if not server.offers("fetch", "shallow"):
            raise RemoteError("the server cannot make shallow packs")
        arguments.append(f"deepen {request.depth}")
    if request.filter and server.offers("fetch", "filter"):
        arguments.append(f"filter {request.filter}")
    if request.haves:
        arguments.append("thin-pack")
    arguments += (f"want {want}" for want in request.wants)
    arguments += (f"shallow {have}" for have in request.haves)
    arguments += (f"have {have}" for have in request.haves)
    # Said at once, "done" saves the acknowledgments, and with them a round trip: we know all that we have.
    return [*arguments, "done"]


async def _read_sections(packets: Packets) -> None:
    """Read up to the pack; only the sections that were asked for may come before it."""
    line = await packets.line()
    if line == b"shallow-info":
        while (line := await packets.line()) is not Mark.DELIMITER:
            _check_shallow(line)
        line = await packets.line()
    if line != b"packfile":
        shown = line.name.lower() if isinstance(line, Mark) else printable(line, 64)
        raise RemoteError(f"protocol error: section '{shown}' was not asked for", rule="section")


def _check_wants(server: Advertisement, request: PackRequest) -> None:
    """Before version 2, most servers give out only what their references name, and hang up when asked for more."""
    if server.offers("allow-reachable-sha1-in-want") or server.offers("allow-any-sha1-in-want"):
        return
    named = {found for ref in (server.refs or {}).values() for found in ref if found}
    if not named.issuperset(request.wants):
        raise AskedInVainError("the server gives out only what its references name")


def _old_request(server: Advertisement, request: PackRequest) -> bytes:
    bands = next((name for name in ("side-band-64k", "side-band") if server.offers(name)), None)
    if bands is None:
        raise RemoteError("the server offers no side-band")
    asked = [bands, *(name for name in ("ofs-delta", "no-progress") if server.offers(name))]
    # Azure DevOps answers only clients that could negotiate, although a clone has nothing to negotiate about.
    asked += [name for name in ("multi_ack_detailed", "multi_ack") if server.offers(name)][:1]
    if request.haves and server.offers("thin-pack"):
        asked.append("thin-pack")
    if server.offers("agent"):
        asked.append(f"agent={AGENT}")
    lines = [f"want {want}" for want in request.wants]
    lines[0] += " " + " ".join(asked)
    if request.depth:
        if not server.offers("shallow"):
            raise RemoteError("the server cannot make shallow packs")
        lines += [f"shallow {have}" for have in request.haves]
        lines.append(f"deepen {request.depth}")
    known = [f"have {have}" for have in request.haves]
    return b"".join(map(packet, lines)) + b"0000" + b"".join(map(packet, [*known, "done"]))


async def _read_until_pack(packets: Packets, request: PackRequest) -> None:
    if request.depth:
        while (line := await packets.line()) is not Mark.FLUSH:
            _check_shallow(line)
    line = await packets.line()
    while request.haves and isinstance(line, bytes) and _ACKNOWLEDGED.fullmatch(line):
        line = await packets.line()
    if line != b"NAK" and not (request.haves and isinstance(line, bytes) and _LAST_ACKNOWLEDGED.fullmatch(line)):
        raise RemoteError("protocol error: no NAK before the pack", rule="packet")


def _check_shallow(line: bytes | Mark) -> None:
    if isinstance(line, Mark):
        raise RemoteError("protocol error: unexpected marker between shallow commits", rule="packet")
    word, _, found = line.partition(b" ")
    if word not in {b"shallow", b"unshallow"}:
        raise RemoteError(f"protocol error: '{printable(line, 64)}' is not a shallow commit", rule="section")
    _checked_hash(found)


async def _demultiplex(data: bytes, sink: Sink) -> None:
    match data[:1]:
        case b"\x01":
            await sink.feed(data[1:])
        case b"\x02":
            return  # progress: nobody watches
        case b"\x03":
            raise AskedInVainError(f"the server reports: {printable(data[1:])}")
        case _:
            if data.startswith(b"ERR "):
                raise AskedInVainError(f"the server reports: {printable(data[4:])}")
            raise RemoteError("protocol error: unknown band", rule="packet")
