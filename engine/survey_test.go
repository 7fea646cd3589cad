package main

import (
	"fmt"
	"strings"
	"testing"
)

func rootsOf(names ...string) string { return "resources: [" + strings.Join(names, ", ") + "]\n" }

func Test_J07_CyclesAreNamedAndEnd(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"itself":      {map[string]string{"app/kustomization.yaml": rootsOf(".")}, "cycle detected: candidate root '/app' contains visited root '/app'"},
		"its parent":  {map[string]string{"app/kustomization.yaml": rootsOf("..")}, "cycle detected: candidate root '/' contains visited root '/app'"},
		"each other":  {map[string]string{"app/kustomization.yaml": rootsOf("../b"), "b/kustomization.yaml": rootsOf("../app")}, "cycle detected: candidate root '/app' contains visited root '/app'"},
		"further off": {map[string]string{"app/kustomization.yaml": rootsOf("../b"), "b/kustomization.yaml": rootsOf("../c"), "c/kustomization.yaml": rootsOf("../b")}, "cycle detected: candidate root '/b' contains visited root '/b'"},
		"a component": {map[string]string{"app/kustomization.yaml": "components: [../c]\n", "c/kustomization.yaml": "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\ncomponents: [../c]\n"}, "cycle detected"},
	} {
		t.Run(name, func(t *testing.T) { mustFail(t, test.files, buildRequest{Path: "app"}, test.want) })
	}
}

func TestHowManyRootsABuildMayVisit(t *testing.T) {
	wide := func(count int) map[string]string {
		names := make([]string, count)
		files := map[string]string{}
		for index := range count {
			names[index] = fmt.Sprintf("../r%d", index)
			files[fmt.Sprintf("r%d/kustomization.yaml", index)] = "resources: []\nnamespace: x\n"
		}
		files["app/kustomization.yaml"] = rootsOf(names...)
		return files
	}
	mustBuild(t, wide(maxRoots-1), buildRequest{Path: "app"}, "[]")
	mustFail(t, wide(maxRoots), buildRequest{Path: "app"}, "kustomize build failed: more than 1000 kustomizations are visited from /app")
}

// J07: every level refers to the next one twice, so that kustomize would build the last one four thousand million times.
func Test_J07_ADiamondIsCountedByItsVisits(t *testing.T) {
	diamond := func(levels int) map[string]string {
		files := map[string]string{"app/kustomization.yaml": rootsOf("../l0a", "../l0b")}
		for level := range levels {
			for _, side := range []string{"a", "b"} {
				text := rootsOf(fmt.Sprintf("../l%da", level+1), fmt.Sprintf("../l%db", level+1))
				if level == levels-1 {
					text = "resources: []\n"
				}
				files[fmt.Sprintf("l%d%s/kustomization.yaml", level, side)] = text
			}
		}
		return files
	}
	mustBuild(t, diamond(5), buildRequest{Path: "app"}, "[]")
	mustFail(t, diamond(31), buildRequest{Path: "app"}, "more than 1000 kustomizations are visited from /app")
}

func TestHowDeepKustomizationsMayBe(t *testing.T) {
	chain := func(length int) map[string]string {
		files := map[string]string{}
		for index := range length {
			files[fmt.Sprintf("r%d/kustomization.yaml", index)] = rootsOf(fmt.Sprintf("../r%d", index+1))
		}
		files[fmt.Sprintf("r%d/kustomization.yaml", length-1)] = "resources: []\n"
		return files
	}
	mustBuild(t, chain(maxRecursion+1), buildRequest{Path: "r0"}, "[]")
	mustFail(t, chain(maxRecursion+2), buildRequest{Path: "r0"}, "more than 32 kustomizations below each other, at /r33")
}

func TestManifestsOfEveryKustomizationAreVettedBeforeTheyAreRead(t *testing.T) {
	bad := configMap("a") + "spec: &s {a: *s}\n"
	for name, files := range map[string]map[string]string{
		"a resource":           {"kustomization.yaml": listed, "a.yaml": bad},
		"a resource by chance": {"kustomization.yaml": "resources: [a.txt]\n", "a.txt": bad},
		"of a base":            {"kustomization.yaml": "resources: [b]\n", "b/kustomization.yaml": listed, "b/a.yaml": bad},
		"of a component":       {"kustomization.yaml": "components: [c]\n", "c/kustomization.yaml": "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\n" + listed, "c/a.yaml": bad},
		"generated":            {"a.yaml": bad},
		"a patch":              {"kustomization.yaml": listed + "patches: [{path: p.yaml}]\n", "a.yaml": configMap("a"), "p.yaml": bad},
		"a patch in place":     {"kustomization.yaml": listed + "patches:\n- patch: |\n    " + strings.ReplaceAll(bad, "\n", "\n    ") + "\n", "a.yaml": configMap("a")},
		"of a base in place":   {"kustomization.yaml": "resources: [b]\n", "b/kustomization.yaml": listed + "patchesStrategicMerge:\n- |\n  " + strings.ReplaceAll(bad, "\n", "\n  ") + "\n", "b/a.yaml": configMap("a")},
		"a transformer":        {"kustomization.yaml": listed + "transformers: [t.yaml]\n", "a.yaml": configMap("a"), "t.yaml": bad},
		"a configuration":      {"kustomization.yaml": listed + "configurations: [t.yaml]\n", "a.yaml": configMap("a"), "t.yaml": bad},
		"a replacement":        {"kustomization.yaml": listed + "replacements: [{path: t.yaml}]\n", "a.yaml": configMap("a"), "t.yaml": bad},
		"a schema":             {"kustomization.yaml": listed + "openapi: {path: t.yaml}\n", "a.yaml": configMap("a"), "t.yaml": bad},
		"a kustomization":      {"kustomization.yaml": listed + "commonLabels: &s {a: *s}\n", "a.yaml": configMap("a")},
		"a base's own":         {"kustomization.yaml": "resources: [b]\n", "b/kustomization.yaml": listed + "commonLabels: &s {a: *s}\n", "b/a.yaml": configMap("a")},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := built(t, files, buildRequest{})
			if ruleOf(err) != "yaml-alias" || !strings.Contains(err.Error(), "recursive alias") {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

func TestFilesOfAGeneratorNeedNotBeManifests(t *testing.T) {
	files := map[string]string{
		"kustomization.yaml": "configMapGenerator: [{name: x, files: [chart.yaml, twice.yaml]}]\ngeneratorOptions: {disableNameSuffixHash: true}\nbuildMetadata: []\n",
		"chart.yaml":         "{{- if .Values.x }}\n", "twice.yaml": "a: 1\na: 2\n",
	}
	mustBuild(t, files, buildRequest{Fields: specFields{BuildMetadata: []string{"transformerAnnotations"}}},
		`[{"apiVersion":"v1","data":{"chart.yaml":"{{- if .Values.x }}\n","twice.yaml":"a: 1\na: 2\n"},"kind":"ConfigMap","metadata":{"name":"x"}}]`)
}
