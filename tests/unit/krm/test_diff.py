from __future__ import annotations

import base64
import copy
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.krm.diff import changed_paths, has_drifted, normalise


def make(kind: str, api_version: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, **fields}


def deployment(*containers: Any) -> dict[str, Any]:
    return make("Deployment", "apps/v1", spec={"replicas": 1, "template": {"spec": {"containers": list(containers)}}})


def drifted(live: Any, wanted: Any, kind: str = "Widget", api_version: str = "example.com/v1") -> bool:
    one, other = make(kind, api_version, spec=live), make(kind, api_version, spec=wanted)
    found = has_drifted(one, other)
    assert found is has_drifted(other, one)
    assert found is bool(changed_paths(one, other))
    return found


# -- normalise


def test_what_the_server_writes_is_not_applied() -> None:
    """spec/kustomize.md 4.3"""
    obj = make("Widget", "example.com/v1", status={"a": 1})
    obj["metadata"]["creationTimestamp"] = None
    before = copy.deepcopy(obj)
    assert normalise(obj) == make("Widget", "example.com/v1")
    assert obj == before


def test_a_definition_keeps_its_status() -> None:
    obj = make("CustomResourceDefinition", "apiextensions.k8s.io/v1", status={"a": 1})
    assert normalise(obj) == obj


def test_string_data_becomes_data_and_wins() -> None:
    obj = make("Secret", stringData={"a": "é", "b": "2"}, data={"a": "eA==", "c": "eA=="})
    before = copy.deepcopy(obj)
    assert normalise(obj) == make("Secret", data={"a": "w6k=", "b": "Mg==", "c": "eA=="})
    assert obj == before
    assert normalise(make("Secret", stringData={"a": "x"}, data=None))["data"] == {"a": "eA=="}
    assert normalise(make("Secret", stringData={})) == make("Secret")


@pytest.mark.parametrize(
    "fields", [{"stringData": {"a": 1}}, {"stringData": "x"}, {"stringData": {"a": "x"}, "data": "y"}]
)
def test_a_secret_of_wrong_types_is_left_for_the_server_to_refuse(fields: Any) -> None:
    assert normalise(make("Secret", **fields)) == make("Secret", **fields)


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        (make("Service", spec={"ports": [{"port": 80}]}), ("spec",)),
        (make("Pod", spec={"containers": [{"ports": [{"port": 80}]}]}), ("spec", "containers", 0)),
        (
            deployment({"name": "a"}, {"name": "b", "ports": [{"port": 80}]}),
            ("spec", "template", "spec", "containers", 1),
        ),
        (
            make(
                "CronJob",
                "batch/v1",
                spec={
                    "jobTemplate": {
                        "spec": {"template": {"spec": {"containers": [{"ports": [{"port": 80, "protocol": ""}]}]}}}
                    }
                },
            ),
            ("spec", "jobTemplate", "spec", "template", "spec", "containers", 0),
        ),
    ],
)
def test_ports_without_protocol_are_tcp(obj: Any, path: tuple[Any, ...]) -> None:
    before = copy.deepcopy(obj)
    at = normalise(obj)
    for step in path:
        at = at[step]
    assert at["ports"] == [{"port": 80, "protocol": "TCP"}]
    assert obj == before


def test_other_ports_and_odd_shapes_stay_as_they_are() -> None:
    for obj in (
        make("Service", spec={"ports": [{"port": 80, "protocol": "UDP"}, "x"]}),
        make("Service", spec="x"),
        make("Service", "example.com/v1", spec={"ports": [{"port": 80}]}),
        deployment("x", None, {"ports": "x"}),
        make("Pod", spec={"initContainers": [{"ports": [{"port": 80}]}]}),
        make("Pod", metadata="x"),
    ):
        assert normalise(obj) == obj


def definition(bundle: str) -> dict[str, Any]:
    conversion = {"strategy": "Webhook", "webhook": {"clientConfig": {"caBundle": bundle, "url": "u"}}}
    return make("CustomResourceDefinition", "apiextensions.k8s.io/v1", spec={"conversion": conversion, "group": "g"})


def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_bundle_that_is_none_is_taken_out_of_a_definition() -> None:
    good = base64.b64encode(certificate()).decode()
    assert normalise(definition(good)) == definition(good)
    assert normalise(definition("")) == definition("")
    for bad in ("Cg==", "not base64", "é", base64.b64encode(certificate()[:80]).decode()):
        obj = definition(bad)
        assert normalise(obj)["spec"]["conversion"]["webhook"]["clientConfig"] == {"url": "u"}
        assert obj == definition(bad)


# -- has_drifted


def test_only_labels_and_annotations_of_the_metadata_count() -> None:
    """spec/kustomize.md 4.4, step 6"""
    live, wanted = make("Widget"), make("Widget")
    live["metadata"] |= {
        "finalizers": ["a"],
        "ownerReferences": [{}],
        "resourceVersion": "1",
        "managedFields": [{}],
        "labels": {},
    }
    live["status"] = {"a": 1}
    assert not has_drifted(live, wanted)
    for name in ("labels", "annotations"):
        live["metadata"][name] = {"a/b": "1"}
        assert has_drifted(live, wanted)
        assert changed_paths(live, wanted) == [f"/metadata/{name}/a~1b"]
        live["metadata"][name] = None


def test_everything_outside_metadata_and_status_counts() -> None:
    assert has_drifted(make("ConfigMap", data={"a": "1"}), make("ConfigMap", data={"a": "2"}))
    assert has_drifted(make("ConfigMap"), make("ConfigMap", immutable=True))
    assert not has_drifted(make("ConfigMap", data=None), make("ConfigMap"))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": None}, {}, False),
        ({"a": []}, {}, False),
        ({"a": []}, {"a": None}, False),
        ({"a": {}}, {}, True),
        ({"a": {}}, {"a": None}, True),
        ({"a": {}}, {"a": []}, True),
        ({"a": ""}, {}, True),
        ({"a": 0}, {}, True),
        ({"a": False}, {}, True),
        ({"a": 1}, {"a": True}, True),
        ({"a": 0}, {"a": False}, True),
        ({"a": "1"}, {"a": 1}, True),
        ({"a": [1, 2]}, {"a": [2, 1]}, True),
        ({"a": [1]}, {"a": [1, 1]}, True),
        ({"a": [{"b": None}]}, {"a": [{}]}, False),
    ],
)
def test_null_and_missing_are_alike_and_types_are_not(one: Any, other: Any, expected: bool) -> None:
    assert drifted(one, other) is expected


def test_a_selector_of_everything_is_not_one_of_nothing() -> None:
    """Taken for alike, a network policy that somebody opened by hand would stay open."""
    closed = {"ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}]}
    opened = {"ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "b"}}, "namespaceSelector": {}}]}]}
    assert drifted(opened, closed, "NetworkPolicy", "networking.k8s.io/v1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1000m", "1"),
        ("1", 1),
        ("1Gi", "1024Mi"),
        ("1k", "1000"),
        ("0.5", "500m"),
        ("1e3", "1k"),
        ("1E3", "1000"),
        ("+1", "1"),
        (".5", "0.50"),
        ("2", 2.0),
        ("100u", "0.1m"),
        ("1Ei", "1024Pi"),
    ],
)
def test_quantities_compare_by_value(one: Any, other: Any) -> None:
    for place in ("limits", "requests", "capacity", "hard"):
        assert not drifted({place: {"x": one}}, {place: {"x": other}})
    assert not drifted({"emptyDir": {"sizeLimit": one}}, {"emptyDir": {"sizeLimit": other}})
    assert not drifted({"limits": [{"max": {"cpu": one}}]}, {"limits": [{"max": {"cpu": other}}]}, "LimitRange", "v1")
    metric = {"metrics": [{"type": "Resource", "target": {"value": one}}]}
    assert not drifted(
        metric,
        {"metrics": [{"type": "Resource", "target": {"value": other}}]},
        "HorizontalPodAutoscaler",
        "autoscaling/v2",
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "2"),
        ("1Gi", "1G"),
        ("1", "1x"),
        ("x", "y"),
        ("1", ""),
        ("1", "1 "),
        ("1", True),
        ("1", ["1"]),
        ("1e9999", "1e9998"),
        ("١", "1"),
    ],
)
def test_other_quantities_differ(one: Any, other: Any) -> None:
    assert drifted({"limits": {"x": one}}, {"limits": {"x": other}})


def test_text_that_is_no_quantity_is_compared_as_text() -> None:
    assert drifted({"env": [{"name": "a", "value": "1000m"}]}, {"env": [{"name": "a", "value": "1"}]})
    assert drifted({"max": {"x": "1000m"}}, {"max": {"x": "1"}})
    assert has_drifted(make("ConfigMap", data={"sizeLimit": "1000m"}), make("ConfigMap", data={"sizeLimit": "1"}))


def test_times_compare_by_value_where_times_are() -> None:
    utc, local = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00.000+01:00"
    assert not drifted({"renewTime": utc}, {"renewTime": local})
    assert not drifted({"expirationTimestamp": utc}, {"expirationTimestamp": local})
    assert drifted({"renewTime": utc}, {"renewTime": "2026-01-01T00:00:01Z"})
    assert drifted({"renewTime": utc}, {"renewTime": "2026-13-01T00:00:00Z"})
    assert drifted({"text": utc}, {"text": local})
    assert has_drifted(make("ConfigMap", data={"aTime": utc}), make("ConfigMap", data={"aTime": local}))


def test_doubled_and_empty_metrics_of_old_servers_are_no_drift() -> None:
    """spec/kustomize.md 4.4, step 6"""
    cpu = {"type": "Resource", "resource": {"name": "cpu"}}
    memory = {"type": "Resource", "resource": {"name": "memory"}}
    kind = ("HorizontalPodAutoscaler", "autoscaling/v2")
    assert not drifted({"metrics": [cpu, memory]}, {"metrics": [cpu, cpu, memory, {"type": ""}]}, *kind)
    assert drifted({"metrics": [cpu, memory]}, {"metrics": [cpu, cpu, {}]}, *kind)
    assert drifted({"metrics": [cpu, cpu]}, {"metrics": [cpu]})


def test_deep_objects_are_compared_without_recursion() -> None:
    def nested(leaf: Any) -> Any:
        value = leaf
        for _ in range(5000):
            value = {"a": value}
        return value

    assert has_drifted(make("Widget", spec=nested(1)), make("Widget", spec=nested(2)))
    assert not has_drifted(make("Widget", spec=nested(1)), make("Widget", spec=nested(1)))


def test_changed_paths_are_pointers_without_values() -> None:
    live = deployment({"name": "a", "image": "x:1", "env": [{"name": "n", "value": "secret"}]})
    wanted = copy.deepcopy(live)
    wanted["spec"]["replicas"] = 3
    wanted["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2"
    wanted["metadata"]["labels"] = {"a~b": "1"}
    assert changed_paths(live, wanted) == [
        "/metadata/labels/a~0b",
        "/spec/replicas",
        "/spec/template/spec/containers/0/image",
    ]
    assert (
        len(changed_paths(make("ConfigMap", data={str(n): "" for n in range(99)}), make("ConfigMap", data={}), most=5))
        == 5
    )
    assert changed_paths(live, copy.deepcopy(live)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "1", "1000m", "1Gi"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "limits", "sizeLimit"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, JSON)
def test_comparing_is_symmetric_and_reflexive(one: Any, other: Any) -> None:
    drifted(one, other)
    assert not drifted(one, copy.deepcopy(one))


@given(JSON, st.sampled_from(["Secret", "Service", "Pod", "CustomResourceDefinition"]))
def test_normalising_twice_is_normalising_once_and_changes_nothing(value: Any, kind: str) -> None:
    api_version = "apiextensions.k8s.io/v1" if kind.startswith("Custom") else "v1"
    obj = make(kind, api_version, spec=value, stringData=value, data=value, status=value)
    before = copy.deepcopy(obj)
    once = normalise(obj)
    assert obj == before
    assert normalise(once) == once
