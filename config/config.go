// Package config is the configuration file: it loads it strictly, fills in the
// defaults, and turns it into a Validated, the only form the rest of the
// program accepts. So a wrong configuration is found here, all its mistakes at
// once with line and path, and never half-applied by a reload.
//
// No error, summary or printed form made here holds a token, a password or the
// content of a file that may hold one. Values are therefore quoted in errors
// only where they cannot be a secret.
package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	commoncfg "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/internal/bounded"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// maxFileBytes bounds the configuration file: a path such as /dev/zero must
// not fill the memory.
const maxFileBytes = 4 << 20

// Config is the configuration as written: what is not set is nil or empty.
// Nothing works on it directly; Validate makes the usable form.
type Config struct {
	Poll    PollConfig     `yaml:"poll,omitempty"`
	GitLabs []GitLabConfig `yaml:"gitlabs,omitempty"`
	Metrics MetricsConfig  `yaml:"metrics,omitempty"`
}

// GitLabConfig is one entry of gitlabs as written.
type GitLabConfig struct {
	Name             string                     `yaml:"name,omitempty"`
	URL              string                     `yaml:"url"`
	HTTPClientConfig commoncfg.HTTPClientConfig `yaml:",inline"`
	Scope            snapshot.ScopeKind         `yaml:"scope,omitempty"`
	Groups           []string                   `yaml:"groups,omitempty"`
	Projects         []string                   `yaml:"projects,omitempty"`
	API              snapshot.API               `yaml:"api,omitempty"`
	Expected         map[string]int             `yaml:"expected,omitempty"`
	Queue            QueueMode                  `yaml:"queue,omitempty"`
	Poll             PollConfig                 `yaml:"poll,omitempty"`
}

// UnmarshalYAML starts from our defaults of the HTTP client: redirects are not
// followed, because the transport sends the token with every request it makes,
// also to the place a redirect names. HTTP/2 is off, because net/http reads up
// to 10 MiB of header of each of its answers, and HTTP/1.1 serves a few
// requests at once as well.
func (g *GitLabConfig) UnmarshalYAML(unmarshal func(any) error) error {
	type plain GitLabConfig
	*g = GitLabConfig{HTTPClientConfig: defaultHTTPClientConfig()}
	return unmarshal((*plain)(g))
}

func defaultHTTPClientConfig() commoncfg.HTTPClientConfig {
	c := commoncfg.DefaultHTTPClientConfig
	c.FollowRedirects, c.EnableHTTP2 = false, false
	return c
}

// PollConfig is a poll block as written. Its fields are pointers because a
// GitLab's block overrides the global one field by field, and zero is a value
// of max_requests_per_second.
type PollConfig struct {
	RunnersInterval       *model.Duration `yaml:"runners_interval,omitempty"`
	DetailsInterval       *model.Duration `yaml:"details_interval,omitempty"`
	JobsInterval          *model.Duration `yaml:"jobs_interval,omitempty"`
	QueueInterval         *model.Duration `yaml:"queue_interval,omitempty"`
	ReconcileInterval     *model.Duration `yaml:"reconcile_interval,omitempty"`
	Lookback              *model.Duration `yaml:"lookback,omitempty"`
	MaxRequestsPerSecond  *float64        `yaml:"max_requests_per_second,omitempty"`
	MaxConcurrentRequests *int            `yaml:"max_concurrent_requests,omitempty"`
	RequestTimeout        *model.Duration `yaml:"request_timeout,omitempty"`
	Staleness             *model.Duration `yaml:"staleness,omitempty"`
}

// MetricsConfig is the block metrics as written.
type MetricsConfig struct {
	Runners     RunnersMetricsConfig `yaml:"runners,omitempty"`
	Tags        TagsMetricsConfig    `yaml:"tags,omitempty"`
	Disable     []string             `yaml:"disable,omitempty"`
	SeriesLimit *int                 `yaml:"series_limit,omitempty"`
}

// RunnersMetricsConfig is the block metrics.runners as written.
type RunnersMetricsConfig struct {
	Enabled *bool           `yaml:"enabled,omitempty"`
	Include *string         `yaml:"include,omitempty"`
	Exclude *string         `yaml:"exclude,omitempty"`
	MinAge  *model.Duration `yaml:"min_age,omitempty"`
}

// TagsMetricsConfig is the block metrics.tags as written.
type TagsMetricsConfig struct {
	Include   *string         `yaml:"include,omitempty"`
	Exclude   *string         `yaml:"exclude,omitempty"`
	Limit     *int            `yaml:"limit,omitempty"`
	Retention *model.Duration `yaml:"retention,omitempty"`
}

// String is the configuration as YAML with its secrets masked, so that a
// careless %v cannot print a token.
func (c Config) String() string {
	out, err := yaml.Marshal(c)
	if err != nil {
		return "config that cannot be printed"
	}
	return string(out)
}

// GoString masks secrets under %#v too.
func (c Config) GoString() string { return c.String() }

// String is the entry as YAML with its secrets masked.
func (g GitLabConfig) String() string {
	out, err := yaml.Marshal(g)
	if err != nil {
		return "gitlab that cannot be printed"
	}
	return string(out)
}

// GoString masks secrets under %#v too.
func (g GitLabConfig) GoString() string { return g.String() }

// Load reads and validates the file at path. File names inside it are relative
// to its folder. The files it names (token, certificates) are read once, to
// find a mistake now and not at the first request; there is no network I/O.
// The error is an Errors for mistakes in the content, each with its line.
func Load(path string) (*Validated, error) {
	// A configuration may come through a pipe, unlike a token, which is read again.
	data, err := bounded.Call(context.Background(), path, func() ([]byte, error) {
		f, err := os.Open(path) //nolint:gosec // the administrator names the file
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // only read
		return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	})
	if hang, ok := errors.AsType[*bounded.HangError](err); ok {
		return nil, fmt.Errorf("configuration file %s: %w", path, hang)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("configuration file %s: larger than %d bytes", path, maxFileBytes)
	}
	v, err := Parse(data, filepath.Dir(path))
	if errs, ok := errors.AsType[Errors](err); ok && len(errs) > 1 {
		return nil, fmt.Errorf("configuration file %s has %d mistakes:\n%w", path, len(errs), errs)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	return v, nil
}

// Parse validates a configuration given as YAML; dir is the folder that file
// names in it are relative to. The error is an Errors.
func Parse(data []byte, dir string) (*Validated, error) {
	cfg, doc, err := decode(data)
	if err != nil {
		return nil, err
	}
	for i := range cfg.GitLabs {
		cfg.GitLabs[i].HTTPClientConfig.SetDirectory(dir)
	}
	return cfg.validate(doc)
}

// Validate checks the configuration and makes the usable form, a deep copy
// with every default filled in. The error is an Errors.
func (c Config) Validate() (*Validated, error) { return c.validate(&document{}) }

// ForURL is the way without a file: one GitLab with every default. The token
// comes from the environment (token) or from a file that is read again at each
// request (tokenFile), not both.
func ForURL(url, token, tokenFile string) (*Validated, error) {
	g := GitLabConfig{URL: url, HTTPClientConfig: defaultHTTPClientConfig()}
	auth := &commoncfg.Authorization{
		// A shell adds line ends that nobody sees; inside a token they stay an error.
		Credentials:     commoncfg.Secret(strings.TrimSpace(token)),
		CredentialsFile: tokenFile,
	}
	g.HTTPClientConfig.Authorization = auth
	switch {
	case auth.Credentials == "" && tokenFile == "":
		return nil, Errors{{Path: flagURL, Msg: "no token: set " + envToken + " or " + flagTokenFile + missingTokenWhy}}
	case auth.Credentials != "" && tokenFile != "":
		return nil, Errors{{Path: flagTokenFile, Msg: "a token is given twice: use either " + envToken + " or " + flagTokenFile}}
	}
	return Config{GitLabs: []GitLabConfig{g}}.validate(&document{rename: map[string]string{
		"gitlabs[0].url":                            flagURL,
		"gitlabs[0].name":                           flagURL,
		"gitlabs[0].authorization.credentials":      envToken,
		"gitlabs[0].authorization.credentials_file": flagTokenFile,
	}})
}

// What the way without a file is called on the command line.
const (
	flagURL       = "--gitlab.url"
	flagTokenFile = "--gitlab.token-file" //nolint:gosec // the name of a flag
	envToken      = "GITLAB_TOKEN"
)

// document is what is known of the text a Config came from: where each path
// stands, and which mistakes the strict reading has found already.
type document struct {
	lines  map[string]int
	found  Errors
	rename map[string]string
}

// yamlWhere is the position in front of a message of the YAML parser.
var yamlWhere = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// decode reads YAML strictly. A mistake of shape does not stop it: what is
// wrong is cut out and reported, and the rest is decoded, so that validate can
// report its own findings in the same go.
func decode(data []byte) (Config, *document, error) {
	var root yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&root)
	if errors.Is(err, io.EOF) {
		return Config{}, nil, Errors{{Msg: emptyFile}}
	}
	if err != nil {
		return Config{}, nil, Errors{syntaxError(err, data)}
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == nil:
		return Config{}, nil, Errors{{Line: second.Line, Msg: "a second YAML document: only one is read"}}
	case !errors.Is(err, io.EOF):
		return Config{}, nil, Errors{syntaxError(err, data)}
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 || root.Content[0].ShortTag() == "!!null" {
		return Config{}, nil, Errors{{Msg: emptyFile}}
	}

	w := newWalker()
	ok := w.walk(root.Content[0], reflect.TypeFor[Config](), "")
	doc := &document{lines: w.lines, found: w.errs}
	if w.stopped || !ok {
		return Config{}, nil, doc.found.sorted()
	}

	var cfg Config
	if len(w.errs) > 0 {
		// What is left after the cutting must decode; if not, the findings so far stand.
		if root.Decode(&cfg) != nil {
			return Config{}, nil, doc.found.sorted()
		}
		return cfg, doc, nil
	}
	// A second opinion: the decoder's own strictness, should the walk and it
	// ever disagree about what a key is.
	dec = yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil {
		return Config{}, nil, Errors{shapeError(err)}
	}
	return cfg, doc, nil
}

const emptyFile = "the file is empty: it needs gitlabs, with one entry or more"

// syntaxError keeps the parser's message and moves its line to ours.
func syntaxError(err error, data []byte) Error {
	msg := err.Error()
	m := yamlWhere.FindStringSubmatch(msg)
	line, _ := strconv.Atoi(m[1])
	msg = msg[len(m[0]):]
	// The parser quotes the name, which is the value itself where an unquoted
	// secret begins with an asterisk.
	if strings.HasPrefix(msg, "unknown anchor") {
		return Error{Line: line, Msg: "not YAML: an alias (*name) without its anchor: put a value that begins with * into quotes"}
	}
	found, text := badLine(data)
	switch hint := syntaxHint(msg, text); {
	case found > 0 && hint != "":
		return Error{Line: found, Msg: "not YAML: " + hint}
	case found > 0:
		return Error{Line: found, Msg: "not YAML: " + msg}
	case line > 0:
		// The parser names the line where the block began that it could not end.
		msg += " (here or below)"
	}
	return Error{Line: line, Msg: "not YAML: " + msg}
}

// shapeError keeps only the line of a decoder's error: the rest quotes values.
func shapeError(err error) Error {
	msg := err.Error()
	if te := (*yaml.TypeError)(nil); errors.As(err, &te) && len(te.Errors) > 0 {
		msg = te.Errors[0]
	}
	line, _ := strconv.Atoi(yamlWhere.FindStringSubmatch(msg)[1])
	return Error{Line: line, Msg: "a value of the wrong type, or an anchor that cannot be followed"}
}
