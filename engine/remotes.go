package main

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/api/resource"
)

// The engine has no network. What a kustomization wants from elsewhere is named to the daemon, which fetches it by its
// own rules and sends it along with the next try; here it then appears as a directory beside the artifact, and the
// kustomization that refers to it is rewritten to say so.

// remote is one thing that the daemon fetched: a tree, or the part with the bytes of a file.
type remote struct {
	Reference string   `json:"reference"`
	Tree      *treeRef `json:"tree"`
	Part      int      `json:"part"`
}

const remoteFile = "remote.yaml" // the name under which the bytes of a URL appear

// reference is what the daemon is asked to fetch: the file behind URL, or if that is no manifest the Git repository.
type reference struct {
	Reference string        `json:"reference"` // as it is written
	Shown     string        `json:"shown"`     // as a message may show it
	URL       string        `json:"url,omitempty"`
	Git       *gitReference `json:"git,omitempty"`
	Refused   string        `json:"-"`
}

type gitReference struct {
	URL        string `json:"url"`
	Ref        string `json:"ref"`  // empty: the default branch
	Path       string `json:"path"` // of the kustomization in the repository
	Submodules bool   `json:"submodules"`
}

// mount lets fetched things appear; done must be called when the build is over.
func (e *engine) mount(files *fileSystem, remotes []remote, parts [][]byte) (done func(), err error) {
	var releases []func()
	done = func() {
		for _, release := range releases {
			release()
		}
	}
	for index, one := range remotes {
		at := remoteName + "/" + strconv.Itoa(index)
		if one.Tree == nil {
			if one.Part < 0 || one.Part >= len(parts) {
				return done, &failure{Class: classRequest, Message: "a remote base has no content"}
			}
			files.mounts[at] = newTree(map[string][]byte{remoteFile: parts[one.Part]})
			continue
		}
		tree, release, err := e.trees.open(*one.Tree)
		if err != nil {
			return done, &failure{Class: classRequest, Message: err.Error()}
		}
		releases = append(releases, release)
		files.mounts[at] = tree
	}
	return done, nil
}

var remotePath = regexp.MustCompile(`(?:` + root + `/|(?:\.\./)*)` + remoteName + `/(\d+)`)

// asWritten puts into a message what was written where it names the place at which a remote base appeared.
func asWritten(message string, remotes []remote) string {
	return remotePath.ReplaceAllStringFunc(message, func(found string) string {
		index, err := strconv.Atoi(found[strings.LastIndexByte(found, '/')+1:])
		if err != nil || index >= len(remotes) {
			return found
		}
		return masked(remotes[index].Reference)
	})
}

// fetchedOrigin corrects the annotation about where an object came from, if that was a remote base.
func fetchedOrigin(one *resource.Resource, remotes []remote) error {
	if len(remotes) == 0 {
		return nil
	}
	origin, err := one.GetOrigin()
	if err != nil || origin == nil {
		return nil // what an author wrote into that annotation is his own
	}
	found := remotePath.FindStringSubmatchIndex(origin.Path)
	if found == nil {
		return nil
	}
	index, err := strconv.Atoi(origin.Path[found[2]:found[3]])
	if err != nil || index >= len(remotes) {
		return err
	}
	if remotes[index].Tree == nil {
		origin.Path = masked(remotes[index].Reference)
	} else if wanted, _ := parseReference(remotes[index].Reference, true); wanted.Git != nil {
		origin.Path = strings.TrimPrefix(origin.Path[found[3]:], "/")
		origin.Repo, origin.Ref = masked(wanted.Git.URL), wanted.Git.Ref
	}
	return one.SetOrigin(origin)
}

var userBefore = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@`)

// parseReference reads a reference the way kustomize does, and tells whether it is one to something remote: a URL
// anywhere, and where a directory may stand also the ways in which Git repositories are written.
func parseReference(text string, directory bool) (reference, bool) {
	wanted := reference{Reference: text, Shown: masked(text)}
	parsed, err := url.Parse(text)
	isURL := err == nil && (parsed.Scheme == "http" || parsed.Scheme == "https")
	if isURL {
		wanted.URL = text
		if parsed.Host == "" {
			wanted.Refused = "it names no host"
		}
	}
	if !directory {
		return wanted, isURL
	}
	rest, query, _ := strings.Cut(text, "?")
	rest = trimFold(rest, "git::")
	lower := strings.ToLower(rest)
	switch {
	case strings.HasPrefix(lower, "https://"), strings.HasPrefix(lower, "http://"):
	case strings.HasPrefix(lower, "github.com/"):
		rest = "https://" + rest
	case strings.HasPrefix(lower, "ssh://"), strings.HasPrefix(lower, "file://"),
		strings.HasPrefix(lower, "github.com:"), userBefore.MatchString(rest):
		wanted.Refused = "only http and https are supported"
		return wanted, true
	default:
		return wanted, isURL
	}
	wanted.Git, wanted.Refused = parseGit(rest, query, wanted.Refused)
	if wanted.Git == nil && !isURL && wanted.Refused == "" {
		wanted.Refused = "it names no repository"
	}
	return wanted, true
}

func parseGit(rest, query, refused string) (*gitReference, string) {
	scheme, rest, _ := strings.Cut(rest, "://")
	host, rest, _ := strings.Cut(rest, "/")
	repository, inner, found := splitRepository(rest)
	if !found || host == "" {
		return nil, refused
	}
	values, _ := url.ParseQuery(query)
	ref := values.Get("ref")
	if ref == "" {
		ref = values.Get("version")
	}
	if strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, " \t\r\n\x00:") {
		refused = "its ref is not a legal name"
	}
	if inner = path.Clean("/" + inner)[1:]; strings.Contains("/"+rest+"/", "/../") {
		refused = "its path leaves the repository"
	}
	submodules := values.Get("submodules")
	return &gitReference{
		URL: strings.ToLower(scheme) + "://" + host + "/" + repository, Ref: ref, Path: inner,
		Submodules: submodules != "false" && submodules != "0",
	}, refused
}

// splitRepository cuts a URL's path after the repository: at "//", after ".git" or "_git/<name>", else after two parts.
func splitRepository(rest string) (repository, inner string, found bool) {
	if at := strings.Index(rest, "_git/"); at >= 0 {
		name, inner, _ := strings.Cut(rest[at+len("_git/"):], "/")
		return rest[:at] + "_git/" + name, inner, name != ""
	}
	if at := strings.Index(rest, "//"); at >= 0 {
		return rest[:at], rest[at+2:], at > 0
	}
	if at := strings.Index(rest, ".git"); at >= 0 {
		at += len(".git")
		return rest[:at], rest[at:], true
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) < 2 || parts[0] == "" || parts[1] == "" {
		return "", "", false
	}
	if len(parts) == 3 {
		inner = parts[2]
	}
	return parts[0] + "/" + parts[1], inner, true
}

// masked leaves out what may be secret in an address: its user and its query.
func masked(text string) string {
	text, _, _ = strings.Cut(text, "?")
	scheme, rest, is := strings.Cut(text, "://")
	if !is {
		return text
	}
	host, inner, slash := strings.Cut(rest, "/")
	if at := strings.LastIndex(host, "@"); at >= 0 {
		host = host[at+1:]
	}
	if slash {
		host += "/" + inner
	}
	return scheme + "://" + host
}

func trimFold(text, prefix string) string {
	if len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix) {
		return text[len(prefix):]
	}
	return text
}

// noNetwork stands where kustomize would open connections. The survey finds every reference before; this is the lock on
// a door that should be closed already.
type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("the network cannot be reached from a build")
}
