package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func filesOf(t *testing.T, files map[string]string) *fileSystem {
	t.Helper()
	cache := &treeCache{}
	tree, release, err := cache.open(shared(t, files))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return &fileSystem{ctx: context.Background(), tree: tree, overlay: map[string][]byte{}}
}

func TestATreeIsReadWhereItIs(t *testing.T) {
	long := strings.Repeat("long/", 40) + "name"
	files := filesOf(t, map[string]string{"a.yaml": "A", "d/b.yaml": "B", "empty/": "", "d/e/f": "", long: "L", "ä": "U"})
	for name, want := range map[string]string{"a.yaml": "A", "d/b.yaml": "B", "d/e/f": "", "./d/../a.yaml": "A", long: "L", "ä": "U"} {
		if data, err := files.ReadFile(root + "/" + name); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if got := files.entries("d"); !slices.Equal(got, []string{"b.yaml", "e"}) {
		t.Error(got)
	}
	if got := files.entries(""); !slices.Equal(got, []string{"a.yaml", "d", "empty", "long", "ä"}) {
		t.Error(got)
	}
	for name, is := range map[string]bool{"": true, "d": true, "d/e": true, "empty": true, "a.yaml": false, "no": false} {
		if files.IsDir(root+"/"+name) != is {
			t.Error(name)
		}
	}
}

func TestErrorsHaveTheWordsOfTheSystemCallThatWouldFail(t *testing.T) {
	files := filesOf(t, map[string]string{"a.yaml": "A", "d/b.yaml": "B"})
	for name, want := range map[string]string{
		"/no":           "open /no: no such file or directory",
		"/no/no":        "open /no/no: no such file or directory",
		"/a.yaml/b":     "open /a.yaml/b: not a directory",
		"/d":            "read /d: is a directory",
		"/../x":         "fs-security-constraint read /../x: path '/../x' is not in or below '/'",
		"/d/../../@x/y": "fs-security-constraint read /../@x/y: path '/../@x/y' is not in or below '/'",
	} {
		if _, err := files.ReadFile(root + name); err == nil || presentable(err.Error()) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"/no":    "evalsymlink failure on '/no' : lstat /no: no such file or directory",
		"/no/no": "evalsymlink failure on '/no/no' : lstat /no: no such file or directory",
		"/../x":  "fs-security-constraint abs /../x: path '/../x' is not in or below '/'",
	} {
		if _, _, err := files.CleanedAbs(root + name); err == nil || presentable(err.Error()) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := files.ReadFile("/etc/hostname"); err == nil || !strings.Contains(err.Error(), "fs-security-constraint") {
		t.Error(err)
	}
	if directory, file, err := files.CleanedAbs(root + "/d/b.yaml"); err != nil || directory != root+"/d" || file != "b.yaml" {
		t.Error(directory, file, err)
	}
}

// what is neither file nor directory does not exist, and nothing is outside.
func Test_J02_LinksDoNotExist(t *testing.T) {
	var data bytes.Buffer
	writer := tar.NewWriter(&data)
	for _, header := range []tar.Header{
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/hostname"},
		{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../x"},
		{Name: "pipe", Typeflag: tar.TypeFifo},
	} {
		if err := writer.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	writer.Close()
	cache := &treeCache{}
	tree, release, err := cache.open(sharedBytes(t, data.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if len(tree.files) != 0 || len(tree.dirs) != 1 {
		t.Error(tree.files, tree.dirs)
	}
}

func TestATreeThatIsNotWhatWasAnnouncedIsAnError(t *testing.T) {
	ref := shared(t, map[string]string{"a": strings.Repeat("x", 2000)})
	data, err := os.ReadFile(ref.Path)
	if err != nil {
		t.Fatal(err)
	}
	for name, ref := range map[string]treeRef{
		"other size": {Path: ref.Path, Digest: "1", Size: ref.Size - 1},
		"cut":        sharedBytes(t, data[:1024]),
		"no tar":     sharedBytes(t, bytes.Repeat([]byte("x"), 2048)),
		"climbing":   shared(t, map[string]string{"../a": "A"}),
		"absolute":   shared(t, map[string]string{"/a": "A"}),
		"not there":  {Path: ref.Path + "no", Digest: "2", Size: 1},
	} {
		cache := &treeCache{}
		if _, _, err := cache.open(ref); err == nil || strings.Contains(err.Error(), ref.Path) {
			t.Errorf("%s: %v", name, err)
		}
		if len(cache.trees) != 0 {
			t.Errorf("%s: a broken tree is kept", name)
		}
	}
}

func TestBuildsShareATreeAndIdleOnesAreForgotten(t *testing.T) {
	cache := &treeCache{}
	ref := shared(t, map[string]string{"a": "A"})
	one, releaseOne, err := cache.open(ref)
	if err != nil {
		t.Fatal(err)
	}
	two, releaseTwo, err := cache.open(ref)
	if err != nil || one != two {
		t.Fatal("not shared", err)
	}
	releaseOne()
	one.used = time.Now().Add(-time.Hour)
	cache.forgetIdle()
	if len(cache.trees) != 1 || string(two.files["a"]) != "A" {
		t.Error("a tree in use was dropped")
	}
	releaseTwo()
	cache.forgetIdle()
	if len(cache.trees) != 1 {
		t.Error("a tree was dropped that was just used")
	}
	one.used = time.Now().Add(-time.Hour)
	cache.forgetIdle()
	if len(cache.trees) != 0 {
		t.Error("an idle tree was kept")
	}
	for range idleTrees + 3 {
		_, release, err := cache.open(shared(t, map[string]string{"a": t.TempDir()}))
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	if len(cache.trees) != idleTrees {
		t.Errorf("%d trees kept", len(cache.trees))
	}
}

func TestOneTreeCanBeOpenedByManyAtOnce(t *testing.T) {
	cache := &treeCache{}
	ref := shared(t, map[string]string{"a": "A"})
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			tree, release, err := cache.open(ref)
			if err != nil || string(tree.files["a"]) != "A" {
				t.Error(err)
				return
			}
			release()
		})
	}
	group.Wait()
}

func TestAFileIsVettedOnceForEachTree(t *testing.T) {
	files := filesOf(t, map[string]string{"a": "A"})
	asked := 0
	for range 3 {
		if err := files.judge("test", "a", []byte("A"), func([]byte) error { asked++; return fs.ErrInvalid }); err != fs.ErrInvalid {
			t.Error(err)
		}
	}
	files.overlay["a"] = []byte("B")
	if err := files.judge("test", "a", files.overlay["a"], func([]byte) error { asked++; return nil }); err != nil {
		t.Error(err)
	}
	if asked != 2 {
		t.Error(asked)
	}
}

func TestCancellingEndsReading(t *testing.T) {
	files := filesOf(t, map[string]string{"a": "A"})
	ctx, cancel := context.WithCancel(context.Background())
	files.ctx = ctx
	cancel()
	if _, err := files.ReadFile(root + "/a"); err != context.Canceled {
		t.Error(err)
	}
}

func TestAPathIsClampedToTheRoot(t *testing.T) {
	for name, want := range map[string]string{
		"": "", ".": "", "./": "", "/": "", "..": "", "../../x": "x", "/a/b": "a/b", "./a/../../b": "b", "a//b/": "a/b",
	} {
		if got := clamp(name); got != want {
			t.Errorf("%q: %q instead of %q", name, got, want)
		}
	}
}
