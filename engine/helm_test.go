package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
)

const (
	demoChart  = "apiVersion: v2\nname: demo\nversion: 0.3.0\n"
	demoValues = "a: 1\nmap: {x: 1, y: 1}\nlist: [1, 2]\n"
)

// demo is a chart in the directory "chart" of a tree, with more or other files.
func demo(more map[string]string) map[string]string {
	files := map[string]string{"chart/Chart.yaml": demoChart, "chart/values.yaml": demoValues, "chart/templates/cm.yaml": configMap("demo")}
	for name, text := range more {
		if text == "" {
			delete(files, name)
			continue
		}
		files[name] = text
	}
	return files
}

// entry is one entry of an archive as written; without a type it is a file.
type entry struct {
	name, text string
	kind       byte
	link       string
}

func archived(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	zipper := gzip.NewWriter(&out)
	writer := tar.NewWriter(zipper)
	for _, one := range entries {
		kind := one.kind
		if kind == 0 {
			kind = tar.TypeReg
		}
		header := &tar.Header{Name: one.name, Typeflag: kind, Mode: 0o644, Linkname: one.link}
		if kind == tar.TypeReg {
			header.Size = int64(len(one.text))
		}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if kind == tar.TypeReg {
			_, _ = writer.Write([]byte(one.text))
		}
	}
	_ = writer.Close()
	_ = zipper.Close()
	return out.Bytes()
}

// chartArchive is the package of files that lie below a directory `name`.
func chartArchive(t testing.TB, name string, files map[string]string) []byte {
	entries := []entry{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		entries = append(entries, entry{name: name + "/" + file, text: files[file]})
	}
	return archived(t, entries...)
}

func simpleChart(t testing.TB, name, version string) []byte {
	return chartArchive(t, name, map[string]string{"Chart.yaml": "apiVersion: v2\nname: " + name + "\nversion: " + version + "\n", "values.yaml": "from: " + name + "\n"})
}

func bounded(request chartRequest) *chartRequest {
	request.ArchiveLimit, request.FileLimit = 10<<20, 5<<20
	return &request
}

func inTree(t testing.TB, files map[string]string, request chartRequest) *chartRequest {
	t.Helper()
	ref := shared(t, files)
	request.Tree = &ref
	return bounded(request)
}

func part(number int) chartPlace { return chartPlace{Part: &number} }

func packageOf(t testing.TB, request *chartRequest, parts ...[]byte) (*chartAnswer, map[string]string) {
	t.Helper()
	answer, made, err := (&engine{}).packageChart(context.Background(), request, parts)
	if err != nil {
		t.Fatalf("unexpected error: %s", err)
	}
	if len(made) == 0 {
		return answer, nil
	}
	return answer, unpacked(t, bytes.Join(made, nil))
}

func unpacked(t testing.TB, data []byte) map[string]string {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	reader := tar.NewReader(unzipped)
	files := map[string]string{}
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(reader)
		if _, twice := files[header.Name]; twice {
			t.Errorf("%s is in the package twice", header.Name)
		}
		files[header.Name] = string(text)
	}
}

// refused packages or describes, and returns the failure's step and text.
func refused(t testing.TB, method string, request *chartRequest, parts ...[]byte) (string, string) {
	t.Helper()
	e := &engine{}
	var err error
	if method == "chart" {
		_, err = e.chartMetadata(context.Background(), request, parts)
	} else {
		_, _, err = e.packageChart(context.Background(), request, parts)
	}
	for _, tree := range e.trees.trees {
		if tree.users != 0 {
			t.Errorf("a tree is still held")
		}
	}
	if err == nil {
		t.Fatal("no error")
	}
	known, is := err.(*failure)
	if !is || known.Class != classChart {
		t.Fatalf("an error of another kind: %v", err)
	}
	return known.Step, presentable(known.Message)
}

func mustRefuse(t *testing.T, method, step, want string, request *chartRequest, parts ...[]byte) {
	t.Helper()
	gotStep, got := refused(t, method, request, parts...)
	if gotStep != step || !strings.Contains(got, want) {
		t.Errorf("\n got %s: %s\nwant %s: %s", gotStep, got, step, want)
	}
}

func Test_s8_3_ADirectoryIsPackagedAsHelmItselfWould(t *testing.T) {
	files := demo(map[string]string{
		"chart/.helmignore":           "*.bak\nsecret/\n",
		"chart/a.bak":                 "x",
		"chart/secret/key":            "x",
		"chart/templates/.hidden":     "x",
		"chart/README.md":             "\xEF\xBB\xBFhello",
		"chart/crds/c.yaml":           configMap("c"),
		"chart/Chart.lock":            "dependencies: []\ndigest: sha256:x\ngenerated: \"2024-01-02T03:04:05Z\"\n",
		"chart/values.schema.json":    "{}",
		"chart/charts/sub/Chart.yaml": "apiVersion: v2\nname: sub\nversion: 1.0.0\n",
		"elsewhere.yaml":              "x: 1",
	})
	_, got := packageOf(t, inTree(t, files, chartRequest{Chart: chartPlace{Path: "./chart"}, Dependencies: []chartPlace{}}))

	folder := t.TempDir()
	for name, text := range files {
		_ = os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755)
		_ = os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644)
	}
	loaded, err := loader.Load(filepath.Join(folder, "chart"))
	if err != nil {
		t.Fatal(err)
	}
	saved, err := chartutil.Save(loaded, folder)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(saved)
	if want := unpacked(t, data); !maps.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func Test_s8_3_EqualInputsGiveEqualBytes(t *testing.T) {
	files := demo(nil)
	for number := range 20 {
		files[fmt.Sprintf("chart/charts/c%d/Chart.yaml", number)] = fmt.Sprintf("apiVersion: v2\nname: c%d\nversion: 1.0.0\n", number)
	}
	var first []byte
	for range 5 {
		_, made, err := (&engine{}).packageChart(context.Background(), inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}, Dependencies: []chartPlace{}}), nil)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = made[0]
		}
		if !bytes.Equal(first, made[0]) {
			t.Fatal("two packages of one chart differ")
		}
	}
}

func Test_s8_3_ValuesFilesOfATreeReplaceTheValues(t *testing.T) {
	files := demo(map[string]string{"chart/prod.yaml": "# gone\nmap: {y: 2}\nlist: [3]\n"})
	answer, got := packageOf(t, inTree(t, files, chartRequest{
		Chart: chartPlace{Path: "chart"}, Version: "0.3.0+1", ValuesFiles: []string{"chart/values.yaml", "/chart/../chart/prod.yaml"},
	}))
	if want := "a: 1\nlist:\n- 3\nmap:\n  \"true\": 2\n  x: 1\n"; got["demo/values.yaml"] != want {
		t.Errorf("\n got %s\nwant %s", got["demo/values.yaml"], want)
	}
	if answer.Version != "0.3.0+1" || !strings.Contains(got["demo/Chart.yaml"], "version: 0.3.0+1") || len(answer.ValuesFiles) != 2 {
		t.Errorf("%+v %s", answer, got["demo/Chart.yaml"])
	}
}

func Test_s8_3_MissingValuesFilesArePassedOverOnlyOnRequest(t *testing.T) {
	request := chartRequest{Chart: chartPlace{Path: "chart"}, ValuesFiles: []string{"chart/nope.yaml", "chart/values.yaml"}}
	mustRefuse(t, "package", stepValues, "no values file found at path '/chart/nope.yaml' (reference 'chart/nope.yaml')", inTree(t, demo(nil), request))
	request.IgnoreMissing = true
	answer, _ := packageOf(t, inTree(t, demo(nil), request))
	if !slices.Equal(answer.ValuesFiles, []string{"chart/values.yaml"}) {
		t.Error(answer.ValuesFiles)
	}
}

func Test_s8_3_ValuesFilesOfAnArchiveAreInsideIt(t *testing.T) {
	data := chartArchive(t, "demo", map[string]string{"Chart.yaml": demoChart, "values.yaml": "a: 1\n", "ci/v.yaml": "b: 2\n"})
	answer, got := packageOf(t, bounded(chartRequest{Chart: part(0), ValuesFiles: []string{"values.yaml", "./ci/v.yaml"}, Version: "0.3.0+7"}), data)
	if got["demo/values.yaml"] != "a: 1\nb: 2\n" || !answer.IsArchive || len(answer.ValuesFiles) != 2 {
		t.Errorf("%+v %q", answer, got)
	}
	mustRefuse(t, "package", stepValues, "failed to merge chart values: no values file found at path 'x.yaml'", bounded(chartRequest{Chart: part(0), ValuesFiles: []string{"x.yaml"}}), data)
	without := chartArchive(t, "demo", map[string]string{"Chart.yaml": demoChart, "v.yaml": "b: 2\n"})
	mustRefuse(t, "package", stepValues, "failed to locate values file: values.yaml", bounded(chartRequest{Chart: part(0), ValuesFiles: []string{"v.yaml"}}), without)
}

func Test_s8_3_DependenciesAreAskedForAndAdded(t *testing.T) {
	files := demo(map[string]string{
		"chart/Chart.yaml":       demoChart + "dependencies:\n- {name: local, version: 1.x, repository: file://../local}\n- {name: far, version: ^2, repository: 'https://x/', alias: other}\n- {name: there, version: 1.0.0, repository: ''}\n",
		"chart/charts/there.tgz": string(simpleChart(t, "there", "1.0.0")),
		"local/Chart.yaml":       "apiVersion: v2\nname: local\nversion: 1.2.3\n",
	})
	answer, got := packageOf(t, inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}}))
	want := []requirement{{"local", "1.x", "file://../local", ""}, {"far", "^2", "https://x/", "other"}, {"there", "1.0.0", "", ""}}
	if got != nil || !slices.Equal(answer.Requirements, want) || !slices.Equal(answer.Vendored, []string{"there"}) {
		t.Errorf("%+v", answer)
	}
	request := inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}, Dependencies: []chartPlace{{Path: "local"}, part(0), part(0)}})
	_, got = packageOf(t, request, simpleChart(t, "far", "2.1.0"))
	for _, name := range []string{"demo/charts/local/Chart.yaml", "demo/charts/far/Chart.yaml", "demo/charts/there/Chart.yaml"} {
		if got[name] == "" {
			t.Errorf("%s is missing in %v", name, slices.Sorted(maps.Keys(got)))
		}
	}
}

func Test_s8_3_ALockTakesPrecedence(t *testing.T) {
	files := demo(map[string]string{
		"chart/Chart.yaml": demoChart + "dependencies:\n- {name: far, version: ^2, repository: 'https://x/'}\n",
		"chart/Chart.lock": "dependencies:\n- {name: far, version: 2.0.1, repository: 'https://x/'}\ndigest: sha256:x\ngenerated: \"2024-01-02T03:04:05Z\"\n",
	})
	answer, _ := packageOf(t, inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}}))
	if len(answer.Requirements) != 1 || answer.Requirements[0].Version != "2.0.1" {
		t.Errorf("%+v", answer)
	}
}

func Test_s8_3_TwoVersionsOfADependencyLieSideBySide(t *testing.T) {
	request := inTree(t, demo(nil), chartRequest{Chart: chartPlace{Path: "chart"}, Dependencies: []chartPlace{part(0), part(1)}})
	_, got := packageOf(t, request, simpleChart(t, "far", "2.0.0"), simpleChart(t, "far", "1.0.0"))
	if got["demo/charts/far/Chart.yaml"] == "" || got["demo/charts/far-2.0.0/Chart.yaml"] == "" {
		t.Error(slices.Sorted(maps.Keys(got)))
	}
}

func Test_s8_3_AnOldChartKeepsItsRequirements(t *testing.T) {
	files := map[string]string{"Chart.yaml": "name: old\nversion: v1.2\n", "values.yaml": "a: 1\n", "requirements.yaml": "dependencies:\n- {name: far, version: 1.0.0, repository: 'https://x/'}\n"}
	answer, _ := packageOf(t, inTree(t, files, chartRequest{}))
	if len(answer.Requirements) != 1 || answer.Name != "old" || answer.Version != "v1.2" {
		t.Errorf("%+v", answer)
	}
	_, got := packageOf(t, inTree(t, files, chartRequest{Dependencies: []chartPlace{part(0)}}), simpleChart(t, "far", "1.0.0"))
	if got["old/requirements.yaml"] == "" || strings.Contains(got["old/Chart.yaml"], "dependencies") {
		t.Errorf("%q", got)
	}
}

func Test_G01_SizesAreBounded(t *testing.T) {
	large := strings.Repeat("x", 5<<20+1)
	mustRefuse(t, "chart", stepMetadata, "larger than the maximum file size", bounded(chartRequest{Chart: part(0)}), chartArchive(t, "demo", map[string]string{"Chart.yaml": demoChart, "big": large}))
	mustRefuse(t, "package", stepLoad, "larger than the maximum file size", inTree(t, demo(map[string]string{"chart/big": large}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	exact := strings.Repeat("x", 5<<20)
	packageOf(t, inTree(t, demo(map[string]string{"chart/big": exact}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	many := map[string]string{"Chart.yaml": demoChart}
	for number := range 21 {
		many[fmt.Sprintf("f%d", number)] = exact
	}
	bomb := chartArchive(t, "demo", many)
	mustRefuse(t, "chart", stepMetadata, "decompressed chart is larger than the maximum size 104857600", bounded(chartRequest{Chart: part(0)}), bomb)
	request := bounded(chartRequest{Chart: part(0)})
	request.ArchiveLimit = int64(len(bomb)) - 1
	mustRefuse(t, "chart", stepMetadata, "size of chart archive exceeds the limit", request, bomb)
	// A bomb in an archive in an archive counts like any other file.
	inner := chartArchive(t, "sub", map[string]string{"Chart.yaml": "apiVersion: v2\nname: sub\nversion: 1.0.0\n", "f": exact})
	nested := map[string]string{"Chart.yaml": demoChart}
	for number := range 21 {
		nested[fmt.Sprintf("charts/s%d.tgz", number)] = string(inner)
	}
	mustRefuse(t, "package", stepLoad, "decompressed chart is larger", bounded(chartRequest{Chart: part(0)}), chartArchive(t, "demo", nested))
}

func Test_G01_AHeaderMayNotClaimMoreThanThereIs(t *testing.T) {
	whole := chartArchive(t, "demo", map[string]string{"Chart.yaml": demoChart, "f": strings.Repeat("x", 1<<20)})
	mustRefuse(t, "chart", stepMetadata, "damaged or cut", bounded(chartRequest{Chart: part(0)}), whole[:len(whole)/2])
}

func Test_G02_WhatIsNoArchiveOfAChart(t *testing.T) {
	empty := archived(t)
	for name, one := range map[string]struct {
		data []byte
		want string
	}{
		"not gzip":            {[]byte("<html>"), "no gzipped archive"},
		"nothing":             {nil, "no gzipped archive"},
		"gzip of nothing":     {empty, "no files in chart archive"},
		"no top directory":    {archived(t, entry{name: "values.yaml", text: "a: 1"}), "outside the base directory"},
		"Chart.yaml at root":  {archived(t, entry{name: "Chart.yaml", text: demoChart}), "chart yaml not in base directory"},
		"two top directories": {archived(t, entry{name: "demo/Chart.yaml", text: demoChart}, entry{name: "other/x", text: "x"}), "two top directories"},
		"no Chart.yaml":       {archived(t, entry{name: "demo/values.yaml", text: "a: 1"}), "Chart.yaml file is missing"},
		"two Chart.yaml":      {archived(t, entry{name: "demo/Chart.yaml", text: demoChart}, entry{name: "demo/Chart.yaml", text: demoChart + "#"}), "two different files"},
	} {
		t.Run(name, func(t *testing.T) {
			mustRefuse(t, "chart", stepMetadata, one.want, bounded(chartRequest{Chart: part(0)}), one.data)
		})
	}
	packageOf(t, bounded(chartRequest{Chart: part(0)}), archived(t, entry{name: "demo/", kind: tar.TypeDir}, entry{name: "demo/Chart.yaml", text: demoChart}, entry{name: "demo/Chart.yaml", text: demoChart}))
}

func Test_G03_NamesAndLinksThatAreRefused(t *testing.T) {
	for name, want := range map[string]string{
		"demo/../x": "parent directory", "/demo/x": "absolute paths", "demo/a/../../x": "parent directory", "demo//x": "empty part", "../x": "parent directory",
		`demo\..\x`: "parent directory", `demo\a/b`: "mixes separators", "demo/C:/x": "illegally named", `C:\demo\x`: "illegally named", "demo/./x": "empty part",
		"demo/" + strings.Repeat("a/", 2100) + "x": "cannot be that of a file",
	} {
		data := archived(t, entry{name: "demo/Chart.yaml", text: demoChart}, entry{name: name, text: "x"})
		mustRefuse(t, "chart", stepMetadata, want, bounded(chartRequest{Chart: part(0)}), data)
	}
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo} {
		data := archived(t, entry{name: "demo/Chart.yaml", text: demoChart}, entry{name: "demo/x", kind: kind, link: "/etc/passwd"})
		mustRefuse(t, "chart", stepMetadata, "neither a file nor a directory", bounded(chartRequest{Chart: part(0)}), data)
	}
	packageOf(t, bounded(chartRequest{Chart: part(0)}), archived(t, entry{name: `demo\Chart.yaml`, text: demoChart}))
}

func Test_G04_WhatAChartMaySayOfItself(t *testing.T) {
	for text, want := range map[string]string{
		"": "name is required",
		"apiVersion: v2\nname: ../../x\nversion: 1.0.0\n":                    "is invalid",
		"apiVersion: v2\nname: .\nversion: 1.0.0\n":                          "is not allowed",
		"apiVersion: v2\nname: a/b\nversion: 1.0.0\n":                        "is invalid",
		"apiVersion: v2\nname: a b\nversion: 1.0.0\n":                        "is invalid",
		"apiVersion: v2\nname: a\nversion: ../1\n":                           "is invalid",
		"apiVersion: v2\nname: a\nversion: latest\n":                         "is invalid",
		"apiVersion: v2\nname: a\n":                                          "version is required",
		"apiVersion: v9\nname: a\nversion: 1.0.0\n":                          "is not supported",
		"apiVersion: v2\nversion: 1.0.0\nname: " + strings.Repeat("a", 5000): "is invalid",
		"- a\n":                  "cannot load Chart.yaml",
		"a: &a [*a]\n":           "recursive alias",
		strings.Repeat("[", 200): "Chart.yaml",
	} {
		mustRefuse(t, "chart", stepMetadata, want, inTree(t, demo(map[string]string{"chart/Chart.yaml": text + "\n"}), chartRequest{Chart: chartPlace{Path: "chart"}}))
		mustRefuse(t, "chart", stepMetadata, want, bounded(chartRequest{Chart: part(0)}), chartArchive(t, "demo", map[string]string{"Chart.yaml": text}))
	}
}

func Test_G06_ChartsInChartsAreBounded(t *testing.T) {
	nest := func(levels int) []byte {
		data := simpleChart(t, "c0", "1.0.0")
		for level := range levels {
			data = chartArchive(t, "c", map[string]string{"Chart.yaml": fmt.Sprintf("apiVersion: v2\nname: c%d\nversion: 1.0.0\n", level+1), "charts/x.tgz": string(data)})
		}
		return data
	}
	packageOf(t, bounded(chartRequest{Chart: part(0)}), nest(maxChartDepth))
	mustRefuse(t, "package", stepLoad, "charts in charts more than 16 deep", bounded(chartRequest{Chart: part(0)}), nest(maxChartDepth+1))
	mustRefuse(t, "package", stepLoad, "charts in charts more than 16 deep", bounded(chartRequest{Chart: part(0)}), nest(1000))
	files, prefix := demo(nil), "chart/"
	for range 17 {
		prefix += "charts/d/"
		files[prefix+"Chart.yaml"] = "apiVersion: v2\nname: d\nversion: 1.0.0\n"
	}
	mustRefuse(t, "package", stepLoad, "charts in charts more than 16 deep", inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}}))
}

func Test_G06_ADependencyInTheTreeStaysInIt(t *testing.T) {
	request := inTree(t, demo(nil), chartRequest{Chart: chartPlace{Path: "chart"}, Dependencies: []chartPlace{{Path: "../../../etc"}}})
	mustRefuse(t, "package", stepDependencies, "no chart found at path '/etc'", request)
	packageOf(t, inTree(t, demo(nil), chartRequest{Chart: chartPlace{Path: "chart"}, Dependencies: []chartPlace{{Path: "chart"}}}))
}

func Test_G08_AnAliasIsAName(t *testing.T) {
	for _, alias := range []string{"a/b", "'{{ x }}'", "'a: b'", "'*x'", `"a\nb"`} {
		text := demoChart + "dependencies:\n- {name: x, version: 1.0.0, repository: 'https://x', alias: " + alias + "}\n"
		mustRefuse(t, "chart", stepMetadata, "disallowed characters in the alias", inTree(t, demo(map[string]string{"chart/Chart.yaml": text}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	}
}

func Test_G09_ValuesFilesThatCannotBe(t *testing.T) {
	files := demo(map[string]string{"big.yaml": strings.Repeat("x", 20<<20), "list.yaml": "- 1\n", "loop.yaml": "a: &a [*a]\n", "null.yaml": "null\n"})
	for name, want := range map[string]string{
		"../../x.yaml": "no values file found at path '/x.yaml' (reference '../../x.yaml')", "/etc/passwd": "no values file found at path '/etc/passwd'",
		"chart": "invalid values file path '/chart'", "big.yaml": "larger than", "list.yaml": "unmarshaling values from 'list.yaml' failed", "loop.yaml": "recursive alias",
	} {
		mustRefuse(t, "package", stepValues, want, inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}, ValuesFiles: []string{name}}))
		if name == "chart" || strings.HasSuffix(want, "failed") || strings.HasPrefix(want, "larger") {
			mustRefuse(t, "package", stepValues, want, inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}, ValuesFiles: []string{name}, IgnoreMissing: true}))
		}
	}
	_, got := packageOf(t, inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}, ValuesFiles: []string{"null.yaml"}}))
	if got["demo/values.yaml"] != "" {
		t.Error(got)
	}
}

func Test_G13_PathsThatAreNoCharts(t *testing.T) {
	files := demo(map[string]string{"empty/x": "x", "file.txt": "hello"})
	for name, want := range map[string]string{
		"nope": "no chart found at path '/nope'", "file.txt": "no gzipped archive", "../../../etc": "no chart found at path '/etc'", "empty": "Chart.yaml file is missing",
		"chart/Chart.yaml": "no gzipped archive",
	} {
		mustRefuse(t, "chart", stepMetadata, want, inTree(t, files, chartRequest{Chart: chartPlace{Path: name}}))
	}
}

func Test_G14_PluginsAreFilesAndPatternsAreBounded(t *testing.T) {
	files := demo(map[string]string{"chart/plugin.yaml": "command: rm -rf /\n"})
	_, got := packageOf(t, inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}}))
	if got["demo/plugin.yaml"] == "" {
		t.Error(got)
	}
	mustRefuse(t, "package", stepLoad, ".helmignore has more than", inTree(t, demo(map[string]string{"chart/.helmignore": strings.Repeat("a*a*a*b\n", 100_000)}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	mustRefuse(t, "package", stepLoad, "double-star", inTree(t, demo(map[string]string{"chart/.helmignore": "**/x\n"}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	for number := range maxChartFiles {
		files[fmt.Sprintf("chart/templates/%s%d.yaml", strings.Repeat("a", 100), number)] = "x"
	}
	mustRefuse(t, "package", stepLoad, "the chart has more than 10000 files", inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}}))
	files["chart/.helmignore"] = strings.Repeat(strings.Repeat("a*", 20)+"b\n", 900) + "templates\n"
	packageOf(t, inTree(t, files, chartRequest{Chart: chartPlace{Path: "chart"}}))
}

func Test_G14_AnArchiveOfEmptyFilesIsBounded(t *testing.T) {
	entries := []entry{{name: "demo/Chart.yaml", text: demoChart}}
	for number := range 100_000 {
		entries = append(entries, entry{name: fmt.Sprintf("demo/templates/%d.yaml", number)})
	}
	mustRefuse(t, "chart", stepMetadata, "the chart has more than 10000 files", bounded(chartRequest{Chart: part(0)}), archived(t, entries...))
}

func Test_K_ValuesThatFillMemoryAreRefused(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for letter := 'b'; letter < 'j'; letter++ {
		previous := string(letter - 1)
		bomb += string(letter) + ": &" + string(letter) + " [" + strings.TrimSuffix(strings.Repeat("*"+previous+",", 9), ",") + "]\n"
	}
	mustRefuse(t, "package", stepLoad, "values.yaml: line 7: more than", inTree(t, demo(map[string]string{"chart/values.yaml": bomb}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	mustRefuse(t, "package", stepLoad, "values.yaml: the chart's metadata and values have more than 100000 entries", inTree(t, demo(map[string]string{"chart/values.yaml": "a:\n" + strings.Repeat("- 1\n", 1_100_000)}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	nested := demo(map[string]string{"chart/charts/sub.tgz": string(chartArchive(t, "sub", map[string]string{"Chart.yaml": "apiVersion: v2\nname: sub\nversion: 1.0.0\n", "values.yaml": bomb}))})
	mustRefuse(t, "package", stepLoad, "charts/sub.tgz: values.yaml: line 7: more than", inTree(t, nested, chartRequest{Chart: chartPlace{Path: "chart"}}))
}

func Test_ALargeChartIsPackagedWhenItMay(t *testing.T) {
	values := "a:\n" + strings.Repeat("- {k: v}\n", 30_000)
	_, got := packageOf(t, inTree(t, demo(map[string]string{"chart/values.yaml": values}), chartRequest{Chart: chartPlace{Path: "chart"}}))
	if got["demo/values.yaml"] != values {
		t.Error("the values are not the chart's")
	}
}
