package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"sigs.k8s.io/yaml"
)

// chartPlace is a chart in a tree (a directory or an archive), or else the archive in a part of the request.
type chartPlace struct {
	Path string `json:"path"`
	Part *int   `json:"part"`
}

// chartRequest asks what a chart is, or for its package.
type chartRequest struct {
	Tree         *treeRef   `json:"tree"`
	Chart        chartPlace `json:"chart"`
	ArchiveLimit int64      `json:"archiveLimit"`
	FileLimit    int64      `json:"fileLimit"`

	// What to make of it. An empty version is the chart's own. Values files are paths in the tree, or in the archive
	// that came as a part.
	Version       string       `json:"version"`
	ValuesFiles   []string     `json:"valuesFiles"`
	IgnoreMissing bool         `json:"ignoreMissing"`
	Dependencies  []chartPlace `json:"dependencies"` // null: not looked for yet
}

// chartAnswer goes with the package, cut into parts, or with none: then the chart wants dependencies, and it is for the
// daemon to say where they are.
type chartAnswer struct {
	usage
	Name         string        `json:"name"`
	Version      string        `json:"version"`
	IsArchive    bool          `json:"isArchive"`
	ValuesFiles  []string      `json:"valuesFiles,omitempty"` // those that were merged
	Requirements []requirement `json:"requirements,omitempty"`
	Vendored     []string      `json:"vendored,omitempty"` // names of the charts that are in it
	Parts        []int         `json:"parts"`
}

type requirement struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Repository string `json:"repository"`
	Alias      string `json:"alias"`
}

// The steps that can fail; the daemon tells their failures apart.
const (
	stepMetadata     = "metadata"
	stepLoad         = "load"
	stepValues       = "values"
	stepDependencies = "dependencies"
	stepPackage      = "package"
)

const (
	classChart     = "chart" // a step failed; Step says which
	maxChartName   = 200
	chartYAML      = "Chart.yaml"
	valuesYAML     = "values.yaml"
	maxChartLocals = 100 // dependencies of one chart
)

var chartName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func chartFailure(step string, err error) error {
	if known, is := errors.AsType[*failure](err); is {
		return &failure{Class: classChart, Step: step, Rule: known.Rule, Message: known.Message}
	}
	return &failure{Class: classChart, Step: step, Message: err.Error()}
}

// charts works on one request.
type charts struct {
	request *chartRequest
	parts   [][]byte
	tree    *tree // nil when the chart came as a part
	reader  chartReader
}

func (e *engine) openCharts(ctx context.Context, request *chartRequest, parts [][]byte) (*charts, func(), error) {
	c := &charts{
		request: request,
		parts:   parts,
		reader:  chartReader{ctx: ctx, archiveLimit: request.ArchiveLimit, fileLimit: request.FileLimit},
	}
	if request.Tree == nil {
		return c, func() {}, nil
	}
	tree, release, err := e.trees.open(*request.Tree)
	c.tree = tree
	return c, release, err
}

func (e *engine) charts(ctx context.Context, method string, header []byte, parts [][]byte) (answer, [][]byte, error) {
	var request chartRequest
	if err := json.Unmarshal(header, &request); err != nil {
		return nil, nil, &failure{Class: classRequest, Message: err.Error()}
	}
	if request.Tree == nil && request.Chart.Part == nil {
		return nil, nil, &failure{Class: classRequest, Message: "a request for a chart without one"}
	}
	if method == "chart" {
		described, err := e.chartMetadata(ctx, &request, parts)
		return described, nil, err
	}
	return e.packageChart(ctx, &request, parts)
}

// chartMetadata tells which chart is at a place.
func (e *engine) chartMetadata(ctx context.Context, request *chartRequest, parts [][]byte) (*chartAnswer, error) {
	c, release, err := e.openCharts(ctx, request, parts)
	if err != nil {
		return nil, err
	}
	defer release()
	c.reader.shallow = true
	metadata, isArchive, err := c.metadata(request.Chart)
	if err != nil {
		return nil, chartFailure(stepMetadata, err)
	}
	return &chartAnswer{Name: metadata.Name, Version: metadata.Version, IsArchive: isArchive, Parts: []int{}}, nil
}

// packageChart makes the package of a chart. Equal requests give equal bytes.
func (e *engine) packageChart(ctx context.Context, request *chartRequest, parts [][]byte) (*chartAnswer, [][]byte, error) {
	c, release, err := e.openCharts(ctx, request, parts)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	loaded, answer, err := c.make()
	if err != nil {
		return nil, nil, err
	}
	if answer.Requirements != nil && request.Dependencies == nil {
		return answer, nil, nil
	}
	made, err := packed(ctx, loaded)
	if err != nil {
		return nil, nil, chartFailure(stepPackage, err)
	}
	for _, chunk := range made {
		answer.Parts = append(answer.Parts, len(chunk))
	}
	return answer, made, nil
}

func (c *charts) make() (*chart.Chart, *chartAnswer, error) {
	var values map[string]any
	var merged []string
	var err error
	if len(c.request.ValuesFiles) > 0 && c.tree != nil {
		if values, merged, err = c.mergeTreeValues(); err != nil {
			return nil, nil, chartFailure(stepValues, err)
		}
	}
	loaded, isArchive, err := c.load(c.request.Chart)
	if err != nil {
		return nil, nil, chartFailure(stepLoad, err)
	}
	if c.request.Version != "" {
		loaded.Metadata.Version = c.request.Version
	}
	if len(c.request.ValuesFiles) > 0 && c.tree == nil {
		if values, merged, err = c.mergeChartValues(loaded); err != nil {
			return nil, nil, chartFailure(stepValues, err)
		}
	}
	if values != nil {
		if err := overwriteValues(loaded, values); err != nil {
			return nil, nil, chartFailure(stepValues, err)
		}
	}
	answer := &chartAnswer{
		Name: loaded.Name(), Version: loaded.Metadata.Version, IsArchive: isArchive, ValuesFiles: merged, Parts: []int{},
	}
	if isArchive {
		return loaded, answer, nil
	}
	if err := c.depend(loaded, answer); err != nil {
		return nil, nil, chartFailure(stepDependencies, err)
	}
	return loaded, answer, nil
}

// depend adds the dependencies that the daemon found, or says which the chart wants: none if it has as many as it wants.
func (c *charts) depend(loaded *chart.Chart, answer *chartAnswer) error {
	wanted := loaded.Metadata.Dependencies
	if loaded.Lock != nil {
		wanted = loaded.Lock.Dependencies
	}
	if len(wanted) > maxChartLocals {
		return refusal("chart-dependencies", "the chart has more than %d dependencies", maxChartLocals)
	}
	if c.request.Dependencies == nil {
		if len(wanted) == len(loaded.Dependencies()) {
			return nil
		}
		for _, one := range wanted {
			if err := one.Validate(); err != nil {
				return err
			}
			answer.Requirements = append(answer.Requirements, requirement{one.Name, one.Version, one.Repository, one.Alias})
		}
		for _, one := range loaded.Dependencies() {
			answer.Vendored = append(answer.Vendored, one.Name())
		}
		return nil
	}
	for _, place := range c.request.Dependencies {
		dependency, _, err := c.load(place)
		if err != nil {
			return err
		}
		loaded.AddDependency(dependency)
	}
	return nil
}

// -- reading -----------------------------------------------------------------------------------------------------------

// files reads the chart at a place.
func (c *charts) files(place chartPlace) (files []*archive.BufferedFile, isArchive bool, err error) {
	if place.Part != nil {
		if *place.Part < 0 || *place.Part >= len(c.parts) {
			return nil, true, errors.New("there is no such part")
		}
		files, err = c.reader.archive(c.parts[*place.Part])
		return files, true, err
	}
	name := clamp(place.Path)
	if data, is := c.tree.files[name]; is {
		files, err = c.reader.archive(data)
		return files, true, err
	}
	if _, is := c.tree.dirs[name]; !is {
		return nil, false, fmt.Errorf("no chart found at path '/%s'", shortened(name))
	}
	files, err = c.reader.directory(c.tree, name)
	return files, false, err
}

func (c *charts) load(place chartPlace) (*chart.Chart, bool, error) {
	files, isArchive, err := c.files(place)
	if err != nil {
		return nil, isArchive, err
	}
	loaded, err := loader.LoadFiles(files)
	if err != nil {
		return nil, isArchive, err
	}
	if err := presentableMetadata(loaded.Metadata); err != nil {
		return nil, isArchive, err
	}
	sortDependencies(loaded)
	return loaded, isArchive, nil
}

// sortDependencies gives the charts in a chart an order: Helm reads them in any.
func sortDependencies(c *chart.Chart) {
	dependencies := slices.Clone(c.Dependencies())
	slices.SortStableFunc(dependencies, func(a, b *chart.Chart) int {
		return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.Metadata.Version, b.Metadata.Version))
	})
	c.SetDependencies(dependencies...)
	for _, one := range dependencies {
		sortDependencies(one)
	}
}

// metadata reads as little as tells which chart is at a place; an archive is read through, for all of it must be sound.
func (c *charts) metadata(place chartPlace) (*chart.Metadata, bool, error) {
	var data []byte
	var found bool
	name := clamp(place.Path)
	isArchive := place.Part != nil || c.tree.files[name] != nil
	if isArchive {
		files, _, err := c.files(place)
		if err != nil {
			return nil, isArchive, err
		}
		for _, file := range files {
			if file.Name == chartYAML {
				data, found = file.Data, true
			}
		}
	} else {
		if _, is := c.tree.dirs[name]; !is {
			return nil, isArchive, fmt.Errorf("no chart found at path '/%s'", shortened(name))
		}
		data, found = c.tree.files[path.Join(name, chartYAML)]
		data = bytes.TrimPrefix(data, byteOrder)
	}
	if !found {
		return nil, isArchive, fmt.Errorf("%s file is missing", chartYAML)
	}
	metadata, err := c.parseMetadata(data)
	return metadata, isArchive, err
}

func (c *charts) parseMetadata(data []byte) (*chart.Metadata, error) {
	if int64(len(data)) > c.request.FileLimit {
		return nil, refusal("chart-file-size", "Chart.yaml is larger than the maximum file size %d", c.request.FileLimit)
	}
	if err := c.reader.judge(data); err != nil {
		return nil, inFile(err, chartYAML)
	}
	metadata := &chart.Metadata{}
	if err := yaml.Unmarshal(data, metadata); err != nil {
		return nil, fmt.Errorf("cannot load Chart.yaml: %w", err)
	}
	if metadata.APIVersion == "" {
		metadata.APIVersion = chart.APIVersionV1
	}
	if err := metadata.Validate(); err != nil {
		return nil, err
	}
	return metadata, presentableMetadata(metadata)
}

// presentableMetadata refuses what Helm's own validation lets through: names that are part of file names elsewhere, and
// forms of charts that nobody has defined.
func presentableMetadata(metadata *chart.Metadata) error {
	switch {
	case len(metadata.Name) > maxChartName || !chartName.MatchString(metadata.Name):
		return refusal("chart-name", "validation: chart.metadata.name %q is invalid", shortened(metadata.Name))
	case metadata.APIVersion != chart.APIVersionV1 && metadata.APIVersion != chart.APIVersionV2:
		return refusal("chart-version", "validation: chart.metadata.apiVersion %q is not supported", shortened(metadata.APIVersion))
	}
	return nil
}

// -- values ------------------------------------------------------------------------------------------------------------

func (c *charts) mergeTreeValues() (map[string]any, []string, error) {
	return c.mergeValues(func(name string) (map[string]any, error) {
		inner := clamp(name)
		if data, is := c.tree.files[inner]; is {
			return c.parseValues(name, data)
		}
		if _, is := c.tree.dirs[inner]; is {
			return nil, fmt.Errorf("invalid values file path '/%s' (reference '%s')", shortened(inner), shortened(name))
		}
		if c.request.IgnoreMissing {
			return nil, nil
		}
		return nil, fmt.Errorf("no values file found at path '/%s' (reference '%s')", shortened(inner), shortened(name))
	})
}

func (c *charts) mergeChartValues(loaded *chart.Chart) (map[string]any, []string, error) {
	return c.mergeValues(func(name string) (map[string]any, error) {
		inner := path.Clean(name)
		if inner == valuesYAML && loaded.Values != nil {
			return loaded.Values, nil
		}
		for _, file := range loaded.Files {
			if file.Name == inner {
				return c.parseValues(name, file.Data)
			}
		}
		if inner == valuesYAML {
			return map[string]any{}, nil
		}
		if c.request.IgnoreMissing {
			return nil, nil
		}
		return nil, fmt.Errorf("failed to merge chart values: no values file found at path '%s'", shortened(name))
	})
}

// mergeValues merges what read finds under each name; nil is what is passed over.
func (c *charts) mergeValues(read func(string) (map[string]any, error)) (map[string]any, []string, error) {
	values, merged := map[string]any{}, []string{}
	for _, name := range c.request.ValuesFiles {
		if err := c.reader.ctx.Err(); err != nil {
			return nil, nil, err
		}
		found, err := read(name)
		if err != nil {
			return nil, nil, err
		}
		if found != nil {
			values = loader.MergeMaps(values, found)
			merged = append(merged, name)
		}
	}
	return values, merged, nil
}

func (c *charts) parseValues(name string, data []byte) (map[string]any, error) {
	if int64(len(data)) > c.request.FileLimit {
		return nil, refusal("chart-file-size", "values file '%s' is larger than the maximum file size %d", shortened(name), c.request.FileLimit)
	}
	if err := c.reader.judge(data); err != nil {
		return nil, inFile(err, name)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("unmarshaling values from '%s' failed: %w", shortened(name), err)
	}
	if values == nil { // the file says "null"
		values = map[string]any{}
	}
	return values, nil
}

func overwriteValues(c *chart.Chart, values map[string]any) error {
	var text []byte
	if len(values) > 0 {
		var err error
		if text, err = yaml.Marshal(values); err != nil {
			return err
		}
	}
	for _, file := range c.Raw {
		if file.Name == valuesYAML {
			file.Data, c.Values = text, values
			return nil
		}
	}
	return fmt.Errorf("failed to locate values file: %s", valuesYAML)
}

// -- packing -----------------------------------------------------------------------------------------------------------

// packed is a chart's package: what Helm's own makes of it, in memory, in a fixed order and without the time of day.
func packed(ctx context.Context, c *chart.Chart) ([][]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("chart validation: %w", err)
	}
	var out chunks
	zipper := gzip.NewWriter(&out)
	zipper.Comment = "Helm"
	writer := &chartWriter{ctx: ctx, tar: tar.NewWriter(zipper)}
	if err := writer.chart(c, c.Name()); err != nil {
		return nil, err
	}
	if err := errors.Join(writer.tar.Close(), zipper.Close()); err != nil {
		return nil, err
	}
	return out, nil
}

// chunks grow without being copied.
type chunks [][]byte

const chunkSize = 1 << 20

func (c *chunks) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		last := len(*c) - 1
		if last < 0 || len((*c)[last]) == chunkSize {
			*c = append(*c, make([]byte, 0, min(chunkSize, max(len(rest), 4096))))
			last++
		}
		room := min(chunkSize-len((*c)[last]), len(rest))
		(*c)[last] = append((*c)[last], rest[:room]...)
		rest = rest[room:]
	}
	return len(data), nil
}

type chartWriter struct {
	ctx context.Context
	tar *tar.Writer
}

// beginning is when every file of a package was made.
var beginning = time.Unix(0, 0).UTC()

func (w *chartWriter) file(dir, name string, data []byte) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(dir, name), Mode: 0o644, Size: int64(len(data)), ModTime: beginning}
	if err := w.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.tar.Write(data)
	return err
}

func (w *chartWriter) chart(c *chart.Chart, dir string) error {
	if err := w.described(c, dir); err != nil {
		return err
	}
	for _, file := range c.Raw {
		if file.Name == valuesYAML {
			if err := w.file(dir, valuesYAML, file.Data); err != nil {
				return err
			}
		}
	}
	if c.Schema != nil {
		if !json.Valid(c.Schema) {
			return errors.New("invalid JSON in values.schema.json")
		}
		if err := w.file(dir, "values.schema.json", c.Schema); err != nil {
			return err
		}
	}
	for _, files := range [][]*common.File{c.Templates, c.Files} {
		for _, file := range files {
			if err := w.file(dir, file.Name, file.Data); err != nil {
				return err
			}
		}
	}
	return w.dependencies(c, path.Join(dir, "charts"))
}

// described writes what the chart says of itself. A chart of the first form lists its dependencies in a file of its own.
func (w *chartWriter) described(c *chart.Chart, dir string) error {
	metadata := *c.Metadata
	if metadata.APIVersion == chart.APIVersionV1 {
		metadata.Dependencies = nil
	}
	text, err := yaml.Marshal(&metadata)
	if err != nil {
		return err
	}
	if err := w.file(dir, chartYAML, text); err != nil {
		return err
	}
	if c.Lock == nil || metadata.APIVersion == chart.APIVersionV1 {
		return nil
	}
	if text, err = yaml.Marshal(c.Lock); err != nil {
		return err
	}
	return w.file(dir, "Chart.lock", text)
}

// dependencies writes each chart once, however often it is wanted under other names, and two versions of one side by side.
func (w *chartWriter) dependencies(c *chart.Chart, dir string) error {
	sortDependencies(c)
	written := map[string]string{}
	for _, one := range c.Dependencies() {
		name, version := one.Name(), one.Metadata.Version
		before, twice := written[name]
		if twice && before == version {
			continue
		}
		written[name] = version
		if twice {
			name += "-" + version
		}
		if err := w.chart(one, path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
