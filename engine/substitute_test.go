package main

import (
	"strings"
	"testing"
)

var variables = map[string]string{
	"v": "value", "empty": "", "n": "42", "path": "a/b/bar.tar.gz", "multi": "one\ntwo\n", "neg": "-1", "uni": "äöü",
	"inner": "${v}", "quoted": `"42"`, "_x9": "u",
}

// spec/kustomize.md 3.7, every row of the table; the results were seen with Flux's library.
func TestTheFormsOfAVariableReference(t *testing.T) {
	s := newSubstitution(variables, true)
	for text, want := range map[string]string{
		"${v}": "value", "${_x9}": "u", "$v $(v) $": "$v $(v) $",
		"$${v} a$$b $$$$": "${v} a$b $$", "${v:=d}|${v:-d}|${v=d}": "value|value|value",
		"${gone:=d}|${gone:-d}|${gone=d}": "d|d|d", "${empty:=d}|${empty:-d}|${empty=d}": "d|d|d",
		"${v:+d}|${v:?d}": "value|value", "${gone:+d}|${gone:?d}": "d|d",
		"${gone:=${v}}": "value", "${gone:=a\nb}": "a\nb", "${gone:='q'}": "'q'", "${gone:=a}b}": "ab}", "${gone:=}": "",
		"${#v} ${#uni} ${#empty}": "5 6 0", "${v^}|${v^^}|${v,}|${v,,}": "Value|VALUE|value|value", "${uni^^}": "ÄÖÜ",
		"${v:1}|${v:1:2}|${v:9}|${v:x}|${v: -1}": "alue|al||value|value", "${v:${neg}}": "e", "${v:0:999999999}": "value",
		"${path#*/}|${path##*/}|${path%.*}|${path%%.*}": "b/bar.tar.gz|bar.tar.gz|a/b/bar.tar|a/b/bar", "${path#[a-c]}": "/b/bar.tar.gz",
		"${path/a/X}|${path//a/X}|${path/#a/X}|${path/%gz/X}": "X/b/bar.tar.gz|X/b/bXr.tXr.gz|X/b/bar.tar.gz|a/b/bar.tar.X",
		"${path/a/}|${path//a/}|${path/#a/}|${path/%gz/}":     "/b/bar.tar.gz|/b/br.tr.gz|a/b/bar.tar.gz|a/b/bar.tar.gz", `${path/\//-}`: "a-b/bar.tar.gz",
		"[${empty}]": "[]", "${multi}": "onetwo", "${inner}": "${v}", "${v}}": "value}", "a}b{c": "a}b{c", "": "",
	} {
		if got, err := s.text(text); err != nil || got != want {
			t.Errorf("%s: %q instead of %q, %v", text, got, want, err)
		}
	}
	for text, want := range map[string]string{
		"${gone}": `variable substitution failed: variable not set (strict mode): "gone"`, "${#gone}": "not set (strict mode)", "${gone^^}": "not set (strict mode)",
		"${v-d}": "missing closing brace", "${v+d}": "missing closing brace", "${v?d}": "missing closing brace",
		"${ v }": "unable to parse variable name", "${v.x}": "missing closing brace", "${v[0]}": "missing closing brace",
		"${!v}": "unable to parse variable name", "${v@Q}": "missing closing brace", "${}": "unable to parse variable name",
		"${": "unable to parse variable name", "${v": "missing closing brace", "${path/a}": "bad substitution", "${v:1:-1}": "slice bounds out of range",
	} {
		if got, err := s.text(text); err == nil || !strings.HasPrefix(err.Error(), "variable substitution failed: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	lax := newSubstitution(variables, false)
	if got, err := lax.text("[${gone}] ${#gone} ${gone:=d}"); err != nil || got != "[] 0 d" {
		t.Error(got, err)
	}
}

func Test_L02_EveryNameMustBeLegalUsedOrNot(t *testing.T) {
	for _, name := range []string{"with-dash", "9a", "a b", "", "ä", "a.b"} {
		s := newSubstitution(map[string]string{"ok": "1", name: "secret"}, true)
		_, err := s.text("${ok}")
		if err == nil || err.Error() != "'"+name+"' var name is invalid, must match '^[_[:alpha:]][_[:alpha:][:digit:]]*$'" {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func Test_L01_SubstitutionIsBounded(t *testing.T) {
	s := newSubstitution(map[string]string{"a": strings.Repeat("a", 1<<20), "v": "x"}, true)
	nest := func(levels int) string {
		return strings.Repeat("${gone:=", levels) + "x" + strings.Repeat("}", levels)
	}
	for text, want := range map[string]string{
		nest(maxNested):                                 "",
		nest(maxNested + 1):                             "variables are nested deeper than 32",
		nest(100_000):                                   "variables are nested deeper than 32",
		strings.Repeat("${a}", 16):                      "",
		strings.Repeat("${a}", 17):                      "more than 16777216 bytes after substitution",
		strings.Repeat("${a}\n", 17):                    "more than 16777216 bytes after substitution",
		"${a//a/${a}}":                                  "more than 16777216 bytes after substitution",
		"${gone:=${a//a/${gone:=${a//a/${a}}}}}":        "more than 16777216 bytes after substitution",
		"${a//a/b}":                                     "",
		"${a##*a*a*a*b}":                                "a pattern is cut from a value of more than 65536 bytes",
		strings.Repeat("$$", 500_000):                   "",
		strings.Repeat("${v}$", 500_000):                "",
		"${gone:=" + strings.Repeat("${v}", 900) + "}":  "",
		"${gone:=" + strings.Repeat("${v}", 1100) + "}": "more than 1000 references in one variable",
		strings.Repeat("${v} $$ $\n", 200_000):          "",
		strings.Repeat("$", 5_000) + "\n" + "${v}":      "",
	} {
		_, err := s.text(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s (%d bytes): %v", text, len(text), err)
		}
	}
}

func TestTextInPiecesIsTextInOne(t *testing.T) {
	s := newSubstitution(variables, true)
	for _, part := range []string{
		"${v} $${v} ${gone:=one\ntwo ${n}\nthree} ${path//a/X} }{ $\n", "${v} $${v} ${gone:=one two} $ $x ", "$$", "$$$x", "${v}$ ", "x",
	} {
		once, err := s.text(part)
		if err != nil {
			t.Fatal(err)
		}
		count := 20 * pieceBytes / len(part)
		if got, err := s.text(strings.Repeat(part, count)); err != nil || got != strings.Repeat(once, count) {
			t.Errorf("%q: it differs, %v", part, err)
		}
	}
}

func substituted(t *testing.T, object string, variables map[string]string) (string, error) {
	t.Helper()
	return built(t, map[string]string{"kustomization.yaml": listed, "a.yaml": object}, buildRequest{Variables: variables, Strict: true})
}

func TestAnObjectIsReadAgainAfterSubstitution(t *testing.T) {
	for object, want := range map[string]string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '${v}-${n}', namespace: '${v}'}\ndata: {'${v}': '${gone:=1}'}\n": `[{"apiVersion":"v1","data":{"value":1},"kind":"ConfigMap","metadata":{"name":"value-42","namespace":"value"}}]`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '${quoted}'}\ndata: {k: 'n${n}'}\n":                              `[{"apiVersion":"v1","data":{"k":"n42"},"kind":"ConfigMap","metadata":{"name":"42"}}]`,
		"apiVersion: v1\nkind: X\nmetadata: {name: a}\nspec: [9007199254740993, '${n}', 1.5, 'yes']\n":                      `[{"apiVersion":"v1","kind":"X","metadata":{"name":"a"},"spec":[9007199254740993,42,1.5,"yes"]}]`,
	} {
		if got, err := substituted(t, object, variables); err != nil || got != want {
			t.Errorf("\n got %s, %v\nwant %s", got, err, want)
		}
	}
}

func Test_L05_SubstitutionCanBeSwitchedOffForAnObject(t *testing.T) {
	for metadata, touched := range map[string]bool{
		"labels: {kustomize.toolkit.fluxcd.io/substitute: disabled}":      false,
		"annotations: {kustomize.toolkit.fluxcd.io/substitute: disabled}": false,
		"labels: {kustomize.toolkit.fluxcd.io/substitute: Disabled}":      true,
		"labels: {kustomize.toolkit.fluxcd.io/substitute: enabled}":       true,
	} {
		got, err := substituted(t, "apiVersion: v1\nkind: A\nmetadata: {name: a, "+metadata+"}\nspec: '${v}'\n", variables)
		if err != nil || strings.Contains(got, `"spec":"value"`) != touched {
			t.Errorf("%s: %s, %v", metadata, got, err)
		}
	}
	got, err := substituted(t, "apiVersion: v1\nkind: A\nmetadata: {name: a}\nspec: '${v}'\n", nil)
	if err != nil || !strings.Contains(got, `"spec":"${v}"`) {
		t.Error("without variables there is no substitution at all", got, err)
	}
}

func Test_L03_AValueCannotBecomeAnotherObject(t *testing.T) {
	for name, test := range map[string]struct{ object, want string }{
		"another name":     {"metadata: {name: 'a'}\nx: '${gone:=\n}'\n", ""},
		"a name by key":    {"metadata: {name: a}\nspec: '${v}'\n'${meta}': {name: b}\n", `mapping key "metadata" already defined at line`},
		"a kind":           {"metadata: {name: '${v}'}\n'${gone:=x}': '${brace}'\n", ""},
		"a map as name":    {"metadata: {name: '${brace}'}\n", "document 1: metadata.name must be a string"},
		"a number as name": {"metadata: {name: '${n}'}\n", "document 1: metadata.name must be a string"},
		"a comment":        {"metadata: {name: 'a${hash}'}\n", ""},
		"no name":          {"metadata: {name: '${empty}'}\n", "apiVersion, kind and name must not be empty after substitution"},
		"a document":       {"metadata: {name: a}\nspec: \"x ${gone:=y\\n---\\nkind: Z\\n}\"\n", ""},
		"an alias":         {"metadata: {name: a}\nspec: '${amp}'\nspic: '${star}'\n", "line 5: recursive alias"},
		"a closing quote":  {"metadata: {name: a}\nspec: \"'${quote}\"\n", "YAMLToJSON: "},
	} {
		values := map[string]string{
			"v": "x", "meta": "metadata", "brace": "{a: b}", "n": "1", "hash": " # b", "empty": "", "amp": "&a [*a]", "star": "*a", "quote": "'", "_": "",
		}
		got, err := substituted(t, "apiVersion: v1\nkind: A\n"+test.object, values)
		if test.want == "" && err == nil && strings.Count(got, `"kind"`) == 1 && strings.Contains(got, `"kind":"A"`) {
			continue
		}
		if err == nil || test.want == "" || !strings.HasPrefix(err.Error(), "post build failed for 'A.v1.[noGrp]/") || !strings.Contains(err.Error(), "': envsubst error: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestValuesAreNotShownInErrors(t *testing.T) {
	_, err := substituted(t, "apiVersion: v1\nkind: A\nmetadata: {name: a}\nspec: '${secret}'\n", map[string]string{"secret": "hunter2: [a: b"})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestDocumentsAreSubstitutedEachForItself(t *testing.T) {
	answer, results := substitute(&substituteRequest{Variables: variables, Strict: true}, [][]byte{[]byte("${v}"), []byte("${gone}"), []byte("")})
	if string(results[0]) != "value" || answer.Errors[1] == "" || answer.Errors[0]+answer.Errors[2] != "" || answer.Parts[0] != 5 || answer.Parts[1] != 0 {
		t.Error(answer, results)
	}
}

func FuzzSubstitutionNeverPanics(f *testing.F) {
	for _, text := range []string{"${v}", "${v:1:-1}", "${v/a/b}", "${v##*}", "$$", "${v:=${v}}", "${#", "${v%%[", "${v//a/${v}}"} {
		f.Add(text)
	}
	s := newSubstitution(variables, false)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = s.text(text) })
}
