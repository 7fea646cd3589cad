"""Ten thousand objects, of which one changes: what a daemon asks for, also after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiclient import Obj
from tests.conftest import CRDS
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.buckets.test_buckets_daemon import at_another, refetched, served
from tests.flows.stage import SOURCE_API, Stage
from tests.servers.buckets import LoopbackS3
from tests.servers.git import GitServer


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane on which no other daemon asks for anything."""
    with ControlPlane() as control_plane:
        control_plane.install_crds(CRDS)
        yield control_plane


@pytest.fixture
def counting() -> Iterator[LoopbackS3]:
    with LoopbackS3() as server:
        yield server


def test_s15_11_of_ten_thousand_objects_only_the_changed_one_is_downloaded_again_also_after_a_restart(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, counting: LoopbackS3, tmp_path: Path
) -> None:
    """One listing is ten pages, a look at the bucket, and one at its rules."""
    held = counting.bucket("bucket", {f"{number % 100:02d}/{number:05d}.yaml": f"{number}" for number in range(10_000)})
    # Not every etag is a digest: what came in parts is known from the listing before only.
    counting.etags["bucket", "00/00000.yaml"] = "0123456789abcdef0123456789abcdef-2"
    stage = Stage(control_plane, git_server, namespace)
    own = Daemon(control_plane.kubeconfig, storage=tmp_path)

    def run(revision: str) -> Obj:
        refetched(stage)
        return stage.until("Bucket", "app", at_another(revision), timeout=60)["status"]["artifact"]

    try:
        own.start()
        obj = {
            "apiVersion": SOURCE_API,
            "kind": "Bucket",
            "metadata": {"name": "app"},
            "spec": {"bucketName": "bucket", "endpoint": counting.host, "insecure": True, "interval": "10m"},
        }
        stage.api.apply(obj, namespace)
        first = stage.until_ready("Bucket", timeout=90)["status"]["artifact"]
        requests, downloaded = counting.counted()
        assert len(downloaded) == 10_000
        assert requests == 10_000 + 12

        refetched(stage)
        assert counting.counted() == (12, [])

        held["07/00007.yaml"] = b"changed"
        second = run(first["revision"])
        assert counting.counted() == (12 + 1, ["07/00007.yaml"])

        own.stop()
        held["08/00008.yaml"] = b"changed while nobody looked"
        counting.counted()
        own.start()
        third = stage.until("Bucket", "app", at_another(second["revision"]), timeout=60)["status"]["artifact"]
        requests, downloaded = counting.counted()
        assert sorted(downloaded) == ["00/00000.yaml", "08/00008.yaml"]
        assert requests == 12 + 2

        held["00/00000.yaml"] = b"in parts, again"
        counting.etags["bucket", "00/00000.yaml"] = "fedcba9876543210fedcba9876543210-2"
        fourth = run(third["revision"])
        assert counting.counted() == (12 + 1, ["00/00000.yaml"])
        assert served(fourth["url"]) == held
    finally:
        own.close()
