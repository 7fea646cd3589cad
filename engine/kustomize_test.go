package main

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

const listed = "resources: [a.yaml]\n"

func named(name string) string {
	return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"}}`
}

// laid is the kustomization.yaml that a build begins with.
func laid(t *testing.T, files map[string]string, folder string, fields specFields) string {
	t.Helper()
	system := filesOf(t, files)
	top, err := effective(system, folder, &fields)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(string(system.overlay[top.name]), "apiVersion: kustomize.config.k8s.io/v1beta1\n")
}

// spec/kustomize.md 3.4
func TestWithoutAKustomizationFileOneIsGenerated(t *testing.T) {
	files := map[string]string{
		"a.yaml": configMap("a"), "b.yml": configMap("b"), "c.json": "{", "README.md": "x", "empty.yaml": "# nothing\n",
		"deep/er/d.yaml": configMap("d"), ".hidden/h.yaml": configMap("h"), "A.YAML": "{",
		"sub/kustomization.yml": "resources: [e.yaml]\n", "sub/unread.yaml": ": [",
		"x.yaml/inner.yaml": configMap("x"), "odd/kustomization.yaml/o.yaml": configMap("o"),
	}
	want := "kind: Kustomization\nresources:\n- ./.hidden/h.yaml\n- ./a.yaml\n- ./b.yml\n- ./deep/er/d.yaml\n- ./empty.yaml\n" +
		"- ./odd/kustomization.yaml/o.yaml\n- ./sub\n- ./x.yaml/inner.yaml\n"
	if got := laid(t, files, "", specFields{}); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestAnEmptyDirectoryBuildsNothingInsteadOfFailing(t *testing.T) {
	if got := laid(t, map[string]string{"app/x.txt": ""}, "app", specFields{}); got != "kind: Kustomization\nnamespace: _placeholder\n" {
		t.Error(got)
	}
	if got := laid(t, map[string]string{"app/": ""}, "app", specFields{TargetNamespace: "x"}); got != "kind: Kustomization\nnamespace: x\n" {
		t.Error(got)
	}
	mustBuild(t, map[string]string{"app/x.txt": ""}, buildRequest{Path: "app"}, "[]")
}

// a file that cannot be decoded is named, never skipped.
func Test_J11_AGeneratedListHoldsOnlyObjects(t *testing.T) {
	for text, want := range map[string]string{
		"a: [\n":       "failed to decode Kubernetes YAML from /app/s/x.yaml: MalformedYAMLError: yaml: line 1: did not find expected node content",
		"just: data\n": "failed to decode Kubernetes YAML from /app/s/x.yaml: missing Resource metadata",
		"text\n":       "failed to decode Kubernetes YAML from /app/s/x.yaml: missing Resource metadata",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: x}\n": "failed to decode Kubernetes YAML from /app/s/x.yaml: missing metadata.name in object",
		"{{- if .Values.x }}\na: b\n{{- end }}\n":                        "failed to decode Kubernetes YAML from /app/s/x.yaml: MalformedYAMLError",
		configMap("123"): "failed to decode Kubernetes YAML from /app/s/x.yaml: line 3: document 1: metadata.name must be a string",
	} {
		mustFail(t, map[string]string{"app/s/x.yaml": text}, buildRequest{Path: "app"}, want)
	}
}

func TestTheFileThatIsThereIsReadLenientlyAndKeepsItsName(t *testing.T) {
	files := map[string]string{"app/Kustomization": "resource: [b]\nResources: [a.yaml]\nNAMESPACE: x\n", "app/a.yaml": configMap("a")}
	if got := laid(t, files, "app", specFields{}); got != "kind: Kustomization\nnamespace: x\nresources:\n- a.yaml\n" {
		t.Error(got)
	}
	mustFail(t, map[string]string{"kustomization.yaml": "resources: [b]\n", "b/kustomization.yaml": "foo: bar\n"}, buildRequest{},
		`couldn't make target for path '/b': invalid Kustomization: json: unknown field "foo"`)
}

func TestOriginAnnotationsAreForcedWithoutResources(t *testing.T) {
	generator := "configMapGenerator: [{name: x, literals: [a=b]}]\n"
	forced := "kind: Kustomization\n"
	for text, want := range map[string]string{
		generator:                                       "buildMetadata:\n- originAnnotations\n",
		generator + "resources: []\n":                   "buildMetadata:\n- originAnnotations\n",
		generator + "bases: [b]\n":                      "bases:\n- b\nbuildMetadata:\n- originAnnotations\n",
		"buildMetadata: [managedByLabel]\n" + generator: "buildMetadata:\n- originAnnotations\n",
	} {
		if got := laid(t, map[string]string{"kustomization.yaml": text}, "", specFields{}); !strings.HasPrefix(got, want) || !strings.Contains(got, forced) {
			t.Errorf("%q became %q", text, got)
		}
	}
	got := laid(t, map[string]string{"kustomization.yaml": generator}, "", specFields{BuildMetadata: []string{"transformerAnnotations"}})
	if !strings.HasPrefix(got, "buildMetadata:\n- transformerAnnotations\n") {
		t.Error(got)
	}
}

func TestFieldsOfTheSpecAreLaidOntoTheFile(t *testing.T) {
	text := "namespace: old\nnamePrefix: old-\nresources: [a.yaml]\npatches: [{path: p.yaml}]\ncomponents: [one]\n" +
		"images: [{name: one, newName: f/one, newTag: '1'}, {name: two, digest: 'sha256:1'}, {name: four, newTag: '4'}]\n"
	fields := specFields{
		TargetNamespace: "tn", NamePrefix: "np-", NameSuffix: "-ns", Components: []string{"../two"},
		Patches: []types.Patch{{Patch: "y", Path: "/etc/passwd", Options: &types.PatchArgs{AllowNameChange: true}, Target: &types.Selector{LabelSelector: "a=b"}}},
		Images: []types.Image{
			{Name: "one", NewTag: "2"}, {Name: "two", NewTag: "3"}, {Name: "three", NewName: "x", Digest: "sha256:2"},
			{Name: "four", Digest: "sha256:4"},
		},
	}
	want := `components:
- one
- ../two
images:
- name: one
  newName: f/one
  newTag: "2"
- name: two
  newTag: "3"
- digest: sha256:4
  name: four
- digest: sha256:2
  name: three
  newName: x
kind: Kustomization
namePrefix: np-
nameSuffix: -ns
namespace: tn
patches:
- path: p.yaml
- patch: "y"
  target:
    labelSelector: a=b
resources:
- a.yaml
`
	if got := laid(t, map[string]string{"kustomization.yaml": text}, "", fields); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func Test_J25_ComponentsOfTheSpecMustBeLocal(t *testing.T) {
	files := map[string]string{"app/kustomization.yaml": listed, "app/a.yaml": configMap("a"), "file": ""}
	for _, component := range []string{
		"/abs", "file:///x", "git::x", "GH:x", "ssh://x", "https://x", "http://x", "git@x", "github.com:x", "GitHub.com/x",
	} {
		mustFail(t, files, buildRequest{Path: "app", Fields: specFields{Components: []string{component}}},
			"component path '"+component+"' must be local and relative")
	}
	fields := specFields{Components: []string{"../gone", "../../out"}}
	mustFail(t, files, buildRequest{Path: "app", Fields: fields},
		`kustomize build failed: accumulating components: loader.New "must build at directory: not a valid directory: evalsymlink failure on '/gone'`)
	fields.IgnoreMissingComponents = true
	mustBuild(t, files, buildRequest{Path: "app", Fields: fields}, "["+named("a")+"]")
	mustFail(t, files, buildRequest{Path: "app", Fields: specFields{Components: []string{"../file"}, IgnoreMissingComponents: true}},
		`'/file': file is not directory`)
}

// J09: an empty file would prune all that was there before.
func Test_J09_AKustomizationFileMustSaySomethingAndOneThing(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "/kustomization.yaml is empty",
		"# a\n":                     "/kustomization.yaml is empty",
		"kind: Kustomization\n":     "/kustomization.yaml is empty",
		"- a\n":                     "/kustomization.yaml: error unmarshaling JSON",
		"resources: {a: b}\n":       "/kustomization.yaml: error unmarshaling JSON",
		listed + "kind: Foo\n":      "kind should be Kustomization or Component",
		listed + "apiVersion: v1\n": "apiVersion for Kustomization should be kustomize.config.k8s.io/v1beta1",
		listed + listed:             `/kustomization.yaml: line 2: mapping key "resources" already defined at line 1`,
		listed + "---\n" + listed:   "/kustomization.yaml: line 3: too many documents",
		listed + "# \xff\n":         "/kustomization.yaml: line 2: not valid UTF-8",
		listed + "#" + strings.Repeat("x", maxFileBytes): "/kustomization.yaml: larger than 10485760 bytes",
	} {
		mustFail(t, map[string]string{"kustomization.yaml": text, "a.yaml": configMap("a")}, buildRequest{}, "kustomize build failed: ")
		mustFail(t, map[string]string{"kustomization.yaml": text, "a.yaml": configMap("a")}, buildRequest{}, want)
	}
	mustBuild(t, map[string]string{"kustomization.yaml": "resources: []\n"}, buildRequest{}, "[]")
	mustBuild(t, map[string]string{"kustomization.yaml": "kind: Kustomization\n", "c/kustomization.yaml": "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\n" + listed, "c/a.yaml": configMap("a")},
		buildRequest{Fields: specFields{Components: []string{"c"}, BuildMetadata: []string{"transformerAnnotations"}}}, "["+named("a")+"]")
}

func Test_J08_J10_PathsThatCannotBeBuilt(t *testing.T) {
	files := map[string]string{"app/a.yaml": configMap("a"), "two/kustomization.yaml": "resources: []\n", "two/Kustomization": "resources: []\n"}
	mustFail(t, files, buildRequest{Path: "./nope"}, "kustomization path not found: stat /nope: no such file or directory")
	mustFail(t, files, buildRequest{Path: "app/a.yaml/x"}, "kustomization path not found: stat /app/a.yaml/x: not a directory")
	mustFail(t, files, buildRequest{Path: "app/a.yaml"}, "open /app/a.yaml/kustomization.yaml: not a directory")
	mustFail(t, files, buildRequest{Path: "two"}, "kustomize build failed: Found multiple kustomization files under: /two")
	mustBuild(t, files, buildRequest{Path: "../../../app"}, "["+named("a")+"]")
	mustBuild(t, files, buildRequest{Path: "/x/../app/"}, "["+named("a")+"]")
}

const workloads = `apiVersion: v1
kind: Namespace
metadata: {name: orig}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cr}
---
apiVersion: example.com/v1
kind: Cluster
metadata: {name: custom}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: sa, namespace: orig}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: rb, namespace: orig}
subjects:
- {kind: ServiceAccount, name: default, namespace: zzz}
- {kind: ServiceAccount, name: sa, namespace: orig}
- {kind: ServiceAccount, name: other, namespace: else}
`

// spec/kustomize.md 3.5: what users see of kustomize, as it was seen with Flux's own library.
func Test_J14_J15_J16_J38_KustomizeDoesWhatUsersKnowOfIt(t *testing.T) {
	files := map[string]string{"kustomization.yaml": listed, "a.yaml": workloads}
	mustBuild(t, files, buildRequest{Fields: specFields{TargetNamespace: "tn", NamePrefix: "p-"}}, `[`+
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"tn"}},`+
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"p-cr"}},`+
		`{"apiVersion":"example.com/v1","kind":"Cluster","metadata":{"name":"p-custom","namespace":"tn"}},`+
		`{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"p-sa","namespace":"tn"}},`+
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"p-rb","namespace":"tn"},"subjects":[`+
		`{"kind":"ServiceAccount","name":"default","namespace":"tn"},`+
		`{"kind":"ServiceAccount","name":"p-sa","namespace":"tn"},`+
		`{"kind":"ServiceAccount","name":"other","namespace":"else"}]}]`)
	one := map[string]string{"kustomization.yaml": listed, "a.yaml": configMap("a") + "data: {k: v}\n"}
	patched := func(patch string, target *types.Selector) buildRequest {
		return buildRequest{Fields: specFields{Patches: []types.Patch{{Patch: patch, Target: target}}}}
	}
	all := &types.Selector{LabelSelector: "!none"}
	untouched := `[{"apiVersion":"v1","data":{"k":"v"},"kind":"ConfigMap","metadata":{"name":"a"}}]`
	mustBuild(t, one, patched("- {op: add, path: /data/y, value: y}", all), strings.Replace(untouched, `"v"`, `"v","y":true`, 1))
	mustBuild(t, one, patched("- {op: add, path: /data/y, value: y}", &types.Selector{ResId: all.ResId, LabelSelector: "no=ne"}), untouched)
	mustFail(t, one, patched(configMap("absent")+"data: {x: y}\n", nil), `no resource matches strategic merge patch "ConfigMap.v1.[noGrp]/absent.[noNs]"`)
	mustFail(t, one, patched("- {op: replace, path: /no/no, value: x}", all), "replace operation does not apply: doc is missing path: /no/no")
	mustFail(t, one, patched("- {op: test, path: /data/k, value: x}", all), "testing value /data/k failed")
	mustFail(t, one, patched("- {op: add, path: /data/y, value: y}", &types.Selector{LabelSelector: "a in ("}), "kustomize build failed: ")
	mustBuild(t, map[string]string{"app/kustomization.yaml": "resources: [../a.yaml]\n", "a.yaml": configMap("a")}, buildRequest{Path: "app"}, "["+named("a")+"]")
	local := strings.Replace(configMap("a"), "a}", "a, annotations: {config.kubernetes.io/local-config: 'true'}}", 1)
	mustBuild(t, map[string]string{"a.yaml": local + "---\n" + configMap("b")}, buildRequest{}, "["+named("b")+"]")
	scalars := "data: {a: yes, b: 010, c: 1.10, d: 9007199254740993, e: 1e3, f: 2001-01-01, g: 0b101, h: 1:30, i: ~}\n"
	mustBuild(t, map[string]string{"a.yaml": "apiVersion: x/v1\nkind: X\nmetadata: {name: a, annotations: {a: 1, b: true}}\n" + scalars}, buildRequest{},
		`[{"apiVersion":"x/v1","data":{"a":"yes","b":8,"c":1.1,"d":9007199254740993,"e":1000,"f":"2001-01-01T00:00:00Z","g":5,"h":"1:30","i":null},`+
			`"kind":"X","metadata":{"annotations":{"a":"1","b":"true"},"name":"a"}}]`)
}

func Test_J12_J13_BrokenReferencesFailTheBuild(t *testing.T) {
	mustFail(t, map[string]string{"a.yaml": configMap("a"), "b.yaml": configMap("a")}, buildRequest{},
		"kustomize build failed: accumulating resources: accumulation err='merging resources from './b.yaml': may not add resource with an already registered id: ConfigMap.v1.[noGrp]/a.[noNs]")
	mustFail(t, map[string]string{"kustomization.yaml": "resources: [a.yaml, a.yaml]\n", "a.yaml": configMap("a")}, buildRequest{}, "already registered id")
	mustFail(t, map[string]string{"kustomization.yaml": "resources: [gone.yaml]\n"}, buildRequest{},
		"kustomize build failed: accumulating resources: accumulation err='accumulating resources from 'gone.yaml': open /gone.yaml: no such file or directory': "+
			"must build at directory: not a valid directory: evalsymlink failure on '/gone.yaml' : lstat /gone.yaml: no such file or directory")
}

// the content of a file outside is never reached, whatever names it.
func Test_J01_NothingOutsideOfTheArtifactIsRead(t *testing.T) {
	for _, outside := range []string{"../../outside", "/etc/hostname", "../../../../../../etc/hostname"} {
		for field, text := range map[string]string{
			"resources": "resources: [PATH]\n", "bases": "bases: [PATH]\n", "components": "components: [PATH]\n",
			"crds": "crds: [PATH]\n", "openapi": "openapi: {path: PATH}\n", "patches": "patches: [{path: PATH}]\n",
			"patchesStrategicMerge": "patchesStrategicMerge: [PATH]\n", "patchesJson6902": "patchesJson6902: [{path: PATH, target: {version: v1, kind: ConfigMap, name: a}}]\n",
			"replacements": "replacements: [{path: PATH}]\n", "transformers": "transformers: [PATH]\n", "generators": "generators: [PATH]\n",
			"validators": "validators: [PATH]\n", "configurations": "configurations: [PATH]\n",
			"files": "configMapGenerator: [{name: x, files: [k=PATH]}]\n", "envs": "configMapGenerator: [{name: x, envs: [PATH]}]\n",
			"secret files": "secretGenerator: [{name: x, files: [PATH]}]\n", "secret envs": "secretGenerator: [{name: x, env: PATH}]\n",
		} {
			if field != "resources" {
				text += "resources: [a.yaml]\n"
			}
			got, err := built(t, map[string]string{"app/kustomization.yaml": strings.ReplaceAll(text, "PATH", outside), "app/a.yaml": configMap("a")}, buildRequest{Path: "app"})
			if err == nil || !strings.Contains(err.Error(), "is not in or below '/'") && !strings.Contains(err.Error(), "cannot be absolute") {
				t.Errorf("%s of %s: %s, %v", outside, field, got, err)
			}
		}
	}
	mustFail(t, map[string]string{"kustomization.yaml": "resources: [~/x]\n"}, buildRequest{}, "open /~/x: no such file or directory")
}

func Test_J05_J06_NothingIsEverExecuted(t *testing.T) {
	plugin := "apiVersion: x/v1\nkind: Foo\nmetadata: {name: x, annotations: {config.kubernetes.io/function: 'exec: {path: /bin/true}'}}\n"
	for text, want := range map[string]string{
		"helmCharts: [{name: x}]\n":                       "must specify --enable-helm",
		"helmChartInflationGenerator: [{chartName: x}]\n": "must specify --enable-helm",
		"generators: [plugin.yaml]\n":                     "external plugins disabled; unable to load external plugin 'Foo'",
		"transformers: [plugin.yaml]\n":                   "external plugins disabled; unable to load external plugin 'Foo'",
		"validators: [plugin.yaml]\n":                     "external plugins disabled; unable to load external plugin 'Foo'",
		"generators: [helm.yaml]\n":                       "must specify --enable-helm",
	} {
		mustFail(t, map[string]string{
			"kustomization.yaml": listed + text, "a.yaml": configMap("a"), "plugin.yaml": plugin,
			"helm.yaml": "apiVersion: builtin\nkind: HelmChartInflationGenerator\nmetadata: {name: x}\nname: x\nreleaseName: x\n",
		}, buildRequest{}, want)
	}
}

// a patch of a few hundred bytes must not fill the memory.
func Test_J15_CopiesOfAPatchAreBounded(t *testing.T) {
	patch := "- {op: add, path: /data, value: {a: xxxxxxxxxxxxxxxx}}\n"
	for range 40 {
		patch += "- {op: add, path: /pair, value: {}}\n- {op: move, from: /data, path: /pair/l}\n" +
			"- {op: copy, from: /pair/l, path: /pair/r}\n- {op: move, from: /pair, path: /data}\n"
	}
	mustFail(t, map[string]string{"a.yaml": configMap("a")}, buildRequest{Fields: specFields{Patches: []types.Patch{{Patch: patch, Target: &types.Selector{}}}}},
		"the accumulated size increase of copy is")
	patch = "- {op: add, path: /data, value: {a: x}}\n" + strings.Repeat("- {op: copy, from: /data, path: /data/b}\n", maxDepth)
	mustFail(t, map[string]string{"a.yaml": configMap("a")}, buildRequest{Fields: specFields{Patches: []types.Patch{{Patch: patch, Target: &types.Selector{}}}}},
		"ConfigMap.v1.[noGrp]/a: nested deeper than 100")
}

// Step 15 of spec/kustomize.md 3.1
func Test_J28_ListsAreTakenApartAndKustomizationFilesLeftOut(t *testing.T) {
	list := "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n"
	mustBuild(t, map[string]string{"a.yaml": list}, buildRequest{}, "["+named("a")+","+named("b")+"]")
	mustBuild(t, map[string]string{"a.yaml": strings.Replace(list, "ConfigMapList", "List", 1)}, buildRequest{}, "["+named("a")+","+named("b")+"]")
	file := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nmetadata: {name: k}\n"
	mustBuild(t, map[string]string{"a.yaml": file + "---\n" + configMap("a")}, buildRequest{}, "["+named("a")+"]")
}

func TestAResourceWithoutIdentityIsNamedNotShown(t *testing.T) {
	mustFail(t, map[string]string{"a.yaml": "kind: Secret\nmetadata: {name: s}\ndata: {p: cGFzcw==}\n"}, buildRequest{},
		"failed to decode Kubernetes apiVersion, kind and name from: Secret.[noVer].[noGrp]/s")
	_, err := built(t, map[string]string{"a.yaml": "kind: Secret\nmetadata: {name: s}\ndata: {p: cGFzcw==}\n"}, buildRequest{})
	if strings.Contains(err.Error(), "cGFzcw") {
		t.Error(err)
	}
	// A patch can still make of an object what no JSON can say; kustomize's own error shows all of it.
	patch := []types.Patch{{Patch: configMap("a") + "data: {k: .inf, p: cGFzcw==}"}}
	_, err = built(t, map[string]string{"a.yaml": configMap("a")}, buildRequest{Fields: specFields{Patches: patch}})
	if err == nil || err.Error() != "kustomize build failed: ConfigMap.v1.[noGrp]/a: json: unsupported value: +Inf" {
		t.Error(err)
	}
}

// a schema of one build must not reach another, even while both run.
func Test_J19_ASchemaOfItsOwnStaysWithItsBuild(t *testing.T) {
	thing := "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t}\nspec: {l: [{name: a, v: 1}]}\n"
	patch := specFields{Patches: []types.Patch{{Patch: "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t}\nspec: {l: [{name: b, v: 2}]}\n"}}}
	schema := `{"definitions":{"T":{"type":"object","x-kubernetes-group-version-kind":[{"group":"example.com","version":"v1","kind":"Thing"}],` +
		`"properties":{"spec":{"type":"object","properties":{"l":{"type":"array","x-kubernetes-patch-merge-key":"name","x-kubernetes-patch-strategy":"merge","items":{"type":"object"}}}}}}}}`
	own := map[string]string{"kustomization.yaml": listed + "openapi: {path: s.json}\n", "a.yaml": thing, "s.json": schema}
	nested := map[string]string{"kustomization.yaml": "resources: [b]\n", "b/kustomization.yaml": listed + "openapi: {path: s.json}\n", "b/a.yaml": thing, "b/s.json": schema}
	without := map[string]string{"kustomization.yaml": listed, "a.yaml": thing}
	merged := `[{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"t"},"spec":{"l":[{"name":"b","v":2},{"name":"a","v":1}]}}]`
	replaced := `[{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"t"},"spec":{"l":[{"name":"b","v":2}]}}]`
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { mustBuild(t, own, buildRequest{Fields: patch}, merged) })
		group.Go(func() { mustBuild(t, nested, buildRequest{Fields: patch}, merged) })
		group.Go(func() { mustBuild(t, without, buildRequest{Fields: patch}, replaced) })
	}
	group.Wait()
	deployment := map[string]string{"a.yaml": smallApp["app/d.yaml"]}
	env := specFields{Patches: []types.Patch{{Patch: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: web, env: [{name: A, value: b}]}]}}}\n"}}}
	got, err := built(t, deployment, buildRequest{Fields: env})
	if err != nil || !strings.Contains(got, `"image":"nginx:1"`) || !strings.Contains(got, `"env":[{"name":"A","value":"b"}]`) {
		t.Error("the built-in schema is gone: ", got, err)
	}
}

func Test_J23_BuildsSideBySideGiveTheSame(t *testing.T) {
	want, err := built(t, smallApp, buildRequest{Path: "app"})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() { mustBuild(t, smallApp, buildRequest{Path: "app"}, want) })
	}
	group.Wait()
}

func TestTheDigestIsThatOfTheTextKustomizePrints(t *testing.T) {
	e := &engine{}
	request := buildRequest{Tree: shared(t, map[string]string{"a.yaml": configMap("a") + "data: {n: 1.10, y: yes}\n", "b/b.yaml": configMap("b")})}
	answer, _, err := e.build(context.Background(), &request, nil)
	// sha256 of the standard output of kustomize 5.8.1.
	if err != nil || answer.Digest != "sha256:c59f9b34db7c543c6a9d96409c58c5e1afdb0c63015db97549d13d37abffbcec" || answer.Count != 2 {
		t.Error(answer, err)
	}
}

func TestACancelledBuildStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := (&engine{}).build(ctx, &buildRequest{Tree: shared(t, smallApp), Path: "app"}, nil)
	if err == nil {
		t.Error("it did not")
	}
}

func TestTheSpecsFieldsAreNamedAsInTheAPI(t *testing.T) {
	var fields specFields
	text := "targetNamespace: a\nnamePrefix: b\nnameSuffix: c\npatches: [{patch: d, target: {group: e, version: f, kind: g, name: h, namespace: i, labelSelector: j, annotationSelector: k}}]\n" +
		"components: [l]\nignoreMissingComponents: true\nimages: [{name: m, newName: nn, newTag: o, digest: p}]\nbuildMetadata: [q]\n"
	if err := yaml.UnmarshalStrict([]byte(text), &fields); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(fields)
	want := `{"targetNamespace":"a","namePrefix":"b","nameSuffix":"c","patches":[{"patch":"d","target":{"group":"e","version":"f","kind":"g","name":"h","namespace":"i","annotationSelector":"k","labelSelector":"j"}}],` +
		`"components":["l"],"ignoreMissingComponents":true,"images":[{"name":"m","newName":"nn","newTag":"o","digest":"p"}],"buildMetadata":["q"]}`
	if err != nil || string(got) != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

var smallApp = map[string]string{
	"app/kustomization.yaml": "namespace: demo\nresources: [ns.yaml, d.yaml, s.yaml, c.yaml]\nimages: [{name: nginx, newTag: '2'}]\n",
	"app/ns.yaml":            "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n",
	"app/c.yaml":             configMap("c") + "data: {a: b, c: d}\n",
	"app/s.yaml":             "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n",
	"app/d.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {app: web}}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: web}}\n" +
		"  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: web\n        image: nginx:1\n        ports: [{containerPort: 8080}]\n        resources: {limits: {cpu: 100m, memory: 64Mi}}\n",
}

func BenchmarkSmallApp(b *testing.B) {
	e := &engine{}
	request := buildRequest{Tree: shared(b, smallApp), Path: "app"}
	for b.Loop() {
		if _, _, err := e.build(context.Background(), &request, nil); err != nil {
			b.Fatal(err)
		}
	}
}
