"""The public trusted root, fetched with TUF from a repository that a test keeps on loopback."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from gitopsd.fetch.imagesignatures import VerifyError
from gitopsd.fetch.trustroot import PublicRoot, fetch_root
from tests.processes import free_port
from tests.servers.http import HttpServer
from tests.sigstore import Sigstore

CONTENT = Sigstore().trusted_root()


class Repository:
    """A TUF repository with one key for everything and one target."""

    def __init__(self, server: HttpServer, content: bytes = CONTENT, *, ends: timedelta = timedelta(days=1)) -> None:
        self.server = server
        self.signer = CryptoSigner.generate_ecdsa()
        self.ends = datetime.now(UTC).replace(microsecond=0) + ends
        root = Root(expires=datetime.now(UTC).replace(microsecond=0) + timedelta(days=9), consistent_snapshot=True)
        for role in ("root", "timestamp", "snapshot", "targets"):
            root.add_key(self.signer.public_key, role)
        self.first = self._put("1.root.json", root)
        self.publish(content)

    def publish(self, content: bytes, name: str = "trusted_root.json") -> None:
        target = TargetFile.from_data(name, content, ["sha256"])
        self._put("1.targets.json", Targets(expires=self.ends, targets={name: target}))
        self._put("1.snapshot.json", Snapshot(expires=self.ends, meta={"targets.json": MetaFile(1)}))
        self._put("timestamp.json", Timestamp(expires=self.ends, snapshot_meta=MetaFile(1)))
        self.server.serve({f"tuf/targets/{hashlib.sha256(content).hexdigest()}.{name}": content})

    def _put(self, name: str, signed: Root | Targets | Snapshot | Timestamp) -> bytes:
        metadata = Metadata(signed)
        metadata.sign(self.signer)
        raw = metadata.to_bytes()
        self.server.serve({f"tuf/{name}": raw})
        return raw

    def fetch(self) -> bytes:
        return fetch_root(f"{self.server.url}/tuf", self.first)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    with HttpServer() as server:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        yield server
        assert not [path for path in tmp_path.iterdir() if "tuf" in path.name]


def test_s11_1_the_root_is_fetched_with_tuf(server: HttpServer) -> None:
    assert Repository(server).fetch() == CONTENT


async def test_s11_1_the_public_root_comes_from_there(server: HttpServer) -> None:
    repository = Repository(server)
    public = PublicRoot(partial(fetch_root, f"{server.url}/tuf", repository.first))
    assert (await public.get()).authorities()


def refused(repository: Repository) -> str:
    with pytest.raises(VerifyError) as caught:
        repository.fetch()
    assert "127.0.0.1" not in caught.value.message
    return caught.value.message


def test_s11_1_what_somebody_else_signed_is_refused(server: HttpServer) -> None:
    repository = Repository(server)
    first = repository.first
    other = Repository(server)
    other.first = first
    assert refused(other) == "the trusted root of the public Sigstore cannot be fetched: UnsignedMetadataError"


def test_s11_1_an_old_repository_is_refused(server: HttpServer) -> None:
    assert refused(Repository(server, ends=-timedelta(hours=1))).endswith("ExpiredMetadataError")


def test_s11_1_a_tampered_root_is_refused(server: HttpServer) -> None:
    repository = Repository(server)
    name = f"tuf/targets/{hashlib.sha256(CONTENT).hexdigest()}.trusted_root.json"
    server.serve({name: CONTENT.replace(b"fulcio", b"evilco")})
    assert "cannot be fetched" in refused(repository)


def test_s11_1_a_repository_without_a_root_is_told(server: HttpServer) -> None:
    repository = Repository(server)
    repository.publish(CONTENT, "another.json")
    assert refused(repository) == "the public Sigstore offers no trusted root"


def test_s11_1_a_huge_root_is_not_read(server: HttpServer) -> None:
    assert refused(Repository(server, b" " * (2 << 20))) == "the public Sigstore offers no trusted root"


def test_s11_1_without_a_network_there_is_no_root(server: HttpServer) -> None:
    repository = Repository(server)
    server.files.clear()
    assert refused(repository).startswith("the trusted root of the public Sigstore cannot be fetched: ")
    with pytest.raises(VerifyError, match=r"the trusted root of the public Sigstore cannot be fetched: \w+$"):
        fetch_root(f"http://127.0.0.1:{free_port()}", repository.first)
