package main

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/types"
)

// Rows of the hostile-input table that are about what a build makes of its input, beside those next to their code.

func custom(spec string) map[string]string {
	return map[string]string{"kustomization.yaml": listed, "a.yaml": "apiVersion: x/v1\nkind: X\nmetadata: {name: a}\nspec: " + spec + "\n"}
}

func Test_K17_ScalarsAreReadAsTheTableSays(t *testing.T) {
	for text, want := range map[string]string{
		"yes": `"yes"`, "no": `"no"`, "on": `"on"`, "off": `"off"`, "y": `"y"`, "n": `"n"`, "true": `true`, "True": `true`, "FALSE": `false`,
		"~": `null`, "null": `null`, "Null": `null`, "NULL": `null`, "": `null`, "1e3": `1000`, "1.0": `1`, "1.10": `1.1`, ".5": `0.5`,
		"9007199254740993": `9007199254740993`, "18446744073709551615": `18446744073709551615`, "0777": `511`, "0o777": `511`, "0899": `899`,
		"0x1F": `31`, "0b101": `5`, "+12": `12`, "-0": `0`, "00": `0`, "1.5e400": `"1.5e400"`, "9007199254740993.0": `9007199254740992`,
		"123456789012345678901234567890": `1.2345678901234568e+29`, "1:30": `"1:30"`, "190:20:30": `"190:20:30"`, "1_000": `1000`, "1,000": `"1,000"`,
		"=": `"="`, "2001-01-01": `"2001-01-01T00:00:00Z"`, "!!str 1": `"1"`, "'1'": `"1"`, `!!int "3"`: `3`, "!!float 3": `3`,
	} {
		mustBuild(t, custom(text), buildRequest{}, `[{"apiVersion":"x/v1","kind":"X","metadata":{"name":"a"},"spec":`+want+`}]`)
	}
}

func Test_J29_K05_K10_DocumentsThatAreNoObjectsFailTheBuild(t *testing.T) {
	for text, want := range map[string]string{
		configMap("a") + "---\njust text\n":                              "missing Resource metadata",
		configMap("a") + "---\n- a\n":                                    "missing Resource metadata",
		configMap("a") + "x: &x [1]\n---\n" + configMap("b") + "x: *x\n": "unknown anchor 'x' referenced",
		"%YAML 1.1\n---\n" + configMap("a"):                              "MalformedYAMLError",
		"%TAG ! tag:x,2000:\n---\n" + configMap("a"):                     "MalformedYAMLError",
		"%YAML 1.3\n---\n" + configMap("a"):                              "MalformedYAMLError",
		configMap("a") + "--- {b: c}\n":                                  "invalid document separator: --- {b: c}",
	} {
		mustFail(t, map[string]string{"kustomization.yaml": listed, "a.yaml": text}, buildRequest{}, want)
	}
	mustBuild(t, map[string]string{"kustomization.yaml": listed, "a.yaml": "---\n# c\n--- # c\n" + configMap("a") + "---\n\n---\nnull\n---"}, buildRequest{}, "["+named("a")+"]")
}

func Test_K15_LongLinesAndManyDocumentsWork(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	mustBuild(t, custom(long), buildRequest{}, `[{"apiVersion":"x/v1","kind":"X","metadata":{"name":"a"},"spec":"`+long+`"}]`)
	var text strings.Builder
	for number := range 12_000 {
		text.WriteString(configMap(fmt.Sprintf("c%d", number)) + "---\n")
	}
	if err := judgeManifest([]byte(text.String())); err != nil {
		t.Error(err)
	}
}

func Test_J18_ManyImagesAreNoTrouble(t *testing.T) {
	images := make([]types.Image, 10_000)
	for index := range images {
		images[index] = types.Image{Name: fmt.Sprintf("image%d", index), NewTag: "2"}
	}
	var onto types.Kustomization
	for _, image := range append(images, images...) {
		layImage(&onto, image)
	}
	if len(onto.Images) != len(images) {
		t.Error(len(onto.Images))
	}
}

func Test_J20_J21_GeneratedNamesDependOnContentAlone(t *testing.T) {
	generator := "resources: [d.yaml]\nconfigMapGenerator: [{name: c, files: [%s]}]\n"
	deployment := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {volumes: [{name: v, configMap: {name: c}}]}\n"
	files := map[string]string{"d.yaml": deployment, "a.txt": "A", "b.bin": "\x00\xff\xfe"}
	files["kustomization.yaml"] = fmt.Sprintf(generator, "a.txt, b.bin")
	one, err := built(t, files, buildRequest{})
	if err != nil {
		t.Fatal(err)
	}
	files["kustomization.yaml"] = fmt.Sprintf(generator, "b.bin, a.txt")
	mustBuild(t, files, buildRequest{}, one)
	if !strings.Contains(one, `"binaryData":{"b.bin":"AP/+"},"data":{"a.txt":"A"}`) || strings.Count(one, `"name":"c-`) != 2 {
		t.Error(one)
	}
}

func Test_J22_ManyComponentsAreNoTrouble(t *testing.T) {
	files := map[string]string{"app/a.yaml": configMap("a")}
	names := make([]string, 100)
	for index := range names {
		names[index] = fmt.Sprintf("../c%d", index)
		files[fmt.Sprintf("c%d/kustomization.yaml", index)] = "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nlabels: [{pairs: {l: '" + names[index] + "'}}]\n"
	}
	files["app/kustomization.yaml"] = listed + "components: [" + strings.Join(names, ", ") + "]\n"
	mustBuild(t, files, buildRequest{Path: "app"}, `[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"labels":{"l":"../c99"},"name":"a"}}]`)
}
