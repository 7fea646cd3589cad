"""What is listed, ignored, downloaded and not downloaded again, over each of the three protocols."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from gitopsd.fetch.bucketdownload import DownloadBounds
from gitopsd.fetch.errors import FetchError
from tests.flows.buckets.conftest import BUCKET, Reader, reader_of, text_of
from tests.servers import trouble
from tests.servers.buckets import LoopbackAzure, Storage, instead, is_listing
from tests.servers.loopback import Answer


async def test_s9_2_a_bucket_becomes_a_tree(storage: Storage, reader: Reader):
    storage.bucket(BUCKET, {"a.yaml": "a", "dir/b c+d.yaml": "b", "dir/é/ß#?&%.yaml": "c", "empty": "", "folder/": ""})
    assert text_of(await reader.read()) == {"a.yaml": "a", "dir/b c+d.yaml": "b", "dir/é/ß#?&%.yaml": "c", "empty": ""}
    assert len(await reader.look()) == 4


async def test_s9_2_pages_are_followed_to_the_end(storage: Storage, reader: Reader):
    storage.page_size = 7
    objects = {f"{number % 5}/{number:03d}": str(number) for number in range(50)}
    storage.bucket(BUCKET, objects)
    assert text_of(await reader.read()) == objects


async def test_s9_2_a_bucket_that_is_not_there(storage: Storage, reader: Reader):
    assert await reader.refusal() == "bucket 'bucket' not found"


async def test_s9_2_an_empty_bucket_has_an_artifact_too(storage: Storage, reader: Reader):
    storage.bucket(BUCKET)
    assert await reader.read() == {}
    assert (await reader.look()).revision("sha256") == f"sha256:{hashlib.sha256(b'').hexdigest()}"


async def test_s9_2_rules_are_those_of_the_root_then_those_of_the_spec_and_no_others(storage: Storage, reader: Reader):
    """No default list, no version control list; directory patterns cover what is below; the file itself is archived."""
    rules = "*.txt\nsecret/\n# comment\n"
    objects = {
        ".sourceignore": rules,
        "a.txt": "",
        "sub/b.txt": "",
        "secret/x.yaml": "",
        "in/secret/x": "",
        "k.yaml": "",
    }
    objects |= {"i.png": "", ".git/HEAD": "", ".github/w.yaml": "", ".sops.yaml": "", "sub/.sourceignore": "*"}
    storage.bucket(BUCKET, objects)
    kept = {"k.yaml", "i.png", ".git/HEAD", ".github/w.yaml", ".sops.yaml", "sub/.sourceignore"}
    assert set(await reader.read()) == kept | {".sourceignore"}
    assert set((await reader.look()).entries) == kept
    again = reader.asking(ignore="!*.txt\n/.git/\n")
    assert set((await again.look()).entries) == kept - {".git/HEAD"} | {"a.txt", "sub/b.txt"}


async def test_s9_2_the_prefix_is_the_servers_filter_and_the_rules_stay_those_of_the_root(
    storage: Storage, reader: Reader
):
    storage.bucket(
        BUCKET,
        {".sourceignore": "*.txt", "app/a": "a", "app/b.txt": "b", "app/.sourceignore": "a", "apple": "c", "z": ""},
    )
    found = await reader.asking(prefix="app/").read()
    assert text_of(found) == {".sourceignore": "*.txt", "app/a": "a", "app/.sourceignore": "a"}
    assert set((await reader.asking(prefix="app").look()).entries) == {"app/a", "app/.sourceignore", "apple"}
    asked = {seen.query for seen in storage.requests if "prefix=app/" in seen.query}
    assert asked


async def test_s9_2_only_keys_decide_the_rules_file_matters_through_them(storage: Storage, reader: Reader):
    held = storage.bucket(BUCKET, {".sourceignore": "*.txt", "a": "a", "b.txt": "b"})
    before = (await reader.look()).revision("sha256")
    held[".sourceignore"] = b"*.txt\n*.png\n"
    assert (await reader.look()).revision("sha256") == before
    held[".sourceignore"] = b""
    assert (await reader.look()).revision("sha256") != before


async def test_s15_11_only_what_changed_is_downloaded_again(storage: Storage, reader: Reader):
    held = storage.bucket(BUCKET, {f"dir-{number % 10}/{number}": f"content {number}" for number in range(200)})
    await reader.read()
    assert sorted(storage.counted()[1]) == sorted(held)
    held["dir-3/13"] = b"changed"
    held["new"] = b"new"
    del held["dir-4/14"]
    assert await reader.read() == held
    assert sorted(storage.counted()[1]) == ["dir-3/13", "new"]
    assert await reader.read() == held
    assert storage.counted()[1] == []


async def test_s15_11_after_a_restart_what_is_stored_is_known_by_its_digest(storage: Storage, reader: Reader):
    """Azure's listings prove nothing about the content: there all is downloaded once."""
    held = storage.bucket(BUCKET, {f"{number}": f"content {number}" for number in range(50)})
    storage.etags[BUCKET, "7"] = "0123456789abcdef0123456789abcdef-2"
    await reader.read()
    storage.counted()
    held["3"] = b"changed 3, and longer"
    held["4"] = b"Content 4"
    assert await reader.read(knows=False) == held
    everything, changed = sorted(held), ["3", "4", "7"]
    downloaded = sorted(storage.counted()[1])
    # Google tells the digest of the content whatever the etag is.
    assert downloaded in (everything if isinstance(storage, LoopbackAzure) else changed, ["3", "4"])


async def test_s15_11_azure_etags_have_one_form(azure: LoopbackAzure, web):
    """Listings give them bare, downloads in quotes (section 16, 1.9.6)."""
    azure.bucket(BUCKET, {"a": "a"})
    azure.etags[BUCKET, "a"] = "0x8DC0FFEE"
    reader = reader_of(azure, web)
    await reader.read()
    index = await reader.look()
    assert index.entries["a"].etag == '"0x8DC0FFEE"'
    line = b'a "0x8DC0FFEE"\n'
    assert index.revision("sha256") == f"sha256:{hashlib.sha256(line).hexdigest()}"
    assert azure.requests[-2].headers.get("If-Match") is None
    assert any(seen.headers.get("If-Match") == '"0x8DC0FFEE"' for seen in azure.requests)


@pytest.mark.parametrize("missing", ["Etag", "Content-Length", "BlobType", ""])
async def test_s16_1_9_4_azure_listings_may_leave_optional_fields_out(azure: LoopbackAzure, web, missing: str):
    azure.bucket(BUCKET, {"a": "content", "b": "x" * 100_000})
    azure.left_out = lambda name: name == missing
    assert {path: len(content) for path, content in (await reader_of(azure, web).read()).items()} == {
        "a": 7,
        "b": 100_000,
    }


async def test_downloads_run_side_by_side_within_the_bound(storage: Storage, web):
    storage.bucket(BUCKET, {f"{number:02d}": str(number) for number in range(40)})
    running, most = 0, 0

    async def count(request, ask):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return await ask()

    with storage.behave(lambda request: not is_listing(request) and request.path[-2:].isdigit(), count):
        assert len(await reader_of(storage, web, bounds=DownloadBounds(parallel=8)).read()) == 40
    assert most == 8


async def test_large_objects_are_streamed_in_their_turn(storage: Storage, web):
    objects = {"a": b"small", "b/large": bytes(range(256)) * 4000, "b/z": b"small", "c": b"y" * 50_000}
    storage.bucket(BUCKET, objects)
    bounds = DownloadBounds(parallel=4, ahead_bytes=10_000, large=40_000)
    assert await reader_of(storage, web, bounds=bounds).read() == objects


async def test_a_download_that_breaks_goes_on_where_it_stopped(storage: Storage, web):
    content = bytes(range(256)) * 2000
    storage.bucket(BUCKET, {"a": b"1", "large": content})

    async def half(request, ask):
        answer = await ask()
        start = len(content) - len(await answer.read())
        return Answer(
            answer.status, {**answer.headers, "Content-Length": str(len(content) - start)}, answer.body[:200_000], "fin"
        )

    for large in (1 << 20, 1000):
        with storage.behave(lambda request: request.path.endswith("large"), half, times=2):
            found = await reader_of(storage, web, bounds=DownloadBounds(large=large)).read()
        assert found["large"] == content
    assert [seen.headers.get("Range") for seen in storage.requests if seen.path.endswith("large")][:3] == [
        None,
        "bytes=200000-",
        "bytes=400000-",
    ]


async def test_a_storage_that_is_busy_is_asked_again(storage: Storage, reader: Reader):
    storage.bucket(BUCKET, {"a": "1"})
    for status in (429, 500, 502, 503, 504):
        with storage.behave("*", trouble.say(status), times=1):
            assert await reader.asking().read() == {"a": b"1"}
    with storage.behave(lambda request: request.path.endswith("/a"), trouble.reset(), times=1):
        assert await reader.asking().read() == {"a": b"1"}


async def test_a_storage_that_stays_busy_fails(storage: Storage, reader: Reader):
    storage.bucket(BUCKET, {"a": "1"})
    with instead(storage, "*", storage.fault(503, "SlowDown", "Please reduce your request rate.")):
        assert await reader.refusal() == (
            "failed to confirm existence of 'bucket' bucket: SlowDown: Please reduce your request rate. (status 503)"
        )


async def test_nothing_goes_on_after_a_cancellation(storage: Storage, reader: Reader):
    storage.bucket(BUCKET, {f"{number}": "x" for number in range(20)})
    with storage.behave(lambda request: request.path[-1].isdigit(), trouble.never()):
        run = asyncio.ensure_future(reader.read())
        await asyncio.to_thread(storage.wait_for, lambda seen: len(seen) >= 23)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        before = len(storage.requests)
        await asyncio.sleep(0.05)
    assert len(storage.requests) == before


async def test_the_time_limit_holds_for_looking_and_again_for_fetching(storage: Storage, reader: Reader):
    storage.bucket(BUCKET, {"a": "1"})
    quick = reader.asking(timeout=0.3)
    with storage.behave("*", trouble.never()), pytest.raises(FetchError) as caught:
        await quick.read()
    assert caught.value.message == "failed to confirm existence of 'bucket' bucket: no answer within 0.3s"
    with storage.behave(is_listing, trouble.late(0.2)), storage.behave(_is_object, trouble.late(0.2)):
        assert await reader.asking(timeout=0.9).read() == {"a": b"1"}
    with storage.behave(_is_object, trouble.never()), pytest.raises(FetchError) as caught:
        await quick.read()
    assert caught.value.message == "fetch from bucket 'bucket' failed: no answer within 0.3s"


def _is_object(request) -> bool:
    return request.path.endswith("/a")
