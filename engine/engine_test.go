package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	boundLibraries()
	os.Exit(m.Run())
}

// shared writes files as the daemon shares them; a name that ends in a slash is a directory.
func shared(t testing.TB, files map[string]string) treeRef {
	t.Helper()
	var data bytes.Buffer
	writer := tar.NewWriter(&data)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(files[name])), Mode: 0o600}
		if strings.HasSuffix(name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return sharedBytes(t, data.Bytes())
}

func sharedBytes(t testing.TB, data []byte) treeRef {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tree.tar")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return treeRef{Path: name, Digest: hex.EncodeToString(sum[:]), Size: int64(len(data))}
}

// built is what a build of files says: its objects as JSON, or the error.
func built(t testing.TB, files map[string]string, request buildRequest) (string, error) {
	t.Helper()
	request.Tree = shared(t, files)
	e := &engine{}
	_, objects, err := e.build(context.Background(), &request, nil)
	if len(e.trees.trees) > 0 {
		for _, tree := range e.trees.trees {
			if tree.users != 0 {
				t.Errorf("a tree is still held after its build")
			}
		}
	}
	if err != nil {
		return "", &failure{Message: presentable(err.Error()), Rule: ruleOf(err)}
	}
	return string(objects), nil
}

func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n"
}

func mustBuild(t *testing.T, files map[string]string, request buildRequest, want string) {
	t.Helper()
	got, err := built(t, files, request)
	if err != nil {
		t.Fatalf("unexpected error: %s", err)
	}
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func mustFail(t *testing.T, files map[string]string, request buildRequest, want string) {
	t.Helper()
	got, err := built(t, files, request)
	if err == nil {
		t.Fatalf("no error, but %s", got)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("\n got %s\nwant %s", err, want)
	}
}
