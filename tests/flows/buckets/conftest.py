"""Reading buckets of storages on loopback, without a cluster."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitopsd import metrics
from gitopsd.artifact.tree import FileTree
from gitopsd.fetch.bucket import BucketRequest, fetch, look
from gitopsd.fetch.bucketazure import AzureBucket, AzurePlace
from gitopsd.fetch.bucketclient import BucketClient
from gitopsd.fetch.bucketdownload import Before
from gitopsd.fetch.bucketgcs import GcsBucket
from gitopsd.fetch.bucketlisting import BucketIndex, Seen
from gitopsd.fetch.buckets3 import S3Bucket, S3Place
from gitopsd.fetch.cloud.identity import AwsKeys
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.http import Access, HttpClient
from tests.servers.buckets import ACCESS_KEY, SECRET_KEY, LoopbackAzure, LoopbackGcs, LoopbackS3, Storage

KEYS = AwsKeys(ACCESS_KEY, SECRET_KEY)
BUCKET = "bucket"


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def s3() -> Iterator[LoopbackS3]:
    with LoopbackS3(keys=(ACCESS_KEY, SECRET_KEY)) as server:
        yield server


@pytest.fixture
def gcs() -> Iterator[LoopbackGcs]:
    with LoopbackGcs() as server:
        server.token = "CNRY-google-token-0123456789"
        yield server


@pytest.fixture
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as server:
        yield server


@pytest.fixture(params=["s3", "gcs", "azure"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """Each of the three protocols."""
    found: Storage = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def web() -> AsyncIterator[HttpClient]:
    found = HttpClient()
    yield found
    await found.aclose()


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """No test leaves a task or an open file behind (spec/hostile-inputs.md 0, contract 4)."""
    gc.collect()
    yield
    for _ in range(200):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(asyncio.all_tasks()) - 1} tasks are left")


class Reader:
    """Reads one bucket as the daemon does, run after run."""

    def __init__(self, connect: Callable[[], Awaitable[BucketClient]], bucket: str = BUCKET, **options: Any) -> None:
        self.request = BucketRequest(bucket, connect, **{"timeout": 20.0, **options})
        self.index: BucketIndex | None = None
        self.tree: FileTree | None = None

    def asking(self, **changes: Any) -> Reader:
        """Another reader of the same bucket."""
        found = Reader(self.request.connect)
        found.request = replace(self.request, **changes)
        return found

    async def look(self) -> BucketIndex:
        return (await look(self.request)).index

    async def read(self, *, knows: bool = True) -> dict[str, bytes]:
        """Fetch; what came before is taken over, with what is known of it or without."""
        seen = await look(self.request)
        before = []
        if self.tree is not None and self.index is not None:
            before.append(Before(self.tree, Seen(self.index.fingerprints if knows else b"")))
        self.index, self.tree = await fetch(self.request, seen, before)
        return dict(self.tree)

    async def refusal(self) -> str:
        """The message of a run that fails with BucketOperationFailed."""
        with pytest.raises(FetchError) as caught:
            await self.read()
        assert caught.value.reason == "BucketOperationFailed", caught.value
        message = caught.value.message
        assert message.isprintable()
        assert len(message.encode()) <= 4096
        assert "CNRY" not in message
        return message


def connects(make: Callable[[], BucketClient]) -> Callable[[], Awaitable[BucketClient]]:
    async def connect() -> BucketClient:
        return make()

    return connect


def s3_client(
    web: HttpClient,
    endpoint: str,
    keys: AwsKeys | None = KEYS,
    *,
    insecure: bool = True,
    region: str = "",
    **access: Any,
) -> BucketClient:
    return S3Bucket(web, S3Place(endpoint, BUCKET, region, insecure), keys, Access(**access))


@pytest.fixture
def reader(storage: Storage, web: HttpClient) -> Reader:
    """A reader of whatever storage the test is about."""
    return reader_of(storage, web)


def reader_of(storage: Storage, web: HttpClient, **options: Any) -> Reader:
    def make() -> BucketClient:
        if isinstance(storage, LoopbackS3):
            return s3_client(web, storage.host)
        if isinstance(storage, LoopbackGcs):
            return GcsBucket(web, BUCKET, Access(f"Bearer {storage.token}"), endpoint=storage.url)
        return AzureBucket(web, AzurePlace(storage.url, BUCKET), Access())

    return Reader(connects(make), **options)


def refused_inputs(rule: str) -> float:
    """How often a rule refused an input so far."""
    return metrics.refused_inputs.labels("bucket", rule)._value.get()


def text_of(objects: Mapping[str, bytes]) -> dict[str, str]:
    return {path: content.decode() for path, content in objects.items()}
