package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// needs is what a build asks the daemon to fetch.
func needs(t *testing.T, files map[string]string) []reference {
	t.Helper()
	request := buildRequest{Tree: shared(t, files)}
	_, _, err := (&engine{}).build(context.Background(), &request, nil)
	known, is := errors.AsType[*failure](err)
	if !is || known.Class != classRemote {
		t.Fatalf("%v", err)
	}
	return known.References
}

// whatever field names it, a remote base is found before anything is rendered.
func Test_J03_EveryFieldThatCanNameARemoteBaseIsLookedAt(t *testing.T) {
	for field, text := range map[string]string{
		"resources": "resources: [URL]\n", "bases": "bases: [URL]\n", "components": "components: [URL]\n", "crds": "crds: [URL]\n",
		"openapi": "openapi: {path: URL}\n", "patches": "patches: [{path: URL}]\n", "patchesStrategicMerge": "patchesStrategicMerge: [URL]\n",
		"patchesJson6902": "patchesJson6902: [{path: URL, target: {kind: A, name: b, version: v1}}]\n", "replacements": "replacements: [{path: URL}]\n",
		"transformers": "transformers: [URL]\n", "generators": "generators: [URL]\n", "validators": "validators: [URL]\n",
		"configurations": "configurations: [URL]\n", "files": "configMapGenerator: [{name: x, files: [k=URL]}]\n",
		"files without key": "secretGenerator: [{name: x, files: [URL]}]\n", "envs": "configMapGenerator: [{name: x, envs: [URL]}]\n",
		"env": "secretGenerator: [{name: x, env: URL}]\n",
	} {
		text = strings.ReplaceAll(text, "URL", "http://169.254.169.254/x/y.yaml")
		for _, files := range []map[string]string{
			{"kustomization.yaml": text},
			{"kustomization.yaml": "resources: [b]\n", "b/kustomization.yaml": text},
			{"kustomization.yaml": "resources: [b]\ncomponents: [b]\n", "b/kustomization.yaml": "resources: [c]\n", "b/c/kustomization.yml": text},
		} {
			if got := needs(t, files); len(got) != 1 || got[0].URL != "http://169.254.169.254/x/y.yaml" {
				t.Errorf("%s: %v", field, got)
			}
		}
	}
}

func TestReferencesAreReadAsKustomizeReadsThem(t *testing.T) {
	for text, want := range map[string]struct{ url, git, ref, path, refused string }{
		"https://h/x.yaml":                     {url: "https://h/x.yaml"},
		"https://h/o/r/x.yaml":                 {url: "https://h/o/r/x.yaml", git: "https://h/o/r", path: "x.yaml"},
		"https://h/o/r//d/e?ref=v1":            {url: "https://h/o/r//d/e?ref=v1", git: "https://h/o/r", ref: "v1", path: "d/e"},
		"https://h/a/b/c.git/d?version=v2":     {url: "https://h/a/b/c.git/d?version=v2", git: "https://h/a/b/c.git", ref: "v2", path: "d"},
		"https://u@dev.azure.com/o/p/_git/r/d": {url: "https://u@dev.azure.com/o/p/_git/r/d", git: "https://u@dev.azure.com/o/p/_git/r", path: "d"},
		"github.com/o/r":                       {git: "https://github.com/o/r"},
		"git::https://h/o/r":                   {git: "https://h/o/r"},
		"GitHub.com/o/r/d?ref=a/b":             {git: "https://GitHub.com/o/r", ref: "a/b", path: "d"},
		"github.com/o":                         {refused: "it names no repository"},
		"https://h/o/r?ref=--upload-pack=x":    {url: "https://h/o/r?ref=--upload-pack=x", git: "https://h/o/r", ref: "--upload-pack=x", refused: "its ref is not a legal name"},
		"https://h/o/r//../x":                  {url: "https://h/o/r//../x", git: "https://h/o/r", path: "x", refused: "its path leaves the repository"},
		"https:///x":                           {url: "https:///x", refused: "it names no host"},
		"git@h:o/r":                            {refused: "only http and https are supported"},
		"ssh://-oProxyCommand=x/r":             {refused: "only http and https are supported"},
		"file:///x":                            {refused: "only http and https are supported"},
		"git::ssh://h/o/r":                     {refused: "only http and https are supported"},
		"github.com:o/r":                       {refused: "only http and https are supported"},
	} {
		got, is := parseReference(text, true)
		git := gitReference{}
		if got.Git != nil {
			git = *got.Git
		}
		if !is || got.URL != want.url || git.URL != want.git || git.Ref != want.ref || git.Path != want.path || got.Refused != want.refused {
			t.Errorf("%s: %+v %+v", text, got, git)
		}
	}
	for _, text := range []string{"a.yaml", "../a", "a/b/c.git", "./github.com/x", "/etc/x", "ftp://h/x", "C:/x", "-x"} {
		if got, is := parseReference(text, true); is {
			t.Errorf("%s: %+v", text, got)
		}
	}
	if got, is := parseReference("github.com/o/r", false); is {
		t.Errorf("a file: %+v", got)
	}
}

func TestALocalFileThatLooksLikeARepositoryIsLocal(t *testing.T) {
	mustBuild(t, map[string]string{"kustomization.yaml": "resources: [github.com/o/r]\n", "github.com/o/r": configMap("a")}, buildRequest{}, "["+named("a")+"]")
	if got := needs(t, map[string]string{"kustomization.yaml": "resources: [github.com/o/r]\n", "github.com/o/r/kustomization.yaml": "resources: []\n"}); len(got) != 1 {
		t.Error(got)
	}
}

func TestARefusedReferenceIsShownWithoutItsSecrets(t *testing.T) {
	mustFail(t, map[string]string{"kustomization.yaml": "resources: ['https://user:pass@h/o/r//x?ref=-x&token=secret']\n"}, buildRequest{},
		"kustomize build failed: remote base 'https://h/o/r//x' is refused: its ref is not a legal name")
	got := needs(t, map[string]string{"kustomization.yaml": "resources: ['https://user:pass@h/o/r?token=secret']\n"})
	if got[0].Shown != "https://h/o/r" {
		t.Error(got)
	}
}

const farFile = "https://h/o/r/raw/far.yaml"
const farBase = "https://h/o/r//deploy/app?ref=v1"

func TestAFetchedFileStandsWhereItsURLWas(t *testing.T) {
	for text, want := range map[string]string{
		"resources: ['URL']\n":  "[" + named("far") + "]",
		"resources: [b]\n":      "[" + named("b-far") + "]",
		"generators: ['URL']\n": "unable to load external plugin 'ConfigMap'",
		// As with kustomize, a file without a key is known by the last part of its address.
		"resources: []\nconfigMapGenerator: [{name: x, files: ['URL', 'k=URL']}]\ngeneratorOptions: {disableNameSuffixHash: true}\n": `[{"apiVersion":"v1","data":{` +
			`"far.yaml":"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: far}\n","k":"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: far}\n"},"kind":"ConfigMap","metadata":{"name":"x"}}]`,
	} {
		files := map[string]string{
			"kustomization.yaml":   strings.ReplaceAll(text, "URL", farFile) + "buildMetadata: []\n",
			"b/kustomization.yaml": "resources: ['" + farFile + "']\nnamePrefix: b-\n",
		}
		request := buildRequest{Tree: shared(t, files), Remotes: []remote{{Reference: farFile, Part: 0}}}
		_, objects, err := (&engine{}).build(context.Background(), &request, [][]byte{[]byte(configMap("far"))})
		got := strings.ReplaceAll(string(objects), `"annotations":{"config.kubernetes.io/origin":"configuredIn: kustomization.yaml\nconfiguredBy:\n  apiVersion: builtin\n  kind: ConfigMapGenerator\n"},`, "")
		if got != want && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}

func far(t *testing.T, files map[string]string, base map[string]string, metadata ...string) (string, error) {
	ref := shared(t, base)
	request := buildRequest{
		Tree: shared(t, files), Fields: specFields{BuildMetadata: metadata}, Remotes: []remote{{Reference: farBase, Tree: &ref}},
	}
	_, objects, err := (&engine{}).build(context.Background(), &request, nil)
	return string(objects), err
}

func TestAFetchedRepositoryIsBuiltBesideTheArtifact(t *testing.T) {
	files := map[string]string{"kustomization.yaml": "resources: ['" + farBase + "', a.yaml]\nnamePrefix: p-\n", "a.yaml": configMap("a")}
	base := map[string]string{"deploy/app/kustomization.yaml": "resources: [../b.yaml, c]\n", "deploy/b.yaml": configMap("b"), "deploy/app/c/kustomization.yaml": "resources: [c.yaml]\n", "deploy/app/c/c.yaml": configMap("c")}
	got, err := far(t, files, base)
	if err != nil || got != "["+named("p-b")+","+named("p-c")+","+named("p-a")+"]" {
		t.Error(got, err)
	}
	got, err = far(t, files, base, types.OriginAnnotations)
	if err != nil || !strings.Contains(got, `{"config.kubernetes.io/origin":"path: deploy/app/c/c.yaml\nrepo: https://h/o/r\nref: v1\n"}`) ||
		!strings.Contains(got, `{"config.kubernetes.io/origin":"path: a.yaml\n"}`) {
		t.Error(got, err)
	}
}

func TestARemoteBaseCannotReachTheArtifactAndIsVettedToo(t *testing.T) {
	files := map[string]string{"kustomization.yaml": "resources: ['" + farBase + "']\n", "secret.yaml": configMap("secret")}
	for name, test := range map[string]struct {
		base map[string]string
		want string
	}{
		"climbs out":     {map[string]string{"deploy/app/kustomization.yaml": "resources: [../../../../secret.yaml]\n"}, "'../../../../secret.yaml' leaves the remote base that refers to it"},
		"from a patch":   {map[string]string{"deploy/app/kustomization.yaml": "patches: [{path: ../../../../secret.yaml}]\n"}, "leaves the remote base that refers to it"},
		"bad YAML":       {map[string]string{"deploy/app/kustomization.yaml": "resources: [b.yaml]\n", "deploy/app/b.yaml": "a: &a [*a]\n"}, "https://h/o/r//deploy/app/deploy/app/b.yaml: line 1: recursive alias"},
		"not there":      {map[string]string{"x": ""}, "lstat https://h/o/r//deploy/app/deploy: no such file or directory"},
		"without a file": {map[string]string{"deploy/app/x": ""}, "unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory 'https://h/o/r//deploy/app/deploy/app'"},
	} {
		if got, err := far(t, files, test.base); err == nil || !strings.Contains(presentable(err.Error()), test.want) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestARemoteBaseMayNeedAnother(t *testing.T) {
	ref := shared(t, map[string]string{"deploy/app/kustomization.yaml": "resources: ['https://h/o/other']\n"})
	request := buildRequest{Tree: shared(t, map[string]string{"kustomization.yaml": "resources: ['" + farBase + "']\n"}), Remotes: []remote{{Reference: farBase, Tree: &ref}}}
	_, _, err := (&engine{}).build(context.Background(), &request, nil)
	known, is := errors.AsType[*failure](err)
	if !is || known.Class != classRemote || len(known.References) != 1 || known.References[0].Reference != "https://h/o/other" {
		t.Error(err)
	}
}

// What the survey should not have missed fails nevertheless, without a connection and without a process.
func Test_J03_KustomizeItselfReachesNoNetworkAndStartsNothing(t *testing.T) {
	t.Setenv("PATH", "")
	for _, text := range []string{"https://127.0.0.1:1/x.yaml", "https://127.0.0.1:1/o/r", "github.com/o/r", "file:///tmp/x"} {
		files := filesys.MakeFsInMemory()
		if err := files.WriteFile("/kustomization.yaml", []byte("resources: ['"+text+"']\n")); err != nil {
			t.Fatal(err)
		}
		_, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, "/")
		if err == nil || !strings.Contains(err.Error(), "cannot be reached from a build") && !strings.Contains(err.Error(), "no 'git' program on path") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := (&http.Client{}).Get("http://127.0.0.1:1/"); err == nil || !strings.Contains(err.Error(), "cannot be reached from a build") {
		t.Error(err)
	}
}
