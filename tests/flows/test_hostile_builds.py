"""Kustomizations and manifests that are wrong on purpose, pushed through Git to a running daemon (J and K).

What the engine itself makes of each is proven beside it (`engine/*_test.go`); here is proven what the user sees of it,
that nothing is pruned meanwhile, and that the repair heals.
"""

from __future__ import annotations

from typing import Any

from tests.flows.hostile import Case, Hostile
from tests.flows.stage import config_map

KUSTOMIZATION = "kustomization.yaml"
FAILED = "kustomize build failed: "
HEADER = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\n"
SCHEMA = '{"definitions": {"v1.ConfigMap": {"properties": {"data": {"type": "array"}}}}}'


def built(text: str, says: str, **files: Any) -> Case:
    """A hostile kustomization.yaml beside a ConfigMap `cm.yaml`."""
    return Case({KUSTOMIZATION: text, "cm.yaml": config_map("bad")} | files, says)


def manifest(text: str | bytes, says: str) -> Case:
    """One hostile manifest, and no kustomization."""
    return Case({"bad.yaml": text}, says)


def listed(text: str, says: str) -> Case:
    """One hostile JSON file that a kustomization lists."""
    return Case({KUSTOMIZATION: "resources: [bad.json]\n", "bad.json": text}, says)


def test_J01_J02_a_path_out_of_the_artifact_is_refused_and_nothing_of_it_is_shown(hostile: Hostile) -> None:
    hostile.trial(
        {
            "resources": built("resources: [../../outside.yaml]\n", "outside.yaml"),
            "absolute": built("resources: [/etc/hostname]\n", "/etc/hostname"),
            "tilde": built("resources: [~/x]\n", "open /tilde/~/x: no such file"),
            "components": built("components: [../../x]\n", "is not in or below '/'"),
            "patches": built("resources: [cm.yaml]\npatches: [{path: ../../../etc/passwd}]\n", "is not in or below"),
            "replacements": built("resources: [cm.yaml]\nreplacements: [{path: ../../x}]\n", "is not in or below"),
            "openapi": built("resources: [cm.yaml]\nopenapi: {path: ../../x}\n", "is not in or below"),
            "files": built("configMapGenerator: [{name: x, files: [k=../../../etc/hostname]}]\n", "is not in or below"),
            "envs": built("secretGenerator: [{name: x, envs: [/proc/self/environ]}]\n", "environ"),
            "link": Case({KUSTOMIZATION: "resources: [l.yaml]\n", "l.yaml": {"link": "/etc/hostname"}}, "l.yaml"),
        }
    )


def test_J05_J06_nothing_that_needs_another_program_is_built(hostile: Hostile) -> None:
    function = "config.kubernetes.io/function: 'exec: {path: /bin/true}'"
    plugin = f"apiVersion: x/v1\nkind: Foo\nmetadata: {{name: x, annotations: {{{function}}}}}\n"
    hostile.trial(
        {
            "charts": built("helmCharts: [{name: x, repo: http://127.0.0.1:1}]\n", "must specify --enable-helm"),
            "inflation": built("helmChartInflationGenerator: [{chartName: x}]\n", "must specify --enable-helm"),
            "plugin": built(
                "generators: [plugin.yaml]\n",
                "external plugins disabled; unable to load external plugin 'Foo'",
                **{"plugin.yaml": plugin},
            ),
        }
    )


def test_J07_cycles_end_and_are_named(hostile: Hostile) -> None:
    a, b = "resources: [../b]\n", "resources: [../a]\n"
    hostile.trial(
        {
            "self": built("resources: [.]\n", "cycle"),
            "parent": Case({"in/kustomization.yaml": "resources: [..]\n", KUSTOMIZATION: "resources: [in]\n"}, "cycle"),
            "two": Case(
                {KUSTOMIZATION: "resources: [a]\n", "a/kustomization.yaml": a, "b/kustomization.yaml": b}, "/two/a"
            ),
            "component": built("components: [.]\n", "cycle"),
        }
    )


def test_J08_J09_a_kustomization_file_says_one_thing_once(hostile: Hostile) -> None:
    hostile.trial(
        {
            "two-files": built(
                "resources: [cm.yaml]\n", "multiple kustomization files", Kustomization="resources: []\n"
            ),
            "empty": built("", FAILED),
            "unknown": Case(
                {KUSTOMIZATION: "resources: [base]\n", "base/kustomization.yaml": "resource: [x]\n"},
                'unknown field "resource"',
            ),
            "duplicate": built("resources: [cm.yaml]\nresources: []\n", '"resources" already'),
            "kind": built("apiVersion: v1\nkind: ConfigMap\n", "kind"),
            "documents": built("resources: [cm.yaml]\n---\nresources: []\n", "document"),
            "bytes": Case({KUSTOMIZATION: b"resources: [\xff\xfe.yaml]\n"}, "UTF-8"),
            "list": built("- resources\n", FAILED),
            "large": built("resources: [cm.yaml]\n#" + "x" * (10 << 20), FAILED),
        }
    )


def test_J10_a_path_that_is_not_there_is_no_empty_one(hostile: Hostile) -> None:
    """Every path is clamped to the artifact; the daemon's own files are not in there."""
    revision = hostile.push({"app/cm.yaml": config_map("one"), "file": "x"})
    hostile.source()
    for name in ("clamped", "around"):
        hostile.kustomization(name, path={"clamped": "../../app", "around": "./a/../../app"}[name])
        hostile.until_applied(revision, name)
    paths = {"file": "./file/x", "absolute": "/etc", "climbing": "../../etc", "long": "./" + "x/" * 2500}
    for name, path in paths.items():
        hostile.kustomization(name, path=path)
    for name in paths:
        seen = hostile.until_reason("Kustomization", "ArtifactFailed", name)
        hostile.assert_answer(name, seen, "ArtifactFailed", "kustomization path not found: stat ")
    good = hostile.until_applied(revision, "clamped")
    hostile.kustomization("clamped", path="./gone")
    seen = hostile.until_reason("Kustomization", "ArtifactFailed", "clamped")
    hostile.assert_kept("clamped", good, seen)
    assert hostile.get("ConfigMap", "one") is not None


def test_J11_a_folder_without_kustomization_is_taken_whole_or_not_at_all(hostile: Hostile) -> None:
    hostile.trial(
        {
            "template": manifest(HEADER + "data:\n  {{- range .Values.x }}\n  a: b\n  {{- end }}\n", "bad.yaml"),
            "text": manifest("just: [text\n", "bad.yaml"),
            "values": manifest("replicas: 3\n", "bad.yaml: missing Resource metadata"),
        }
    )
    many = {f"many/{number}.yaml": config_map(f"cm-{number}") for number in range(150)}
    revision = hostile.push(many | {"many/BIG.YAML": config_map("big"), "many/README.md": "# x\n"})
    hostile.refetch()
    hostile.kustomization("many", path="./many")
    seen = hostile.until_applied(revision, "many")
    assert len(seen["status"]["inventory"]["entries"]) == 150


def test_J12_J13_J14_what_is_listed_must_be_there_once(hostile: Hostile) -> None:
    patch = "patches:\n- patch: |\n    {apiVersion: v1, kind: ConfigMap, metadata: {name: absent}}\n"
    hostile.trial(
        {
            "twice": built(
                "resources: [cm.yaml, cm.yaml]\n", "may not add resource with an already registered id: ConfigMap"
            ),
            "same-id": Case({"a.yaml": config_map("x"), "b.yaml": config_map("x")}, "already registered id: ConfigMap"),
            "missing": built("resources: [cm.yaml, gone.yaml]\n", "gone.yaml"),
            "absent": built("resources: [cm.yaml]\n" + patch, "no matches for Id ConfigMap"),
        }
    )
    selector = (
        "resources: [cm.yaml]\npatches: [{target: {kind: Nothing}, patch: '- {op: add, path: /data, value: {a: b}}'}]\n"
    )
    revision = hostile.push({"none/kustomization.yaml": selector, "none/cm.yaml": config_map("untouched")})
    hostile.refetch()
    hostile.kustomization("none", path="./none")
    hostile.until_applied(revision, "none")
    assert "data" not in (hostile.get("ConfigMap", "untouched") or {"data": 0})


def test_J15_J16_patches_and_selectors_are_bounded(hostile: Hostile) -> None:
    def patched(operations: str, says: str, target: str = "{kind: ConfigMap}") -> Case:
        lines = "".join(f"    - {{{one}}}\n" for one in operations.split("; "))
        return built(f"resources: [cm.yaml]\npatches:\n- target: {target}\n  patch: |\n{lines}", says)

    harmless = "op: add, path: /data, value: {a: b}"
    copies = "op: add, path: /data, value: {a: xxxxxxxxxxxxxxxxxxxxxxxxx}"
    for _ in range(40):
        copies += "; op: add, path: /pair, value: {}; op: move, from: /data, path: /pair/l"
        copies += "; op: copy, from: /pair/l, path: /pair/r; op: move, from: /pair, path: /data"
    hostile.trial(
        {
            "missing": patched("op: replace, path: /spec/x, value: 1", "missing path"),
            "test": patched("op: test, path: /kind, value: Secret", "test"),
            "pointer": patched("op: remove, path: /a/~2", FAILED),
            "index": patched("op: add, path: /metadata/finalizers/1000000000, value: x", FAILED),
            "copies": patched(copies, "the accumulated size increase of copy is"),
            "regex": patched(harmless, "error parsing regexp", "{name: '(a'}"),
            "labels": patched(harmless, FAILED, "{labelSelector: 'a in ('}"),
            "long": patched(harmless, FAILED, f"{{labelSelector: '{'a' * 100_000}'}}"),
        }
    )
    patch = f"- {{{harmless}}}"
    slow = f"resources: [cm.yaml]\npatches: [{{target: {{name: '(a+)+$'}}, patch: '{patch}'}}]\n"
    revision = hostile.push({"slow/kustomization.yaml": slow, "slow/cm.yaml": config_map("a" * 200 + "-b")})
    hostile.refetch()
    hostile.kustomization("slow", path="./slow")
    hostile.until_applied(revision, "slow")


def test_J18_J25_fields_of_the_spec_are_read_as_strictly_as_files(hostile: Hostile) -> None:
    revision = hostile.push({"app/cm.yaml": config_map("one"), "base/kustomization.yaml": "kind: Component\n"})
    hostile.source()
    images = [{"name": f"image-{number}", "newTag": "2"} for number in range(2000)]
    hostile.kustomization("images", path="./app", images=images)
    hostile.until_applied(revision, "images")
    bad: dict[str, tuple[dict[str, Any], str]] = {
        "component": ({"components": ["/base"]}, "component path '/base' must be local and relative"),
        "remote": (
            {"components": ["https://127.0.0.1:1/x?ref=main"]},
            "component path 'https://127.0.0.1:1/x?ref=main' must be local and relative",
        ),
        "escape": ({"components": ["../../x"]}, "is not in or below '/'"),
        "patch": ({"patches": [{"patch": "{ nothing", "target": {"kind": "ConfigMap"}}]}, FAILED),
        "many": ({"patches": [{"patch": "a: &a [*a]", "target": {"kind": "ConfigMap"}}]}, "alias"),
    }
    for name, (spec, _) in bad.items():
        hostile.kustomization(name, path="./app", **spec)
    for name, (_, says) in bad.items():
        seen = hostile.until_reason("Kustomization", "BuildFailed", name)
        hostile.assert_answer(name, seen, "BuildFailed", says)
        hostile.kustomization(name, path="./app", **{field: [] for field in bad[name][0]})
        hostile.until_applied(revision, name)


def test_J19_a_schema_of_one_build_is_not_seen_by_the_next(hostile: Hostile) -> None:
    own = "resources: [cm.yaml]\nopenapi: {path: schema.json}\npatches: [{path: patch.yaml}]\n"
    plain = "resources: [cm.yaml]\npatches: [{path: patch.yaml}]\n"
    files = {}
    for number in range(4):
        name = f"cm-{number}"
        files[f"{name}/kustomization.yaml"] = plain if number % 2 else own
        files[f"{name}/schema.json"] = SCHEMA
        files[f"{name}/cm.yaml"] = config_map(name, a="1")
        files[f"{name}/patch.yaml"] = config_map(name, b="2")
    hostile.push(files)
    hostile.source()
    for number in range(4):
        hostile.kustomization(f"cm-{number}", path=f"./cm-{number}")
    for number in (1, 3):
        hostile.until_ready("Kustomization", f"cm-{number}")
        assert (hostile.get("ConfigMap", f"cm-{number}") or {})["data"] == {"a": "1", "b": "2"}


def test_J21_a_generated_name_depends_on_the_content_and_is_used_everywhere(hostile: Hostile) -> None:
    container = "{name: c, image: i, envFrom: [{configMapRef: {name: gen}}]}"
    template = f"{{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{container}]}}}}"
    user = f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: user}}
spec: {{replicas: 0, selector: {{matchLabels: {{a: b}}}}, template: {template}}}
"""
    for folder, literals in (("one", "[a=1, b=2]"), ("two", "[b=2, a=1]")):
        generator = f"configMapGenerator: [{{name: gen, literals: {literals}}}]\n"
        text = f"resources: [user.yaml]\nnameSuffix: -{folder}\n{generator}"
        hostile.push({f"{folder}/kustomization.yaml": text, f"{folder}/user.yaml": user})
    hostile.source()
    hashes = set()
    for folder in ("one", "two"):
        hostile.kustomization(folder, path=f"./{folder}")
        hostile.until_ready("Kustomization", folder)
        found = hostile.get("Deployment", f"user-{folder}", "apps/v1")
        assert found is not None
        name = found["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
        assert hostile.get("ConfigMap", name) is not None
        hashes.add(name.removeprefix(f"gen-{folder}-"))
    assert len(hashes) == 1


def test_J27_J29_what_is_no_object_fails_the_build_instead_of_being_dropped(hostile: Hostile) -> None:
    second = config_map("one") + "---\n"
    hostile.trial(
        {
            "number": manifest(
                second + HEADER.replace("bad", "123"), "bad.yaml: line 8: document 2: metadata.name must be a string"
            ),
            "kind": manifest(second + HEADER.replace("ConfigMap", "yes: no"), "bad.yaml"),
            "boolean": manifest(second + HEADER.replace("ConfigMap", "true"), "document 2: kind must be a string"),
            "space": manifest(
                HEADER.replace("name: bad", "name: bad, namespace: 7"), "metadata.namespace must be a string"
            ),
            "nameless": Case(
                {KUSTOMIZATION: "resources: [x.yaml]\n", "x.yaml": HEADER.replace("name: bad", "labels: {}")},
                "missing metadata.name",
            ),
            "scalar": Case({KUSTOMIZATION: "resources: [x.yaml]\n", "x.yaml": "just text\n"}, "x.yaml"),
            "list": Case({KUSTOMIZATION: "resources: [x.yaml]\n", "x.yaml": "- a\n- b\n"}, "x.yaml"),
        }
    )


def test_J28_lists_are_taken_apart(hostile: Hostile) -> None:
    items = "".join(f"- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}\n" for name in ("a", "b"))
    revision = hostile.push(
        {
            "list.yaml": f"apiVersion: v1\nkind: List\nitems:\n{items}",
            "maps.yaml": "apiVersion: v1\nkind: ConfigMapList\nitems:\n" + items.replace("name: ", "name: of-"),
        }
    )
    hostile.source()
    hostile.kustomization()
    seen = hostile.until_applied(revision)
    names = [entry["id"].split("_")[1] for entry in seen["status"]["inventory"]["entries"]]
    assert names == ["a", "b", "of-a", "of-b"]


def test_K01_K02_K03_K04_small_files_that_would_fill_the_memory(hostile: Hostile) -> None:
    bomb = "a0: &a0 1\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    merges = "p0: &p0 {a: b}\n" + "".join(f"p{n}: &p{n} {{<<: [*p{n - 1}, *p{n - 1}]}}\n" for n in range(1, 25))
    before = hostile.daemon.memory("VmHWM")
    hostile.trial(
        {
            "flow": manifest(HEADER + "x: " + "[" * 100_000, "bad.yaml"),
            "maps": manifest(HEADER + "x: " + "{a: " * 9000 + "}" * 9000, "bad.yaml"),
            "blocks": manifest(HEADER + "x:\n" + "- " * 8000 + "a\n", "bad.yaml"),
            "bound": manifest(HEADER + "x: " + "[" * 100 + "]" * 100 + "\n", "bad.yaml"),
            "bomb": manifest(HEADER + bomb, "1000000"),
            "itself": manifest(HEADER + "spec: &s {a: *s}\n", "alias"),
            "merges": manifest(HEADER + merges, "merge"),
            "in-patch": built(
                "resources: [cm.yaml]\npatches: [{path: p.yaml}]\n", "alias", **{"p.yaml": "a: &a [*a]\n"}
            ),
            "in-kustomization": built("resources: &r [*r]\n", "alias"),
        }
    )
    assert hostile.daemon.memory("VmHWM") - before < 64 << 20


def test_K05_K06_K07_K09_K10_what_can_be_read_in_two_ways_is_not_read(hostile: Hostile) -> None:
    hostile.trial(
        {
            "anchor": manifest(HEADER + "x: &x 1\n---\n" + HEADER + "y: *x\n", "unknown anchor"),
            "duplicate": manifest(
                HEADER + "data: {a: '1', a: '2'}\n", 'line 4: mapping key "a" already defined at line 4'
            ),
            "json": listed('{"apiVersion": "v1", "kind": "ConfigMap", "kind": "Secret"}', '"kind" already defined'),
            "tab": manifest(HEADER + "data:\n\ta: b\n", "bad.yaml"),
            "control": manifest(HEADER + "data: {a: '\x1b[31m'}\n", "bad.yaml"),
            "nul": manifest(HEADER + "data: {a: 'b\x00c'}\n", "bad.yaml"),
            "bytes": manifest((HEADER + "data: {a: '").encode() + b"\xff'}\n", "not valid UTF-8"),
            "inline": manifest(HEADER + "--- {a: b}\n", "bad.yaml"),
            "directive": manifest("%YAML 1.3\n---\n" + HEADER, "bad.yaml"),
            "utf-16": manifest(HEADER.encode("utf-16"), "not valid UTF-8"),
        }
    )


def test_K11_K12_K13_K14_tags_streams_keys_and_numbers(hostile: Hostile) -> None:
    obj = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}}'
    hostile.trial(
        {
            "set": manifest(HEADER + "data: !!set {a, b}\n", "!!set is not supported"),
            "two": listed(obj + "\n" + obj.replace("bad", "worse"), "bad.json"),
            "complex": manifest(HEADER + "data:\n  ? [a, b]\n  : c\n", "a key must be a string"),
            "integer": manifest(HEADER + "data: {1: a}\n", "a key must be a string"),
            "digits": manifest(HEADER + f"x: {'1' * 5000}\n", "more than 400 digits"),
            "infinity": manifest(HEADER + "x: .inf\n", ".inf is no value"),
        }
    )


def test_K08_K09_K11_K15_K17_what_is_well_formed_is_applied_as_it_is_written(hostile: Hostile) -> None:
    scalars = ["yes", "on", "0777", "1e3", "1.10", "1_000", "1:30", "2001-01-01", "0x1F", "true"]
    plain = "".join(f"    k{number}: {text}\n" for number, text in enumerate(scalars))
    revision = hostile.push(
        {
            "bom.yaml": b"\xef\xbb\xbf" + config_map("bom", a="b").encode(),
            "crlf.yaml": (config_map("crlf-1", a="b") + "---   \n" + config_map("crlf-2")).replace("\n", "\r\n"),
            "empty.yaml": "# nothing\n---\n--- # still\nnull\n---\n" + config_map("after-nothing") + "---\n",
            "text.yaml": config_map("text") + "data:\n  a: |\n    ---\n    kind: Secret\n",
            "line.yaml": config_map("line", a="x" * 700_000),
            "tags.yaml": config_map("tags") + "data: {a: !!python/object/apply:os.system 'touch x', b: !foo c}\n",
            "scalars.yaml": config_map("scalars") + "  annotations:\n" + plain,
        }
    )
    hostile.source()
    hostile.kustomization()
    seen = hostile.until_applied(revision)
    names = [entry["id"].split("_")[1] for entry in seen["status"]["inventory"]["entries"]]
    assert names == ["after-nothing", "bom", "crlf-1", "crlf-2", "line", "scalars", "tags", "text"]
    assert (hostile.get("ConfigMap", "text") or {})["data"] == {"a": "---\nkind: Secret\n"}
    assert (hostile.get("ConfigMap", "tags") or {})["data"] == {"a": "touch x", "b": "c"}
    annotations = (hostile.get("ConfigMap", "scalars") or {})["metadata"]["annotations"]
    assert [annotations[f"k{number}"] for number in range(len(scalars))] == scalars
