"""Keys that climb, listings that lie, objects that change, errors that tell too much (hostile-inputs.md I)."""

from __future__ import annotations

import re

import pytest

from gitopsd.artifact.tree import TreeLimits
from gitopsd.fetch.bucketazure import AzureBucket, AzurePlace
from gitopsd.fetch.bucketdownload import DownloadBounds
from gitopsd.fetch.bucketlisting import object_path
from gitopsd.fetch.buckets3 import S3Place
from gitopsd.fetch.bucketsts import ldap_keys
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import Access
from tests.flows.buckets.conftest import BUCKET, Reader, connects, reader_of, refused_inputs, s3_client
from tests.servers import trouble
from tests.servers.buckets import LoopbackAzure, LoopbackS3, Storage, instead, is_listing, s3_page
from tests.servers.loopback import Answer

# Keys


@pytest.mark.parametrize(
    "key", ["../../x", "a/../../b", "a/..", "..", "/../x", "a\0b", "x" * 300, "d/" * 127 + "d/x", "/", "."]
)
async def test_I01_keys_without_a_place_in_the_artifact_are_refused(s3: LoopbackS3, web, key: str):
    """A key that ends in a slash is none of them: it is skipped."""
    s3.bucket(BUCKET, {"good": "1"})
    reader = reader_of(s3, web)
    with instead(s3, is_listing, s3_page([("good", "e1", 1), (key, "e2", 1)])):
        if key == "/":
            assert set((await reader.look()).entries) == {"good"}
            return
        message = await reader.refusal()
    assert message.startswith("indexation of objects from bucket 'bucket' failed: ")
    assert s3.gets == []


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("/etc/x", "etc/x"),
        ("a//b", "a/b"),
        ("./a/./b", "a/b"),
        (".git/x", ".git/x"),
        ("/".join(["k" * 204] * 5), "/".join(["k" * 204] * 5)),
        ("C:\\x", "C:\\x"),
        ("%2e%2e/x", "%2e%2e/x"),
        ("..x/y..", "..x/y.."),
    ],
)
async def test_I01_other_odd_keys_have_a_path_inside(storage: Storage, reader: Reader, key: str, path: str):
    storage.bucket(BUCKET, {key: "content"})
    assert await reader.read() == {path: b"content"}
    assert object_path(key) == path


async def test_I01_a_key_that_ends_in_a_slash_is_skipped(storage: Storage, reader: Reader):
    storage.bucket(BUCKET, {"a/": "x", "a/b": "1", "c//": "y"})
    assert await reader.read() == {"a/b": b"1"}


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ({"a": "1", "a/b": "2"}, "fetch from bucket 'bucket' failed: 'a' is both a file and a directory"),
        (
            {"a//b": "1", "a/b": "2"},
            "indexation of objects from bucket 'bucket' failed: objects 'a//b' and 'a/b' would be one file",
        ),
        (
            {"/x": "1", "x": "2"},
            "indexation of objects from bucket 'bucket' failed: objects '/x' and 'x' would be one file",
        ),
    ],
)
async def test_I02_keys_that_exclude_each_other_are_an_error(storage: Storage, reader: Reader, objects, says):
    storage.bucket(BUCKET, objects)
    assert await reader.refusal() == says
    assert storage.gets in ([], [".sourceignore"])


# Listings

_BOMB = "<!DOCTYPE x [" + "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9)) + "]>"


def _xml(body: str, root: str = "ListBucketResult") -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>{body}'
    return Answer(200, {"Content-Type": "application/xml"}, text.replace("ROOT", root).encode())


@pytest.mark.parametrize(
    ("answer", "rule", "says"),
    [
        (_xml(f"{_BOMB}<ROOT><Name>&e9;</Name></ROOT>"), "xml-doctype", "declares a document type"),
        (_xml('<!DOCTYPE a SYSTEM "file:///etc/passwd"><ROOT/>'), "xml-doctype", "declares a document type"),
        (_xml("<ROOT>" + "<a>" * 100 + "</a>" * 100 + "</ROOT>"), "xml-depth", "nested deeper than 16"),
        (_xml("<ROOT><Contents><Key>a</Key>"), "xml", "no element found"),
        (_xml("<ROOT>&undefined;</ROOT>"), "xml", "undefined entity"),
        (Answer(200, {}, b""), "xml", "no element found"),
        (Answer(200, {"Content-Type": "text/html"}, b"<html><body>sign in</body></html>"), "listing", "but a 'html'"),
        (_xml("<ROOT><IsTruncated>true</IsTruncated></ROOT>"), "listing", "is cut off"),
        (_xml("<ROOT><Contents><ETag>x</ETag></Contents></ROOT>"), "listing", "without its key"),
        (s3_page([("a", "e", 1)], "same"), "listing", "goes round in circles"),
    ],
    ids=["bomb", "external", "deep", "cut", "entity", "empty", "html", "no-token", "no-key", "same-token"],
)
async def test_I03_a_listing_that_lies_is_refused_and_never_taken_for_an_empty_one(
    s3: LoopbackS3, web, answer, rule, says
):
    s3.bucket(BUCKET, {"a": "1"})
    before = refused_inputs(rule)
    with instead(s3, is_listing, answer):
        message = await reader_of(s3, web).refusal()
    assert says in message
    assert message.startswith("indexation of objects from bucket 'bucket' failed: ")
    assert refused_inputs(rule) == before + 1
    assert s3.gets == []


async def test_I03_pages_without_end_and_without_objects_are_refused(s3: LoopbackS3, web):
    s3.bucket(BUCKET)
    count = 0

    async def next_page(request, ask):
        nonlocal count
        count += 1
        return s3_page([], f"token-{count}")

    with s3.behave(is_listing, next_page):
        message = await reader_of(s3, web).refusal()
    assert message.endswith("the listing has 1000 pages in a row without an object")
    assert count == 1000


async def test_I03_a_page_without_end_is_cut(s3: LoopbackS3, web):
    s3.bucket(BUCKET)

    async def endless():
        yield b"<ListBucketResult>"
        while True:
            yield b" " * (1 << 20)

    async def rule(request, ask):
        return Answer(200, {}, endless())

    with s3.behave(is_listing, rule):
        assert "the listing is larger than 33554432 bytes" in await reader_of(s3, web).refusal()


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (TreeLimits(files=4), ""),
        (TreeLimits(files=3), "the bucket holds more than 3 objects"),
        (TreeLimits(content=40), ""),
        (TreeLimits(content=39), "the objects hold more than 39 bytes"),
    ],
)
async def test_I03_objects_and_their_bytes_are_bounded_before_anything_is_downloaded(
    storage: Storage, web, limits: TreeLimits, says: str
):
    storage.bucket(BUCKET, {f"{number}": b"x" * 10 for number in range(4)})
    reader = reader_of(storage, web, limits=limits)
    if says:
        assert says in await reader.refusal()
        assert storage.gets == []
    else:
        assert len(await reader.read()) == 4


# Objects that change


def _is_object(request) -> bool:
    return request.path.endswith("/m")


@pytest.mark.parametrize("what", ["changes", "vanishes"])
async def test_I04_a_bucket_that_changes_meanwhile_is_listed_once_more(storage: Storage, reader: Reader, what: str):
    held = storage.bucket(BUCKET, {"a": "1", "m": "old", "z": "3"})

    async def change(request, ask):
        if what == "changes":
            held["m"] = b"newer"
        else:
            del held["m"]
        return await ask()

    with storage.behave(_is_object, change, times=1):
        found = await reader.read()
    assert found == held
    assert reader.index is not None
    assert {entry.key for entry in reader.index.entries.values()} == set(held)


async def test_I04_what_had_come_before_the_change_is_not_downloaded_again(storage: Storage, web):
    held = storage.bucket(BUCKET, {f"{number:03d}": f"{number}" for number in range(300)} | {"m": "old"})

    async def change(request, ask):
        held["m"] = b"new"
        return await ask()

    with storage.behave(_is_object, change, times=1):
        assert await reader_of(storage, web).read() == held
    again = [key for key in set(storage.gets) if storage.gets.count(key) > 1]
    assert len(again) < 100


@pytest.mark.parametrize("what", ["changes", "vanishes", "shorter", "longer"])
async def test_I04_a_bucket_that_does_not_come_to_rest_fails(storage: Storage, reader: Reader, what: str):
    held = storage.bucket(BUCKET, {"a": "1", "m": "old", "z": "3"})
    await reader.read()
    count = 0

    async def change(request, ask):
        nonlocal count
        count += 1
        if what == "changes":
            held["m"] = f"new {count}".encode()
        elif what == "vanishes":
            return storage.fault(404, "NoSuchKey", "The specified key does not exist.")
        else:
            return Answer(200, {}, b"ol" if what == "shorter" else b"oldest")
        return await ask()

    held["m"] = b"eld"
    with storage.behave(_is_object, change):
        message = await reader.refusal()
    assert message.startswith("fetch from bucket 'bucket' failed: failed to get 'm' object: ")
    expected = {
        "changes": "PreconditionFailed",
        "vanishes": "NoSuchKey",
        "shorter": "it has 2 bytes, the listing says 3",
        "longer": "it has 6 bytes, the listing says 3",
    }
    assert expected[what] in message
    assert count == 2
    assert await reader.read() == held


async def test_I04_a_content_length_that_is_not_kept(storage: Storage, reader: Reader):
    storage.bucket(BUCKET, {"a": "1", "m": "content"})

    async def short(request, ask):
        return Answer(200, {"Content-Length": "7"}, b"con", "fin")

    with storage.behave(_is_object, short, times=1):
        assert await reader.asking().read() == {"a": b"1", "m": b"content"}
    with storage.behave(_is_object, short):
        message = await reader.refusal()
    assert "failed to get 'm' object: the server ended the conversation early" in message


# Endpoints


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://s3.example.com",
        "s3.example.com/path",
        "s3.example.com:port",
        "user:pw@s3.example.com",
        "",
        "a b",
        "[::1",
    ],
)
def test_I05_an_endpoint_is_a_host_and_perhaps_a_port(endpoint: str):
    with pytest.raises(ValueError, match="is not a host, or a host and a port") as caught:
        S3Place(endpoint, BUCKET)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["account.blob.core.windows.net", "ftp://a.b.c", "https://", "https://[::1"])
def test_I05_azures_endpoint_is_an_address(endpoint: str):
    with pytest.raises(ValueError, match=r"^endpoint '"):
        AzurePlace(endpoint, BUCKET)


def test_I05_an_address_of_the_machine_is_the_operators_choice():
    assert S3Place("169.254.169.254", BUCKET, insecure=True).url("k") == "http://169.254.169.254/bucket/k"


async def test_I05_https_is_spoken_unless_the_spec_says_insecure(s3: LoopbackS3, web):
    s3.bucket(BUCKET, {"a": "1"})
    reader = Reader(connects(lambda: s3_client(web, s3.host, insecure=False)))
    assert "failed to confirm existence of 'bucket' bucket: cannot talk to 127.0.0.1:" in await reader.refusal()
    assert s3.requests == []


async def test_I05_a_redirect_is_not_followed(s3: LoopbackS3, web, azure: LoopbackAzure):
    s3.bucket(BUCKET, {"a": "1"})
    azure.bucket(BUCKET, {"a": "1"})
    with s3.behave("*", trouble.redirect(f"{azure.url}/bucket/a")):
        assert "status 30" in await reader_of(s3, web).refusal() or "answered 30" in await reader_of(s3, web).refusal()
    assert azure.requests == []


# Texts


@pytest.mark.parametrize("where", ["message", "connection"])
async def test_I06_queries_of_addresses_are_in_no_message(storage: Storage, reader: Reader, where: str):
    storage.bucket(BUCKET, {"m": "1"})
    signed = "https://storage.example.com/b/m?X-Amz-Signature=CNRY0123&sig=CNRY4567 and 'http://x/y?sig=CNRY'."
    with storage.behave(_is_object, _echo(storage, signed)):
        message = await reader.refusal()
    assert "https://storage.example.com/b/m" in message
    assert "?" not in message
    assert "'http://x/y'." in message


def _echo(storage: Storage, text: str):
    async def rule(request, ask):
        return storage.fault(400, "InvalidRequest", text)

    return rule


async def test_I06_a_signature_in_azures_address_is_in_no_message(azure: LoopbackAzure, web):
    azure.sas = {"sv": "2022-11-02", "sig": "CNRY/sas+signature="}
    azure.bucket(BUCKET, {"m": "1"})
    query = "?sv=2022-11-02&sig=CNRY%2Fsas%2Bsignature%3D"
    place = AzurePlace(f"{azure.url}?sv=old&x=y", BUCKET, query)
    reader = Reader(connects(lambda: AzureBucket(web, place, Access())))
    assert await reader.read() == {"m": b"1"}
    with azure.behave(
        "*", _echo(azure, f"bad {azure.url}/bucket{query}, CNRY/sas+signature= and CNRY%2Fsas%2Bsignature%3D")
    ):
        message = await reader.refusal()
    assert "InvalidRequest: bad " in message
    assert "and ***" in message
    azure.refuse()
    assert "sig" not in await reader.refusal()


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (403, "RequestTimeTooSkewed"), (403, "InvalidAccessKeyId"), (500, "InternalError")],
)
async def test_I07_the_storages_own_code_is_told(storage: Storage, reader: Reader, status: int, code: str):
    storage.bucket(BUCKET, {"m": "1"})
    with instead(storage, "*", storage.fault(status, code, "as the provider says it")):
        message = await reader.refusal()
    expected = f"{code}: as the provider says it (status {status})"
    assert message == f"failed to confirm existence of 'bucket' bucket: {expected}"
    with instead(storage, _is_object, storage.fault(status, code, "as the provider says it")):
        message = await reader.refusal()
    assert message == f"fetch from bucket 'bucket' failed: failed to get 'm' object: {expected}"
    with instead(storage, _is_later_listing(), storage.fault(status, code, "as the provider says it")):
        message = await reader.refusal()
    assert message.endswith(expected)


def _is_later_listing():
    """Listings but the first, which with Azure is the question whether the container exists."""

    def matches(request) -> bool:
        return is_listing(request) and request.query.get("maxresults") != "1"

    return matches


async def test_I07_wrong_keys_and_a_signature_that_is_refused(s3: LoopbackS3, web):
    s3.bucket(BUCKET, {"m": "1"})
    s3.keys = ("AKIAOTHER", "other")
    assert re.search(r"SignatureDoesNotMatch: .* \(status 403\)", await reader_of(s3, web).refusal())


@pytest.mark.parametrize("answer", [Answer(403, {}, b"<html>no</html>"), Answer(403, {}, b"\xff\xfe\x00"), Answer(403)])
async def test_I07_a_refusal_that_cannot_be_read_is_told_by_its_status(
    storage: Storage, reader: Reader, answer: Answer
):
    storage.bucket(BUCKET, {"m": "1"})
    with instead(storage, "*", answer):
        assert (await reader.refusal()).endswith("the storage answered 403")


# Token services

_STS = (
    '<AssumeRoleWithLDAPIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
    "<AssumeRoleWithLDAPIdentityResult><Credentials><AccessKeyId>ID</AccessKeyId><SecretAccessKey>KEY</SecretAccessKey>"
    "<Expiration>2027-01-01T00:00:00Z</Expiration><SessionToken>TOKEN</SessionToken></Credentials>"
    "</AssumeRoleWithLDAPIdentityResult></AssumeRoleWithLDAPIdentityResponse>"
)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_xml(_BOMB + _STS), "declares a document type"),
        (
            Answer(200, {}, b"<a>" + b" " * (10 << 20) + b"</a>"),
            "the token service's answer is larger than 1048576 bytes",
        ),
        (Answer(200, {}, b"<a/>"), "its answer holds no keys"),
        (Answer(200, {}, b"nothing"), "is no XML"),
        (Answer(200, {}, _STS.replace("ID", "I\nD").encode()), "keys that cannot be used"),
        (
            Answer(
                400,
                {},
                b"<ErrorResponse><Error><Type/><Code>InvalidParameterValue</Code><Message>LDAP server error: CNRY-pw"
                b"</Message></Error></ErrorResponse>",
            ),
            "the STS endpoint refused (status 400): InvalidParameterValue: LDAP server error: ***",
        ),
        (Answer(500, {}, b"x"), "the STS endpoint refused (status 500): no reason given"),
        (Answer(302, {"Location": "http://127.0.0.1:1/"}), "the STS endpoint refused (status 302)"),
    ],
    ids=["bomb", "10MiB", "no-keys", "no-xml", "bad-keys", "refusal", "500", "redirect"],
)
async def test_I09_what_a_token_service_answers_is_bounded_and_checked(s3: LoopbackS3, web, answer: Answer, says: str):
    with instead(s3, "*", answer), pytest.raises(RemoteError) as caught:
        await ldap_keys(web, f"{s3.url}/sts", "user", "CNRY-pw", Access())
    assert says in caught.value.message
    assert "CNRY" not in caught.value.message


async def test_s11_1_ldap_login_is_exchanged_for_keys(s3: LoopbackS3, web):
    with instead(s3, "/sts", Answer(200, {}, _STS.encode())):
        keys = await ldap_keys(web, f"{s3.url}/sts?x=1", "us er", "pass&word", Access())
    assert (keys.access_key, keys.secret_key, keys.session_token) == ("ID", "KEY", "TOKEN")
    asked = s3.requests[-1]
    assert (asked.method, asked.query) == ("POST", "x=1")
    assert asked.body == (
        b"Action=AssumeRoleWithLDAPIdentity&Version=2011-06-15&LDAPUsername=us+er&LDAPPassword=pass%26word"
    )


# Corruption


def _corrupting(which: set[int]):
    """Every object whose turn is in `which` comes with a byte changed; turns are counted over all objects."""
    turn = 0

    async def rule(request, ask):
        nonlocal turn
        answer = await ask()
        turn += 1
        if turn in which and answer.status == 200:
            body = bytearray(await answer.read())
            body[turn % len(body)] ^= 0x20
            return Answer(200, answer.headers, bytes(body))
        return answer

    return rule


@pytest.mark.parametrize("large", [1 << 20, 1000], ids=["small", "streamed"])
@pytest.mark.parametrize("name", ["s3", "gcs"])
async def test_T23_corrupted_bytes_are_never_taken(request, web, name: str, large: int):
    storage: Storage = request.getfixturevalue(name)
    held = storage.bucket(BUCKET, {"m": bytes(range(256)) * 10})
    reader = reader_of(storage, web, bounds=DownloadBounds(large=large))
    before = refused_inputs("digest")
    with storage.behave(_is_object, _corrupting({1, 2})):
        message = await reader.refusal()
    assert message.endswith("its content does not have the digest that the listing tells, and is another each time")
    with storage.behave(_is_object, _corrupting({1})):
        if large == 1000:  # it has been laid down already: the next run brings it
            assert "another each time" in await reader.refusal()
        else:
            assert await reader.read() == held
    assert refused_inputs("digest") > before
    assert await reader.read() == held


@pytest.mark.parametrize("large", [1 << 20, 1000], ids=["small", "streamed"])
async def test_T23_an_etag_that_looks_like_a_digest_and_is_none_does_no_harm(s3: LoopbackS3, web, large: int):
    """Encryption makes such; each run finds out once."""
    held = s3.bucket(BUCKET, {f"{number:02d}": b"x" * 2000 for number in range(20)})
    for key in held:
        s3.etags[BUCKET, key] = f"{int(key):032x}"
    reader = reader_of(s3, web, bounds=DownloadBounds(parallel=1, large=large))
    assert await reader.read() == held
    assert len(s3.counted()[1]) in {21, 22}
