package app

import (
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"gitlab-runner-fleet-exporter/alerts"
	"gitlab-runner-fleet-exporter/internal/secret"
)

// Exit statuses, as the reference promises them.
const (
	exitOK      = 0 // asked to stop, or a check that found all well
	exitFailure = 1 // a failure at run time, or a bad configuration
	exitUsage   = 2 // bad flags
)

// defaultAddress is where Prometheus finds the exporter unless configured otherwise.
const defaultAddress = ":9756"

// envPrefix stands before the environment variable of each flag.
const envPrefix = "GITLAB_RUNNER_FLEET_"

// options are the values of the flags.
type options struct {
	configFile     string
	configCheck    bool
	gitlabURL      string
	tokenFile      string
	gitlabCheck    bool
	demo           bool
	storagePath    string
	web            *web.FlagConfig
	telemetryPath  string
	externalURL    string
	routePrefix    string
	linkGrafana    string
	linkRunbooks   string
	lifecycle      bool
	createdSamples bool
	logLevel       string
	logFormat      string
	shardIndex     int
	shardCount     int
	healthcheck    bool
	rulesPrint     bool
	rulesValues    string
	rulesFormat    string

	secrets *secret.List // of the whole process
}

// errDone: --help or --version was answered.
var errDone = errors.New("answered")

// envFlags names each flag's environment variable as it is made, those of
// libraries included.
type envFlags struct{ app *kingpin.Application }

func (e envFlags) Flag(name, help string) *kingpin.FlagClause {
	return e.app.Flag(name, help).Envar(envPrefix + strings.NewReplacer(".", "_", "-", "_").Replace(strings.ToUpper(name)))
}

// newFlags declares the flags on an application of its own, so that nothing is
// global and two may run in one process.
func newFlags(o *options) *kingpin.Application {
	a := kingpin.New(program, "A Prometheus exporter and fleet-health monitor for GitLab CI runners.\n\n"+
		"Start it in one of three ways: with --config.file, with --gitlab.url and a token, or with --demo. "+
		"Each flag may be given by the environment variable in brackets.")
	a.HelpFlag.Short('h')
	a.Version(version.Print(program))

	e := envFlags{a}
	e.Flag("config.file", "Configuration in YAML.").PlaceHolder("FILE").StringVar(&o.configFile)
	e.Flag("config.check", "Load and validate the configuration without any network, print what was found, and exit with 0 or 1.").BoolVar(&o.configCheck)
	e.Flag("gitlab.url", "Address of one GitLab, in place of a configuration file. The token comes from the environment variable GITLAB_TOKEN or from --gitlab.token-file.").PlaceHolder("URL").StringVar(&o.gitlabURL)
	e.Flag("gitlab.token-file", "File with the token for --gitlab.url. It is read again at each request.").PlaceHolder("FILE").StringVar(&o.tokenFile)
	e.Flag("gitlab.check", "Read each GitLab once, print its version, what the token may see, and the requests a minute that the configuration will need beside the budget, and exit with 0 or 1.").BoolVar(&o.gitlabCheck)
	e.Flag("healthcheck", "Ask the exporter that runs with the same flags at its own /-/healthy, and exit with 0 or 1: for containers without a shell. Any HTTP answer is a sign of life.").BoolVar(&o.healthcheck)
	e.Flag("rules.print", "Print the alert and recording rules, and exit with 0 or 1. Needs no configuration.").BoolVar(&o.rulesPrint)
	e.Flag("rules.values", "File with what differs from alerts/values.yml: thresholds, severities, labels, addresses.").PlaceHolder("FILE").StringVar(&o.rulesValues)
	e.Flag("rules.format", "Format of the rules: prometheus, operator (a PrometheusRule), mimir (with a namespace).").Default(string(alerts.Prometheus)).EnumVar(&o.rulesFormat, alerts.Formats()...)
	e.Flag("demo", "Start a simulated GitLab on loopback and monitor it: no configuration, no token, nothing on disk.").BoolVar(&o.demo)
	e.Flag("storage.path", "Folder of the durable state. Empty: memory only, counters begin anew at each start.").Default("data").StringVar(&o.storagePath)
	o.web = kingpinflag.AddFlags(e, defaultAddress)
	e.Flag("web.telemetry-path", "Path under which metrics are served.").Default("/metrics").StringVar(&o.telemetryPath)
	e.Flag("web.external-url", "Address under which browsers reach the exporter, such as that of a reverse proxy: links are made from it. {shard} in it stands for the shard's number.").PlaceHolder("URL").StringVar(&o.externalURL)
	e.Flag("web.route-prefix", "Prefix of all paths of the web server. Default: the path of --web.external-url.").PlaceHolder("PATH").StringVar(&o.routePrefix)
	e.Flag("web.link.grafana", "Address of Grafana for the health page's links, or a template with {board}, {gitlab}, {tag} and {runner}. Without placeholders /d/ and the dashboard's uid are added.").PlaceHolder("URL").StringVar(&o.linkGrafana)
	e.Flag("web.link.runbooks", "Address of the folder of runbooks for the health page's links, or a template with {alert}. Without a placeholder the alert's name with .md is added.").PlaceHolder("URL").StringVar(&o.linkRunbooks)
	e.Flag("web.enable-lifecycle", "Allow a reload by POST to /-/reload.").BoolVar(&o.lifecycle)
	e.Flag("web.openmetrics-created-samples", "Write created timestamps as samples into OpenMetrics text. Protobuf carries them always.").BoolVar(&o.createdSamples)
	e.Flag("log.level", "Least level that is logged: debug, info, warn, error.").Default("info").EnumVar(&o.logLevel, "debug", "info", "warn", "error")
	e.Flag("log.format", "Format of the log: logfmt, json.").Default("logfmt").EnumVar(&o.logFormat, "logfmt", "json")
	e.Flag("shard.index", "Which share of the runners this process reads, from 0.").Default("0").IntVar(&o.shardIndex)
	e.Flag("shard.count", "How many processes share the runners.").Default("1").IntVar(&o.shardCount)
	return a
}

// parse reads the flags. errDone: the answer was printed; any other error is
// one of usage.
func parse(args []string, stdout, stderr io.Writer) (*options, error) {
	var o options
	a := newFlags(&o)
	done := false
	// kingpin calls this after --help and --version and would go on parsing.
	a.Terminate(func(int) { done = true })
	a.UsageWriter(stdout)
	a.ErrorWriter(stderr)
	_, err := a.Parse(args)
	if done {
		return nil, errDone
	}
	if err != nil {
		return nil, usageError(err)
	}
	return &o, o.validate()
}

// plainFlag is a flag's name that holds no token.
var plainFlag = regexp.MustCompile(`^--?[a-z][a-z.-]{0,40}$`)

// usageError does not repeat what belongs to no flag: it may be a token, from a
// command line with a space too many.
func usageError(err error) error {
	text := err.Error()
	if strings.HasPrefix(text, "unexpected ") || strings.HasPrefix(text, "failed to ") { // the latter of @FILE
		return errors.New("an argument that belongs to no flag; it is not shown, since it may be a secret (give a value as --flag=value, and a token in the environment variable GITLAB_TOKEN or in a file)")
	}
	if rest, ok := strings.CutPrefix(text, "unknown long flag '"); ok && !plainFlag.MatchString(strings.TrimSuffix(rest, "'")) {
		return errors.New("an unknown flag; it is not shown, since it may be a secret")
	}
	return err
}

// waysToStart is printed where the program is started without any flag.
const waysToStart = `nothing to monitor: start in one of three ways
  --demo                                      a simulated GitLab, to look around
  --gitlab.url=https://gitlab.example.com     one GitLab; its token in the environment variable GITLAB_TOKEN, or in a file named by --gitlab.token-file
  --config.file=config.yml                    everything else`

func (o *options) validate() error {
	if o.rulesPrint || o.healthcheck {
		return nil // whatever else is given, the process that monitors has refused or taken it
	}
	if o.rulesValues != "" {
		return errors.New("--rules.values goes with --rules.print")
	}
	if err := o.checkSource(); err != nil {
		return err
	}
	if err := o.checkShards(); err != nil {
		return err
	}
	if err := o.checkLinks(); err != nil {
		return err
	}
	return checkTelemetryPath(o.telemetryPath)
}

// checkSource holds the flags that name what is monitored to one of the ways.
func (o *options) checkSource() error {
	switch {
	case o.demo && (o.configFile != "" || o.gitlabURL != ""):
		return errors.New("--demo brings its own GitLab: leave out --config.file and --gitlab.url")
	case o.demo && (o.configCheck || o.gitlabCheck):
		return errors.New("--demo has nothing to check: leave out --config.check and --gitlab.check")
	case o.configFile != "" && o.gitlabURL != "":
		return errors.New("--gitlab.url and --config.file are both given: the GitLab of --gitlab.url belongs into the file's gitlabs")
	case o.tokenFile != "" && o.gitlabURL == "":
		return errors.New("--gitlab.token-file goes with --gitlab.url; in a configuration file it is authorization.credentials_file")
	case o.configCheck && o.gitlabCheck:
		return errors.New("--config.check and --gitlab.check are both given: the second checks the configuration too")
	case !o.demo && o.configFile == "" && o.gitlabURL == "":
		return errors.New(waysToStart)
	}
	return nil
}

func (o *options) checkShards() error {
	switch {
	case o.shardCount < 1 || o.shardCount > 1000:
		return fmt.Errorf("--shard.count is %d: it must be between 1 and 1000", o.shardCount)
	case o.shardIndex < 0 || o.shardIndex >= o.shardCount:
		return fmt.Errorf("--shard.index is %d: with --shard.count=%d it must be between 0 and %d", o.shardIndex, o.shardCount, o.shardCount-1)
	}
	return nil
}

// checkTelemetryPath keeps metrics off the paths that have another meaning, and
// off characters that the router would read as a pattern.
func checkTelemetryPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return fmt.Errorf("--web.telemetry-path is %q: it must begin with a slash", p)
	case slices.Contains(reservedPaths(), p) || strings.HasPrefix(p, "/-/"):
		return fmt.Errorf("--web.telemetry-path is %q: that path has another meaning here", p)
	case !plainPath(p):
		return fmt.Errorf("--web.telemetry-path is %q: it must be a plain path such as /metrics, without a slash at the end", p)
	}
	return nil
}

// plainPath is one that neither the router nor a browser reads as anything else.
func plainPath(p string) bool {
	return path.Clean(p) == p && !strings.ContainsFunc(p, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`{}?#%\`, r)
	})
}

func reservedPaths() []string {
	return []string{pathLanding, pathHealthy, pathReady, pathReload, "/-", pathFleet, pathRunner, pathAPI, "/fleet/why", "/api", "/api/v1", "/api/v1/why"}
}
