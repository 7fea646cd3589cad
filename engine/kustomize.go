package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"path"
	"strings"
	"sync"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/yaml"
)

// buildRequest asks for the objects that a Kustomization makes of a tree.
type buildRequest struct {
	Tree      treeRef           `json:"tree"`
	Path      string            `json:"path"`
	Fields    specFields        `json:"fields"`
	Variables map[string]string `json:"variables"` // null: no substitution at all
	Strict    bool              `json:"strict"`
	Remotes   []remote          `json:"remotes"`
}

// specFields are the fields of a Kustomization's spec that shape its build, named as there.
type specFields struct {
	TargetNamespace         string        `json:"targetNamespace"`
	NamePrefix              string        `json:"namePrefix"`
	NameSuffix              string        `json:"nameSuffix"`
	Patches                 []types.Patch `json:"patches"`
	Components              []string      `json:"components"`
	IgnoreMissingComponents bool          `json:"ignoreMissingComponents"`
	Images                  []types.Image `json:"images"`
	BuildMetadata           []string      `json:"buildMetadata"`
}

// buildAnswer goes with one part: a JSON array of the objects, in build order.
type buildAnswer struct {
	usage
	Digest string `json:"digest"` // sha256 of the objects' multi-document YAML
	Count  int    `json:"count"`
	Parts  []int  `json:"parts"`
}

const maxObjects = 20_000

func (e *engine) build(ctx context.Context, request *buildRequest, parts [][]byte) (*buildAnswer, []byte, error) {
	answer, objects, err := e.objects(ctx, request, parts)
	if known, is := errors.AsType[*failure](err); is {
		known.Message = asWritten(known.Message, request.Remotes)
	}
	return answer, objects, err
}

func (e *engine) objects(ctx context.Context, request *buildRequest, parts [][]byte) (*buildAnswer, []byte, error) {
	artifact, release, err := e.trees.open(request.Tree)
	if err != nil {
		return nil, nil, &failure{Class: classRequest, Message: err.Error()}
	}
	defer release()
	files := &fileSystem{ctx: ctx, tree: artifact, overlay: map[string][]byte{}, mounts: map[string]*tree{}}
	done, err := e.mount(files, request.Remotes, parts)
	defer done()
	if err != nil {
		return nil, nil, err
	}
	folder := clamp(request.Path)
	if !files.isDir(folder) && !files.isFile(folder) {
		return nil, nil, buildError("kustomization path not found: %s", files.missing("stat", folder))
	}
	top, err := effective(files, folder, &request.Fields)
	if err != nil {
		return nil, nil, err
	}
	seen := &survey{files: files, remotes: request.Remotes}
	if err := seen.begin(folder, top); err != nil {
		return nil, nil, err
	}
	defer enterSchema(seen.ownSchema)() // to ask a resource who it is looks into the schema, too
	built, err := render(files, path.Join(root, folder))
	if err != nil {
		return nil, nil, refusal(ruleOf(err), "kustomize build failed: %s", err)
	}
	out := newOutput(request)
	for _, one := range built.Resources() {
		if err := fetchedOrigin(one, request.Remotes); err != nil {
			return nil, nil, err
		}
		if err := out.add(ctx, one); err != nil {
			return nil, nil, err
		}
	}
	objects := out.finish()
	return &buildAnswer{Digest: out.sum(), Count: out.count, Parts: []int{len(objects)}}, objects, nil
}

// kustomizationFile finds the name of the kustomization file in a directory: the first of those that kustomize knows.
func kustomizationFile(files *fileSystem, folder string) string {
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if files.isFile(path.Join(folder, name)) {
			return name
		}
	}
	return ""
}

// topFile is the kustomization at which a build begins, as the fields of the spec make it.
type topFile struct {
	name          string // path below the root
	kustomization *types.Kustomization
}

// effective reads or makes the kustomization of a directory and lays the spec's fields onto it: spec/kustomize.md 3.4.
func effective(files *fileSystem, folder string, fields *specFields) (*topFile, error) {
	kustomization := &types.Kustomization{
		TypeMeta: types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind},
	}
	name := kustomizationFile(files, folder)
	found := name != ""
	if !found {
		name = konfig.DefaultKustomizationFileName()
	}
	top := &topFile{name: path.Join(folder, name), kustomization: kustomization}
	if !files.isDir(folder) {
		return nil, buildError("open %s: not a directory", path.Join(root, top.name))
	}
	if found {
		if err := readTop(files, top, len(fields.Components) > 0); err != nil {
			return nil, err
		}
	} else {
		var err error
		if kustomization.Resources, err = generated(files, folder, ""); err != nil {
			return nil, err
		}
		if len(kustomization.Resources) == 0 {
			// An empty kustomization is an error to kustomize, but an empty directory is none.
			kustomization.Namespace = "_placeholder"
		}
	}
	if err := fields.lay(kustomization, files, folder); err != nil {
		return nil, err
	}
	return top, top.store(files)
}

func (t *topFile) store(files *fileSystem) error {
	text, err := yaml.Marshal(t.kustomization)
	if err != nil {
		return buildError("%s: %s", path.Join(root, t.name), err)
	}
	files.overlay[t.name] = text
	return nil
}

// readTop decodes the file that stands there. Fields it does not know are dropped without a word, as Flux does.
func readTop(files *fileSystem, top *topFile, components bool) error {
	data, _ := files.read(top.name)
	if err := files.judge("kustomization", top.name, data, judgeKustomization); err != nil {
		return failed(err)
	}
	shown := path.Join(root, top.name)
	var object map[string]any
	if err := yaml.Unmarshal(data, &object); err != nil {
		return buildError("kustomize build failed: %s: %s", shown, err)
	}
	for _, name := range []string{"apiVersion", "kind", "metadata"} {
		delete(object, name)
	}
	if len(object) == 0 && !components {
		// To take it for "no objects" would prune everything that was there before.
		return refusal("kustomization-empty", "kustomize build failed: %s is empty", shown)
	}
	if err := yaml.Unmarshal(data, top.kustomization); err != nil {
		return buildError("kustomize build failed: %s: %s", shown, err)
	}
	if len(top.kustomization.Resources) == 0 {
		top.kustomization.BuildMetadata = []string{types.OriginAnnotations}
	}
	return nil
}

// generated lists the resources of a directory without a kustomization file; below is the path from it to here.
func generated(files *fileSystem, folder, below string) ([]string, error) {
	var found []string
	for _, entry := range files.entries(path.Join(folder, below)) {
		here := path.Join(below, entry)
		full := path.Join(folder, here)
		switch {
		case files.isDir(full) && kustomizationFile(files, full) != "":
			found = append(found, "./"+here)
		case files.isDir(full):
			more, err := generated(files, folder, here)
			if err != nil {
				return nil, err
			}
			found = append(found, more...)
		case strings.HasSuffix(entry, ".yaml") || strings.HasSuffix(entry, ".yml"):
			if err := decodes(files, full); err != nil {
				return nil, err
			}
			found = append(found, "./"+here)
		}
	}
	return found, files.ctx.Err()
}

// decodes checks that a file holds Kubernetes objects, so that none is left out without anybody noticing.
func decodes(files *fileSystem, name string) error {
	data, _ := files.read(name)
	err := files.judge("manifest", name, data, judgeManifest)
	if err == nil {
		holder, inner := files.locate(name)
		err = holder.verdict("objects", inner, func(data []byte) (err error) {
			defer func() {
				if trouble := recover(); trouble != nil {
					err = buildError("recovered from panic while parsing YAML file %s: %v", path.Base(name), trouble)
				}
			}()
			_, err = resources.SliceFromBytes(data)
			return err
		})
	}
	if err == nil {
		return nil
	}
	if refused, is := errors.AsType[*failure](err); is && refused.Rule == "" {
		return refused
	}
	message := strings.TrimPrefix(err.Error(), path.Join(root, name)+": ")
	return refusal(ruleOf(err), "failed to decode Kubernetes YAML from %s: %s", path.Join(root, name), message)
}

var resources = provider.NewDefaultDepProvider().GetResourceFactory()

// lay puts the spec's fields onto a kustomization, in the order that spec/kustomize.md 3.4 gives.
func (s *specFields) lay(onto *types.Kustomization, files *fileSystem, folder string) error {
	if s.TargetNamespace != "" {
		onto.Namespace = s.TargetNamespace
	}
	if s.NamePrefix != "" {
		onto.NamePrefix = s.NamePrefix
	}
	if s.NameSuffix != "" {
		onto.NameSuffix = s.NameSuffix
	}
	for index, patch := range s.Patches {
		if err := judgeSafe([]byte(patch.Patch)); err != nil {
			return refusal(ruleOf(err), "kustomize build failed: spec.patches[%d]: %s", index, err)
		}
		onto.Patches = append(onto.Patches, types.Patch{Patch: patch.Patch, Target: patch.Target})
	}
	for _, component := range s.Components {
		if !isLocal(component) {
			return buildError("component path '%s' must be local and relative", component)
		}
		if s.IgnoreMissingComponents && !files.Exists(path.Join(root, folder, component)) {
			continue
		}
		onto.Components = append(onto.Components, component)
	}
	for _, image := range s.Images {
		layImage(onto, image)
	}
	if len(s.BuildMetadata) > 0 {
		onto.BuildMetadata = s.BuildMetadata
	}
	return nil
}

func isLocal(component string) bool {
	if path.IsAbs(component) || strings.HasPrefix(component, "file:///") {
		return false
	}
	lower := strings.ToLower(component)
	for _, remote := range []string{
		"git::", "gh:", "ssh://", "https://", "http://", "git@", "github.com:", "github.com/",
	} {
		if strings.HasPrefix(lower, remote) {
			return false
		}
	}
	return true
}

// layImage replaces the entry of the same name, tag and digest as one unit.
func layImage(onto *types.Kustomization, image types.Image) {
	for index := range onto.Images {
		known := &onto.Images[index]
		if known.Name != image.Name {
			continue
		}
		if image.NewName != "" {
			known.NewName = image.NewName
		}
		if image.NewTag != "" || image.Digest != "" {
			known.NewTag, known.Digest = image.NewTag, image.Digest
		}
		return
	}
	onto.Images = append(onto.Images, types.Image{
		Name: image.Name, NewName: image.NewName, NewTag: image.NewTag, Digest: image.Digest,
	})
}

// kustomize keeps the OpenAPI schema in a global variable. Builds that bring no schema of their own share the built-in
// one, parsed once, and run side by side; one that does bring its own runs alone and leaves the built-in one behind.
var (
	schemaGate  sync.RWMutex
	schemaReady bool
)

// builtInSchema forgets every other schema. The built-in one is parsed right away: kustomize itself would do so later,
// while other builds read it.
func builtInSchema() {
	openapi.ResetOpenAPI()
	_ = openapi.Schema()
	schemaReady = true
}

func enterSchema(alone bool) (leave func()) {
	if !alone {
		schemaGate.RLock()
		if schemaReady {
			return schemaGate.RUnlock
		}
		schemaGate.RUnlock()
		schemaGate.Lock()
		if !schemaReady {
			builtInSchema()
		}
		schemaGate.Unlock()
		schemaGate.RLock()
		return schemaGate.RUnlock
	}
	schemaGate.Lock()
	schemaReady = false
	openapi.ResetOpenAPI()
	return func() {
		builtInSchema()
		schemaGate.Unlock()
	}
}

func render(files *fileSystem, folder string) (result resmap.ResMap, err error) {
	defer func() {
		if trouble := recover(); trouble != nil {
			err = fmt.Errorf("recovered from kustomize build panic: %v", trouble)
		}
	}()
	return krusty.MakeKustomizer(&krusty.Options{
		Reorder:          krusty.ReorderOptionNone,
		LoadRestrictions: types.LoadRestrictionsNone, // the file system is the restriction
		PluginConfig:     types.DisabledPluginConfig(),
	}).Run(files, folder)
}

// output takes the built resources one by one, and makes of each what is to be applied.
type output struct {
	substitution *substitution
	objects      []byte
	hash         hash.Hash
	count        int
	documents    int
}

func newOutput(request *buildRequest) *output {
	out := &output{objects: []byte{'['}, hash: sha256.New()}
	if request.Variables != nil {
		out.substitution = newSubstitution(request.Variables, request.Strict)
	}
	return out
}

const (
	substituteKey = "kustomize.toolkit.fluxcd.io/substitute"
	substituteOff = "disabled"
	kustomizeAPI  = "kustomize.config.k8s.io/"
)

func (o *output) add(ctx context.Context, one *resource.Resource) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	subject := fmt.Sprintf("%s/%s", one.GetGvk(), one.GetName())
	if one.GetName() == "" || one.GetKind() == "" || one.GetApiVersion() == "" {
		return buildError("failed to decode Kubernetes apiVersion, kind and name from: %s", subject)
	}
	object, err := one.MarshalJSON()
	if err != nil {
		return buildError("kustomize build failed: %s: %s", subject, cause(err))
	}
	text, err := yaml.JSONToYAML(object)
	if err != nil {
		return buildError("kustomize build failed: %s: %s", subject, cause(err))
	}
	disabled := one.GetLabels()[substituteKey] == substituteOff || one.GetAnnotations()[substituteKey] == substituteOff
	if o.substitution != nil && !disabled {
		if text, object, err = o.substitution.object(text, object); err != nil {
			return refusal(ruleOf(err), "post build failed for '%s': envsubst error: %s", subject, err)
		}
	}
	if o.documents++; o.documents > 1 {
		o.hash.Write([]byte("---\n"))
	}
	o.hash.Write(text)
	return o.emit(object, subject)
}

// emit appends an object, or the items of a list, and leaves kustomization files out.
func (o *output) emit(object []byte, subject string) error {
	if jsonDepth(object) > maxDepth {
		return refusal("json-depth", "kustomize build failed: %s: nested deeper than %d", subject, maxDepth)
	}
	var head head
	if err := json.Unmarshal(object, &head); err != nil {
		return refusal("object-identity", "kustomize build failed: %s: apiVersion, kind, name and namespace must be strings", subject)
	}
	if strings.HasSuffix(head.Kind, "List") && len(head.Items) > 0 && head.Items[0] == '[' {
		var items []json.RawMessage
		if err := json.Unmarshal(head.Items, &items); err != nil {
			return buildError("kustomize build failed: %s: the items cannot be read", subject)
		}
		for _, item := range items {
			if err := o.emit(item, subject); err != nil {
				return err
			}
		}
		return nil
	}
	if head.Kind == types.KustomizationKind && strings.HasPrefix(head.APIVersion, kustomizeAPI) {
		return nil
	}
	if o.count++; o.count > maxObjects {
		return refusal("objects", "kustomize build failed: more than %d objects", maxObjects)
	}
	if o.count > 1 {
		o.objects = append(o.objects, ',')
	}
	o.objects = append(o.objects, object...)
	return nil
}

func (o *output) finish() []byte { return append(o.objects, ']') }

func (o *output) sum() string { return "sha256:" + hex.EncodeToString(o.hash.Sum(nil)) }

// head is the part of an object that says who it is.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items json.RawMessage `json:"items"`
}

// jsonDepth counts how deep legal JSON is nested.
func jsonDepth(text []byte) int {
	depth, deepest, quoted := 0, 0, false
	for index := 0; index < len(text); index++ {
		switch c := text[index]; {
		case quoted && c == '\\':
			index++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// cause keeps only the innermost error: kustomize puts the whole object in front of it, and that may be a Secret.
func cause(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err.Error()
}

// failed puts kustomize's prefix before what vetting refused.
func failed(err error) error {
	return refusal(ruleOf(err), "kustomize build failed: %s", err)
}

func ruleOf(err error) string {
	if refused, is := errors.AsType[*failure](err); is {
		return refused.Rule
	}
	return ""
}
