package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// treeRef names a tree that the daemon shares: a path that holds an uncompressed tar, and what it must be.
type treeRef struct {
	Path   string `json:"path"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// tree is a tar, mapped read-only and indexed: its files are slices of the mapping, nothing is copied.
// The daemon wrote it (gitopsd/artifact/tree.py), so that every name is relative and clean; entries that are neither
// file nor directory do not exist.
type tree struct {
	files map[string][]byte
	dirs  map[string][]string // the sorted names in each directory; the root is ""

	mutex    sync.Mutex
	verdicts map[string]error // what vetting found in a file, by the kind of vetting and its path

	mapping []byte
	users   int
	used    time.Time
	opening sync.Once
	failed  error
}

func newTree(files map[string][]byte) *tree {
	t := &tree{files: files, dirs: map[string][]string{"": nil}, verdicts: map[string]error{}}
	for name := range files {
		t.add(name)
	}
	t.sort()
	return t
}

func (t *tree) add(name string) {
	for name != "" {
		parent, base := path.Split(name)
		parent = strings.TrimSuffix(parent, "/")
		_, known := t.dirs[parent]
		t.dirs[parent] = append(t.dirs[parent], base)
		if known {
			return
		}
		name = parent
	}
}

func (t *tree) sort() {
	for name, entries := range t.dirs {
		slices.Sort(entries)
		t.dirs[name] = slices.Compact(entries)
	}
}

func (t *tree) open(ref treeRef) error {
	file, err := os.Open(ref.Path)
	if err != nil {
		return errors.New("the shared tree cannot be opened")
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() != ref.Size || ref.Size <= 0 {
		return errors.New("the shared tree is not the one that was announced")
	}
	t.mapping, err = syscall.Mmap(int(file.Fd()), 0, int(ref.Size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("the shared tree cannot be mapped: %w", err)
	}
	return t.index()
}

func (t *tree) index() error {
	t.files, t.dirs, t.verdicts = map[string][]byte{}, map[string][]string{"": nil}, map[string]error{}
	raw := bytes.NewReader(t.mapping)
	reader := tar.NewReader(raw)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the shared tree is damaged: %w", err)
		}
		name := path.Clean(header.Name)
		if name == "." {
			continue
		}
		if !filepath.IsLocal(name) {
			return errors.New("the shared tree is damaged: a path leaves it")
		}
		switch header.Typeflag {
		case tar.TypeDir:
			if _, known := t.dirs[name]; !known {
				t.dirs[name] = nil
				t.add(name)
			}
		case tar.TypeReg:
			start := int64(len(t.mapping) - raw.Len())
			if header.Size > int64(raw.Len()) {
				return errors.New("the shared tree is damaged: it is cut")
			}
			t.files[name] = t.mapping[start : start+header.Size : start+header.Size]
			t.add(name)
		}
	}
	t.sort()
	return nil
}

// verdict returns what judge says of a file, and asks it only once for each tree.
func (t *tree) verdict(kind, name string, judge func([]byte) error) error {
	key := kind + ":" + name
	t.mutex.Lock()
	found, known := t.verdicts[key]
	t.mutex.Unlock()
	if known {
		return found
	}
	found = judge(t.files[name])
	t.mutex.Lock()
	t.verdicts[key] = found
	t.mutex.Unlock()
	return found
}

// treeCache keeps the trees that were used last, for many builds share one.
type treeCache struct {
	mutex sync.Mutex
	trees map[string]*tree
}

const (
	idleTrees = 8
	idleBytes = 64 << 20
	idleTime  = time.Minute
)

// open returns a tree and what is to be called when its bytes are no longer looked at.
func (c *treeCache) open(ref treeRef) (*tree, func(), error) {
	c.mutex.Lock()
	if c.trees == nil {
		c.trees = map[string]*tree{}
	}
	t := c.trees[ref.Digest]
	if t == nil {
		t = &tree{}
		c.trees[ref.Digest] = t
	}
	t.users++
	c.mutex.Unlock()
	t.opening.Do(func() { t.failed = t.open(ref) })
	release := func() {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		t.users--
		t.used = time.Now()
		if t.failed != nil && t.users == 0 && c.trees[ref.Digest] == t {
			c.drop(ref.Digest)
		}
		c.evict(idleTrees, idleBytes, time.Time{})
	}
	if t.failed != nil {
		release()
		return nil, nil, t.failed
	}
	return t, release, nil
}

// forgetIdle drops what nobody used for a while: the daemon may have closed its own side long ago.
func (c *treeCache) forgetIdle() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.evict(idleTrees, idleBytes, time.Now().Add(-idleTime))
}

// evict drops idle trees, the longest unused first, until at most `count` of them with `bytes` remain and none that was
// last used `before`.
func (c *treeCache) evict(count, bytes int, before time.Time) {
	var idle []string
	for digest, t := range c.trees {
		if t.users == 0 {
			idle = append(idle, digest)
			count--
			bytes -= len(t.mapping)
		}
	}
	slices.SortFunc(idle, func(a, b string) int { return c.trees[a].used.Compare(c.trees[b].used) })
	for _, digest := range idle {
		if count >= 0 && bytes >= 0 && !c.trees[digest].used.Before(before) {
			return
		}
		count++
		bytes += len(c.trees[digest].mapping)
		c.drop(digest)
	}
}

func (c *treeCache) drop(digest string) {
	if mapping := c.trees[digest].mapping; mapping != nil {
		_ = syscall.Munmap(mapping)
	}
	delete(c.trees, digest)
}

// Where a build sees its files. The artifact lies below a root of its own, so that a path that climbs out of it is seen
// to do so; messages show that root as "/" (see presentable).
const (
	root       = "/@artifact"
	remoteName = "@remote" // the directory in which fetched remote bases appear
)

// fileSystem is what one build sees: the artifact, over it the files that the build itself made, and beside it the
// remote bases that the daemon fetched. Read-only; nothing outside of it can be reached.
type fileSystem struct {
	filesys.FileSystem // nil: to write, to walk or to glob panics, and a panic is an error of the build
	ctx                context.Context
	tree               *tree
	overlay            map[string][]byte
	mounts             map[string]*tree // by their path below the root
}

// locate finds the tree that holds a path, and the path in it.
func (f *fileSystem) locate(name string) (*tree, string) {
	if rest, is := strings.CutPrefix(name, remoteName+"/"); is {
		number, inner, _ := strings.Cut(rest, "/")
		if mounted := f.mounts[remoteName+"/"+number]; mounted != nil {
			return mounted, inner
		}
	}
	return f.tree, name
}

// inside turns an absolute path into one below the root, or says that it is elsewhere.
func (f *fileSystem) inside(operation, name string) (string, error) {
	if err := f.ctx.Err(); err != nil {
		return "", err
	}
	clean := path.Clean(name)
	if clean == root {
		return "", nil
	}
	if rest, is := strings.CutPrefix(clean, root+"/"); is {
		return rest, nil
	}
	shown := root + "/.." + clean
	return "", fmt.Errorf("fs-security-constraint %s %s: path '%s' is not in or below '%s'", operation, shown, shown, root)
}

func (f *fileSystem) read(name string) ([]byte, bool) {
	if data, is := f.overlay[name]; is {
		return data, true
	}
	holder, inner := f.locate(name)
	data, is := holder.files[inner]
	return data, is
}

func (f *fileSystem) isDir(name string) bool {
	holder, inner := f.locate(name)
	_, is := holder.dirs[inner]
	return is
}

// entries are the names in a directory, sorted.
func (f *fileSystem) entries(name string) []string {
	holder, inner := f.locate(name)
	return holder.dirs[inner]
}

func (f *fileSystem) isFile(name string) bool {
	_, is := f.read(name)
	return is
}

// missing is the error for a path that is not there, in the words of the system call that would have found out.
func (f *fileSystem) missing(call, name string) error {
	for parent := path.Dir(name); parent != "."; parent = path.Dir(parent) {
		if f.isFile(parent) {
			return &fs.PathError{Op: call, Path: path.Join(root, name), Err: syscall.ENOTDIR}
		}
	}
	return &fs.PathError{Op: call, Path: path.Join(root, name), Err: syscall.ENOENT}
}

// ReadFile returns a file's bytes once they are known not to harm who parses them.
func (f *fileSystem) ReadFile(name string) ([]byte, error) {
	inner, err := f.inside("read", name)
	if err != nil {
		return nil, err
	}
	data, is := f.read(inner)
	switch {
	case is:
		return data, f.judge("safe", inner, data, judgeSafe)
	case f.isDir(inner):
		return nil, &fs.PathError{Op: "read", Path: path.Join(root, inner), Err: syscall.EISDIR}
	}
	return nil, f.missing("open", inner)
}

// judge vets a file, once for each tree; what the build itself wrote is judged each time.
func (f *fileSystem) judge(kind, name string, data []byte, judge func([]byte) error) error {
	var err error
	if _, own := f.overlay[name]; own {
		err = judge(data)
	} else {
		holder, inner := f.locate(name)
		err = holder.verdict(kind, inner, judge)
	}
	if refused, is := errors.AsType[*failure](err); is {
		return refusal(refused.Rule, "%s: %s", path.Join(root, name), refused.Message)
	}
	return err
}

// CleanedAbs splits a path into its directory and, unless it is one, its file. There are no links to follow.
func (f *fileSystem) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	inner, err := f.inside("abs", name)
	if err != nil {
		return "", "", err
	}
	clean := path.Join(root, inner)
	if f.isDir(inner) {
		return filesys.ConfirmedDir(clean), "", nil
	}
	if f.isFile(inner) {
		return filesys.ConfirmedDir(path.Dir(clean)), path.Base(clean), nil
	}
	first := inner
	for parent := path.Dir(first); parent != "." && !f.isDir(parent) && !f.isFile(parent); parent = path.Dir(parent) {
		first = parent
	}
	return "", "", fmt.Errorf("evalsymlink failure on '%s' : %w", name, f.missing("lstat", first))
}

// IsDir tells whether a path is a directory.
func (f *fileSystem) IsDir(name string) bool {
	inner, err := f.inside("stat", name)
	return err == nil && f.isDir(inner)
}

// Exists tells whether a path is there at all.
func (f *fileSystem) Exists(name string) bool {
	inner, err := f.inside("stat", name)
	return err == nil && (f.isDir(inner) || f.isFile(inner))
}

// RemoveAll has nothing to remove: kustomize asks for it after each base.
func (f *fileSystem) RemoveAll(string) error { return nil }

// clamp resolves a path as a root directory does: ".." stops there.
func clamp(name string) string {
	return strings.TrimPrefix(path.Join("/", filepath.ToSlash(name)), "/")
}
