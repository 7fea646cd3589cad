package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds on what reaches a YAML library (the daemon's documented ones): a self-referencing alias ends a Go process with
// a stack overflow that nothing can catch, and a few hundred bytes of aliases fill any memory.
const (
	maxFileBytes = 10 << 20
	maxDepth     = 100
	maxNodes     = 1_000_000
	maxMerged    = 100_000
	maxDocuments = 20_000
	maxDigits    = 400
)

// judgeSafe refuses only what would harm the process; text that is no YAML at all passes.
func judgeSafe(data []byte) error {
	if len(data) > maxFileBytes {
		return refusal("yaml-size", "larger than %d bytes", maxFileBytes)
	}
	if !suspicious(data) {
		return nil
	}
	return (&examiner{}).stream(data)
}

// judgeManifest refuses what would be read differently from what its author sees, or silently not at all.
func judgeManifest(data []byte) error {
	return (&examiner{strict: true, objects: true}).file(data)
}

// judgeKustomization is for kustomization files: one document, and no traps in the patches written into it.
func judgeKustomization(data []byte) error {
	return (&examiner{strict: true, single: true, inline: true}).file(data)
}

// suspicious tells in one pass whether text could hold aliases or deep nesting; when in doubt it could.
// A level of nesting needs a bracket, or a column more at the beginning of a line (which may open a mapping and a list).
func suspicious(data []byte) bool {
	if bytes.IndexByte(data, '&') >= 0 && bytes.IndexByte(data, '*') >= 0 {
		return true
	}
	brackets := bytes.Count(data, []byte{'['}) + bytes.Count(data, []byte{'{'})
	column := 0
	for line := range bytes.Lines(data) {
		column = max(column, len(line)-len(bytes.TrimLeft(line, " -?:\t")))
	}
	return brackets+2*column+2 > maxDepth
}

// examiner walks the parsed form of one stream, aliases counted as often as they would be expanded.
type examiner struct {
	strict  bool // also what is ambiguous is refused
	objects bool // each document is to be a Kubernetes object
	single  bool // there may be only one document
	inline  bool // strings may hold YAML that somebody parses later

	nodes     int
	merged    int
	documents int
	extents   map[*yaml.Node]extent
}

// extent is how large a node is when its aliases are expanded: nodes, and levels of mappings and lists. It is unknown
// (zero) while the node is still being walked.
type extent struct{ nodes, height int }

func (x *examiner) file(data []byte) error {
	if len(data) > maxFileBytes {
		return refusal("yaml-size", "larger than %d bytes", maxFileBytes)
	}
	if !utf8.Valid(data) {
		line := 1
		for rest := range bytes.Lines(data) {
			if !utf8.Valid(rest) {
				break
			}
			line++
		}
		return refusal("yaml-encoding", "line %d: not valid UTF-8", line)
	}
	return x.stream(data)
}

// stream cuts the text into documents as kustomize does: at lines that begin with three dashes.
func (x *examiner) stream(data []byte) error {
	if bytes.IndexByte(data, '\r') >= 0 {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	}
	line := 0
	for {
		at := bytes.Index(data, []byte("\n---"))
		end := -1
		if at >= 0 {
			end = bytes.IndexByte(data[at+1:], '\n')
		}
		if end < 0 {
			return x.chunk(data, line)
		}
		if err := x.chunk(data[:at+1], line); err != nil {
			return err
		}
		line += bytes.Count(data[:at], []byte{'\n'}) + 2
		data = data[at+1+end+1:]
	}
}

// chunk examines what lies between two separators; kustomize reads its first document and forgets any other.
func (x *examiner) chunk(data []byte, line int) error {
	x.extents = map[*yaml.Node]extent{} // anchors end with their document
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for number := 0; ; number++ {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) || (err != nil && number == 0) {
			return nil // what cannot be parsed is reported by the one who was to read it
		}
		if err != nil || (number > 0 && !isNull(&document)) {
			if x.strict {
				return refusal("yaml-document", "document %d: there is text after its end", x.documents)
			}
			return nil
		}
		if err := x.document(&document, line); err != nil {
			return err
		}
	}
}

func (x *examiner) document(document *yaml.Node, line int) error {
	if isNull(document) {
		return nil
	}
	x.documents++
	if x.documents > maxDocuments || (x.single && x.documents > 1) {
		return refusal("yaml-documents", "line %d: too many documents", line+document.Line)
	}
	size, err := x.walk(document.Content[0], 0)
	x.nodes += size.nodes
	if err == nil && x.nodes > maxNodes {
		err = refusal("yaml-nodes", "more than %d nodes when aliases are expanded", maxNodes)
	}
	if err == nil && x.objects {
		err = identity(document.Content[0], x.documents)
	}
	if refused, is := errors.AsType[*located](err); is {
		return refusal(refused.rule, "line %d: %s", line+refused.line, refused.text)
	}
	return err
}

// located is a refusal whose line counts from the beginning of its document.
type located struct {
	rule, text string
	line       int
}

func (l *located) Error() string { return l.text }

func at(node *yaml.Node, rule, format string, arguments ...any) error {
	return &located{rule, fmt.Sprintf(format, arguments...), node.Line}
}

func (x *examiner) walk(node *yaml.Node, depth int) (extent, error) {
	if depth >= maxDepth && node.Kind != yaml.ScalarNode && node.Kind != yaml.AliasNode {
		return extent{}, at(node, "yaml-depth", "nested deeper than %d", maxDepth)
	}
	if node.Kind == yaml.AliasNode {
		size := x.extents[node.Alias]
		if size.nodes == 0 {
			return size, at(node, "yaml-alias", "recursive alias")
		}
		if depth+size.height > maxDepth {
			return size, at(node, "yaml-depth", "nested deeper than %d", maxDepth)
		}
		return size, nil
	}
	if x.strict {
		if err := ambiguous(node); err != nil {
			return extent{}, err
		}
	}
	if x.inline && node.Kind == yaml.ScalarNode && suspicious([]byte(node.Value)) {
		if err := judgeSafe([]byte(node.Value)); err != nil {
			return extent{}, at(node, err.(*failure).Rule, "in the text that begins here: %s", err)
		}
	}
	size := extent{nodes: 1}
	if node.Kind != yaml.ScalarNode {
		size.height = 1
	}
	for index, child := range node.Content {
		inner, err := x.walk(child, depth+1)
		if err != nil {
			return extent{}, err
		}
		size.nodes += inner.nodes
		size.height = max(size.height, inner.height+1)
		if size.nodes > maxNodes {
			return extent{}, at(node, "yaml-nodes", "more than %d nodes when aliases are expanded", maxNodes)
		}
		if node.Kind == yaml.MappingNode && index%2 == 1 && node.Content[index-1].Tag == "!!merge" {
			if x.merged += inner.nodes; x.merged > maxMerged {
				return extent{}, at(node, "yaml-merge", "more than %d entries come from merge keys", maxMerged)
			}
		}
	}
	if x.strict && node.Kind == yaml.MappingNode {
		if err := x.keys(node); err != nil {
			return extent{}, err
		}
	}
	if node.Anchor != "" {
		x.extents[node] = size
	}
	return size, nil
}

func (x *examiner) keys(node *yaml.Node) error {
	seen := make(map[string]int, len(node.Content)/2)
	for index := 0; index < len(node.Content); index += 2 {
		key := target(node.Content[index])
		if tag := key.ShortTag(); x.objects && (key.Kind != yaml.ScalarNode || (tag != "!!str" && tag != "!!merge")) {
			return at(node.Content[index], "yaml-key", "a key must be a string")
		}
		if first, twice := seen[key.Value]; twice && key.Kind == yaml.ScalarNode {
			return at(node.Content[index], "yaml-duplicate", "mapping key %q already defined at line %d", key.Value, first)
		}
		seen[key.Value] = key.Line
	}
	return nil
}

// ambiguous refuses values that one reader takes for something else than another does.
func ambiguous(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		switch node.Tag {
		case "!!set", "!!omap", "!!pairs":
			return at(node, "yaml-tag", "%s is not supported", node.Tag)
		}
		return nil
	}
	if node.Style != 0 && node.Style != yaml.TaggedStyle {
		return nil // quoted, or a block of text
	}
	if len(node.Value) > maxDigits && strings.Trim(node.Value, "+-0123456789_") == "" {
		return at(node, "yaml-digits", "a number of more than %d digits", maxDigits)
	}
	switch strings.ToLower(strings.TrimLeft(node.Value, "+-")) {
	case ".inf", ".nan":
		return at(node, "yaml-number", "%s is no value of an object", node.Value)
	}
	return nil
}

// identity refuses an object whose name is, to YAML, something else than text: such objects get lost on the way.
func identity(node *yaml.Node, number int) error {
	object := fields(node)
	metadata := fields(object["metadata"])
	for _, name := range []string{"apiVersion", "kind"} {
		if value := object[name]; value != nil && value.ShortTag() != "!!str" {
			return at(value, "object-identity", "document %d: %s must be a string", number, name)
		}
	}
	for _, name := range []string{"name", "namespace"} {
		if value := metadata[name]; value != nil && value.ShortTag() != "!!str" && value.ShortTag() != "!!null" {
			return at(value, "object-identity", "document %d: metadata.%s must be a string", number, name)
		}
	}
	kind, items := object["kind"], object["items"]
	if kind == nil || items == nil || !strings.HasSuffix(kind.Value, "List") {
		return nil
	}
	for _, item := range items.Content {
		if err := identity(target(item), number); err != nil {
			return err
		}
	}
	return nil
}

func fields(node *yaml.Node) map[string]*yaml.Node {
	found := map[string]*yaml.Node{}
	if node != nil && node.Kind == yaml.MappingNode {
		for index := 0; index+1 < len(node.Content); index += 2 {
			found[node.Content[index].Value] = target(node.Content[index+1])
		}
	}
	return found
}

func target(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(document *yaml.Node) bool {
	return len(document.Content) == 0 || document.Content[0].ShortTag() == "!!null"
}
