"""The CRDs on a real API server: what it accepts, what it refuses and in which words, what it fills in and keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gitopsd.api import crd
from gitopsd.api.resource import Broken, Resource, read
from tests.apiclient import ApiStatusError
from tests.controlplane import ControlPlane

Obj = dict[str, Any]
KINDS = {kind.GVK.kind: kind for kind in crd.KINDS}
REFERENCE = {"name": "other"}
MINIMAL: dict[str, Obj] = {
    "GitRepository": {"url": "https://example.com/app.git", "interval": "1m"},
    "OCIRepository": {"url": "oci://example.com/app", "interval": "1m"},
    "HelmRepository": {"url": "https://example.com/charts"},
    "HelmChart": {"chart": "app", "interval": "1m", "sourceRef": {"kind": "HelmRepository", "name": "charts"}},
    "Bucket": {"bucketName": "app", "endpoint": "example.com", "interval": "1m"},
    "ExternalArtifact": {},
    "Kustomization": {"interval": "5m", "prune": True, "sourceRef": {"kind": "GitRepository", "name": "app"}},
    "HelmRelease": {"interval": "5m", "chartRef": {"kind": "OCIRepository", "name": "app"}},
}


def an_object(kind: str, name: str = "app", **spec: Any) -> Obj:
    wanted = {field: value for field, value in (MINIMAL[kind] | spec).items() if value is not None}
    return {
        "apiVersion": KINDS[kind].GVK.api_version,
        "kind": kind,
        "metadata": {"name": name},
        "spec": wanted,
    }


def create(control_plane: ControlPlane, namespace: str, obj: Obj) -> Obj:
    return control_plane.api.create(obj, namespace)


def write_status(control_plane: ControlPlane, obj: Obj, status: Obj) -> Obj:
    """Replace the status. Not by merge patch: a null in one says "remove", at any depth."""
    path = f"{control_plane.api.object_path(obj)}/status"
    written: Obj = control_plane.api.request("PUT", path, obj | {"status": status})
    return written


# --- the CRDs themselves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_crd_is_served_and_has_nothing_to_complain_about(control_plane: ControlPlane, kind: str) -> None:
    """spec/cli.md 17.1: the CLI reads status.storedVersions."""
    model = KINDS[kind]
    name = f"{model.NAMES.plural}.{model.GVK.group}"
    found = control_plane.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    assert found is not None
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert found["status"]["storedVersions"] == [model.GVK.version]


def test_kubectl_knows_short_names_categories_columns_and_descriptions(
    control_plane: ControlPlane, namespace: str
) -> None:
    for kind in KINDS:
        create(control_plane, namespace, an_object(kind))
    for kind, model in KINDS.items():
        heading = control_plane.kubectl("get", model.NAMES.plural, "-n", namespace).splitlines()[0]
        columns = [column.name.upper() for column in model.NAMES.columns]
        assert " ".join(heading.split()) == " ".join(["NAME", *columns])
        for short in model.NAMES.short:
            assert control_plane.kubectl("get", short, "app", "-n", namespace, "-o", "name").strip() == (
                f"{kind.lower()}.{model.GVK.group}/app"
            )
    sources = control_plane.kubectl("get", "fluxcd-sources", "-n", namespace, "-o", "name").split()
    assert len(sources) == 6
    appliers = control_plane.kubectl("get", "fluxcd-appliers", "-n", namespace, "-o", "name").split()
    assert len(appliers) == 2
    explained = control_plane.kubectl("explain", "kustomization.spec.prune")
    assert "Delete objects that are no longer part of the build." in explained


# --- what is filled in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_s1_a_new_object_has_observed_no_generation(control_plane: ControlPlane, namespace: str, kind: str) -> None:
    """spec/source.md 1: the default of status, which ExternalArtifact has not."""
    made = create(control_plane, namespace, an_object(kind))
    assert made.get("status") == (None if kind == "ExternalArtifact" else {"observedGeneration": -1})
    assert isinstance(read(KINDS[kind], made), KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_s1_an_object_without_spec_is_accepted_and_read_as_broken(
    control_plane: ControlPlane, namespace: str, kind: str
) -> None:
    """spec/source.md 1: neither spec nor status is required at the root."""
    bare = an_object(kind)
    del bare["spec"]
    found = read(KINDS[kind], create(control_plane, namespace, bare))
    if kind == "ExternalArtifact":
        assert isinstance(found, Resource)
    else:
        assert isinstance(found, Broken)
        assert f"{kind}/{namespace}/app is invalid" in found.error


DEFAULTS: dict[str, Obj] = {
    "GitRepository": {"timeout": "60s"},
    "OCIRepository": {"timeout": "60s", "provider": "generic"},
    "HelmRepository": {"provider": "generic"},
    "HelmChart": {"version": "*", "reconcileStrategy": "ChartVersion"},
    "Bucket": {"timeout": "60s", "provider": "generic"},
    "ExternalArtifact": {},
    "Kustomization": {"force": False},
    "HelmRelease": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_s5_the_server_fills_in_the_defaults_of_the_specification_and_no_more(
    control_plane: ControlPlane, namespace: str, kind: str
) -> None:
    """spec/source.md 5 to 9, spec/kustomize.md 1.2, spec/helm.md 1."""
    made = create(control_plane, namespace, an_object(kind))
    assert made.get("spec", {}) == MINIMAL[kind] | DEFAULTS[kind]
    as_read, as_written = read(KINDS[kind], made), read(KINDS[kind], an_object(kind))
    assert isinstance(as_read, Resource)
    assert getattr(as_read, "spec") == getattr(as_written, "spec")  # noqa: B009 - Resource itself has no spec


def test_nested_defaults_are_filled_in_where_their_parent_is(control_plane: ControlPlane, namespace: str) -> None:
    git = create(control_plane, namespace, an_object("GitRepository", verify={"secretRef": REFERENCE}))
    assert git["spec"]["verify"]["mode"] == "HEAD"
    oci = create(control_plane, namespace, an_object("OCIRepository", verify={}))
    assert oci["spec"]["verify"] == {"provider": "cosign"}
    chart = {"spec": {"chart": "app", "sourceRef": {"kind": "HelmRepository", "name": "r"}, "verify": {}}}
    release = create(control_plane, namespace, an_object("HelmRelease", chartRef=None, chart=chart, uninstall={}))
    assert release["spec"]["chart"]["spec"]["version"] == "*"
    assert release["spec"]["chart"]["spec"]["reconcileStrategy"] == "ChartVersion"
    assert release["spec"]["chart"]["spec"]["verify"] == {"provider": "cosign"}
    assert release["spec"]["uninstall"] == {"deletionPropagation": "background"}
    from_ = [{"kind": "Secret", "name": "s"}]
    kustomization = create(control_plane, namespace, an_object("Kustomization", postBuild={"substituteFrom": from_}))
    assert kustomization["spec"]["postBuild"]["substituteFrom"][0]["optional"] is False


# --- what is refused ------------------------------------------------------------------------------------------------

BUCKET_AWS = {"provider": "aws", "endpoint": "https://sts"}
BUCKET_LDAP = {"provider": "ldap", "endpoint": "https://sts"}
KUBECONFIG = "exactly one of spec.kubeConfig.configMapRef or spec.kubeConfig.secretRef must be specified"
REFUSED: list[tuple[str, Obj, str]] = [
    (
        "GitRepository",
        {"url": "file:///srv/app.git"},
        "spec.url: Invalid value: \"file:///srv/app.git\": spec.url in body should match '^(http|https|ssh)://.*$'",
    ),
    ("GitRepository", {"interval": "1d"}, "spec.interval in body should match"),
    ("GitRepository", {"interval": None}, "spec.interval: Required value"),
    ("GitRepository", {"timeout": "1h"}, "spec.timeout in body should match"),
    ("GitRepository", {"provider": "gitlab"}, 'spec.provider: Unsupported value: "gitlab"'),
    ("GitRepository", {"verify": {"mode": "head"}}, "spec.verify.secretRef: Required value"),
    (
        "GitRepository",
        {"serviceAccountName": "x"},
        "serviceAccountName can only be set when provider is 'azure' or 'aws'",
    ),
    (
        "GitRepository",
        {"serviceAccountName": "x", "provider": "github"},
        "serviceAccountName can only be set when provider is 'azure' or 'aws'",
    ),
    ("OCIRepository", {"url": "https://example.com/app"}, "spec.url in body should match '^oci://.*$'"),
    ("OCIRepository", {"layerSelector": {"operation": "move"}}, "spec.layerSelector.operation: Unsupported value"),
    ("OCIRepository", {"verify": {"provider": "gpg"}}, "spec.verify.provider: Unsupported value"),
    ("HelmRepository", {"url": "ssh://x/y"}, "spec.url in body should match '^(http|https|oci)://.*$'"),
    ("HelmRepository", {"type": "http"}, "spec.type: Unsupported value"),
    ("HelmChart", {"sourceRef": {"kind": "OCIRepository", "name": "x"}}, "spec.sourceRef.kind: Unsupported value"),
    (
        "HelmChart",
        {"verify": {}, "sourceRef": {"kind": "Bucket", "name": "x"}},
        "spec.verify is only supported when spec.sourceRef.kind is 'HelmRepository'",
    ),
    (
        "Bucket",
        {"provider": "gcp", "sts": BUCKET_AWS},
        "STS configuration is only supported for the 'aws' and 'generic' Bucket providers",
    ),
    (
        "Bucket",
        {"provider": "aws", "sts": BUCKET_LDAP},
        "'aws' is the only supported STS provider for the 'aws' Bucket provider",
    ),
    (
        "Bucket",
        {"sts": BUCKET_AWS},
        "'ldap' is the only supported STS provider for the 'generic' Bucket provider",
    ),
    (
        "Bucket",
        {"provider": "aws", "sts": BUCKET_AWS | {"secretRef": REFERENCE}},
        "spec.sts.secretRef is not required for the 'aws' STS provider",
    ),
    (
        "Bucket",
        {"provider": "aws", "sts": BUCKET_AWS | {"certSecretRef": REFERENCE}},
        "spec.sts.certSecretRef is not required for the 'aws' STS provider",
    ),
    ("Bucket", {"serviceAccountName": "x"}, "ServiceAccountName is not supported for the 'generic' Bucket provider"),
    (
        "Bucket",
        {"provider": "gcp", "serviceAccountName": "x", "secretRef": REFERENCE},
        "cannot set both .spec.secretRef and .spec.serviceAccountName",
    ),
    ("ExternalArtifact", {"sourceRef": {"kind": "X"}}, "spec.sourceRef.name: Required value"),
    ("Kustomization", {"prune": None}, "spec.prune: Required value"),
    ("Kustomization", {"targetNamespace": "n" * 64}, "spec.targetNamespace: Too long"),
    ("Kustomization", {"namePrefix": ""}, "spec.namePrefix"),
    ("Kustomization", {"deletionPolicy": "Keep"}, "spec.deletionPolicy: Unsupported value"),
    ("Kustomization", {"sourceRef": {"kind": "HelmChart", "name": "x"}}, "spec.sourceRef.kind: Unsupported value"),
    ("Kustomization", {"kubeConfig": {}}, KUBECONFIG),
    ("Kustomization", {"kubeConfig": {"secretRef": REFERENCE, "configMapRef": REFERENCE}}, KUBECONFIG),
    ("HelmRelease", {"chartRef": None}, "either chart or chartRef must be set"),
    (
        "HelmRelease",
        {"chart": {"spec": {"chart": "app", "sourceRef": {"kind": "Bucket", "name": "x"}}}},
        "either chart or chartRef must be set",
    ),
    ("HelmRelease", {"releaseName": "n" * 54}, "spec.releaseName: Too long"),
    ("HelmRelease", {"kubeConfig": {}}, KUBECONFIG),
    ("HelmRelease", {"kubeConfig": {"secretRef": REFERENCE, "configMapRef": REFERENCE}}, KUBECONFIG),
    (
        "HelmRelease",
        {"install": {"strategy": {"name": "RemediateOnFailure", "retryInterval": "1m"}}},
        ".retryInterval cannot be set when .name is 'RemediateOnFailure'",
    ),
    (
        "HelmRelease",
        {"upgrade": {"strategy": {"name": "RemediateOnFailure", "retryInterval": "1m"}}},
        ".retryInterval can only be set when .name is 'RetryOnFailure'",
    ),
    ("HelmRelease", {"valuesFrom": [{"kind": "Secret", "name": "s", "targetPath": "a b"}]}, "targetPath in body"),
    ("HelmRelease", {"upgrade": {"serverSideApply": "yes"}}, "spec.upgrade.serverSideApply: Unsupported value"),
]


@pytest.mark.parametrize(("kind", "spec", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_s5_the_server_refuses_what_the_specification_refuses(
    control_plane: ControlPlane, namespace: str, kind: str, spec: Obj, words: str
) -> None:
    """spec/source.md 5 to 10, spec/kustomize.md 1.2, spec/helm.md 1."""
    with pytest.raises(ApiStatusError) as caught:
        create(control_plane, namespace, an_object(kind, **spec))
    assert caught.value.status == 422
    assert caught.value.message.startswith(f'{kind}.{KINDS[kind].GVK.group} "app" is invalid: ')
    assert words in caught.value.message


ALLOWED: list[tuple[str, Obj]] = [
    ("GitRepository", {"provider": "azure", "serviceAccountName": "x"}),
    ("GitRepository", {"url": "ssh://git@example.com/app", "interval": "1h30m0.5s", "timeout": "1m30s"}),
    ("GitRepository", {"verify": {"mode": "head", "secretRef": REFERENCE}}),
    ("HelmRepository", {"url": "oci://example.com/charts", "type": "oci"}),
    ("HelmChart", {"verify": {"provider": "notation", "secretRef": REFERENCE}}),
    ("Bucket", {"sts": BUCKET_LDAP | {"secretRef": REFERENCE, "certSecretRef": REFERENCE}}),
    ("Bucket", {"provider": "aws", "sts": BUCKET_AWS, "serviceAccountName": "x"}),
    ("Kustomization", {"kubeConfig": {"configMapRef": REFERENCE}}),
    ("Kustomization", {"timeout": "1h", "retryInterval": "20s", "deletionPolicy": "WaitForTermination"}),
    ("HelmRelease", {"maxHistory": 0, "install": {"strategy": {"name": "RetryOnFailure", "retryInterval": "1m"}}}),
    ("HelmRelease", {"upgrade": {"strategy": {"name": "RetryOnFailure", "retryInterval": "1m"}}}),
    ("HelmRelease", {"kubeConfig": {"secretRef": REFERENCE | {"key": "k"}}}),
]


@pytest.mark.parametrize(("kind", "spec"), ALLOWED, ids=lambda value: str(value)[:50])
def test_the_server_accepts_what_the_specification_allows(
    control_plane: ControlPlane, namespace: str, kind: str, spec: Obj
) -> None:
    made = create(control_plane, namespace, an_object(kind, **spec))
    found = KINDS[kind].from_object(made)
    assert {field: found.to_object()["spec"][field] for field in spec} == spec


# --- what is kept ---------------------------------------------------------------------------------------------------


def sample(schema: Obj, name: str = "") -> Any:
    """A value that fits a schema, with every field of it set."""
    for known in ("default", "enum"):
        if known in schema:
            return schema[known] if known == "default" else schema[known][-1]
    match schema.get("type"):
        case "object" if "properties" in schema:
            return {field: sample(inner, field) for field, inner in schema["properties"].items()}
        case "object":
            return {"key": sample(schema["additionalProperties"])}
        case "array":
            return [sample(schema["items"])]
        case "boolean":
            return True
        case "integer":
            return 7
        case "string" if schema.get("format") == "date-time":
            return "2026-08-01T10:00:07Z"
        case "string":
            return _texts(schema.get("pattern", ""))
    return {"any": ["thing", None, {"goes": None}], "none": None}


def _texts(pattern: str) -> str:
    for start, text in (("^([0-9]", "1m"), ("^oci", "oci://h/r"), ("^(http", "https://h/r"), ("^[a-z0-9]+(?:", "a:b")):
        if pattern.startswith(start):
            return text
    return "text"


# Fields that exclude others, which CEL rules would refuse together.
EXCLUSIVE = {
    "GitRepository": ["serviceAccountName"],
    "Bucket": ["serviceAccountName", "sts"],
    "HelmRelease": ["chartRef"],
}


def schema_of(kind: str, part: str) -> Obj:
    """The schema of spec or status, without the default that a new object's status gets."""
    (version,) = crd.document(KINDS[kind])["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    return {name: value for name, value in properties[part].items() if name != "default"}


def full_spec(kind: str) -> Obj:
    spec: Obj = sample(schema_of(kind, "spec"))
    for field in EXCLUSIVE.get(kind, ()):
        del spec[field]
    if kind == "HelmChart":
        spec["sourceRef"]["kind"] = "HelmRepository"
    if "kubeConfig" in spec:
        del spec["kubeConfig"]["configMapRef"]
    for action in ("install", "upgrade"):
        if action in spec:
            spec[action]["strategy"]["name"] = "RetryOnFailure"
    return spec


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_goes_to_the_server_and_through_the_model_and_nothing_is_lost(
    control_plane: ControlPlane, namespace: str, kind: str
) -> None:
    wanted = an_object(kind) | {"spec": full_spec(kind)}
    made = create(control_plane, namespace, wanted)
    assert made["spec"] == wanted["spec"]
    status = sample(schema_of(kind, "status"))
    stored = write_status(control_plane, made, status)
    assert stored["status"] == status
    again = KINDS[kind].from_object(stored).to_object()
    # a model leaves out what has its default, and reads the same with and without it
    kept = dict(leaves(again["spec"])) | dict(leaves(again.get("status", {})))
    given = dict(leaves(stored["spec"])) | dict(leaves(stored["status"]))
    assert kept.items() <= given.items()
    recreated = create(control_plane, namespace, again | {"metadata": {"name": "again"}})
    assert getattr(KINDS[kind].from_object(recreated), "spec") == getattr(KINDS[kind].from_object(made), "spec")  # noqa: B009


def test_fields_of_a_newer_release_are_dropped_but_not_those_of_values(
    control_plane: ControlPlane, namespace: str
) -> None:
    values = {"a": None, "b": {"c": [1, 2.5, None, "x"]}}
    made = create(control_plane, namespace, an_object("HelmRelease", values=values, fork=True))
    assert made["spec"]["values"] == values
    assert "fork" not in made["spec"]


def test_a_test_that_never_ran_may_be_null_in_the_history(control_plane: ControlPlane, namespace: str) -> None:
    """spec/helm.md 2.2."""
    entry = {
        "digest": "sha256:1",
        "name": "app",
        "namespace": namespace,
        "version": 1,
        "status": "deployed",
        "chartName": "app",
        "chartVersion": "1.0.0",
        "configDigest": "sha256:2",
        "firstDeployed": "2026-08-01T10:00:07Z",
        "lastDeployed": "2026-08-01T10:00:07Z",
        "testHooks": {"t": None},
    }
    made = create(control_plane, namespace, an_object("HelmRelease"))
    stored = write_status(control_plane, made, {"history": [entry]})
    assert stored["status"]["history"] == [entry]


def test_s7_3_the_status_of_a_static_repository_can_be_emptied(control_plane: ControlPlane, namespace: str) -> None:
    """spec/source.md 7.3: the default comes back only where status itself is missing."""
    made = create(control_plane, namespace, an_object("HelmRepository", type="oci", url="oci://h/r"))
    stored = write_status(control_plane, made, {})
    assert stored["status"] == {}
    found = control_plane.api.get(made["apiVersion"], "HelmRepository", "app", namespace)
    assert found is not None
    assert json.dumps(found["status"]) == "{}"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"artifact": {"path": "p", "url": "u", "revision": "r"}}, "status.artifact.digest: Required value"),
        (
            {
                "artifact": {
                    "path": "p",
                    "url": "u",
                    "revision": "r",
                    "digest": "sha256",
                    "lastUpdateTime": "2026-08-01T10:00:07Z",
                }
            },
            "artifact.digest in body should match",
        ),
        ({"conditions": [{"type": "Ready", "status": "Yes"}]}, "status.conditions[0].status: Unsupported value"),
    ],
)
def test_O06_a_forged_status_has_to_fit_the_schema(
    control_plane: ControlPlane, namespace: str, status: Obj, words: str
) -> None:
    made = create(control_plane, namespace, an_object("GitRepository"))
    with pytest.raises(ApiStatusError) as caught:
        write_status(control_plane, made, status)
    assert words in caught.value.message
