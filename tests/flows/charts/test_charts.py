"""HelmCharts from every source, as their users see them."""

from __future__ import annotations

import urllib.request

import pytest
import yaml
from aiohttp import web

from tests.apiclient import ApiStatusError
from tests.flows.charts.chartstage import CHART, FILES, ChartStage, eventually, metadata, package
from tests.flows.stage import condition, is_ready
from tests.servers.buckets import LoopbackS3
from tests.servers.charts import chart_archive
from tests.servers.helmrepo import HelmRepo
from tests.servers.http import HttpServer
from tests.servers.loopback import Answer, Ask
from tests.servers.registry import Registry
from tests.signers import Signatures
from tests.sigstore import new_key, public_pem


def dependencies(*wanted: dict[str, str]) -> str:
    """A Chart.yaml with dependencies."""
    return CHART + yaml.safe_dump({"dependencies": list(wanted)})


# -- sources -----------------------------------------------------------------------------------------------------------


def test_s8_3_the_newest_of_an_index_is_taken_and_followed(stage: ChartStage, charts: HelmRepo) -> None:
    charts.package("demo", "1.0.0")
    stage.helm_repository(charts.repository)
    stage.chart(version="1.x")
    seen = stage.ready(revision="1.0.0")
    assert seen["status"]["observedChartName"] == "demo"
    assert seen["metadata"]["finalizers"] == ["finalizers.fluxcd.io"]
    charts.package("demo", "1.1.0")
    charts.package("demo", "2.0.0")
    stage.request("HelmRepository", "charts")
    seen = stage.ready(revision="1.1.0")
    assert metadata(seen)["version"] == "1.1.0"
    asked = [one.path for one in charts.requests if one.path.endswith(".tgz")]
    assert asked == ["/charts/demo-1.0.0.tgz", "/charts/demo-1.1.0.tgz"]


def test_s8_5_a_chart_waits_in_silence_for_its_source_and_is_woken_by_it(stage: ChartStage, charts: HelmRepo) -> None:
    charts.package("demo", "1.0.0")
    trouble = charts.behave("/charts/index.yaml", _refuse)
    stage.helm_repository(charts.repository)
    stage.chart()
    seen = stage.refused("NoSourceArtifact", "no artifact available for HelmRepository source 'charts'", stalls=False)
    assert "observedSourceArtifactRevision" not in seen["status"]
    assert stage.told("NoSourceArtifact")["type"] == "Normal"
    trouble.remove()
    stage.request("HelmRepository", "charts")
    stage.ready()
    assert all(event["type"] == "Normal" for event in stage.events("HelmChart", "demo"))


async def _refuse(request: web.Request, ask: Ask) -> Answer:
    return Answer(500)


def test_s8_5_a_source_that_appears_later_wakes_its_chart(stage: ChartStage) -> None:
    stage.chart("GitRepository", "app", chart="chart")
    stage.refused("SourceUnavailable", 'GitRepository.source.toolkit.fluxcd.io "app" not found', stalls=False)
    stage.push(FILES)
    stage.source()
    assert stage.ready()["status"]["artifact"]["revision"] == "0.3.0"


def test_s8_3_a_tree_is_packaged_with_what_it_depends_on(
    stage: ChartStage, charts: HelmRepo, registry_server: Registry
) -> None:
    charts.package("near", "1.5.0")
    charts.package("near", "1.0.0")
    registry_server.push_chart(f"{stage.namespace}/far", "far", "2.1.0")
    registry_server.push_chart(f"{stage.namespace}/far", "far", "2.0.0")
    url = f"oci://{registry_server.host}/{stage.namespace}"
    stage.helm_repository(url, "far", type="oci", insecure=True)
    wanted = dependencies(
        {"name": "near", "version": "1.x", "repository": charts.repository},
        {"name": "far", "version": "<2.1", "repository": f"{url}/"},
        {"name": "lib", "version": "*", "repository": "file://../lib"},
    )
    stage.push(FILES | {"chart/Chart.yaml": wanted, "lib/Chart.yaml": CHART.replace("demo", "lib")})
    stage.source()
    stage.chart("GitRepository", "app", chart="chart")
    seen = stage.ready()
    versions = {name: metadata(seen, f"charts/{name}/Chart.yaml")["version"] for name in ("near", "far", "lib")}
    assert versions == {"near": "1.5.0", "far": "2.0.0", "lib": "0.3.0"}
    assert stage.told("ResolvedDependencies")["message"] == "resolved 3 chart dependencies"


def test_s8_3_another_commit_of_one_version_is_another_chart_only_on_request(stage: ChartStage) -> None:
    stage.push(FILES)
    stage.source()
    stage.chart("GitRepository", "app", chart="./chart")
    stage.chart("GitRepository", "app", name="each", chart="./chart", reconcileStrategy="Revision")
    first = stage.ready()
    stage.ready("each")
    revision = stage.push({"chart/values.yaml": "replicas: 2\n"})
    stage.refetch()
    sha = revision.rpartition(":")[2][:12]
    assert package(stage.ready("each", revision=f"0.3.0+{sha}"))["values.yaml"] == "replicas: 2\n"
    seen = stage.until(
        "HelmChart", "demo", lambda obj: (obj or {})["status"]["observedSourceArtifactRevision"] == revision
    )
    assert seen["status"]["artifact"] == first["status"]["artifact"]


def test_s8_3_a_bucket_is_a_tree_too(stage: ChartStage) -> None:
    with LoopbackS3() as storage:
        storage.buckets["bucket"] = {path: str(text).encode() for path, text in FILES.items()}
        endpoint = storage.url.removeprefix("http://")
        stage.apply(
            "Bucket", "charts", {"interval": "10m", "bucketName": "bucket", "endpoint": endpoint, "insecure": True}
        )
        stage.chart("Bucket", "charts", chart="chart", reconcileStrategy="Revision")
        seen = stage.ready()
        digest = seen["status"]["observedSourceArtifactRevision"].removeprefix("sha256:")
        assert seen["status"]["artifact"]["revision"] == f"0.3.0+{digest[:12]}"
        assert package(seen)["values.yaml"] == "replicas: 1\n"
        storage.buckets["bucket"]["chart/values.yaml"] = b"replicas: 2\n"
        stage.request("Bucket", "charts")
        old = seen["status"]["artifact"]
        stage.until("HelmChart", "demo", lambda obj: is_ready(obj) and (obj or {})["status"]["artifact"] != old)
        assert package(stage.ready())["values.yaml"] == "replicas: 2\n"


def test_s8_3_what_is_stored_is_not_fetched_again(stage: ChartStage, charts: HelmRepo) -> None:
    charts.package("demo", "1.0.0")
    stage.helm_repository(charts.repository)
    stage.chart()
    before = stage.ready()
    charts.forget()
    after = stage.asked()
    assert after["status"]["artifact"] == before["status"]["artifact"]
    assert [one.path for one in charts.requests] == []
    message = stage.told("ArtifactUpToDate")["message"]
    assert message == "artifact up-to-date with remote revision: '1.0.0'"


def test_s2_2_a_suspended_chart_rests_and_a_deleted_one_leaves_nothing(stage: ChartStage, charts: HelmRepo) -> None:
    charts.package("demo", "1.0.0")
    stage.helm_repository(charts.repository)
    stage.chart(suspend=True)
    stage.asked()
    assert "artifact" not in stage.get("HelmChart", "demo")["status"]  # type: ignore[index]
    stage.chart(suspend=False)
    path = stage.ready()["status"]["artifact"]["path"]
    assert (stage.daemon.storage / path).is_file()
    stage.api.delete("source.toolkit.fluxcd.io/v1", "HelmChart", "demo", stage.namespace)
    stage.until("HelmChart", "demo", lambda obj: obj is None)
    assert eventually(lambda: not (stage.daemon.storage / path).parent.exists())


def test_s8_3_values_files_show_in_version_and_status(stage: ChartStage) -> None:
    stage.push(FILES | {"prod.yaml": "replicas: 3\non: yes\n"})
    stage.source()
    files = ["chart/values.yaml", "prod.yaml", "none.yaml"]
    stage.chart("GitRepository", "app", chart="chart", valuesFiles=files, ignoreMissingValuesFiles=True)
    seen = stage.ready(revision="0.3.0+1")
    assert seen["status"]["observedValuesFiles"] == ["chart/values.yaml", "prod.yaml"]
    assert package(seen)["values.yaml"] == 'replicas: 3\n"true": true\n'
    stage.chart("GitRepository", "app", chart="chart")
    assert "observedValuesFiles" not in stage.ready(revision="0.3.0")["status"]


def test_s17_23_a_repository_in_a_registry_is_only_data_and_its_charts_work(
    stage: ChartStage, registry_server: Registry
) -> None:
    registry_server.push_chart(f"{stage.namespace}/demo", "demo", "1.0.0")
    registry_server.push_chart(f"{stage.namespace}/demo", "demo", "1.1.0+b.1")
    stage.helm_repository(f"oci://{registry_server.host}/{stage.namespace}", type="oci", insecure=True)
    stage.chart(version=">=1.0.0")
    seen = stage.ready(revision="1.1.0+b.1")
    assert metadata(seen)["version"] == "1.1.0+b.1"
    assert "observedSourceArtifactRevision" not in seen["status"]
    found = stage.get("HelmRepository", "charts") or {}
    assert found.get("status", {}) == {}
    assert "finalizers" not in found["metadata"]


def test_s13_a_registry_is_asked_over_plain_http_only_on_request(stage: ChartStage, registry_server: Registry) -> None:
    registry_server.push_chart(f"{stage.namespace}/demo", "demo", "1.0.0")
    url = f"oci://{registry_server.host}/{stage.namespace}"
    stage.helm_repository(url, type="oci")
    stage.chart(version="1.0.0")
    seen = stage.until("HelmChart", "demo", lambda obj: condition(obj).get("status") == "False")
    assert condition(seen, "FetchFailed")["status"] == "True"
    stage.helm_repository(url, type="oci", insecure=True)
    stage.request("HelmChart", "demo")
    stage.ready()


def test_s8_1_what_the_api_server_refuses(stage: ChartStage) -> None:
    with pytest.raises(ApiStatusError, match=r"spec\.verify is only supported when"):
        stage.chart("GitRepository", "app", verify={"provider": "cosign"})
    with pytest.raises(ApiStatusError, match="Unsupported value"):
        stage.chart("OCIRepository", "app")
    with pytest.raises(ApiStatusError, match=r"spec\.reconcileStrategy"):
        stage.chart("GitRepository", "app", reconcileStrategy="Commit")


def test_s8_1_the_api_version_of_the_source_is_not_read(stage: ChartStage) -> None:
    stage.push(FILES)
    stage.source()
    reference = {"apiVersion": "example.com/v9", "kind": "GitRepository", "name": "app"}
    stage.chart(chart="chart", sourceRef=reference)
    stage.ready()


# -- credentials, at the receiving server ------------------------------------------------------------------------------


def test_F08_credentials_go_to_another_host_only_with_pass_credentials(stage: ChartStage) -> None:
    with HelmRepo(private=True) as charts, HttpServer() as other:
        charts.package("demo", "1.0.0", urls=[f"{other.url}/demo.tgz"])
        other.serve({"demo.tgz": charts.files["charts/demo-1.0.0.tgz"]})
        stage.secret("auth", username="user", password="pass")
        stage.helm_repository(charts.repository, secretRef={"name": "auth"})
        stage.chart()
        stage.ready()
        assert {one.credentials for one in charts.requests} == {"user:pass"}
        assert [one.credentials for one in other.requests] == [""]
        stage.helm_repository(charts.repository, secretRef={"name": "auth"}, passCredentials=True)
        stage.chart(name="again")
        stage.ready("again")
        eventually(lambda: len(other.requests) > 1)
        assert [one.credentials for one in other.requests][-1] == "user:pass"


def test_F08_a_redirect_to_another_host_takes_no_credentials_along(stage: ChartStage) -> None:
    with HelmRepo(private=True) as charts, HttpServer() as other:
        charts.package("demo", "1.0.0")
        other.serve({"demo.tgz": charts.files["charts/demo-1.0.0.tgz"]})

        async def away(request: web.Request, ask: Ask) -> Answer:
            return Answer(302, {"Location": f"{other.url}/demo.tgz"})

        charts.behave("/charts/demo-1.0.0.tgz", away)
        stage.secret("auth", username="user", password="pass")
        stage.helm_repository(charts.repository, secretRef={"name": "auth"}, passCredentials=True)
        stage.chart()
        stage.ready()
        assert [one.credentials for one in other.requests] == [""]


def test_G07_dependencies_borrow_only_from_a_repository_of_the_same_address(stage: ChartStage) -> None:
    with HelmRepo(private=True) as charts, HelmRepo() as other:
        charts.package("near", "1.0.0")
        other.package("near", "1.0.0")
        stage.secret("auth", username="user", password="pass")
        near = {"name": "near", "version": "1.x", "repository": charts.repository}
        stage.push(
            FILES
            | {"chart/Chart.yaml": dependencies(near)}
            | {f"evil/{path.partition('/')[2]}": text for path, text in FILES.items()}
            | {"evil/Chart.yaml": dependencies(near | {"repository": other.repository})}
        )
        stage.source()
        stage.chart("GitRepository", "app", chart="chart")
        stage.refused(
            "DependencyBuildError", "failed to add remote dependency 'near'", stalls=False, kind="BuildFailed"
        )
        assert {one.credentials for one in charts.requests} == {""}
        stage.helm_repository(f"{charts.repository}/", secretRef={"name": "auth"})
        stage.until_ready("HelmRepository", "charts")
        stage.request("HelmChart", "demo")
        stage.ready()
        stage.chart("GitRepository", "app", name="evil", chart="evil")
        stage.ready("evil")
        assert {one.credentials for one in other.requests} == {""}


# -- failures that end -------------------------------------------------------------------------------------------------


def test_G05_another_digest_is_refused_until_the_right_bytes_are_served(stage: ChartStage, charts: HelmRepo) -> None:
    good = charts.package("demo", "1.0.0")
    charts.serve({"charts/demo-1.0.0.tgz": chart_archive("demo", "1.0.0", {"evil.yaml": "x"})})
    stage.helm_repository(charts.repository)
    stage.chart()
    stage.refused("ChartPullError", "does not have the digest that the index tells", stalls=False, kind="FetchFailed")
    assert stage.told("ChartPullError")["type"] == "Warning"
    charts.serve({"charts/demo-1.0.0.tgz": good})
    with urllib.request.urlopen(stage.ready()["status"]["artifact"]["url"], timeout=10) as answer:
        assert answer.read() == good


def test_s8_5_a_values_file_that_is_missing_stalls_until_the_source_has_it(stage: ChartStage) -> None:
    stage.push(FILES)
    stage.source()
    stage.chart("GitRepository", "app", chart="chart", valuesFiles=["prod.yaml"])
    says = "values files merge error: no values file found at path '/prod.yaml' (reference 'prod.yaml')"
    stage.refused("ValuesFilesError", says, stalls=True, kind="BuildFailed")
    stage.push({"prod.yaml": "replicas: 3\n"})
    stage.refetch()
    assert package(stage.ready())["values.yaml"] == "replicas: 3\n"


def test_s8_5_a_failing_chart_keeps_what_is_stored(stage: ChartStage, charts: HelmRepo) -> None:
    charts.package("demo", "1.0.0")
    stage.helm_repository(charts.repository)
    stage.chart(version="1.x")
    before = stage.ready()
    stage.chart(version="2.x")
    says = "no 'demo' chart with version matching '2.x' found"
    seen = stage.refused("InvalidChartReference", says, stalls=True, kind="FetchFailed")
    assert seen["status"]["artifact"] == before["status"]["artifact"]
    assert condition(seen, "ArtifactInStorage")["status"] == "True"
    assert package(seen)
    charts.package("demo", "2.0.0")
    stage.request("HelmRepository", "charts")
    stage.ready(revision="2.0.0")


def test_s8_5_refused_credentials_are_told_as_such(stage: ChartStage) -> None:
    with HelmRepo() as charts:
        charts.package("demo", "1.0.0")
        charts.protect("/charts/demo", basic=("user", "other"))
        stage.helm_repository(charts.repository)
        stage.chart()
        says = "unknown build error: failed to authenticate with the Helm repository: chart pull error: "
        stage.refused("Unknown", says, stalls=False, kind="FetchFailed")
        assert stage.told("AuthenticationFailed")["message"].startswith(
            "failed to authenticate with the Helm repository"
        )


def test_G12_only_a_signed_chart_is_served(stage: ChartStage, registry_server: Registry) -> None:
    key = new_key()
    repository = f"{stage.namespace}/demo"
    first = registry_server.push_chart(repository, "demo", "1.0.0")
    Signatures(registry_server, repository, first).with_key(key)
    stage.secret("keys", cosign__pub=public_pem(key).decode())
    stage.helm_repository(f"oci://{registry_server.host}/{stage.namespace}", type="oci", insecure=True)
    verify = {"provider": "cosign", "secretRef": {"name": "keys"}}
    stage.chart(version="1.x", verify=verify)
    before = stage.ready(revision="1.0.0")
    assert condition(before, "SourceVerified")["message"] == "verified signature of version 1.0.0"
    second = registry_server.push_chart(repository, "demo", "1.1.0")
    stage.request("HelmChart", "demo")
    seen = stage.refused("VerificationError", "chart verification error: ", stalls=False, kind="SourceVerified")
    assert condition(seen, "BuildFailed")["reason"] == "ChartVerificationError"
    assert seen["status"]["artifact"] == before["status"]["artifact"]
    Signatures(registry_server, repository, second).with_key(key)
    seen = stage.ready(revision="1.1.0")
    assert condition(seen, "SourceVerified")["status"] == "True"
    stage.chart(version="1.x")
    stage.until("HelmChart", "demo", lambda obj: not condition(obj, "SourceVerified"))
