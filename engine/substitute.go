package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/envsubst"
	"github.com/fluxcd/pkg/envsubst/parse"
	"sigs.k8s.io/yaml"
)

const (
	maxSubstituted = 16 << 20 // bytes of one object after substitution
	maxNested      = 32       // variables in the defaults of variables
	maxReferences  = 1000     // variables in one variable; the library goes one call deeper for each
	maxPattern     = 64 << 10 // bytes of a value from which a pattern is cut

	// The library copies the rest of its text for each reference, and goes one call deeper, too.
	pieceBytes      = 16 << 10
	pieceReferences = 1000
)

// substitution replaces ${variables} in text: spec/kustomize.md 3.7.
type substitution struct {
	variables map[string]string
	strict    bool
	refused   error
}

var variableName = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)

func newSubstitution(variables map[string]string, strict bool) *substitution {
	s := &substitution{variables: make(map[string]string, len(variables)), strict: strict}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if !variableName.MatchString(name) && s.refused == nil {
			s.refused = fmt.Errorf("'%s' var name is invalid, must match '%s'", name, variableName)
		}
		s.variables[name] = strings.ReplaceAll(variables[name], "\n", "")
	}
	return s
}

// object substitutes in an object's YAML and returns its new YAML and JSON. The result must be one object, and the one
// whose name was written: a value must not smuggle in another.
func (s *substitution) object(text, before []byte) ([]byte, []byte, error) {
	replaced, err := s.text(string(text))
	if err != nil {
		return nil, nil, err
	}
	out := []byte(replaced)
	if bytes.Equal(out, text) {
		return text, before, nil
	}
	if err := (&examiner{strict: true, single: true, objects: true}).stream(out); err != nil {
		return nil, nil, err
	}
	object, err := yaml.YAMLToJSONStrict(out)
	if err != nil {
		return nil, nil, fmt.Errorf("YAMLToJSON: %w", err)
	}
	if err := s.sameIdentity(before, object); err != nil {
		return nil, nil, err
	}
	if out, err = yaml.JSONToYAML(object); err != nil {
		return nil, nil, fmt.Errorf("JSONToYAML: %w", err)
	}
	return out, object, nil
}

func (s *substitution) sameIdentity(before, after []byte) error {
	var was, is head
	if err := json.Unmarshal(before, &was); err != nil {
		return refusal("object-identity", "apiVersion, kind, name and namespace must be strings")
	}
	if err := json.Unmarshal(after, &is); err != nil {
		return refusal("object-identity", "apiVersion, kind, name and namespace must be strings after substitution")
	}
	for _, pair := range [][2]string{
		{was.APIVersion, is.APIVersion}, {was.Kind, is.Kind},
		{was.Metadata.Name, is.Metadata.Name}, {was.Metadata.Namespace, is.Metadata.Namespace},
	} {
		if pair[0] == pair[1] && !strings.Contains(pair[0], "$") {
			continue
		}
		wanted, err := s.text(pair[0])
		if err != nil {
			return err
		}
		var scalar struct {
			V string `json:"v"`
		}
		if yaml.UnmarshalStrict([]byte("v: "+wanted), &scalar) != nil || scalar.V != pair[1] {
			return refusal("object-injection", "a value changes the identity of the object")
		}
	}
	if is.APIVersion == "" || is.Kind == "" || is.Metadata.Name == "" {
		return refusal("object-identity", "apiVersion, kind and name must not be empty after substitution")
	}
	return nil
}

// text substitutes in any text. The library calls itself once more for each "$", so it gets the text in pieces.
func (s *substitution) text(text string) (string, error) {
	if s.refused != nil {
		return "", s.refused
	}
	if !strings.Contains(text, "$") {
		return text, nil
	}
	var out strings.Builder
	for len(text) > 0 {
		end, err := piece(text)
		if err != nil {
			return "", err
		}
		replaced, err := s.piece(text[:end], maxSubstituted-out.Len())
		if err != nil {
			return "", err
		}
		out.WriteString(replaced)
		text = text[end:]
	}
	return out.String(), nil
}

// piece finds where the text may be cut, outside of all braces: at a line end if there is one in time.
func piece(text string) (int, error) {
	depth, dollars := 0, 0
	for index := 0; index < len(text); index++ {
		switch {
		case text[index] == '$':
			dollars++
			if rest := text[index+1:]; strings.HasPrefix(rest, "{") {
				if depth++; depth > maxNested {
					return 0, fmt.Errorf("variables are nested deeper than %d", maxNested)
				}
			} else if !strings.HasPrefix(rest, "$") {
				continue // no place to cut: it could be taken for the beginning of what follows
			}
			index++
		case text[index] == '}':
			depth = max(depth-1, 0)
		}
		if depth > 0 && dollars > maxReferences {
			return 0, fmt.Errorf("more than %d references in one variable", maxReferences)
		}
		if depth == 0 && (index >= 4*pieceBytes || dollars >= pieceReferences || (index >= pieceBytes && text[index] == '\n')) {
			return index + 1, nil
		}
	}
	return len(text), nil
}

func (s *substitution) piece(text string, limit int) (out string, err error) {
	if !strings.Contains(text, "$") {
		return text, within(len(text), limit)
	}
	defer func() {
		if trouble := recover(); trouble != nil {
			err = fmt.Errorf("variable substitution failed: %v", trouble)
		}
	}()
	tree, err := parse.Parse(text)
	if err != nil {
		return "", fmt.Errorf("variable substitution failed: %w", err)
	}
	length, err := s.bound(tree.Root)
	if err == nil {
		err = within(length, limit)
	}
	if err != nil {
		return "", err
	}
	out, err = envsubst.Eval(text, func(name string) (string, bool) {
		value, set := s.variables[name]
		return value, set || !s.strict
	})
	if err != nil {
		return "", fmt.Errorf("variable substitution failed: %w", err)
	}
	return out, nil
}

func within(length, limit int) error {
	if length > limit {
		return refusal("substitution-size", "more than %d bytes after substitution", maxSubstituted)
	}
	return nil
}

// bound returns an upper bound of what a parsed text can become, so that no replacement fills the memory.
func (s *substitution) bound(node parse.Node) (int, error) {
	total := 0
	switch node := node.(type) {
	case *parse.TextNode:
		total = len(node.Value)
	case *parse.ListNode:
		for _, child := range node.Nodes {
			length, err := s.bound(child)
			if err != nil {
				return 0, err
			}
			total += length
		}
	case *parse.FuncNode:
		value := s.variables[node.Param]
		arguments := 0
		for _, argument := range node.Args {
			length, err := s.bound(argument)
			if err != nil {
				return 0, err
			}
			arguments += length
		}
		switch node.Name {
		case "#", "##", "%", "%%":
			if len(node.Args) > 0 && len(value) > maxPattern {
				return 0, fmt.Errorf("a pattern is cut from a value of more than %d bytes", maxPattern)
			}
			total = len(value) + 20 // or the digits of its length
		case "^", "^^", ",", ",,":
			total = 3 * len(value) // the other case of a letter may be longer
		case "//":
			total = len(value) + (s.occurrences(node, value)+1)*arguments
		case "/", "/#", "/%":
			total = len(value) + arguments
		default:
			total = max(len(value), arguments)
		}
	}
	if total > 1<<40 {
		return 0, within(total, 0)
	}
	return total, nil
}

func (s *substitution) occurrences(node *parse.FuncNode, value string) int {
	if pattern, plain := node.Args[0].(*parse.TextNode); plain && pattern.Value != "" {
		return strings.Count(value, pattern.Value)
	}
	return len(value)
}

// substituteRequest asks for substitution in documents that were not built here, one part each.
type substituteRequest struct {
	Variables map[string]string `json:"variables"`
	Strict    bool              `json:"strict"`
}

type substituteAnswer struct {
	usage
	Errors []string `json:"errors"` // one for each document; empty where its part holds the result
	Parts  []int    `json:"parts"`
}

func substitute(request *substituteRequest, documents [][]byte) (*substituteAnswer, [][]byte) {
	s := newSubstitution(request.Variables, request.Strict)
	answer := &substituteAnswer{Errors: make([]string, len(documents)), Parts: make([]int, len(documents))}
	results := make([][]byte, len(documents))
	for index, document := range documents {
		text, err := s.text(string(document))
		if err != nil {
			answer.Errors[index] = "envsubst error: " + err.Error()
			continue
		}
		results[index] = []byte(text)
		answer.Parts[index] = len(text)
	}
	return answer, results
}
