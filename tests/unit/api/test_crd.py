"""Promises of the generated CRDs: what the API server is told about our kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta
from msgspec import inspect as models

from gitopsd.api import crd
from gitopsd.api.meta import Model
from gitopsd.api.resource import Resource
from gitopsd.krm import documents
from gitopsd.krm.objects import Obj

CHECKED_IN = Path(__file__).parents[3] / "config" / "crd"
DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
TIMEOUT = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"

# spec/source.md 1, spec/kustomize.md 1.1, spec/helm.md 1.1: plural, short names, last category, columns in order.
IDENTITY = {
    "GitRepository": ("gitrepositories", ["gitrepo"], "fluxcd-sources", "URL Age Ready Status"),
    "OCIRepository": ("ocirepositories", ["ocirepo"], "fluxcd-sources", "URL Ready Status Age"),
    "HelmRepository": ("helmrepositories", ["helmrepo"], "fluxcd-sources", "URL Age Ready Status"),
    "HelmChart": (
        "helmcharts",
        ["hc"],
        "fluxcd-sources",
        "Chart Version Source Kind Source Name Age Ready Status",
    ),
    "Bucket": ("buckets", None, "fluxcd-sources", "Endpoint Age Ready Status"),
    "ExternalArtifact": ("externalartifacts", ["ea"], "fluxcd-sources", "Age Ready Status Source"),
    "Kustomization": ("kustomizations", ["ks"], "fluxcd-appliers", "Age Ready Status"),
    "HelmRelease": ("helmreleases", ["hr"], "fluxcd-appliers", "Age Ready Status"),
}
PATHS = {
    "URL": ".spec.url",
    "Endpoint": ".spec.endpoint",
    "Chart": ".spec.chart",
    "Version": ".spec.version",
    "Source Kind": ".spec.sourceRef.kind",
    "Source Name": ".spec.sourceRef.name",
    "Source": ".spec.sourceRef.name",
    "Age": ".metadata.creationTimestamp",
    "Ready": '.status.conditions[?(@.type=="Ready")].status',
    "Status": '.status.conditions[?(@.type=="Ready")].message',
}
CRDS = {each["spec"]["names"]["kind"]: each for each in crd.documents()}


def version_of(kind: str) -> Obj:
    (version,) = CRDS[kind]["spec"]["versions"]
    found: Obj = version
    return found


def field(kind: str, path: str) -> Obj:
    """The schema of a field; `[]` steps into a list's items, `{}` into a map's values."""
    at = version_of(kind)["schema"]["openAPIV3Schema"]
    for step in path.split("."):
        name = step.rstrip("[]{}")
        at = at["properties"][name]
        if step.endswith("[]"):
            at = at["items"]
        elif step.endswith("{}"):
            at = at["additionalProperties"]
    found: Obj = at
    return found


def walk(schema: Obj, path: str = "") -> Iterator[tuple[str, Obj]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    for inside in ("items", "additionalProperties"):
        if inside in schema:
            yield from walk(schema[inside], f"{path}.{inside}")


# --- identity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", IDENTITY)
def test_a_kind_has_the_names_and_columns_of_the_specification(kind: str) -> None:
    plural, short, category, columns = IDENTITY[kind]
    found = CRDS[kind]
    names = found["spec"]["names"]
    assert found["metadata"]["name"] == f"{plural}.{found['spec']['group']}"
    assert (names["plural"], names["singular"], names["listKind"]) == (plural, kind.lower(), f"{kind}List")
    assert names.get("shortNames") == short
    assert names["categories"] == ["all", "fluxcd", category]
    assert found["spec"]["scope"] == "Namespaced"
    printed = version_of(kind)["additionalPrinterColumns"]
    assert " ".join(column["name"] for column in printed) == columns
    assert all(column["jsonPath"] == PATHS[column["name"]] for column in printed)
    assert {column["type"] for column in printed if column["name"] == "Age"} == {"date"}


@pytest.mark.parametrize("kind", IDENTITY)
def test_a_kind_has_one_version_that_is_served_and_stored_with_status(kind: str) -> None:
    version = version_of(kind)
    assert version["name"] == ("v2" if kind == "HelmRelease" else "v1")
    assert (version["served"], version["storage"], version["subresources"]) == (True, True, {"status": {}})


@pytest.mark.parametrize("kind", IDENTITY)
def test_s1_a_crd_can_be_found_and_is_never_substituted(kind: str) -> None:
    """spec/cli.md 17.1; spec/source.md 1."""
    metadata = CRDS[kind]["metadata"]
    assert metadata["annotations"] == {"kustomize.toolkit.fluxcd.io/substitute": "disabled"}
    assert metadata["labels"]["app.kubernetes.io/part-of"] == "flux"
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "gitopsd"
    assert metadata["labels"]["app.kubernetes.io/version"].startswith("v")


# --- schema in general ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", IDENTITY)
def test_s1_a_new_object_has_observed_nothing(kind: str) -> None:
    """spec/source.md 1: no root field is required; status has its default, but for ExternalArtifact."""
    root = version_of(kind)["schema"]["openAPIV3Schema"]
    assert "required" not in root
    assert {"apiVersion", "kind", "metadata", "spec", "status"} == root["properties"].keys()
    default = None if kind == "ExternalArtifact" else {"observedGeneration": -1}
    assert root["properties"]["status"].get("default") == default


@pytest.mark.parametrize("kind", IDENTITY)
def test_every_field_is_described_in_whole_sentences(kind: str) -> None:
    for path, schema in walk(version_of(kind)["schema"]["openAPIV3Schema"]):
        is_inner = path.endswith((".items", ".additionalProperties", ".metadata")) and schema.get("type") != "object"
        if path == ".metadata" or is_inner:
            continue
        assert schema.get("description", "").endswith("."), path


@pytest.mark.parametrize("kind", IDENTITY)
def test_the_schema_is_structural(kind: str) -> None:
    """Each node has a type, or says that it keeps whatever comes; choices of types do not exist."""
    for path, schema in walk(version_of(kind)["schema"]["openAPIV3Schema"]):
        assert not schema.keys() & {"anyOf", "oneOf", "allOf", "$ref", "title", "const"}, path
        assert ("type" in schema) != ("x-kubernetes-preserve-unknown-fields" in schema), path
        assert (schema.get("type") == "array") == ("items" in schema), path


@pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.__name__)
def test_the_servers_defaults_are_ours(kind: type[Resource]) -> None:
    """An object reads the same, whether the server has filled in the defaults or not."""
    seen = 0

    def compare(of: models.Type) -> None:
        nonlocal seen
        match of:
            case models.Metadata():
                compare(of.type)
            case models.UnionType():
                for each in of.types:
                    compare(each)
            case models.VarTupleType():
                compare(of.item_type)
            case models.StructType():
                for each in of.fields:
                    compare(each.type)
                    schema = crd.schema(each.type)
                    if "default" in schema:
                        seen += 1
                        assert each.default == schema["default"], f"{of.cls.__name__}.{each.name}"

    compare(models.type_info(kind))
    assert seen or kind.__name__ == "ExternalArtifact"


# --- fields of the specifications -----------------------------------------------------------------------------------

EXPECTED: list[tuple[str, str, Obj]] = [
    ("GitRepository", "spec.url", {"pattern": "^(http|https|ssh)://.*$"}),
    ("GitRepository", "spec.interval", {"pattern": DURATION}),
    ("GitRepository", "spec.timeout", {"pattern": TIMEOUT, "default": "60s"}),
    ("GitRepository", "spec.provider", {"enum": {"generic", "aws", "azure", "github"}, "default": None}),
    ("GitRepository", "spec.verify.mode", {"enum": {"head", "HEAD", "Tag", "TagAndHEAD"}, "default": "HEAD"}),
    ("GitRepository", "spec.verify", {"required": ["secretRef"]}),
    ("GitRepository", "spec", {"required": ["url", "interval"]}),
    ("GitRepository", "spec.include[]", {"required": ["repository"]}),
    ("GitRepository", "spec.suspend", {"type": "boolean", "default": None}),
    ("GitRepository", "status.observedGeneration", {"type": "integer", "format": "int64"}),
    (
        "GitRepository",
        "status.artifact",
        {"required": ["digest", "path", "url", "revision", "lastUpdateTime"]},
    ),
    (
        "GitRepository",
        "status.artifact.digest",
        {"pattern": "^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$"},
    ),
    ("GitRepository", "status.artifact.lastUpdateTime", {"format": "date-time"}),
    ("GitRepository", "status.artifact.size", {"format": "int64"}),
    ("GitRepository", "status.conditions[].status", {"enum": {"True", "False", "Unknown"}}),
    ("OCIRepository", "spec.url", {"pattern": "^oci://.*$"}),
    ("OCIRepository", "spec", {"required": ["url", "interval"]}),
    ("OCIRepository", "spec.layerSelector.operation", {"enum": {"extract", "copy"}}),
    ("OCIRepository", "spec.provider", {"enum": {"generic", "aws", "azure", "gcp"}, "default": "generic"}),
    ("OCIRepository", "spec.verify.provider", {"enum": {"cosign", "notation"}, "default": "cosign"}),
    ("OCIRepository", "spec.verify", {"required": ["provider"]}),
    ("OCIRepository", "spec.verify.matchOIDCIdentity[]", {"required": ["issuer", "subject"]}),
    ("OCIRepository", "spec.timeout", {"pattern": TIMEOUT, "default": "60s"}),
    ("HelmRepository", "spec", {"required": ["url"]}),
    ("HelmRepository", "spec.url", {"pattern": "^(http|https|oci)://.*$"}),
    ("HelmRepository", "spec.type", {"enum": {"default", "oci"}, "default": None}),
    ("HelmRepository", "spec.timeout", {"pattern": TIMEOUT, "default": None}),
    ("HelmRepository", "spec.provider", {"default": "generic"}),
    ("HelmRepository", "spec.accessFrom", {"required": ["namespaceSelectors"]}),
    ("HelmChart", "spec", {"required": ["chart", "sourceRef", "interval"]}),
    ("HelmChart", "spec.version", {"default": "*"}),
    ("HelmChart", "spec.sourceRef.kind", {"enum": {"HelmRepository", "GitRepository", "Bucket"}}),
    ("HelmChart", "spec.reconcileStrategy", {"enum": {"ChartVersion", "Revision"}, "default": "ChartVersion"}),
    ("Bucket", "spec", {"required": ["bucketName", "endpoint", "interval"]}),
    ("Bucket", "spec.provider", {"enum": {"generic", "aws", "gcp", "azure"}, "default": "generic"}),
    ("Bucket", "spec.sts", {"required": ["provider", "endpoint"]}),
    ("Bucket", "spec.sts.endpoint", {"pattern": "^(http|https)://.*$"}),
    ("ExternalArtifact", "spec.sourceRef", {"required": ["kind", "name"]}),
    ("Kustomization", "spec", {"required": ["interval", "prune", "sourceRef"]}),
    ("Kustomization", "spec.interval", {"pattern": DURATION}),
    (
        "Kustomization",
        "spec.sourceRef.kind",
        {"enum": {"OCIRepository", "GitRepository", "Bucket", "ExternalArtifact"}},
    ),
    ("Kustomization", "spec.targetNamespace", {"minLength": 1, "maxLength": 63}),
    ("Kustomization", "spec.namePrefix", {"minLength": 1, "maxLength": 200}),
    ("Kustomization", "spec.nameSuffix", {"minLength": 1, "maxLength": 200}),
    ("Kustomization", "spec.patches[]", {"required": ["patch"]}),
    ("Kustomization", "spec.images[]", {"required": ["name"]}),
    ("Kustomization", "spec.buildMetadata[]", {"enum": {"originAnnotations", "transformerAnnotations"}}),
    ("Kustomization", "spec.decryption", {"required": ["provider"]}),
    ("Kustomization", "spec.decryption.provider", {"enum": {"sops"}}),
    ("Kustomization", "spec.postBuild.substituteFrom[]", {"required": ["kind", "name"]}),
    ("Kustomization", "spec.postBuild.substituteFrom[].name", {"minLength": 1, "maxLength": 253}),
    ("Kustomization", "spec.postBuild.substituteFrom[].optional", {"default": False}),
    ("Kustomization", "spec.postBuild.substituteStrategy", {"enum": {"WithVariables", "Always"}, "default": None}),
    ("Kustomization", "spec.healthChecks[]", {"required": ["kind", "name"]}),
    ("Kustomization", "spec.healthCheckExprs[]", {"required": ["apiVersion", "current"]}),
    ("Kustomization", "spec.force", {"default": False}),
    (
        "Kustomization",
        "spec.deletionPolicy",
        {"enum": {"MirrorPrune", "Delete", "WaitForTermination", "Orphan"}, "default": None},
    ),
    ("Kustomization", "spec.ignore[]", {"required": ["paths"]}),
    ("Kustomization", "spec.timeout", {"pattern": DURATION}),
    ("Kustomization", "spec.retryInterval", {"pattern": DURATION}),
    ("Kustomization", "spec.kubeConfig.secretRef", {"required": ["name"]}),
    ("Kustomization", "status.inventory", {"required": ["entries"]}),
    ("Kustomization", "status.inventory.entries[]", {"required": ["id", "v"]}),
    ("Kustomization", "status.history[].lastReconciledDuration", {"pattern": None}),
    ("HelmRelease", "spec", {"required": ["interval"]}),
    ("HelmRelease", "spec.chart.spec.chart", {"minLength": 1, "maxLength": 2048}),
    ("HelmRelease", "spec.chart.spec.version", {"default": "*"}),
    ("HelmRelease", "spec.chart.spec.sourceRef.name", {"minLength": 1, "maxLength": 253}),
    ("HelmRelease", "spec.chart.spec.sourceRef.namespace", {"minLength": 1, "maxLength": 63}),
    ("HelmRelease", "spec.chart.spec.verify", {"required": ["provider"]}),
    ("HelmRelease", "spec.chartRef.kind", {"enum": {"OCIRepository", "HelmChart", "ExternalArtifact"}}),
    ("HelmRelease", "spec.releaseName", {"minLength": 1, "maxLength": 53}),
    ("HelmRelease", "spec.storageNamespace", {"minLength": 1, "maxLength": 63}),
    ("HelmRelease", "spec.serviceAccountName", {"minLength": 1, "maxLength": 253}),
    ("HelmRelease", "spec.values", {"x-kubernetes-preserve-unknown-fields": True, "type": None}),
    ("HelmRelease", "spec.valuesFrom[].valuesKey", {"maxLength": 253, "pattern": r"^[\-._a-zA-Z0-9]+$"}),
    (
        "HelmRelease",
        "spec.valuesFrom[].targetPath",
        {"maxLength": 250, "pattern": r"^([a-zA-Z0-9_\-.\\\/]|\[[0-9]{1,5}\])+$"},
    ),
    ("HelmRelease", "spec.install.crds", {"enum": {"Skip", "Create", "CreateReplace"}, "default": None}),
    ("HelmRelease", "spec.install.strategy", {"required": ["name"]}),
    ("HelmRelease", "spec.upgrade.remediation.strategy", {"enum": {"rollback", "uninstall"}}),
    ("HelmRelease", "spec.upgrade.serverSideApply", {"enum": {"enabled", "disabled", "auto"}}),
    ("HelmRelease", "spec.install.serverSideApply", {"type": "boolean"}),
    (
        "HelmRelease",
        "spec.uninstall.deletionPropagation",
        {"enum": {"background", "foreground", "orphan"}, "default": "background"},
    ),
    ("HelmRelease", "spec.driftDetection.mode", {"enum": {"enabled", "warn", "disabled"}, "default": None}),
    ("HelmRelease", "spec.postRenderStrategy", {"enum": {"nohooks", "combined", "separate"}, "default": None}),
    ("HelmRelease", "spec.waitStrategy", {"required": ["name"]}),
    ("HelmRelease", "spec.test.filters[].name", {"minLength": 1, "maxLength": 253}),
    ("HelmRelease", "status.storageNamespace", {"minLength": 1, "maxLength": 63}),
    ("HelmRelease", "status.lastAttemptedReleaseAction", {"enum": {"install", "upgrade"}}),
    ("HelmRelease", "status.history[].testHooks{}", {"nullable": True}),
    ("HelmRelease", "status.history[].firstDeployed", {"format": "date-time"}),
]


def _test_name(value: object) -> str:
    """The same in every process: sets are named in order."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={sorted(of) if isinstance(of, set) else of}" for key, of in value.items())[:60]
    return str(value)


@pytest.mark.parametrize(("kind", "path", "expected"), EXPECTED, ids=_test_name)
def test_s5_a_field_has_the_rules_of_the_specification(kind: str, path: str, expected: Mapping[str, Any]) -> None:
    """spec/source.md 5 to 10, spec/kustomize.md 1.2, spec/helm.md 1: None means that the schema says nothing."""
    found = field(kind, path)
    for name, value in expected.items():
        actual = found.get(name)
        assert (set(actual or ()) if name == "enum" else actual) == value, name


def test_every_duration_of_a_spec_has_a_pattern_and_every_timeout_of_a_source_knows_no_hours() -> None:
    seen = []
    for kind in IDENTITY:
        for path, schema in walk(version_of(kind)["schema"]["openAPIV3Schema"]):
            name = path.rpartition(".")[2]
            if path.startswith(".spec") and name in {"interval", "timeout", "retryInterval"}:
                is_source_timeout = name == "timeout" and kind not in {"Kustomization", "HelmRelease"}
                assert schema["pattern"] == (TIMEOUT if is_source_timeout else DURATION), f"{kind}{path}"
                seen.append(path)
    assert len(seen) == 22


def test_rules_stand_where_the_specification_puts_them() -> None:
    counts = {
        f"{kind}{path}": len(schema["x-kubernetes-validations"])
        for kind in IDENTITY
        for path, schema in walk(version_of(kind)["schema"]["openAPIV3Schema"])
        if "x-kubernetes-validations" in schema
    }
    assert counts == {
        "GitRepository.spec": 1,
        "HelmChart.spec": 1,
        "Bucket.spec": 7,
        "Kustomization.spec.kubeConfig": 2,
        "HelmRelease.spec": 1,
        "HelmRelease.spec.kubeConfig": 2,
        "HelmRelease.spec.install.strategy": 1,
        "HelmRelease.spec.upgrade.strategy": 1,
    }


# --- the generator --------------------------------------------------------------------------------------------------


def test_a_choice_of_types_cannot_become_a_schema() -> None:
    class Odd(Model, frozen=True, kw_only=True):
        """Odd."""

        both: str | int

    with pytest.raises(TypeError, match="choice of types"):
        crd.schema(models.type_info(Odd))


def test_a_type_without_schema_is_refused() -> None:
    with pytest.raises(TypeError, match="no structural schema"):
        crd.schema(models.type_info(bytes))


def test_bounds_become_bounds() -> None:
    class Bounded(Model, frozen=True, kw_only=True):
        """Bounded."""

        number: Annotated[int, Meta(ge=1, le=9, description="N.")]
        items: Annotated[tuple[str, ...], Meta(min_length=1, max_length=3, description="I.")]

    assert crd.schema(models.type_info(Bounded)) == {
        "type": "object",
        "description": "Bounded.",
        "required": ["number", "items"],
        "properties": {
            "number": {"type": "integer", "minimum": 1, "maximum": 9, "description": "N."},
            "items": {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": 3,
                "description": "I.",
            },
        },
    }


def test_the_files_read_back_as_the_documents() -> None:
    texts = crd.files()
    assert len(texts) == 9
    for kind, expected in CRDS.items():
        name = f"{expected['spec']['group']}_{expected['spec']['names']['plural']}.yaml"
        assert documents.load_all(texts[name], source=name) == [expected], kind
    (base,) = documents.load_all(texts["kustomization.yaml"], source="kustomization.yaml")
    assert base["resources"] == sorted(texts.keys() - {"kustomization.yaml"})


def test_the_checked_in_files_are_those_of_the_models() -> None:
    assert crd.differences(CHECKED_IN) == ""


def test_what_was_written_passes_the_check_and_what_was_changed_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "crd"
    assert crd.main(["--write", str(folder)]) == 0
    assert crd.main(["--check", str(folder)]) == 0
    changed = folder / "source.toolkit.fluxcd.io_buckets.yaml"
    changed.write_text(changed.read_text().replace("default: 60s", "default: 90s"))
    (folder / "stranger.yaml").write_text("a: b\n")
    assert crd.main(["--check", str(folder)]) == 1
    told = capsys.readouterr().err
    assert "default: 90s" in told
    assert "stranger.yaml" in told
    assert "python -m gitopsd.api.crd --write" in told
    assert crd.main(["--write", str(folder)]) == 0
    assert crd.main(["--check", str(folder)]) == 0
    assert not (folder / "stranger.yaml").exists()


def test_a_long_difference_is_only_hinted_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) < 50
    assert "more lines" in told
