"""The CRDs of our kinds, generated from the models that also read the objects.

One source of truth: what a model's field says (type, constraints, default, description) becomes the schema; what a
model says about itself (RULES, NAMES, GVK) becomes CEL rules, names and columns. Nothing is kept by hand beside it.
`python -m gitopsd.api.crd --write FOLDER` writes the files, `--check FOLDER` says whether they are up to date.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import inspect as models

from gitopsd import __version__
from gitopsd.api import helmrelease, kustomization, source
from gitopsd.api.meta import KUSTOMIZE_SUBSTITUTE, MANAGED_BY_LABEL, PART_OF_LABEL, VERSION_LABEL
from gitopsd.api.resource import Resource
from gitopsd.krm import documents as yaml
from gitopsd.krm.objects import Obj

KINDS: Final[tuple[type[Resource], ...]] = (*source.KINDS, *kustomization.KINDS, *helmrelease.KINDS)

_HEADER: Final = "# Generated from the models in gitopsd/api by `make crds`; changes belong there.\n"
_HINT: Final = "the CRDs are not what the models say; run: python -m gitopsd.api.crd --write"
_SHOWN_LINES: Final = 40
_API_VERSION: Final = {"type": "string", "description": "Group and version of the schema the object follows."}
_KIND: Final = {"type": "string", "description": "Kind of the object."}
# What a new object's status says until a controller has looked: no generation was observed (spec/source.md 1).
_UNSEEN: Final = {"observedGeneration": -1}


def documents() -> list[Obj]:
    """Give all CRDs, in the order of `KINDS`."""
    return [document(kind) for kind in KINDS]


def document(kind: type[Resource]) -> Obj:
    """Give the CRD of one kind."""
    gvk, names = kind.GVK, kind.NAMES
    named: Obj = {
        "kind": gvk.kind,
        "listKind": f"{gvk.kind}List",
        "plural": names.plural,
        "singular": gvk.kind.lower(),
        "categories": list(names.categories),
    }
    if names.short:
        named["shortNames"] = list(names.short)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{names.plural}.{gvk.group}",
            "annotations": {KUSTOMIZE_SUBSTITUTE: "disabled"},
            "labels": {PART_OF_LABEL: "flux", MANAGED_BY_LABEL: "gitopsd", VERSION_LABEL: f"v{__version__}"},
        },
        "spec": {
            "group": gvk.group,
            "scope": "Namespaced",
            "names": named,
            "versions": [
                {
                    "name": gvk.version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": column.name, "type": column.type, "jsonPath": column.path} for column in names.columns
                    ],
                    "schema": {"openAPIV3Schema": _root_schema(kind)},
                }
            ],
        },
    }


def _root_schema(kind: type[Resource]) -> Obj:
    described = schema(models.type_info(kind))
    properties = described["properties"]
    del described["required"]  # neither spec nor status has to be there (spec/source.md 1)
    properties |= {"apiVersion": _API_VERSION, "kind": _KIND, "metadata": {"type": "object"}}
    if "observedGeneration" in properties["status"]["properties"]:
        properties["status"]["default"] = dict(_UNSEEN)
    return described


_PLAIN: Final[Mapping[type[models.Type], Obj]] = {
    models.BoolType: {"type": "boolean"},
    models.AnyType: {"x-kubernetes-preserve-unknown-fields": True},
}


def schema(of: models.Type) -> Obj:
    """Give the structural schema of a type. Raises TypeError for one that has none."""
    match of:
        case models.Metadata():
            return schema(of.type) | (of.extra_json_schema or {})
        case models.StructType():
            return _object_schema(of)
        case models.StrType():
            return _bounded("string", minLength=of.min_length, maxLength=of.max_length, pattern=of.pattern)
        case models.LiteralType():
            return {"type": "string", "enum": list(of.values)}
        case models.IntType():
            return _bounded("integer", minimum=of.ge, maximum=of.le)
        case models.VarTupleType():
            return _bounded("array", minItems=of.min_length, maxItems=of.max_length) | {"items": schema(of.item_type)}
        case models.DictType():
            return {"type": "object", "additionalProperties": _nullable_schema(of.value_type)}
        case models.UnionType():
            return schema(_without_none(of))
    if type(of) in _PLAIN:
        return dict(_PLAIN[type(of)])
    raise TypeError(f"{of!r} has no structural schema")


def _object_schema(of: models.StructType) -> Obj:
    described: Obj = {
        "type": "object",
        "description": _first_paragraph(of.cls),
        "properties": {field.encode_name: schema(field.type) for field in of.fields},
    }
    if required := [field.encode_name for field in of.fields if _is_required(field)]:
        described["required"] = required
    if rules := getattr(of.cls, "RULES", ()):
        described["x-kubernetes-validations"] = [{"rule": each.rule, "message": each.message} for each in rules]
    return described


def _is_required(field: models.Field) -> bool:
    """The field has to be there. A default of the server may stand beside that, and then always fills it."""
    if field.required:
        return True
    extra = field.type.extra if isinstance(field.type, models.Metadata) else None
    return bool(extra and extra.get("required"))


def _nullable_schema(of: models.Type) -> Obj:
    """Unlike a field, the value of a map can be null and there at the same time."""
    is_nullable = isinstance(of, models.UnionType) and of.includes_none
    return schema(of) | ({"nullable": True} if is_nullable else {})


def _without_none(of: models.UnionType) -> models.Type:
    left = [each for each in of.types if not isinstance(each, models.NoneType)]
    if len(left) != 1:
        raise TypeError(f"{of!r} is a choice of types, which a structural schema cannot express")
    return left[0]


def _bounded(type_: str, **bounds: Any) -> Obj:
    return {"type": type_} | {name: bound for name, bound in bounds.items() if bound is not None}


def _first_paragraph(model: type) -> str:
    return " ".join((inspect.getdoc(model) or "").partition("\n\n")[0].split())


# --- files ----------------------------------------------------------------------------------------------------------


def files() -> Mapping[str, str]:
    """Give the text of every generated file, by name: one for each CRD, and a kustomization that lists them."""
    texts = {f"{_stem(kind)}.yaml": _HEADER + yaml.dump(document(kind)) for kind in KINDS}
    base = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(texts),
    }
    return texts | {"kustomization.yaml": _HEADER + yaml.dump(base)}


def _stem(kind: type[Resource]) -> str:
    return f"{kind.GVK.group}_{kind.NAMES.plural}"


def write(folder: Path) -> None:
    """Make `folder` hold the generated files and no other YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = files()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for path in folder.glob("*.yaml"):
        if path.name not in texts:
            path.unlink()


def differences(folder: Path) -> str:
    """Give what `write` would change in `folder`, as a unified diff; empty when it is up to date."""
    texts = files()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    lines: list[str] = []
    for name in sorted(texts.keys() | found.keys()):
        before, after = found.get(name, ""), texts.get(name, "")
        lines += difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), f"{folder / name}", f"models: {name}"
        )
    return "".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files; the exit status is 1 when a check fails."""
    parser = argparse.ArgumentParser(prog="python -m gitopsd.api.crd", description=main.__doc__)
    wish = parser.add_mutually_exclusive_group(required=True)
    wish.add_argument("--write", metavar="FOLDER", type=Path, help="write the files into FOLDER")
    wish.add_argument("--check", metavar="FOLDER", type=Path, help="compare the files in FOLDER")
    options = parser.parse_args(arguments)
    if options.write:
        write(options.write)
        return 0
    diff = differences(options.check).splitlines(keepends=True)
    if not diff:
        return 0
    sys.stderr.writelines(diff[:_SHOWN_LINES])
    more = f"… and {len(diff) - _SHOWN_LINES} more lines\n" if len(diff) > _SHOWN_LINES else ""
    sys.stderr.write(f"{more}{_HINT} {options.check}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
