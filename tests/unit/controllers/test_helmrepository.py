"""HelmRepositories: every row of spec/source.md 7, and those of 11.1 about them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gitopsd import metrics
from gitopsd.api.source import HelmRepository
from gitopsd.controllers import helmrepository
from gitopsd.controllers.source import SourceError
from gitopsd.errors import RetryError, StallError
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmindexdownload import Downloaded, Validators
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.tls import TLSMaterialError
from gitopsd.runtime.controller import Result
from gitopsd.tasks import offload
from tests.answering import Reply
from tests.unit.controllers.helmbench import INDEX, KEY, NAMESPACE, URL, HelmBench

DIGEST = hashlib.sha256(INDEX.encode()).hexdigest()
NOT_FETCHED = "failed to fetch Helm repository index: failed to cache index to temporary file: "
NOT_LOADED = "failed to load Helm repository from index YAML: "


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[HelmBench]:
    async with HelmBench.opened(tmp_path, "--interval-jitter-percentage=0") as found:
        yield found
        left = [name for name in await offload(lambda: found.files) if ".tmp-" in name]
        assert left == []


def repository(**spec: Any) -> HelmRepository:
    metadata = {"name": "charts", "namespace": "ns", "uid": "u", "generation": 1}
    obj = {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "HelmRepository", "metadata": metadata}
    found = HelmRepository.from_object({**obj, "spec": {"url": URL, **spec}})
    assert isinstance(found, HelmRepository)
    return found


# -- 7.1, 7.2


async def test_s7_1_interval_and_timeout_have_defaults(bench: HelmBench) -> None:
    assert (repository().spec.interval_seconds, repository().spec.timeout_seconds) == (60, 60)
    assert repository(interval="0s").spec.interval_seconds == 60
    bench.apply()
    assert await bench.good() == Result(again_in=60)
    bench.apply(interval="10m")
    assert await bench.good() == Result(again_in=600)


async def test_s7_1_the_timeout_bounds_the_download(bench: HelmBench) -> None:
    bench.apply(timeout="50ms")
    bench.pause = 30
    await bench.run()
    assert bench.condition("FetchFailed") == ("True", "Failed", f"{NOT_FETCHED}no complete answer within 50ms")


async def test_s7_1_fields_of_other_types_mean_nothing_here(bench: HelmBench) -> None:
    bench.apply(provider="aws", insecure=True, accessFrom={"namespaceSelectors": [{"matchLabels": {"a": "b"}}]})
    await bench.good()


async def test_s7_2_the_status_tells_what_is_stored(bench: HelmBench) -> None:
    bench.apply()
    await bench.good()
    file = f"helmrepository/{NAMESPACE}/charts/index-{DIGEST}.yaml"
    stored = await offload((bench.folder / file).read_bytes)
    status = bench.status
    assert status["observedGeneration"] == 1
    assert status["url"] == f"http://localhost:9090/helmrepository/{NAMESPACE}/charts/index.yaml"
    artifact = status["artifact"]
    assert artifact["revision"] == f"sha256:{DIGEST}"
    assert artifact["digest"] == f"sha256:{hashlib.sha256(stored).hexdigest()}"
    assert artifact["path"] == file
    assert artifact["url"] == f"http://localhost:9090/{file}"
    assert artifact["size"] == len(stored)
    assert bench.condition() == ("True", "Succeeded", f"stored artifact: revision 'sha256:{DIGEST}'")
    assert bench.condition("ArtifactInStorage") == bench.condition()
    assert await offload(lambda: (bench.folder / file).with_name("index.yaml").resolve().name) == f"index-{DIGEST}.yaml"


# -- 7.3


def test_s7_3_only_the_oci_type_is_static() -> None:
    source = HelmRepositorySourceOf()
    assert source.is_static(repository(type="oci", url="oci://ghcr.io/charts"))
    assert not source.is_static(repository())
    assert not source.is_static(repository(type="default"))
    assert not source.is_static(repository(url="oci://ghcr.io/charts"))


def HelmRepositorySourceOf() -> helmrepository.HelmRepositorySource:
    return helmrepository.HelmRepositorySource(None)  # type: ignore[arg-type]


async def test_s17_23_the_oci_type_has_no_finalizer_and_an_empty_status(bench: HelmBench) -> None:
    bench.apply(type="oci", url="oci://ghcr.io/charts")
    assert await bench.run() == Result()
    assert bench.status == {}
    assert "finalizers" not in bench.obj["metadata"]
    assert bench.events == []
    assert bench.web.asked == []


async def test_s7_3_what_was_default_before_is_cleaned_up_once(bench: HelmBench) -> None:
    bench.apply()
    await bench.good()
    assert bench.obj["metadata"]["finalizers"]
    bench.apply(type="oci", url="oci://ghcr.io/charts")
    assert await bench.run() == Result()
    assert bench.status == {}
    assert bench.obj["metadata"]["finalizers"] == []
    assert await offload(lambda: bench.files) == []


async def test_s7_3_nothing_is_cleaned_up_while_it_is_suspended(bench: HelmBench) -> None:
    bench.apply()
    await bench.good()
    before = bench.status
    bench.apply(type="oci", url="oci://ghcr.io/charts", suspend=True)
    assert await bench.run() == Result()
    assert bench.status == before
    assert len(await offload(lambda: bench.files)) == 1


async def test_s7_3_a_static_one_can_become_default(bench: HelmBench) -> None:
    bench.apply(type="oci", url="oci://ghcr.io/charts")
    await bench.run()
    bench.apply(type=None, url=URL)
    await bench.good()


# -- 7.4


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (URL, f"{URL}/index.yaml"),
        (f"{URL}/", f"{URL}/index.yaml"),
        (f"{URL}?token=x", f"{URL}/index.yaml?token=x"),
        ("http://charts", "http://charts/index.yaml"),
    ],
)
async def test_s7_4_the_index_is_asked_for_below_the_url(bench: HelmBench, url: str, asked: str) -> None:
    bench.apply(url=url)
    await bench.good()
    assert bench.web.lines == [f"GET {asked}"]
    assert "token" not in str(bench.events)


@pytest.mark.parametrize(
    ("url", "reason", "message"),
    [
        (
            "oci://ghcr.io/charts",
            "URLInvalid",
            "invalid Helm repository URL: 'oci' URL scheme cannot be used with 'default' HelmRepository type",
        ),
        ("https://[::1", "URLInvalid", "invalid Helm repository URL: the address cannot be parsed"),
        ("http://h:port", "URLInvalid", "invalid Helm repository URL: the address cannot be parsed"),
    ],
)
async def test_s7_4_an_address_that_can_never_work_stalls(
    bench: HelmBench, url: str, reason: str, message: str
) -> None:
    bench.apply(url=url)
    outcome = await bench.run()
    assert isinstance(outcome, StallError), outcome
    assert bench.condition("FetchFailed") == ("True", reason, message)
    assert bench.condition("Stalled") == ("True", reason, message)
    assert bench.condition() == ("False", reason, message)
    assert bench.condition("Reconciling") is None
    assert bench.status["observedGeneration"] == 1
    assert bench.events == [("Warning", reason, message)]
    assert bench.web.asked == []


def test_s7_4_a_scheme_that_nobody_speaks_stalls() -> None:
    source: Any = SimpleNamespace(spec=SimpleNamespace(url="ftp://h"))  # past the schema's pattern
    with pytest.raises(SourceError) as caught:
        helmrepository._index_url(source)
    message = "failed to construct Helm client: the scheme is not http or https"
    assert (caught.value.reason, caught.value.message, caught.value.stalls) == ("Failed", message, True)


async def test_F13_a_registry_address_with_the_default_type_stalls(bench: HelmBench) -> None:
    bench.apply(url="oci://ghcr.io/charts")
    assert isinstance(await bench.run(), StallError)
    assert bench.condition()[1] == "URLInvalid"  # type: ignore[index]
    bench.apply(url=URL)
    await bench.good()


FAILURES: dict[str, tuple[Reply | Exception, str, str]] = {
    "not there": (Reply(404), "Failed", f"{NOT_FETCHED}not found: the server answered 404"),
    "no access": (Reply(401), "Failed", f"{NOT_FETCHED}authentication required: the server answered 401"),
    "forbidden": (Reply(403), "Failed", f"{NOT_FETCHED}authorization failed: the server answered 403"),
    "failure": (Reply(500), "Failed", f"{NOT_FETCHED}unexpected answer: the server answered 500"),
    "another success": (Reply(206), "Failed", f"{NOT_FETCHED}unexpected answer: the server answered 206"),
    "nothing changed, unasked": (Reply(304), "Failed", f"{NOT_FETCHED}unexpected answer: the server answered 304"),
    "no connection": (RemoteError("no such host"), "Failed", f"{NOT_FETCHED}no such host"),
    "a bad key": (
        TLSMaterialError("'tls.key' does not belong to 'tls.crt'"),
        "AuthenticationFailed",
        "failed to construct Helm client's TLS config: 'tls.key' does not belong to 'tls.crt'",
    ),
    "empty": (Reply(body=b""), "IndexationFailed", f"{NOT_LOADED}empty index.yaml file"),
    "no version": (Reply(body=b"entries: {}"), "IndexationFailed", f"{NOT_LOADED}no API version specified"),
    "unknown field": (Reply(body=b"apiVersion: v1\na: b"), "IndexationFailed", f'{NOT_LOADED}unknown field "a"'),
    "a web page": (
        Reply(body=b"<html>\n<body>hello</body>\n</html>\n"),
        "IndexationFailed",
        f"{NOT_LOADED}the index is not a mapping",
    ),
}


@pytest.mark.parametrize("row", FAILURES)
async def test_s7_4_each_failure_says_what_the_spec_says(bench: HelmBench, row: str) -> None:
    reply, reason, message = FAILURES[row]
    bench.apply()
    bench.reply = reply
    outcome = await bench.run()
    assert isinstance(outcome, RetryError)
    assert outcome.again_in is None
    assert bench.condition("FetchFailed") == ("True", reason, message)
    assert bench.condition() == ("False", reason, message)
    assert bench.condition("Reconciling")[1] == "ProgressingWithRetry"  # type: ignore[index]
    assert bench.status["observedGeneration"] == -1
    assert bench.events == [("Warning", reason, message)]


@pytest.mark.parametrize("row", FAILURES)
async def test_s7_4_after_a_failure_the_old_index_is_kept_and_recovery_is_told(bench: HelmBench, row: str) -> None:
    bench.apply()
    await bench.good()
    artifact, files = bench.status["artifact"], await offload(lambda: bench.files)
    bench.reply = FAILURES[row][0]
    assert isinstance(await bench.run(), RetryError)
    assert bench.status["artifact"] == artifact
    assert bench.condition("ArtifactInStorage")[0] == "True"  # type: ignore[index]
    assert await offload(lambda: bench.files) == files
    bench.serve(INDEX)
    await bench.good()
    size = artifact["size"]
    assert bench.events == [("Normal", "Succeeded", f"stored fetched index of size {size}B from '{URL}'")]
    assert bench.condition("FetchFailed") is None


async def test_s7_4_an_index_that_cannot_be_written_is_a_failure_of_the_storage(
    bench: HelmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply()

    async def fail(*_: object) -> None:
        raise RemoteError("the index cannot be read: No space left on device")

    monkeypatch.setattr(bench.indexes.reader, "build", fail)
    assert isinstance(await bench.run(), RetryError)
    message = "unable to get JSON index from chart repo: the index cannot be read: No space left on device"
    assert bench.condition("StorageOperationFailed") == ("True", "ArchiveOperationFailed", message)
    assert bench.condition() == ("False", "ArchiveOperationFailed", message)


async def test_s7_4_an_index_that_cannot_be_stored_is_a_failure_of_the_storage(bench: HelmBench) -> None:
    bench.apply()
    folder = bench.folder / "helmrepository" / NAMESPACE / "charts" / f"index-{DIGEST}.yaml"
    await offload(lambda: (folder.mkdir(parents=True), (folder / "in the way").touch()))
    assert isinstance(await bench.run(), RetryError)
    status, reason, message = bench.condition("StorageOperationFailed")  # type: ignore[misc]
    assert (status, reason) == ("True", "ArchiveOperationFailed")
    assert message.startswith("unable to save artifact to storage: ")
    assert str(bench.folder) not in message


async def test_s7_4_the_stored_file_is_indented_json_with_the_newest_first(bench: HelmBench) -> None:
    bench.apply()
    await bench.good()
    raw = await offload((bench.folder / bench.status["artifact"]["path"]).read_text)
    assert raw == json.dumps(json.loads(raw), indent=2) + "\n"
    assert [entry["version"] for entry in json.loads(raw)["entries"]["demo"]] == ["1.1.0", "1.0.0"]


async def test_s7_4_the_table_of_a_new_index_is_ready_for_its_charts(
    bench: HelmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply()
    await bench.good()
    path = bench.status["artifact"]["path"]
    monkeypatch.setattr(bench.indexes.reader, "rebuild", None)
    index = await bench.indexes.open(bench.folder / path, path)
    assert (await index.find("demo", "")).version == "1.1.0"
    weight = bench.indexes.weight
    bench.serve(INDEX.replace("1.1.0", "1.2.0"))
    await bench.good()
    assert bench.indexes.weight == weight  # the old one made room


async def test_s4_2_another_digest_algorithm_is_used_for_new_indexes_only(tmp_path: Path) -> None:
    async with HelmBench.opened(tmp_path) as bench:
        bench.apply()
        await bench.good()
        obj = bench.obj
    async with HelmBench.opened(tmp_path, "--artifact-digest-algo=sha512") as bench:
        bench.api.put(obj)
        await bench.good()
        assert bench.status["artifact"]["revision"] == f"sha256:{DIGEST}"
        bench.serve(INDEX.replace("1.1.0", "1.2.0"))
        await bench.good()
        assert bench.status["artifact"]["revision"].startswith("sha512:")


# -- events and conditions on the way


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1B"), (999, "999B"), (1000, "1kB"), (30_880, "30.88kB"), (30_884, "30.88kB"), (52_428_800, "52.43MB")],
)
def test_s2_6_sizes_are_decimal(size: int, text: str) -> None:
    assert helmrepository._human(size) == text
    assert helmrepository._told(repository(), size) == f"stored fetched index of size {text} from '{URL}'"


def test_s2_6_a_size_may_be_unknown() -> None:
    assert helmrepository._told(repository(), None) == f"stored fetched index of unknown size from '{URL}'"


async def test_s2_6_a_new_index_is_told(bench: HelmBench) -> None:
    bench.apply(url="https://user:secret@charts.example.com/stable?token=secret")
    await bench.good()
    size = bench.status["artifact"]["size"]
    assert bench.events == [("Normal", "NewArtifact", f"stored fetched index of size {size}B from '{URL}'")]


async def test_s3_4_a_new_revision_is_outdated_until_it_is_stored(
    bench: HelmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply()
    await bench.good()
    text = INDEX.replace("1.1.0", "1.2.0")
    bench.serve(text)

    async def fail(*_: object) -> None:
        raise RemoteError("stopped here")

    monkeypatch.setattr(bench.indexes.reader, "build", fail)
    await bench.run()
    message = f"new index revision 'sha256:{hashlib.sha256(text.encode()).hexdigest()}'"
    assert bench.condition("ArtifactOutdated") == ("True", "NewRevision", message)
    assert bench.condition("Reconciling")[2] == f"building artifact: {message}"  # type: ignore[index]
    monkeypatch.undo()
    await bench.good()
    assert bench.condition("ArtifactOutdated") is None


# -- F: unchanged, validators, Retry-After


async def test_F12_an_unchanged_index_writes_nothing_and_tells_nothing(
    bench: HelmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply()
    await bench.good()
    before = bench.status

    def refuse(*_: object) -> None:
        raise AssertionError("an unchanged index is not read")

    monkeypatch.setattr(bench.indexes.reader, "build", refuse)
    await bench.good()
    assert bench.status == before
    assert bench.events == []


async def test_F12_an_unchanged_index_is_not_even_sent_again(bench: HelmBench) -> None:
    bench.serve(INDEX, ETag='"one"', **{"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"})
    bench.apply()
    await bench.good()
    assert bench.web.asked[0].headers == {}
    await bench.good()
    wanted = {"If-None-Match": '"one"', "If-Modified-Since": "Mon, 01 Jan 2024 00:00:00 GMT"}
    assert bench.web.asked[0].headers == wanted
    assert bench.events == []
    bench.serve(INDEX.replace("1.1.0", "1.2.0"), ETag='"two"')
    await bench.good()
    assert bench.events[0][1] == "NewArtifact"


async def test_F12_validators_are_for_what_is_stored_and_where_it_came_from(bench: HelmBench) -> None:
    bench.serve(INDEX, ETag='"one"')
    bench.apply()
    await bench.good()
    bench.apply(url="https://other.example.com")
    await bench.good()
    assert bench.web.asked[0].headers == {}
    await offload((bench.folder / bench.status["artifact"]["path"]).unlink)
    await bench.good()
    assert bench.web.asked[0].headers == {}
    assert len(await offload(lambda: bench.files)) == 1


@pytest.mark.parametrize("row", ["a web page", "not there", "failure"])
async def test_F10_what_is_no_index_is_tried_again(bench: HelmBench, row: str) -> None:
    bench.apply()
    bench.reply = FAILURES[row][0]
    for _ in range(9):
        assert isinstance(await bench.run(), RetryError)
    bench.serve(INDEX)
    await bench.good()


@pytest.mark.parametrize(
    ("status", "header", "delay"),
    [
        (429, "3600", 900.0),
        (429, "120", 120.0),
        (503, "120", 120.0),
        (500, "120", None),
        (429, "soon", None),
        (429, "", None),
        (429, "-5", None),
        (429, "Fri, 01 Jan 2100 00:00:00 GMT", 900.0),
        (429, "Mon, 01 Jan 2024 00:00:00 GMT", None),
    ],
)
async def test_F10_retry_after_raises_the_delay_up_to_the_largest(
    bench: HelmBench, status: int, header: str, delay: float | None
) -> None:
    bench.apply()
    bench.reply = Reply(status, headers={"Retry-After": header})
    outcome = await bench.run()
    assert isinstance(outcome, RetryError)
    assert outcome.again_in == delay
    assert bench.condition()[1] == "Failed"  # type: ignore[index]


async def test_F10_a_short_retry_after_does_not_shorten_the_delay(bench: HelmBench) -> None:
    bench.apply()
    bench.reply = Reply(429, headers={"Retry-After": "1"})
    outcomes = [await bench.run() for _ in range(12)]
    delays = [outcome.again_in for outcome in outcomes if isinstance(outcome, RetryError)]
    assert delays[:4] == [1.0, 1.5, 3.0, 6.0]
    assert delays[-1] == 900.0
    bench.serve(INDEX)
    await bench.good()
    bench.reply = Reply(429, headers={"Retry-After": "1"})
    outcome = await bench.run()
    assert isinstance(outcome, RetryError)
    assert outcome.again_in == 1.0


async def test_F01_an_index_beyond_the_bound_is_refused_and_counted(tmp_path: Path) -> None:
    async with HelmBench.opened(tmp_path, f"--helm-index-max-size={len(INDEX)}") as bench:
        bench.apply()
        await bench.good()
        before = metrics.refused_inputs.labels("helm-index", "size")._value.get()
        bench.serve(f"{INDEX}\n")
        await bench.run()
        message = f"{NOT_LOADED}the index is larger than {len(INDEX)} bytes"
        assert bench.condition() == ("False", "IndexationFailed", message)
        assert metrics.refused_inputs.labels("helm-index", "size")._value.get() == before + 1
        assert len(await offload(lambda: bench.files)) == 1


# -- 11.1


async def test_s11_1_basic_auth_is_sent(bench: HelmBench) -> None:
    bench.apply(secretRef={"name": "login"})
    bench.secret("login", {"username": "user", "password": "pass"})
    await bench.good()
    assert bench.web.asked[0].authorization == "Basic dXNlcjpwYXNz"


async def test_s11_1_what_stands_in_the_url_is_used_where_no_secret_says_otherwise(bench: HelmBench) -> None:
    bench.apply(url="https://us%40r:p@charts.example.com")
    await bench.good()
    assert bench.web.asked[0].authorization == "Basic dXNAcjpw"
    bench.apply(secretRef={"name": "login"})
    bench.secret("login", {"username": "user", "password": "pass"})
    await bench.good()
    assert bench.web.asked[0].authorization == "Basic dXNlcjpwYXNz"


@pytest.mark.parametrize("data", [{"username": "user"}, {"password": "pass"}, {"username": "user", "password": ""}])
async def test_s11_1_half_of_basic_auth_is_malformed(bench: HelmBench, data: dict[str, str]) -> None:
    bench.apply(secretRef={"name": "login"})
    bench.secret("login", data)
    assert isinstance(await bench.run(), RetryError)
    reason, message = bench.condition("FetchFailed")[1:]  # type: ignore[index]
    assert reason == "AuthenticationFailed"
    assert message.startswith("failed to detect authentication methods: secret 'ns/login': malformed basic auth: ")
    assert "pass'" not in message.replace("'password'", "")


async def test_s11_1_a_secret_without_any_key_is_nobody(bench: HelmBench) -> None:
    bench.apply(secretRef={"name": "login"})
    bench.secret("login", {"other": "x"})
    await bench.good()
    assert bench.web.asked[0].authorization == ""


@pytest.mark.parametrize(
    "keys", [("tls.crt", "tls.key", "ca.crt"), ("certFile", "keyFile", "caFile")], ids=["today's", "legacy"]
)
@pytest.mark.parametrize("ref", ["certSecretRef", "secretRef"])
async def test_s11_1_tls_data_comes_from_either_secret(bench: HelmBench, keys: tuple[str, ...], ref: str) -> None:
    bench.apply(**{ref: {"name": "tls"}})
    bench.secret("tls", dict(zip(keys, (b"cert", b"key", b"ca"), strict=True)))
    await bench.good()
    assert bench.web.asked[0].access.tls == TlsIdentity(ca=b"ca", cert=b"cert", key=b"key")


async def test_s11_1_cert_secret_ref_wins_over_tls_data_of_secret_ref(bench: HelmBench) -> None:
    bench.apply(secretRef={"name": "old"}, certSecretRef={"name": "new"})
    bench.secret("old", {"username": "user", "password": "pass", "certFile": "half a pair"})
    bench.secret("new", {"ca.crt": b"ca"})
    await bench.good()
    assert bench.web.asked[0].access.tls == TlsIdentity(ca=b"ca")
    assert bench.web.asked[0].authorization == "Basic dXNlcjpwYXNz"


SECRET_FAULTS: dict[str, tuple[str, dict[str, str] | None, str]] = {
    "no secret": ("secretRef", None, "failed to get authentication secret 'ns/s': "),
    "no TLS secret": ("certSecretRef", None, "failed to get TLS authentication secret 'ns/s': "),
    "half a pair": ("certSecretRef", {"tls.crt": "x"}, "failed to construct Helm client's TLS config: "),
    "nothing for TLS": ("certSecretRef", {"other": "x"}, "failed to construct Helm client's TLS config: "),
    "half a pair, legacy": ("secretRef", {"certFile": "x"}, "failed to detect authentication methods: "),
}


@pytest.mark.parametrize("row", SECRET_FAULTS)
async def test_F11_a_secret_that_cannot_be_used_is_told_and_tried_again(bench: HelmBench, row: str) -> None:
    ref, data, message = SECRET_FAULTS[row]
    bench.apply(**{ref: {"name": "s"}})
    if data is not None:
        bench.secret("s", data)
    assert isinstance(await bench.run(), RetryError)
    condition = bench.condition("FetchFailed")
    assert condition is not None
    assert condition[:2] == ("True", "AuthenticationFailed")
    assert condition[2].startswith(message)
    assert bench.web.asked == []
    bench.secret("s", {"username": "user", "password": "pass", "ca.crt": "ca"})
    await bench.good()


async def test_what_a_server_says_back_of_our_secrets_is_masked(bench: HelmBench) -> None:
    bench.apply(secretRef={"name": "login"})
    bench.secret("login", {"username": "user", "password": "hunter2hunter2"})
    bench.reply = RemoteError("you said dXNlcjpodW50ZXIyaHVudGVyMg==")
    await bench.run()
    assert "dXNlcjpodW50" not in str(bench.status)


async def test_what_is_remembered_of_servers_is_bounded(bench: HelmBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helmrepository, "_MOST_REMEMBERED", 2)
    source = bench.source
    for number in range(5):
        key = KEY._replace(name=f"n{number}")
        await source._remember(key, "sha256:x", Downloaded(Path(), 1, {}, Validators("u", "e")))
    assert len(source._known) == 2


@pytest.mark.parametrize("how", ["deleted", "of type oci from now on"])
async def test_s7_3_nothing_is_kept_of_a_repository_that_is_gone(bench: HelmBench, how: str) -> None:
    bench.apply()
    bench.serve(INDEX, ETag='"one"')
    await bench.good()
    bench.reply = Reply(status=429, headers={"Retry-After": "5"})
    await bench.run()
    assert bench.indexes.weight
    if how == "deleted":
        metadata = {**bench.obj["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
        bench.api.put({**bench.obj, "metadata": metadata})
    else:
        bench.apply(type="oci", url="oci://registry.example.com/charts")
    await bench.run()
    assert bench.indexes.weight == 0
    assert not bench.source._known
    assert not bench.source._refusals
    assert bench.files == []


# -- over restarts, and on disks that fail


async def test_s15_7_what_a_server_said_is_known_after_a_restart_that_left_the_storage(
    bench: HelmBench, tmp_path: Path
) -> None:
    bench.apply(url="https://charts.example.com/stable?token=CNRY-token")
    bench.serve(INDEX, ETag='"one"')
    await bench.good()
    note = await offload((bench.folder / f"helmrepository/{NAMESPACE}/charts/.note").read_bytes)
    assert b"CNRY" not in note
    again = helmrepository.HelmRepositorySource(bench.source._services)
    bench.source.fetch = again.fetch  # type: ignore[method-assign]
    await bench.good()
    assert [one.headers.get("If-None-Match") for one in bench.web.asked] == ['"one"']


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[]", b"\xff", b'{"revision":"x","address":"y","etag":"a\\u0007"}', b"{}" * 70000]
)
async def test_s15_7_a_note_that_cannot_be_used_costs_a_download(bench: HelmBench, note: bytes) -> None:
    bench.apply()
    bench.serve(INDEX, ETag='"one"')
    await bench.good()
    await offload((bench.folder / f"helmrepository/{NAMESPACE}/charts/.note").write_bytes, note)
    bench.source._known.clear()
    await bench.good()
    assert [one.headers.get("If-None-Match") for one in bench.web.asked] == [None]


async def test_s15_7_a_suspended_index_comes_back_if_the_server_still_has_it(bench: HelmBench) -> None:
    bench.apply()
    await bench.good()
    bench.apply(suspend=True)
    await bench.run()
    before = bench.status["artifact"]
    path = bench.folder / before["path"]
    await offload(path.unlink)
    await bench.run()
    assert await offload(path.is_file)
    assert bench.status["artifact"]["digest"] == before["digest"]
    await offload(path.unlink)
    bench.serve(INDEX.replace("1.1.0", "1.2.0"))
    await bench.run()
    assert not await offload(path.is_file)
    assert bench.status["artifact"]["revision"] == before["revision"]


async def test_s5_7_a_disk_that_can_only_be_read_is_told(bench: HelmBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing what was never made fails on such a disk, too."""

    def refuses(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    bench.apply()
    monkeypatch.setattr(Path, "open", refuses)
    monkeypatch.setattr(Path, "unlink", refuses)
    await bench.run()
    monkeypatch.undo()
    assert bench.condition("FetchFailed") == (
        "True",
        "Failed",
        f"{NOT_FETCHED}the index cannot be written: Read-only file system",
    )


@pytest.mark.parametrize("where", ["note", "give_up"])
async def test_T16_a_run_that_is_given_up_leaves_no_file(
    bench: HelmBench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """At the last moments of a fetch, when the new index is written already."""
    bench.apply()
    bench.serve(INDEX, ETag='"one"')
    real = getattr(bench.store, where)
    given_up: list[Any] = []

    async def cut_short(*args: Any) -> None:
        await real(*args)
        given_up.append(args)
        if len(given_up) == 1:
            raise asyncio.CancelledError

    monkeypatch.setattr(bench.store, where, cut_short)
    with pytest.raises(asyncio.CancelledError):
        await bench.run()
    assert given_up
    assert not [name for name in bench.files if ".tmp-" in name]
