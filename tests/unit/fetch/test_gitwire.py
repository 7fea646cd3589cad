from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.errors import AskedInVainError, RemoteError
from gitopsd.fetch.gitpackets import Mark, Packets
from gitopsd.fetch.gitwire import (
    Advertisement,
    PackRequest,
    Ref,
    WireLimits,
    fetch_pack,
    is_usable_name,
    list_refs,
    read_advertisement,
)

A, B, C = "a" * 40, "b" * 40, "c" * 40
V2 = Advertisement(2, {"ls-refs": "", "fetch": "shallow filter", "agent": "x"})
FLUSH, DELIMITER = b"0000", b"0001"


def pkt(*lines: str | bytes) -> bytes:
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    return b"".join(b"%04x%s" % (len(line) + 4, line) for line in raw)


def stream(data: bytes, *, piece: int = 1 << 20, limit: int = 1 << 30) -> Packets:
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]

    async def read() -> bytes:
        return pieces.pop(0) if pieces else b""

    return Packets(read, limit)


class Scripted:
    """A channel that answers what the test wrote."""

    was_redirected = False

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    async def hello(self) -> Packets:
        return stream(self.answer)

    async def ask(self, body: bytes) -> Packets:
        self.asked.append(body)
        return stream(self.answer)


class Collected:
    def __init__(self) -> None:
        self.data = b""

    async def feed(self, data: bytes) -> None:
        self.data += data


async def greeted(data: bytes, **limits: int) -> Advertisement:
    return await read_advertisement(stream(data), WireLimits(**limits), over_http=True)


SERVICE = pkt("# service=git-upload-pack\n") + FLUSH
GREETING = pkt("version 2\n", "agent=git/2\n", "ls-refs=unborn\n", "fetch=shallow filter\n", "object-format=sha1\n")


async def test_version_2_is_understood_with_and_without_a_service_line():
    for start in (SERVICE, b""):
        server = await greeted(start + GREETING + FLUSH)
        assert (server.version, server.refs) == (2, None)
        assert server.offers("fetch", "filter")
        assert not server.offers("fetch", "wait-for-done")


async def test_versions_0_and_1_advertise_references_with_their_peeled_tags():
    refs = pkt(f"{A} HEAD\0shallow side-band-64k symref=HEAD:refs/heads/main\n", f"{A} refs/heads/main\n")
    refs += pkt(f"{B} refs/tags/v1\n", f"{C} refs/tags/v1^{{}}\n", f"shallow {C}\n") + FLUSH
    for start in (SERVICE, SERVICE + pkt("version 1\n"), b""):
        server = await greeted(start + refs)
        assert server.version == 0
        assert server.refs == {"HEAD": Ref(A), "refs/heads/main": Ref(A), "refs/tags/v1": Ref(B, C)}
        assert server.offers("shallow")


async def test_an_empty_repository_has_no_references():
    server = await greeted(SERVICE + pkt(f"{'0' * 40} capabilities^{{}}\0shallow agent=x\n") + FLUSH)
    assert server.refs == {}
    assert (await greeted(SERVICE + FLUSH)).refs == {}


@given(st.integers(1, 40))
async def test_packets_are_the_same_however_they_are_cut(piece):
    packets = stream(pkt("one", b"", "three" * 20) + DELIMITER + pkt("x") + FLUSH, piece=piece)
    seen = [await packets.next() for _ in range(6)]
    assert seen == [b"one", b"", b"three" * 20, Mark.DELIMITER, b"x", Mark.FLUSH]


@pytest.mark.parametrize(
    "data",
    [b"-001abc", b"zzzz", b"+00a123456", b" 00a123456", b"0x0a123456", b"0003", b"ffff", b"fff1" + b"x" * 65517],
)
async def test_A20_a_packet_length_outside_the_rules_is_an_error(data):
    with pytest.raises(RemoteError, match="protocol error"):
        await stream(data).next()


@pytest.mark.parametrize("data", [b"", b"00", b"0010abc", b"fff0abc"])
async def test_A20_a_packet_that_ends_early_is_an_error(data):
    with pytest.raises(RemoteError, match="ended the conversation early"):
        await stream(data).next()


async def test_A20_the_longest_packet_is_read_and_a_longer_one_is_not():
    assert await stream(b"fff0" + b"x" * 65516).next() == b"x" * 65516
    with pytest.raises(RemoteError, match="too long"):
        await stream(b"fff1" + b"x" * 65517).next()


async def test_A20_a_delimiter_within_references_is_an_error():
    with pytest.raises(RemoteError, match="unexpected marker"):
        await list_refs(Scripted(pkt(f"{A} refs/heads/main\n") + DELIMITER), V2, ["refs/"], WireLimits())
    with pytest.raises(RemoteError, match="unexpected marker"):
        await greeted(SERVICE + pkt(f"{A} refs/heads/main\0x\n") + DELIMITER)


async def test_A21_capabilities_are_bounded():
    endless = b"".join(pkt(f"x{number}={'y' * 1000}\n") for number in range(100))
    with pytest.raises(RemoteError, match="too many capabilities"):
        await greeted(SERVICE + pkt("version 2\n") + endless)


async def test_A21_an_answer_is_not_read_beyond_its_bound():
    packets = stream(pkt("x" * 900) * 10, piece=512, limit=1200)
    await packets.next()
    with pytest.raises(RemoteError, match="longer than allowed"):
        await packets.next()


async def test_A21_a_reference_that_comes_twice_is_an_error():
    twice = pkt(f"{A} refs/heads/main\n", f"{B} refs/heads/main\n")
    with pytest.raises(RemoteError, match="'refs/heads/main' is advertised twice"):
        await list_refs(Scripted(twice + FLUSH), V2, ["refs/"], WireLimits())
    with pytest.raises(RemoteError, match="advertised twice"):
        await greeted(SERVICE + pkt(f"{A} refs/heads/x\0shallow\n") + twice + FLUSH)
    peeled = pkt(f"{A} refs/tags/v\0shallow\n", f"{B} refs/tags/v^{{}}\n", f"{C} refs/tags/v^{{}}\n")
    with pytest.raises(RemoteError, match="peeled twice"):
        await greeted(SERVICE + peeled + FLUSH)


async def test_A21_symbolic_references_are_not_followed():
    loop = pkt(f"{A} HEAD symref-target:HEAD\n", f"{B} refs/heads/main symref-target:refs/heads/main\n")
    assert await list_refs(Scripted(loop + FLUSH), V2, ["refs/heads/main"], WireLimits()) == {"refs/heads/main": Ref(B)}


async def test_A22_only_the_wanted_prefix_is_asked_for():
    channel = Scripted(pkt(f"{A} refs/heads/main peeled:{B}\n", f"{A} refs/other\n") + FLUSH)
    assert await list_refs(channel, V2, ["refs/heads/main"], WireLimits()) == {"refs/heads/main": Ref(A, B)}
    assert b"ref-prefix refs/heads/main\n" in channel.asked[0]


@pytest.mark.parametrize(("count", "is_allowed"), [(99, True), (100, True), (101, False), (5000, False)])
async def test_A22_the_number_of_references_is_bounded(count, is_allowed):
    many = b"".join(pkt(f"{A} refs/heads/b{number}\n") for number in range(count)) + FLUSH
    limits = WireLimits(references=100)
    if is_allowed:
        assert len(await list_refs(Scripted(many), V2, ["refs/"], limits)) == count
    else:
        with pytest.raises(RemoteError, match="more than 100 references"):
            await list_refs(Scripted(many), V2, ["refs/"], limits)
        with pytest.raises(RemoteError, match="more than 100 references"):
            await greeted(SERVICE + many, references=100)


@pytest.mark.parametrize(
    "name",
    [
        b"refs/heads/../../x",
        b"refs/heads/a..b",
        b"refs/heads/HEAD.lock",
        b"refs/heads/a.lock/b",
        b"refs/heads/.a",
        b"refs/heads/a/",
        b"refs/heads//a",
        b"refs/heads/a.",
        b"refs/heads/a b",
        b"refs/heads/a\x1b[31m",
        b"refs/heads/a\nb",
        b"refs/heads/a\0b",
        b"refs/heads/a@{1}",
        b"refs/heads/a\\b",
        b"refs/heads/a*",
        b"refs/heads/\xff",
        b"refs/heads/" + b"x" * 5000,
        b"main",
    ],
)
async def test_A23_references_with_unusable_names_are_left_out(name):
    assert not is_usable_name(name)
    if b" " not in name:
        listed = Scripted(pkt(f"{A} ".encode() + name + b"\n", f"{B} refs/heads/ok\n") + FLUSH)
        assert await list_refs(listed, V2, ["refs/"], WireLimits()) == {"refs/heads/ok": Ref(B)}


@pytest.mark.parametrize("name", [b"HEAD", b"refs/heads/a-b_c/d.e", b"refs/pull/420/head", "refs/heads/ä".encode()])
def test_A23_ordinary_names_are_usable(name):
    assert is_usable_name(name)


@pytest.mark.parametrize("found", ["A" * 40, "a" * 39, "a" * 64, "g" * 40, ""])
async def test_a_hash_is_40_lower_case_hex_digits(found):
    with pytest.raises(RemoteError, match="not an object's hash"):
        await list_refs(Scripted(pkt(f"{found} refs/heads/main\n") + FLUSH), V2, ["refs/"], WireLimits())


async def test_A29_an_error_of_the_server_is_shown_without_escapes_and_cut():
    noisy = b"ERR \x1b[31mgo away" + b"!" * 60000
    for data in (SERVICE + pkt(noisy), pkt(noisy)):
        with pytest.raises(AskedInVainError) as caught:
            await greeted(data)
        assert caught.value.message.startswith("the server reports: [31mgo away!!!")
        assert len(caught.value.message) < 1100


async def test_A31_unknown_sections_and_forged_shallow_lines_are_errors():
    pack = pkt("packfile\n", b"\x01PACK") + FLUSH
    for before in (
        pkt("shallow-info\n", "shallow ../../etc\n") + DELIMITER,
        pkt("shallow-info\n", f"deepen {A}\n") + DELIMITER,
        pkt("surprise\n", "x\n") + DELIMITER,
        pkt("packfile-uris\n", f"{A} https://elsewhere/x\n") + DELIMITER,
        pkt("acknowledgments\n", "NAK\n") + DELIMITER,
    ):
        with pytest.raises(RemoteError, match="protocol error"):
            await fetch_pack(Scripted(before + pack), V2, PackRequest((A,)), Collected(), WireLimits())


async def test_a_pack_is_asked_for_without_history_and_read_without_progress():
    channel, sink = Scripted(b""), Collected()
    channel.answer = (
        pkt("shallow-info\n", f"shallow {A}\n")
        + DELIMITER
        + pkt("packfile\n", b"\x02counting", b"\x01PA", b"\x01", b"\x01CK")
        + FLUSH
    )
    await fetch_pack(channel, V2, PackRequest((A,), filter="tree:0"), sink, WireLimits())
    assert sink.data == b"PACK"
    for line in (b"deepen 1\n", f"want {A}\n".encode(), b"filter tree:0\n", b"no-progress\n", b"done\n"):
        assert line in channel.asked[0]


async def test_version_0_is_asked_for_the_same_in_its_own_words():
    server = Advertisement(0, {"side-band-64k": "", "shallow": "", "multi_ack": "", "agent": "x"}, {"HEAD": Ref(A)})
    channel, sink = Scripted(pkt(f"shallow {A}\n") + FLUSH + pkt("NAK\n", b"\x01PACK") + FLUSH), Collected()
    await fetch_pack(channel, server, PackRequest((A,)), sink, WireLimits())
    assert sink.data == b"PACK"
    assert channel.asked[0].startswith(pkt(f"want {A} side-band-64k multi_ack agent=git/gitopsd\n", "deepen 1\n"))
    with pytest.raises(AskedInVainError):
        await fetch_pack(channel, server, PackRequest((B,)), sink, WireLimits())
    with pytest.raises(RemoteError, match="no side-band"):
        await fetch_pack(channel, Advertisement(0, {}, {"HEAD": Ref(A)}), PackRequest((A,)), sink, WireLimits())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x03fatal: broken", AskedInVainError),
        (b"ERR not our ref", AskedInVainError),
        (b"\x07", RemoteError),
        (b"", RemoteError),
    ],
)
async def test_the_bands_of_a_pack_are_told_apart(data, error):
    with pytest.raises(error):
        answer = pkt("packfile\n", data) + FLUSH
        await fetch_pack(Scripted(answer), V2, PackRequest((A,), depth=0), Collected(), WireLimits())


async def test_A34_another_object_format_is_refused_by_name():
    with pytest.raises(RemoteError, match="object format 'sha256'"):
        await greeted(SERVICE + pkt("version 2\n", "ls-refs\n", "fetch\n", "object-format=sha256\n") + FLUSH)
    with pytest.raises(RemoteError, match="object format 'sha256'"):
        await greeted(SERVICE + pkt(f"{A} HEAD\0object-format=sha256\n") + FLUSH)


@given(st.binary(max_size=200))
async def test_whatever_a_server_says_is_read_or_refused(noise):
    for data in (noise, SERVICE + noise, SERVICE + GREETING + FLUSH + noise):
        try:
            await greeted(data)
        except RemoteError as error:
            seen = error.message
        else:
            seen = ""
        assert seen.isprintable()


async def test_s15_4_what_we_have_is_told_and_no_acknowledgment_waited_for():
    channel, sink = Scripted(pkt("packfile\n", b"\x01PACK") + FLUSH), Collected()
    await fetch_pack(channel, V2, PackRequest((A,), haves=(B, C)), sink, WireLimits())
    (asked,) = channel.asked
    lines = [line[4:] for line in asked.split(b"\n")]
    told = [b"want " + A.encode(), *(f"{word} {have}".encode() for word in ("shallow", "have") for have in (B, C))]
    assert [line for line in lines if line in told] == told
    assert b"thin-pack" in asked
    assert asked.endswith(b"0009done\n0000")
    await fetch_pack(channel, V2, PackRequest((A,)), sink, WireLimits())
    assert b"thin-pack" not in channel.asked[1]
    with pytest.raises(RemoteError, match="section 'acknowledgments' was not asked for"):
        data = pkt("acknowledgments\n", f"ACK {B}\n") + DELIMITER + pkt("packfile\n", b"\x01PACK") + FLUSH
        await fetch_pack(Scripted(data), V2, PackRequest((A,), haves=(B,)), sink, WireLimits())


@pytest.mark.parametrize(
    ("answer", "is_understood"),
    [
        ([f"ACK {B} common\n", f"ACK {C} common\n", f"ACK {C}\n"], True),
        ([f"ACK {B} continue\n", f"ACK {B}\n"], True),
        ([f"ACK {B}\n"], True),
        (["NAK\n"], True),
        ([f"ACK {B} common\n", "NAK\n"], True),
        (["ACK x\n"], False),
        ([f"ACK {B} surprise\n"], False),
        ([f"ACK {B} common\n", "shallow x\n"], False),
    ],
)
async def test_s15_4_version_0_acknowledges_what_it_knows_of_ours(answer, is_understood):
    server = Advertisement(0, {"side-band-64k": "", "shallow": "", "thin-pack": ""}, {"HEAD": Ref(A)})
    channel = Scripted(pkt(f"shallow {A}\n") + FLUSH + pkt(*answer, b"\x01PACK") + FLUSH)
    request = PackRequest((A,), haves=(B, C))
    if not is_understood:
        with pytest.raises(RemoteError, match="protocol error"):
            await fetch_pack(channel, server, request, Collected(), WireLimits())
        return
    sink = Collected()
    await fetch_pack(channel, server, request, sink, WireLimits())
    assert sink.data == b"PACK"
    assert b"thin-pack" in channel.asked[0]
    assert channel.asked[0].endswith(pkt(f"have {B}\n", f"have {C}\n", "done\n"))


async def test_a_server_without_our_haves_may_not_acknowledge_any():
    server = Advertisement(0, {"side-band-64k": "", "shallow": ""}, {"HEAD": Ref(A)})
    channel = Scripted(pkt(f"shallow {A}\n") + FLUSH + pkt(f"ACK {B}\n", b"\x01PACK") + FLUSH)
    with pytest.raises(RemoteError, match="no NAK"):
        await fetch_pack(channel, server, PackRequest((A,)), Collected(), WireLimits())
