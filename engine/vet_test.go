package main

import (
	"fmt"
	"strings"
	"testing"
)

func nested(levels int) string {
	return "x: " + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + "\n"
}

func bomb(levels, width int) string {
	text := "a0: &a0 1\n"
	for level := 1; level <= levels; level++ {
		text += fmt.Sprintf("a%d: &a%d [%s]\n", level, level,
			strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", level-1), width), ", "))
	}
	return text
}

func Test_K01_K02_K03_K04_WhatWouldHarmTheProcessIsRefusedWhereverItIsRead(t *testing.T) {
	for name, test := range map[string]struct{ text, rule string }{
		"K01 flow nesting":         {nested(15_000), ""}, // no library reads it either
		"K01 nesting beyond":       {nested(101), "yaml-depth"},
		"K01 nesting at bound":     {nested(100), ""},
		"K01 block nesting":        {strings.Repeat("- ", 200) + "a\n", "yaml-depth"},
		"K01 indented nesting":     {indented(101), "yaml-depth"},
		"K01 indented at bound":    {indented(100), ""},
		"K02 alias bomb":           {bomb(9, 9), "yaml-nodes"},
		"K02 aliases within":       {bomb(3, 9), ""},
		"K02 deep through aliases": {"a: &a " + strings.Repeat("[", 60) + strings.Repeat("]", 60) + "\nb: " + strings.Repeat("[", 60) + "*a" + strings.Repeat("]", 60) + "\n", "yaml-depth"},
		"K03 recursive alias":      {"spec: &s {a: *s}\n", "yaml-alias"},
		"K03 in a later document":  {"a: b\n---\nspec: &s [*s]\n", "yaml-alias"},
		"K04 merge keys":           {merges(24), "yaml-merge"},
		"K04 merge keys within":    {merges(8), ""},
		"text that is no YAML":     {"&a *b {{ [[[ \x00", ""},
		"size at bound":            {strings.Repeat("a", maxFileBytes), ""},
		"size beyond":              {strings.Repeat("a", maxFileBytes+1), "yaml-size"},
	} {
		for _, judge := range []func([]byte) error{judgeSafe, judgeManifest, judgeKustomization} {
			if strings.HasPrefix(name, "text") && judge([]byte(test.text)) == nil {
				continue
			}
			if rule := ruleOf(judge([]byte(test.text))); rule != test.rule && !(test.rule == "yaml-alias" && rule == "yaml-documents") {
				t.Errorf("%s: %q instead of %q", name, rule, test.rule)
			}
		}
	}
}

func indented(levels int) string {
	var text strings.Builder
	for level := range levels - 1 {
		text.WriteString(strings.Repeat(" ", level) + "a:\n")
	}
	return text.String() + strings.Repeat(" ", levels-1) + "a: b\n"
}

// merges is the text of K04: each line takes in twice what the line before took in.
func merges(lines int) string {
	text := "p0: &p0 {a: b}\n"
	for line := 1; line <= lines; line++ {
		text += fmt.Sprintf("p%d: &p%d {<<: [*p%d, *p%d]}\n", line, line, line-1, line-1)
	}
	return text
}

func Test_J27_K06_K07_K08_K09_K11_K12_K13_K14_ManifestsReadDifferentlyFromWhatTheySayAreRefused(t *testing.T) {
	object := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	for name, test := range map[string]struct{ text, want string }{
		"an object":                    {object, ""},
		"two objects":                  {object + "---\n" + object, ""},
		"windows line ends":            {strings.ReplaceAll(object+"---\n"+object, "\n", "\r\n"), ""},
		"a separator with a comment":   {object + "--- # two\n" + object, ""},
		"nothing":                      {"", ""},
		"comments":                     {"# a\n---\n# b\n", ""},
		"a byte order mark":            {"\uFEFF" + object, ""},
		"dashes in a block of text":    {object + "data:\n  a: |\n    ---\n    b\n", ""},
		"K06 duplicate":                {object + "data: {a: b, a: c}\n", `line 4: mapping key "a" already defined at line 4`},
		"K06 duplicate, far below":     {object + "---\n" + object + "kind: X\n", `line 8: mapping key "kind" already defined at line 2`},
		"K06 duplicate in JSON":        {`{"apiVersion": "v1", "kind": "A", "kind": "B"}`, `mapping key "kind" already defined`},
		"K07 not UTF-8":                {object + "data: {a: '\xff'}\n", "line 4: not valid UTF-8"},
		"K08 UTF-16":                   {"\xff\xfea\x00", "line 1: not valid UTF-8"},
		"K09 text after three dots":    {object + "...\n" + object, "document 1: there is text after its end"},
		"K11 set":                      {object + "data: !!set {a, b}\n", "line 4: !!set is not supported"},
		"K11 unknown tag":              {object + "data: {a: !foo b, c: !!binary aGVsbG8=}\n", ""},
		"K12 JSON objects in a row":    {`{"kind": "A"}` + "\n" + `{"kind": "B"}`, "document 1: there is text after its end"},
		"K13 integer key":              {object + "data: {1: a}\n", "line 4: a key must be a string"},
		"K13 boolean key":              {object + "data: {true: a}\n", "line 4: a key must be a string"},
		"K13 list as a key":            {object + "data:\n  ? [a, b]\n  : c\n", "line 5: a key must be a string"},
		"K13 a key that looks boolean": {object + "data: {yes: a, on: b, y: c}\n", ""},
		"K14 digits at bound":          {object + "data: {a: " + strings.Repeat("1", 400) + "}\n", ""},
		"K14 digits beyond":            {object + "data: {a: " + strings.Repeat("1", 401) + "}\n", "line 4: a number of more than 400 digits"},
		"K14 quoted digits":            {object + "data: {a: '" + strings.Repeat("1", 401) + "'}\n", ""},
		"K14 infinity":                 {object + "data: {a: -.Inf}\n", "line 4: -.Inf is no value of an object"},
		"K14 not a number":             {object + "data: {a: .nan}\n", "line 4: .nan is no value of an object"},
		"J27 number as name":           {object + "---\n" + strings.Replace(object, "a}", "123}", 1), "line 7: document 2: metadata.name must be a string"},
		"J27 number as namespace":      {strings.Replace(object, "a}", "a, namespace: 0x1}", 1), "line 3: document 1: metadata.namespace must be a string"},
		"J27 boolean as kind":          {"apiVersion: v1\nkind: true\nmetadata: {name: a}\n", "line 2: document 1: kind must be a string"},
		"J27 number in a list":         {"apiVersion: v1\nkind: List\nitems:\n- {kind: A, metadata: {name: 1}}\n", "line 4: document 1: metadata.name must be a string"},
		"J27 through an alias":         {"apiVersion: v1\nkind: A\nx: &x {name: 1}\nmetadata: *x\n", "line 3: document 1: metadata.name must be a string"},
		"J27 quoted number":            {strings.Replace(object, "a}", "'123'}", 1), ""},
		"no namespace":                 {strings.Replace(object, "a}", "a, namespace: }", 1), ""},
	} {
		err := judgeManifest([]byte(test.text))
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v instead of %q", name, err, test.want)
		}
	}
}

func TestBoundsOfAStream(t *testing.T) {
	documents := strings.Repeat("a: b\n---\n", maxDocuments)
	if err := judgeManifest([]byte(documents)); err != nil {
		t.Error(err)
	}
	if rule := ruleOf(judgeManifest([]byte(documents + "a: b\n"))); rule != "yaml-documents" {
		t.Error(rule)
	}
	nodes := "a: [" + strings.Repeat("1,", maxNodes-4) + "1]\n"
	if err := judgeManifest([]byte(nodes)); err != nil {
		t.Error(err)
	}
	if rule := ruleOf(judgeManifest([]byte(nodes + "b: c\n"))); rule != "yaml-nodes" {
		t.Error(rule)
	}
}

func TestPatchesWrittenIntoAKustomizationAreVettedToo(t *testing.T) {
	err := judgeKustomization([]byte("patches:\n- patch: |\n    spec: &s {a: *s}\n"))
	if ruleOf(err) != "yaml-alias" || !strings.HasPrefix(err.Error(), "line 2: in the text that begins here: ") {
		t.Error(err)
	}
	if err := judgeKustomization([]byte("commonLabels: {1: a, true: b}\n")); err != nil {
		t.Errorf("keys of a kustomization are made strings: %s", err)
	}
	if rule := ruleOf(judgeKustomization([]byte("namespace: a\n---\nnamespace: b\n"))); rule != "yaml-documents" {
		t.Error(rule)
	}
}

func FuzzVettingNeverPanics(f *testing.F) {
	for _, text := range []string{"a: b", "&a [*a]", "<<: {a: b}", "? [a]\n: b", "---\n...\n---", "%YAML 1.1\n---\na", "- - - a"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = judgeSafe(data)
		_ = judgeManifest(data)
		_ = judgeKustomization(data)
	})
}
