package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/ignore"
)

// Bounds on the files of one chart with all that is vendored in it (the daemon's documented ones; those of an archive's
// and of a file's size come with the request).
const (
	maxChartBytes   = 100 << 20
	maxChartFiles   = 10_000
	maxChartDepth   = 16 // charts within charts
	maxChartPath    = 4096
	maxChartHeaders = 64 << 20 // what the entries of an archive may take besides their content
	maxIgnoreBytes  = 64 << 10
	maxIgnoreLines  = 1_000
	maxChartEntries = 100_000 // of mappings and lists in all files that are parsed
)

var (
	drive       = regexp.MustCompile(`(^|/)[A-Za-z]:`)
	vendored    = regexp.MustCompile(`^((?:charts/[^_./][^/]*/)*charts/[^_./][^/]*)\.tgz$`)
	below       = regexp.MustCompile(`^(?:charts/[^_./][^/]*/)+`)
	byteOrder   = []byte{0xEF, 0xBB, 0xBF}
	parsedFiles = map[string]bool{
		"Chart.yaml": true, "Chart.lock": true, "values.yaml": true, "requirements.yaml": true, "requirements.lock": true,
	}
)

// chartReader collects the files of charts within bounds that hold for all of them together. What it returns is safe to
// be read by Helm's loader, which is careless: it takes archives in archives to any depth.
type chartReader struct {
	ctx          context.Context
	archiveLimit int64
	fileLimit    int64
	shallow      bool // of an archive only Chart.yaml is kept, and what is vendored is not unpacked
	bytes        int64
	files        int
	entries      int
}

// archive reads a packaged chart. Regular files below one directory are all there may be in it.
func (r *chartReader) archive(data []byte) ([]*archive.BufferedFile, error) {
	if !r.shallow {
		// What is too large is to be found out before its content takes memory.
		first := &chartReader{ctx: r.ctx, archiveLimit: r.archiveLimit, fileLimit: r.fileLimit, shallow: true}
		if _, err := first.archiveAt(data, 0); err != nil {
			return nil, err
		}
	}
	return r.archiveAt(data, 0)
}

func (r *chartReader) archiveAt(data []byte, depth int) ([]*archive.BufferedFile, error) {
	if int64(len(data)) > r.archiveLimit {
		return nil, refusal("chart-archive-size", "size of chart archive exceeds the limit of %d bytes", r.archiveLimit)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, errors.New("it is no gzipped archive")
	}
	walk := &archiveWalk{
		reader: tar.NewReader(io.LimitReader(unzipped, maxChartBytes+maxChartHeaders)),
		known:  map[string][sha256.Size]byte{},
	}
	files, err := r.walk(walk)
	if err != nil {
		return nil, err
	}
	if len(walk.known) == 0 {
		return nil, errors.New("no files in chart archive")
	}
	return r.prepared(files, depth)
}

// archiveWalk goes through one archive.
type archiveWalk struct {
	reader *tar.Reader
	top    string
	known  map[string][sha256.Size]byte
	count  int
}

func (r *chartReader) walk(e *archiveWalk) ([]*archive.BufferedFile, error) {
	var files []*archive.BufferedFile
	buffer := []byte{}
	for {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		header, err := e.reader.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, errors.New("the archive is damaged or cut, or larger than its bounds")
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if e.count++; e.count > 2*maxChartFiles {
			return nil, tooManyFiles()
		}
		name, err := e.name(header)
		if err != nil {
			return nil, err
		}
		if name == "" {
			continue
		}
		if !r.shallow || name == chartYAML {
			buffer = nil // it is kept
		}
		if buffer, err = r.content(e.reader, header, name, buffer); err != nil {
			return nil, err
		}
		digest := sha256.Sum256(buffer)
		if before, twice := e.known[name]; twice {
			if before != digest {
				return nil, refusal("chart-duplicate", "the archive has two different files '%s'", shortened(name))
			}
			continue
		}
		e.known[name] = digest
		if !r.shallow || name == chartYAML {
			files = append(files, &archive.BufferedFile{Name: name, Data: bytes.TrimPrefix(buffer, byteOrder)})
			buffer = nil
		}
	}
}

// name is where an entry lies below the chart's directory; empty for a directory. Both kinds of separators are known,
// for there are archives that were made on Windows, but not in one name.
func (e *archiveWalk) name(header *tar.Header) (string, error) {
	name := header.Name
	if strings.Contains(name, `\`) {
		if strings.Contains(name, "/") {
			return "", refusal("chart-path", "the name '%s' mixes separators", shortened(name))
		}
		name = strings.ReplaceAll(name, `\`, "/")
	}
	isDir := header.Typeflag == tar.TypeDir
	if isDir {
		name = strings.TrimSuffix(name, "/")
	} else if header.Typeflag != tar.TypeReg {
		return "", refusal("chart-link", "'%s' is neither a file nor a directory", shortened(name))
	}
	switch {
	case path.IsAbs(name):
		return "", refusal("chart-path", "chart illegally contains absolute paths: '%s'", shortened(name))
	case strings.ContainsRune(name, 0) || len(name) > maxChartPath:
		return "", refusal("chart-path", "the name '%s' cannot be that of a file", shortened(name))
	case drive.MatchString(name):
		return "", refusal("chart-path", "chart contains illegally named files: '%s'", shortened(name))
	}
	parts := strings.Split(name, "/")
	for _, part := range parts {
		if part == ".." {
			return "", refusal("chart-path", "chart illegally references parent directory: '%s'", shortened(name))
		}
		if part == "" || part == "." {
			return "", refusal("chart-path", "the name '%s' has an empty part", shortened(name))
		}
	}
	if len(parts) == 1 && !isDir {
		if name == "Chart.yaml" {
			return "", errors.New("chart yaml not in base directory")
		}
		return "", refusal("chart-path", "chart illegally contains content outside the base directory: '%s'", shortened(name))
	}
	if e.top == "" {
		e.top = parts[0]
	}
	if parts[0] != e.top {
		return "", refusal("chart-path", "the archive has two top directories, '%s' and '%s'", shortened(e.top), shortened(parts[0]))
	}
	if isDir {
		return "", nil
	}
	return strings.Join(parts[1:], "/"), nil
}

// content reads a file, into the memory of `buffer` if it fits.
func (r *chartReader) content(in io.Reader, header *tar.Header, name string, buffer []byte) ([]byte, error) {
	if err := r.admit(name, header.Size); err != nil {
		return nil, err
	}
	data := slices.Grow(buffer[:0], int(header.Size))[:header.Size]
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, errors.New("the archive is damaged or cut")
	}
	return data, nil
}

// admit counts a file before a byte of it is read.
func (r *chartReader) admit(name string, size int64) error {
	if size > r.fileLimit {
		return refusal("chart-file-size", "chart file '%s' is larger than the maximum file size %d", shortened(name), r.fileLimit)
	}
	r.bytes += size
	if r.bytes > maxChartBytes {
		return refusal("chart-size", "decompressed chart is larger than the maximum size %d", maxChartBytes)
	}
	if r.files++; r.files > maxChartFiles {
		return tooManyFiles()
	}
	return nil
}

func tooManyFiles() error {
	return refusal("chart-files", "the chart has more than %d files", maxChartFiles)
}

// directory reads the chart in a directory of a tree, without what its .helmignore names.
func (r *chartReader) directory(t *tree, dir string) ([]*archive.BufferedFile, error) {
	rules, err := ignoreRules(t.files[path.Join(dir, ignore.HelmIgnore)])
	if err != nil {
		return nil, err
	}
	files, err := r.below(t, dir, "", rules)
	if err != nil {
		return nil, err
	}
	return r.prepared(files, 0)
}

func (r *chartReader) below(t *tree, dir, inner string, rules *ignore.Rules) ([]*archive.BufferedFile, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	var files []*archive.BufferedFile
	for _, base := range t.dirs[path.Join(dir, inner)] {
		name := path.Join(inner, base)
		data, isFile := t.files[path.Join(dir, name)]
		if rules.Ignore(name, entryInfo{base, !isFile}) {
			continue
		}
		if !isFile {
			more, err := r.below(t, dir, name, rules)
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
			continue
		}
		if err := r.admit(name, int64(len(data))); err != nil {
			return nil, err
		}
		files = append(files, &archive.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, byteOrder)})
	}
	return files, nil
}

// prepared unpacks the archives in charts/, so that they are read within the same bounds, and vets what will be parsed.
func (r *chartReader) prepared(files []*archive.BufferedFile, depth int) ([]*archive.BufferedFile, error) {
	var all []*archive.BufferedFile
	for _, file := range files {
		parents := below.FindString(file.Name)
		level := depth + strings.Count(parents, "/")/2
		if level > maxChartDepth {
			return nil, refusal("chart-depth", "charts in charts more than %d deep", maxChartDepth)
		}
		if found := vendored.FindStringSubmatch(file.Name); found != nil {
			inner, err := r.archiveAt(file.Data, level+1)
			if err != nil {
				return nil, inFile(err, file.Name)
			}
			for _, one := range inner {
				// No name of a file has a NUL: so nothing of it gets between the files of another chart.
				one.Name = found[1] + "\x00/" + one.Name
			}
			all = append(all, inner...)
			continue
		}
		if parsedFiles[strings.TrimPrefix(file.Name, parents)] {
			if err := r.judge(file.Data); err != nil {
				return nil, inFile(err, file.Name)
			}
		}
		all = append(all, file)
	}
	return all, nil
}

// judge refuses what would take more memory than it is worth before anything parses it. What is counted is what may
// begin an entry of a mapping or a list: lines that are no comment, and commas.
func (r *chartReader) judge(data []byte) error {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		r.entries += 1 + bytes.Count(line, []byte{','}) + bytes.Count(line, []byte{'['}) + bytes.Count(line, []byte("- "))
	}
	if r.entries > maxChartEntries {
		return refusal("yaml-nodes", "the chart's metadata and values have more than %d entries together", maxChartEntries)
	}
	return judgeSafe(data)
}

// inFile names the file that an error is about.
func inFile(err error, name string) error {
	if refused, is := errors.AsType[*failure](err); is {
		return refusal(refused.Rule, "%s: %s", shortened(name), refused.Message)
	}
	return buildError("%s: %s", shortened(name), err)
}

func shortened(name string) string {
	if len(name) > 256 {
		name = name[:256] + "..."
	}
	return name
}

// ignoreRules reads a .helmignore as Helm does, within bounds: each pattern is tried on each file.
func ignoreRules(data []byte) (*ignore.Rules, error) {
	if len(data) > maxIgnoreBytes || bytes.Count(data, []byte{'\n'}) > maxIgnoreLines {
		return nil, refusal("helmignore", ".helmignore has more than %d bytes or %d lines", maxIgnoreBytes, maxIgnoreLines)
	}
	rules, err := ignore.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, buildError(".helmignore: %s", err)
	}
	rules.AddDefaults()
	return rules, nil
}

// entryInfo is what ignore rules look at.
type entryInfo struct {
	name  string
	isDir bool
}

func (i entryInfo) Name() string       { return i.name }
func (i entryInfo) Size() int64        { return 0 }
func (i entryInfo) ModTime() time.Time { return time.Time{} }
func (i entryInfo) IsDir() bool        { return i.isDir }
func (i entryInfo) Sys() any           { return nil }
func (i entryInfo) Mode() fs.FileMode {
	if i.isDir {
		return fs.ModeDir
	}
	return 0
}
