//lint:file-ignore SA1019 deprecated fields of a kustomization are still read, and must be vetted like the others

package main

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/types"
)

// Bounds on the kustomization files of one build.
const (
	maxRoots     = 1000
	maxRecursion = 32
)

// survey visits, before kustomize does, every kustomization file that a build will read: it vets them and the manifests
// they name, counts how often kustomize will walk through them, and finds what is not in the artifact. What is merely
// wrong it leaves for kustomize to complain about.
type survey struct {
	files   *fileSystem
	remotes []remote

	needed    []reference // remote bases that nobody fetched yet
	ownSchema bool        // some kustomization brings its own OpenAPI schema
	visits    map[string]int
	stack     []string
}

func (s *survey) begin(folder string, top *topFile) error {
	s.visits = map[string]int{}
	s.stack = []string{folder}
	if _, err := s.contents(folder, top); err != nil {
		return failed(err)
	}
	if len(s.needed) > 0 {
		names := make([]string, len(s.needed))
		for index, one := range s.needed {
			names[index] = "'" + one.Shown + "'"
		}
		return &failure{
			Class: classRemote, Rule: "remote-base", References: s.needed,
			Message: "kustomize build failed: remote bases are not allowed: " + strings.Join(names, ", "),
		}
	}
	return nil
}

// visit returns how many kustomization roots kustomize enters for a directory, itself included.
func (s *survey) visit(folder string) (int, error) {
	if count, known := s.visits[folder]; known {
		return count, nil
	}
	for _, visited := range s.stack {
		if visited == folder || folder == "" || strings.HasPrefix(visited, folder+"/") {
			return 1, nil // a cycle: kustomize names both ends
		}
	}
	if len(s.stack) > maxRecursion {
		return 0, refusal("kustomization-depth", "more than %d kustomizations below each other, at %s",
			maxRecursion, path.Join(root, folder))
	}
	if err := s.files.ctx.Err(); err != nil {
		return 0, err
	}
	s.stack = append(s.stack, folder)
	defer func() { s.stack = s.stack[:len(s.stack)-1] }()
	count, err := s.read(folder)
	s.visits[folder] = count
	return count, err
}

func (s *survey) read(folder string) (int, error) {
	var nested *topFile
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		full := path.Join(folder, name)
		data, is := s.files.read(full)
		if !is {
			continue
		}
		if nested != nil {
			return 1, nil // two of them: kustomize says so
		}
		nested = &topFile{name: full, kustomization: &types.Kustomization{}}
		if err := s.files.judge("kustomization", full, data, judgeKustomization); err != nil {
			return 0, err
		}
		if nested.kustomization.Unmarshal(data) != nil {
			return 1, nil
		}
	}
	if nested == nil {
		return 1, nil
	}
	return s.contents(folder, nested)
}

// contents looks at everything a kustomization refers to.
func (s *survey) contents(folder string, file *topFile) (int, error) {
	if len(file.kustomization.OpenAPI) > 0 {
		s.ownSchema = true
	}
	count, changed := 1, false
	err := eachReference(file.kustomization, func(kind referenceKind, text *string) error {
		inner, err := s.refer(folder, kind, text, &changed)
		if count += inner; err == nil && count > maxRoots {
			err = refusal("kustomization-roots", "more than %d kustomizations are visited from %s",
				maxRoots, path.Join(root, s.stack[0]))
		}
		return err
	})
	if err == nil && changed {
		err = file.store(s.files)
	}
	return count, err
}

func (s *survey) refer(folder string, kind referenceKind, text *string, changed *bool) (int, error) {
	full := path.Join(folder, *text)
	if path.IsAbs(*text) || !filepath.IsLocal(full) {
		return 0, nil // refused by the file system, in the words that fit the place
	}
	if base, _, _ := strings.Cut(strings.TrimPrefix(folder, remoteName+"/"), "/"); strings.HasPrefix(folder, remoteName+"/") {
		if mounted := remoteName + "/" + base; full != mounted && !strings.HasPrefix(full, mounted+"/") {
			return 0, refusal("remote-escape", "'%s' leaves the remote base that refers to it", *text)
		}
	}
	isFile := s.files.isFile(full)
	if wanted, is := parseReference(*text, kind != refersFile); is && !(isFile && wanted.URL == "") {
		at, err := s.fetched(wanted)
		if at == "" || err != nil {
			return 0, err
		}
		*changed = true
		if *text, err = filepath.Rel(path.Join(root, folder), path.Join(root, at)); err != nil {
			return 0, err
		}
		full, isFile = at, s.files.isFile(at)
	}
	switch {
	case isFile && kind == refersResource:
		data, _ := s.files.read(full)
		return 0, s.files.judge("manifest", full, data, judgeManifest)
	case isFile:
		data, _ := s.files.read(full)
		return 0, s.files.judge("safe", full, data, judgeSafe)
	case kind != refersFile && s.files.isDir(full):
		return s.visit(full)
	}
	return 0, nil
}

// fetched tells where a remote base appears below the root; it is nowhere until the daemon fetched it.
func (s *survey) fetched(wanted reference) (string, error) {
	if wanted.Refused != "" {
		return "", refusal("remote-reference", "remote base '%s' is refused: %s", wanted.Shown, wanted.Refused)
	}
	for index, one := range s.remotes {
		if one.Reference == wanted.Reference {
			at := fmt.Sprintf("%s/%d", remoteName, index)
			if one.Tree == nil {
				return path.Join(at, remoteFile), nil
			}
			return path.Join(at, wanted.Git.Path), nil
		}
	}
	for _, one := range s.needed {
		if one.Reference == wanted.Reference {
			return "", nil
		}
	}
	s.needed = append(s.needed, wanted)
	return "", nil
}

type referenceKind int

const (
	refersFile     referenceKind = iota // a file of any kind
	refersPlugin                        // a plugin's configuration: a file, or a directory of them
	refersResource                      // a manifest, or a directory with a kustomization
)

// eachReference calls back for each path or URL in a kustomization; the callback may replace it.
func eachReference(k *types.Kustomization, visit func(referenceKind, *string) error) error {
	var err error
	one := func(kind referenceKind, text *string) {
		if err == nil && *text != "" {
			err = visit(kind, text)
		}
	}
	all := func(kind referenceKind, texts []string) {
		for index := range texts {
			one(kind, &texts[index])
		}
	}
	all(refersResource, k.Resources)
	all(refersResource, k.Bases)
	all(refersResource, k.Components)
	for _, plugins := range [][]string{k.Generators, k.Transformers, k.Validators} {
		for index := range plugins {
			if !strings.Contains(plugins[index], "\n") { // else it is written right here
				one(refersPlugin, &plugins[index])
			}
		}
	}
	all(refersFile, k.Crds)
	all(refersFile, k.Configurations)
	if schema, is := k.OpenAPI["path"]; is {
		one(refersFile, &schema)
		k.OpenAPI["path"] = schema
	}
	for _, patches := range [][]types.Patch{k.Patches, k.PatchesJson6902} {
		for index := range patches {
			one(refersFile, &patches[index].Path)
		}
	}
	for index := range k.PatchesStrategicMerge {
		if text := string(k.PatchesStrategicMerge[index]); !strings.Contains(text, "\n") {
			one(refersFile, &text)
			k.PatchesStrategicMerge[index] = types.PatchStrategicMerge(text)
		}
	}
	for index := range k.Replacements {
		one(refersFile, &k.Replacements[index].Path)
	}
	for index := range k.ConfigMapGenerator {
		eachSource(&k.ConfigMapGenerator[index].KvPairSources, one)
	}
	for index := range k.SecretGenerator {
		eachSource(&k.SecretGenerator[index].KvPairSources, one)
	}
	return err
}

func eachSource(sources *types.KvPairSources, one func(referenceKind, *string)) {
	for index, source := range sources.FileSources {
		key, name, named := strings.Cut(source, "=")
		if !named {
			key, name = path.Base(source), source
		}
		before := name
		if one(refersFile, &name); name != before {
			sources.FileSources[index] = key + "=" + name
		}
	}
	for index := range sources.EnvSources {
		one(refersFile, &sources.EnvSources[index])
	}
	one(refersFile, &sources.EnvSource)
}
