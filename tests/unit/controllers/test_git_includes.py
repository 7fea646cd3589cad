"""`spec.include` of GitRepositories: spec/source.md 5.5, spec/hostile-inputs.md A40."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gitopsd.controllers.source import SourceFollower
from gitopsd.controllers.source_references import has_included
from gitopsd.errors import RetryError, WaitError
from gitopsd.runtime.controller import Result
from gitopsd.tasks import offload
from tests.signing import commit_object
from tests.unit.controllers.gitbench import Bench, key


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench.opened(tmp_path) as bench:
        yield bench


def include(name="lib", **more):
    return {"repository": {"name": name}, **more}


async def store(bench, name, files, message="lib"):
    """Give an object an artifact of its own."""
    own = bench.remote.commit, bench.remote.files
    bench.remote.commit, bench.remote.files = commit_object(message), files
    bench.apply(name)
    await bench.good(name)
    bench.remote.commit, bench.remote.files = own


async def waits(bench, reason, *, event=True):
    outcome = await bench.run()
    assert type(outcome) is WaitError
    status, shown, message = bench.condition("IncludeUnavailable")
    assert (status, shown) == ("True", reason)
    assert bench.condition("Ready") == ("False", reason, message)
    assert bench.condition("Reconciling")[:2] == ("True", "ProgressingWithRetry")
    assert bench.events == ([("Trace", reason, message)] if event else [])
    assert bench.remote.asked == []
    return message, outcome.again_in


async def fails(bench, reason):
    before = bench.status().get("artifact")
    outcome = await bench.run()
    assert type(outcome) is RetryError
    status, shown, message = bench.condition("StorageOperationFailed")
    assert (status, shown) == ("True", reason)
    assert bench.condition("Ready") == ("False", reason, message)
    assert bench.events == [("Warning", reason, message)]
    assert bench.status().get("artifact") == before
    return message


# -- what is merged ----------------------------------------------------------------------------------------------------


async def test_s5_5_includes_are_laid_over_the_own_files_in_their_order(bench):
    await store(bench, "lib", {"base/l.yaml": b"l", "a.yaml": b"of lib"})
    await store(bench, "more", {"base/l.yaml": b"more"}, "more")
    bench.apply(
        include=[include(), include("more", fromPath="base", toPath="lib/base"), include(toPath="/", fromPath="./base")]
    )
    await bench.good()
    assert await bench.files() == {
        "a.yaml": b"a: 1\n",
        "l.yaml": b"l",
        "lib/a.yaml": b"of lib",
        "lib/base/l.yaml": b"more",
    }


async def test_s5_5_the_status_tells_what_went_in(bench):
    await store(bench, "lib", {"l.yaml": b"l"})
    bench.apply(include=[include(), include(toPath="other")])
    await bench.good()
    status = bench.status()
    assert status["includedArtifacts"] == [bench.status("lib")["artifact"]] * 2
    assert status["observedInclude"] == [include(), include(toPath="other")]
    bench.apply(include=None)
    await bench.good()
    assert "includedArtifacts" not in bench.status()
    assert "observedInclude" not in bench.status()
    assert await bench.files() == {"a.yaml": b"a: 1\n"}


async def test_s5_5_ignore_rules_apply_to_the_whole(bench):
    await store(bench, "lib", {"l.yaml": b"l", "l.txt": b"l", "sub/x": b"x"})
    bench.remote.files = {"a.yaml": b"a", "a.txt": b"a", ".sourceignore": b"*.txt\n/lib/sub/\n"}
    bench.apply(include=[include()])
    await bench.good()
    assert set(await bench.files()) == {".sourceignore", "a.yaml", "lib/l.yaml"}
    assert not bench.remote.requests[0].leave_out
    bench.apply(include=None)
    await bench.good()
    assert bench.remote.requests[0].leave_out


# -- what is not there -------------------------------------------------------------------------------------------------


async def test_s5_5_A40_a_repository_that_is_not_there_is_waited_for(bench):
    bench.apply(include=[include()])
    message, pause = await waits(bench, "NotFound")
    assert message.startswith("could not get resource for include 'lib': ")
    assert pause == 30.0


async def test_s5_5_A40_a_repository_without_artifact_is_waited_for(bench):
    bench.apply("lib")
    bench.apply(include=[include()])
    assert await waits(bench, "NoArtifact") == ("no artifact available for include 'lib'", 30.0)
    await store(bench, "lib", {"l.yaml": b"l"})
    await bench.good()
    assert bench.condition("IncludeUnavailable") is None
    assert bench.events[0][:2] == ("Normal", "NewArtifact")


async def test_s5_5_the_pause_is_that_of_the_flag(tmp_path):
    async with Bench.opened(tmp_path, "--requeue-dependency=7s") as bench:
        bench.apply(include=[include()])
        assert (await waits(bench, "NotFound"))[1] == 7.0


async def test_s5_5_whether_the_other_one_is_ready_does_not_matter(bench):
    await store(bench, "lib", {"l.yaml": b"l"})
    from gitopsd.fetch.errors import FetchError

    bench.remote.failure = FetchError("GitOperationFailed", "gone")
    await bench.run("lib")
    assert bench.condition("Ready", "lib")[0] == "False"
    bench.remote.failure = None
    bench.apply(include=[include()])
    await bench.good()


async def test_s2_6_an_end_of_waiting_without_anything_new_is_told_as_a_recovery(bench):
    await store(bench, "lib", {"l.yaml": b"l"})
    bench.apply(include=[include()])
    await bench.good()
    gone = bench.cache.get(key("lib"))
    bench.cache.drop(key("lib"))
    await waits(bench, "NotFound")
    bench.api.put(copy.deepcopy(gone))
    await bench.good()
    assert [event[:2] for event in bench.events] == [("Normal", "Succeeded")]


async def test_s5_5_news_are_known_before_the_cache_has_them(bench):
    """The other one's announcement comes ahead of the way over the API server."""
    await store(bench, "lib", {"l.yaml": b"1"})
    stale = copy.deepcopy(bench.cache.get(key("lib")))
    await store(bench, "lib", {"l.yaml": b"2"}, "second")
    bench.api.put(stale)
    bench.apply(include=[include()])
    await bench.good()
    assert (await bench.files())["lib/l.yaml"] == b"2"


async def test_s5_5_after_a_restart_what_is_in_the_storage_is_taken(bench, tmp_path):
    await store(bench, "lib", {"l.yaml": b"l"})
    bench.apply(include=[include()])
    await bench.good()
    async with Bench.opened(tmp_path) as restarted:
        for name in ("lib", "app"):
            restarted.api.put(copy.deepcopy(bench.cache.get(key(name))))
        restarted.remote.commit = bench.remote.commit
        await restarted.good()
        assert restarted.remote.asked == ["resolve"]


async def test_s5_5_what_was_lost_is_waited_for_and_its_return_is_noticed(bench, tmp_path):
    await store(bench, "lib", {"l.yaml": b"l"})
    bench.apply(include=[include()])
    await bench.good()
    revision = bench.status("lib")["artifact"]["revision"]
    async with Bench.opened(tmp_path) as restarted:
        await offload(lambda: [path.unlink() for path in tmp_path.rglob("*.tar.gz")])
        for name in ("lib", "app"):
            restarted.api.put(copy.deepcopy(bench.cache.get(key(name))))
        follower = SourceFollower(restarted.parts, has_included)
        assert follower.has_attempted(key("app"), revision)
        assert await waits(restarted, "NoArtifact") == ("no artifact available for include 'lib'", 5.0)
        assert not follower.has_attempted(key("app"), revision)
        await store(restarted, "lib", {"l.yaml": b"l"})
        await restarted.good()
        assert follower.has_attempted(key("app"), revision)


# -- what changed ------------------------------------------------------------------------------------------------------


async def test_s5_4_s5_5_another_revision_of_an_include_makes_a_new_artifact(bench):
    await store(bench, "lib", {"l.yaml": b"1"})
    bench.apply(include=[include()])
    await bench.good()
    first = bench.status()
    await bench.good()
    assert bench.remote.asked == ["resolve"]
    await store(bench, "lib", {"l.yaml": b"2"}, "second")
    await bench.good()
    second = bench.status()
    assert second["artifact"]["revision"] == first["artifact"]["revision"]
    assert second["artifact"]["digest"] != first["artifact"]["digest"]
    assert second["includedArtifacts"] == [bench.status("lib")["artifact"]]
    assert [event[:2] for event in bench.events] == [("Normal", "NewArtifact")]


async def test_s3_4_s5_5_what_changed_is_shown_while_it_is_built(bench):
    from gitopsd.fetch.errors import FetchError

    await store(bench, "lib", {"l.yaml": b"1"})
    bench.apply(include=[include()])
    bench.remote.failure = FetchError("GitOperationFailed", "gone")
    await bench.run()
    assert bench.condition("ArtifactOutdated") is None
    assert (
        bench.condition("Reconciling")[2] == "building artifact: included artifacts differ from last observed includes"
    )
    bench.remote.failure = None
    await bench.good()
    await store(bench, "lib", {"l.yaml": b"2"}, "second")
    bench.remote.failure = FetchError("GitOperationFailed", "gone")
    await bench.run()
    text = "included artifacts differ from last observed includes"
    assert bench.condition("ArtifactOutdated") == ("True", "IncludeChange", text)
    assert bench.condition("Reconciling") == ("True", "ProgressingWithRetry", f"building artifact: {text}")
    bench.remote.failure = None
    await bench.good()
    assert bench.condition("ArtifactOutdated") is None


async def test_s5_4_another_digest_at_the_same_revision_makes_a_new_artifact(bench):
    await store(bench, "lib", {"l.yaml": b"1", "x.txt": b"x"})
    bench.apply(include=[include()])
    await bench.good()
    await store(bench, "lib", {"l.yaml": b"1"})
    bench.apply("lib", ignore="*.txt")
    await bench.good("lib")
    await bench.good()
    assert bench.remote.asked == ["resolve", "fetch"]
    assert "lib/x.txt" not in await bench.files()


@pytest.mark.parametrize(
    "changed",
    [
        [include()],
        [include(), include("more"), include("more", toPath="z")],
        [include("more"), include()],
        [include(), include("more", fromPath="sub")],
        [include(), include("more", toPath="other")],
    ],
    ids=["fewer", "more", "another order", "fromPath", "toPath"],
)
async def test_s5_4_another_list_of_includes_makes_a_new_artifact(bench, changed):
    await store(bench, "lib", {"l.yaml": b"1"})
    await store(bench, "more", {"sub/m.yaml": b"1"}, "more")
    bench.apply(include=[include(), include("more")])
    await bench.good()
    bench.apply(include=changed)
    await bench.good()
    assert bench.remote.asked == ["resolve", "fetch"]
    assert bench.status()["observedInclude"] == changed
    await bench.good()
    assert bench.remote.asked == ["resolve"]


# -- what must not be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["../../x", "..", "/../x", "a/../../b"])
async def test_s5_5_A40_a_place_outside_of_the_tree_is_refused(bench, place):
    await store(bench, "lib", {"l.yaml": b"l"})
    bench.apply()
    await bench.good()
    bench.apply(include=[include(toPath="fine"), include(toPath=place)])
    message = await fails(bench, "IllegalPath")
    assert message == f"path calculation for include 'lib' failed: '{place}' leads out of the tree"
    assert bench.status()["observedGeneration"] == 1


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"fromPath": "nope"}, "failed to copy 'lib' include from nope to lib: there is no 'nope' in it"),
        (
            {"fromPath": "", "toPath": "a.yaml"},
            "failed to copy 'lib' include from  to a.yaml: a directory cannot take the place of file 'a.yaml'",
        ),
        (
            {"fromPath": "l.yaml", "toPath": "."},
            "failed to copy 'lib' include from l.yaml to .: a file cannot take the place of directory '.'",
        ),
    ],
)
async def test_s5_5_what_cannot_be_copied_is_named(bench, more, text):
    await store(bench, "lib", {"l.yaml": b"l"})
    bench.apply(include=[include(**more)])
    assert await fails(bench, "CopyFailure") == text
    bench.apply(include=[include()])
    await bench.good()
    assert bench.condition("StorageOperationFailed") is None


async def test_s5_5_an_artifact_that_goes_missing_meanwhile_is_a_failure_to_copy(bench, tmp_path, monkeypatch):
    from gitopsd.artifact.store import ArtifactMissingError

    await store(bench, "lib", {"l.yaml": b"l"})

    async def missing(_artifact):
        raise ArtifactMissingError("artifact 'x' is not in the storage")

    monkeypatch.setattr(bench.store, "files", missing)
    bench.apply(include=[include()])
    text = "failed to copy 'lib' include from  to lib: artifact 'x' is not in the storage"
    assert await fails(bench, "CopyFailure") == text


async def test_A40_who_includes_itself_waits_and_blocks_nobody(bench):
    bench.apply(include=[include("app")])
    text = "no artifact available for include 'app', the includes have a cycle: app -> app"
    assert await waits(bench, "NoArtifact") == (text, 30.0)
    bench.apply(include=None)
    await bench.good()
    bench.apply(include=[include("app")])
    assert (await waits(bench, "NoArtifact"))[0] == text
    assert await bench.files() == {"a.yaml": b"a: 1\n"}


async def test_A40_cycles_over_others_are_named(bench):
    await store(bench, "one", {"x": b"x"}, "one")
    await store(bench, "two", {"x": b"x"}, "two")
    await store(bench, "free", {"x": b"x"}, "free")
    bench.apply("two", include=[include("app"), include("free")])
    bench.apply("one", include=[include("two")])
    bench.apply(include=[include("free"), include("one")])
    message, _ = await waits(bench, "NoArtifact")
    assert message.endswith("'one', the includes have a cycle: app -> one -> two -> app")
    bench.apply(include=[include("free")])
    assert isinstance(await bench.run(), Result)
