"""What differs between two objects once the server's noise is left out, and what noise is taken off before an apply.

Compares by meaning (spec/kustomize.md 4.4, step 6): quantities and times by value, but only where Kubernetes has
quantities and times; null like missing, an empty list like none. An empty mapping is *not* like a missing one: for a
label selector the first means everything and the second nothing. Of the metadata only labels and annotations count.

Pure: nothing here changes what it is given; results may share unchanged parts with it. No recursion: an object may be
nested as deeply as the server lets it. Differences are told as paths, never with values, for a value may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

import orjson

from gitopsd.krm.objects import Obj, get_in, gvk_of

# -- before an apply ---------------------------------------------------------------------------------------------------


def normalise(obj: Obj) -> Obj:
    """Take off what must not be applied and fill in what server-side apply needs (spec/kustomize.md 4.3).

    Built-in kinds are not sent through Go's types: their unknown fields stay, for the server to report.
    """
    gvk = gvk_of(obj)
    is_definition = (gvk.group, gvk.kind) == ("apiextensions.k8s.io", "CustomResourceDefinition")
    fresh = {key: value for key, value in obj.items() if key != "status" or is_definition}
    metadata = fresh.get("metadata")
    if isinstance(metadata, dict) and "creationTimestamp" in metadata:
        fresh["metadata"] = {key: value for key, value in metadata.items() if key != "creationTimestamp"}
    if is_definition:
        return _without_invalid_bundle(fresh)
    if (gvk.group, gvk.kind) == ("", "Secret"):
        return _with_encoded_data(fresh)
    path = _PORT_OWNERS.get((gvk.group, gvk.kind))
    return fresh if path is None else _with_protocols(fresh, path)


_BUNDLE: Final = ("spec", "conversion", "webhook", "clientConfig", "caBundle")


def _without_invalid_bundle(definition: Obj) -> Obj:
    """The API server refuses a definition for a bundle that is not one; many manifests carry a placeholder."""
    bundle = get_in(definition, *_BUNDLE, default="")
    if not isinstance(bundle, str) or not bundle or _is_bundle(bundle):
        return definition
    return _changed(definition, _BUNDLE[:-1], lambda found: {key: found[key] for key in found if key != _BUNDLE[-1]})


_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _is_bundle(text: str) -> bool:
    from cryptography import x509  # large, and hardly ever needed

    try:
        pem = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    for block in _CERTIFICATE.findall(pem):
        try:
            x509.load_pem_x509_certificate(block)
        except ValueError:
            continue
        return True
    return not pem


def _with_encoded_data(secret: Obj) -> Obj:
    """`stringData` moved into `data`; what has the wrong types is left for the server to refuse."""
    plain = secret.get("stringData")
    data = secret.get("data") or {}
    if not isinstance(plain, dict) or not isinstance(data, dict):
        return secret
    if not all(isinstance(value, str) for value in plain.values()):
        return secret
    fresh = {key: value for key, value in secret.items() if key != "stringData"}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
    if data or encoded:
        fresh["data"] = {**data, **encoded}
    return fresh


_POD: Final = ("spec", "containers")
_TEMPLATE: Final = ("spec", "template", "spec", "containers")
_PORT_OWNERS: Final = {
    ("", "Service"): ("spec",),
    ("", "Pod"): _POD,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
}


def _with_protocols(obj: Obj, path: tuple[str, ...]) -> Obj:
    """`protocol: TCP` where a port names none: the key of a port is (number, protocol), so apply needs both."""
    owner = get_in(obj, *path)
    if isinstance(owner, dict):
        return _changed(obj, path, _with_tcp) if _lacks_protocol(owner) else obj
    if isinstance(owner, list) and any(map(_lacks_protocol, owner)):
        return _changed(obj, path, lambda containers: [_with_tcp(container) for container in containers])
    return obj


def _lacks_protocol(owner: Any) -> bool:
    ports = get_in(owner, "ports")
    return isinstance(ports, list) and any(isinstance(port, dict) and not port.get("protocol") for port in ports)


def _with_tcp(owner: Any) -> Any:
    if not _lacks_protocol(owner):
        return owner
    ports = [
        {**port, "protocol": "TCP"} if isinstance(port, dict) and not port.get("protocol") else port
        for port in owner["ports"]
    ]
    return {**owner, "ports": ports}


def _changed(obj: Obj, path: tuple[str, ...], change: Callable[[Any], Any]) -> Obj:
    """A copy of `obj` with the value at `path` replaced; only the dicts on the way are copied."""
    root = dict(obj)
    at = root
    for step in path[:-1]:
        at[step] = dict(at[step])
        at = at[step]
    at[path[-1]] = change(at[path[-1]])
    return root


# -- comparing ---------------------------------------------------------------------------------------------------------


def has_drifted(live: Obj, wanted: Obj) -> bool:
    """Tell whether `live` differs from `wanted` in what an apply could change."""
    return any(True for _ in _differences(live, wanted))


def changed_paths(live: Obj, wanted: Obj, *, most: int = 20) -> list[str]:
    """The JSON pointers of what differs, sorted; at most `most` of them."""
    found: list[str] = []
    for path in _differences(live, wanted):
        found.append(_pointer(path))
        if len(found) == most:
            break
    return sorted(found)


def _pointer(path: _Path) -> str:
    steps: list[str] = []
    at: _Path | None = path
    while at is not None:
        at, step = at
        steps.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "/" + "/".join(reversed(steps))


_Path = tuple["_Path | None", str | int]
_Pair = tuple["_Path | None", Any, Any]


def _differences(live: Obj, wanted: Obj) -> Iterator[_Path]:
    metadata: _Path = (None, "metadata")
    for name in ("labels", "annotations"):
        one = get_in(live, "metadata", name, default={})
        other = get_in(wanted, "metadata", name, default={})
        if one != other:
            yield from _walk([((metadata, name), one, other)], "")
    kind = gvk_of(wanted).kind
    is_autoscaler = (gvk_of(wanted).group, kind) == ("autoscaling", "HorizontalPodAutoscaler")
    for name in sorted({*live, *wanted} - {"metadata", "status"}):
        one, other = live.get(name), wanted.get(name)
        if _is_same_json(one, other):
            continue
        if is_autoscaler and name == "spec":
            one, other = _with_distinct_metrics(one), _with_distinct_metrics(other)
        yield from _walk([((None, name), one, other)], kind)


def _is_same_json(one: Any, other: Any) -> bool:
    """A quick yes in C, at the price of a false no for what is only written in another way.

    `==` would not do: to Python, true is 1, and it gives up on deep nesting with an error of the interpreter.
    """
    try:
        return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested deeper than its writer goes
        return False


def _walk(pairs: list[_Pair], kind: str) -> Iterator[_Path]:
    while pairs:
        path, one, other = pairs.pop()
        assert path is not None
        if isinstance(one, dict) and isinstance(other, dict):
            pairs.extend(((path, key), one.get(key), other.get(key)) for key in {*one, *other})
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            pairs.extend(((path, at), *both) for at, both in enumerate(zip(one, other, strict=True)))
        elif not _is_same(path, one, other, kind):
            yield path


def _is_same(path: _Path, one: Any, other: Any, kind: str) -> bool:
    if one is None or other is None:
        return one in (None, []) and other in (None, [])
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    if bool(one == other):
        return True
    if _may_be_quantity(path, kind):
        value = _quantity(one)
        return value is not None and value == _quantity(other)
    return _may_be_time(path, kind) and _time(one) is not None and _time(one) == _time(other)


def _with_distinct_metrics(spec: Any) -> Any:
    """The spec of an autoscaler without the doubled and the empty metrics that servers before 1.27 send back."""
    metrics = get_in(spec, "metrics")
    if not isinstance(metrics, list):
        return spec
    distinct: list[Any] = []
    for metric in metrics:
        if get_in(metric, "type") and metric not in distinct:
            distinct.append(metric)
    return {**spec, "metrics": distinct}


# Where Kubernetes has quantities: mappings of them, single fields, and fields that are one only below a certain parent.
_QUANTITY_MAPPINGS: Final = frozenset(("limits", "requests", "capacity", "hard", "podFixed"))
_LIMIT_RANGE_MAPPINGS: Final = frozenset(("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"))
_QUANTITY_FIELDS: Final = frozenset(("sizeLimit", "divisor", "averageValue"))
_PLAIN_DATA: Final = frozenset(("ConfigMap", "Secret", ""))
_QUANTITY = re.compile(
    r"([-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40}))(?:([eE][-+]?\d{1,3})|([KMGTPE]i|[numkMGTPE]))?", re.ASCII
)
_SUFFIXES: Final = {
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
    **{letter: Fraction(1000) ** power for power, letter in enumerate(("n", "u", "m", "", "k", *"MGTPE"), -3)},
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[-+]\d\d:\d\d)", re.ASCII)


def _may_be_quantity(path: _Path, kind: str) -> bool:
    above, name = path
    parent = above[1] if above is not None else ""
    if kind in _PLAIN_DATA:
        return False
    if name in _QUANTITY_FIELDS or parent in _QUANTITY_MAPPINGS:
        return True
    return (kind == "LimitRange" and parent in _LIMIT_RANGE_MAPPINGS) or (
        kind == "HorizontalPodAutoscaler" and parent == "target" and name == "value"
    )


def _quantity(value: Any) -> Fraction | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        return None
    number, exponent, suffix = found.groups()
    return Fraction(f"{number}{exponent or ''}") * _SUFFIXES[suffix or ""]


def _may_be_time(path: _Path, kind: str) -> bool:
    return kind not in _PLAIN_DATA and str(path[1]).endswith(("Time", "Timestamp"))


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
