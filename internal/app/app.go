// Package app turns flags into running monitors: it reads flags and
// environment, wires the rooms together, serves the web routes, reloads by
// difference, and stops everything in the order that loses nothing.
//
// It is the only room that uses flags, environment, signals and slog.
//
// Order of shutdown: the first SIGTERM or SIGINT stops the monitors (requests
// under way are cancelled, what was folded is saved and published), then the web
// server finishes its answers within 5 s, then the storage folder is closed, and
// the exit status is 0, or 1 where something counted could not be saved. A stop
// that hangs is given up after 15 s, and a second signal ends the process at
// once, both with 1: whatever was committed is on disk anyway.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/common/version"

	"gitlab-runner-fleet-exporter/collector"
	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/secret"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
)

const (
	// stopWithin bounds a stop, whatever hangs: a supervisor such as Kubernetes
	// kills after 30 s, and then no line names the cause.
	stopWithin = 15 * time.Second
	// readyPoll is how often readiness is looked at, to log it.
	readyPoll = 250 * time.Millisecond
	// pruneInterval is how often the storage folder is tidied.
	pruneInterval = 24 * time.Hour
)

// Run is the program. It returns the exit status once it was asked to stop, by
// ctx or by a signal, or could not go on.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return process{stdout: stdout, stderr: stderr}.run(ctx, args)
}

// process is one run of the program.
type process struct {
	stdout, stderr io.Writer // run masks what was given as a secret in both
	greeting       io.Writer // stdout for the demonstration, which shows its token
	secrets        *secret.List
	demo           *demo // nil without --demo
	// listening is called with the addresses, for tests that listen on port 0; may be nil.
	listening func(addresses []string)
	// stopWithin is for tests; 0: the constant.
	stopWithin time.Duration
}

func (p process) run(ctx context.Context, args []string) int {
	p.secrets = &secret.List{}
	p.secrets.Hold("environment", config.EnvironmentSecrets()...)
	p.greeting = p.stdout
	p.stdout, p.stderr = p.secrets.Writer(p.stdout), p.secrets.Writer(p.stderr)
	o, err := parse(args, p.stdout, p.stderr)
	if errors.Is(err, errDone) {
		return exitOK
	}
	if err != nil {
		printf(p.stderr, "%s: error: %s\nTry --help.\n", program, err)
		return exitUsage
	}
	if o.rulesPrint {
		return p.printRules(o)
	}
	if o.healthcheck {
		return p.healthcheck(ctx, o)
	}

	o.secrets = p.secrets
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stops := make(chan os.Signal, 2)
	signal.Notify(stops, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(stops)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	loggers := newLoggers(p.stderr, o.logFormat, o.logLevel)
	status := make(chan int, 1)
	go func() { status <- p.main(ctx, o, loggers, hangups) }()
	var late <-chan time.Time
	asked, stopping := false, ctx.Done()
	for {
		select {
		case code := <-status:
			return code
		case <-stopping:
			// Asked by a signal or by the caller: from now on its time runs.
			stopping, late = nil, time.After(p.stopTime())
		case <-late:
			_ = level.Error(loggers.own).Log("msg", "the stop does not come to its end: ending now; what was saved before is on disk", "after", p.stopTime(),
				"remedy", "look for a file system that hangs: that of --storage.path, of the configuration, or of a file that it names")
			return exitFailure
		case sig := <-stops:
			if asked {
				_ = level.Error(loggers.own).Log("msg", "asked to stop a second time: ending at once", "signal", sig)
				return exitFailure
			}
			asked = true
			_ = level.Info(loggers.own).Log("msg", "asked to stop", "signal", sig)
			stop()
		}
	}
}

// stopTime is how long a stop may take in all.
func (p process) stopTime() time.Duration {
	if p.stopWithin > 0 {
		return p.stopWithin
	}
	return stopWithin
}

// main does what the flags ask for, between the reading of flags and the exit.
func (p process) main(ctx context.Context, o *options, l loggers, hangups <-chan os.Signal) int {
	load := o.load
	if o.demo {
		d, err := startDemo(ctx)
		if err != nil {
			return failure(l.own, "the demonstration cannot be started", err)
		}
		defer d.stop()
		p.demo = d
		load = d.load
		o.storagePath = ""
	}
	load = noting(o.secrets, load)
	v, err := load()
	if o.configCheck || o.gitlabCheck && err != nil {
		return p.checkConfig(ctx, o, v, err)
	}
	if err != nil {
		logConfig(l.own, err)
		if o.configFile == "" {
			return exitUsage // it all came from flags
		}
		return exitFailure
	}
	if o.gitlabCheck {
		return checkGitLabs(ctx, o, v, p.stdout, l.own)
	}
	return p.serve(ctx, o, l, v, load, hangups)
}

// noting has the secrets of each configuration known before anything uses it.
func noting(list *secret.List, load func() (*config.Validated, error)) func() (*config.Validated, error) {
	return func() (*config.Validated, error) {
		v, err := load()
		if err == nil {
			list.Note(v.Secrets()...)
		}
		return v, err
	}
}

// printf writes for a user. A failure of the output itself cannot be reported.
func printf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// load reads the configuration that the flags name.
func (o *options) load() (*config.Validated, error) {
	var v *config.Validated
	var err error
	if o.configFile != "" {
		v, err = config.Load(o.configFile)
	} else {
		v, err = config.ForURL(o.gitlabURL, os.Getenv("GITLAB_TOKEN"), o.tokenFile)
	}
	if err == nil {
		err = v.CheckFamilies(familyNames())
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

func familyNames() []string {
	families := collector.Families()
	names := make([]string, len(families))
	for i, f := range families {
		names[i] = f.Name
	}
	return names
}

// checkConfig is --config.check: words for a person, not log lines.
func (p process) checkConfig(ctx context.Context, o *options, v *config.Validated, err error) int {
	if err == nil && *o.web.WebConfigFile != "" {
		err = validateWeb(ctx, *o.web.WebConfigFile)
	}
	if err != nil {
		printf(p.stderr, "%s\n", err)
		return exitFailure
	}
	printf(p.stdout, "%s", v.Summary())
	for _, w := range o.unused(v) {
		printf(p.stdout, "warning: %s\n", w)
	}
	printf(p.stdout, "the configuration is valid\n")
	return exitOK
}

// logConfig gives each mistake of a configuration a line of its own.
func logConfig(l log.Logger, err error) {
	mistakes, ok := errors.AsType[config.Errors](err)
	if !ok {
		_ = level.Error(l).Log("msg", "the configuration cannot be used", "err", err)
		return
	}
	for _, m := range mistakes {
		kv := []any{"msg", "a mistake in the configuration"}
		if m.Line > 0 {
			kv = append(kv, "line", m.Line)
		}
		_ = level.Error(l).Log(append(kv, "path", m.Path, "err", m.Msg)...)
	}
}

func failure(l log.Logger, msg string, err error) int {
	_ = level.Error(l).Log("msg", msg, "err", err)
	return exitFailure
}

// service is the running program: what its one loop works with.
type service struct {
	logger log.Logger
	sup    *supervisor
	load   func() (*config.Validated, error)
	asked  chan chan error // reloads asked for over HTTP
	broken chan error      // what the process cannot go on after
	ended  <-chan struct{} // the process stops
}

// serve runs until ctx ends or something fails.
func (p process) serve(ctx context.Context, o *options, l loggers, v *config.Validated, load func() (*config.Validated, error), hangups <-chan os.Signal) int {
	_ = level.Info(l.own).Log("msg", "starting "+program, "version", version.Version, "revision", version.GetRevision(), "go", version.GoVersion)
	srv, err := listen(ctx, o.web)
	if err != nil {
		return failure(l.own, "the web server cannot be started", err)
	}
	defer srv.close()

	if o.storagePath == "" && !o.demo {
		_ = level.Warn(l.own).Log("msg", "--storage.path is empty: counters are kept in memory and begin anew at the next start")
	}
	folder, err := store.Open(ctx, store.Options{Path: o.storagePath, Layout: ledger.Layout, Logger: l.own})
	if err != nil {
		if ctx.Err() != nil {
			return exitOK // asked to stop while another process still held the folder
		}
		return failure(l.own, "the storage folder cannot be used", err)
	}
	defer func() {
		if err := folder.Close(); err != nil {
			_ = level.Warn(l.own).Log("msg", "the storage folder was not closed", "err", err)
		}
	}()

	s := &service{
		logger: l.own, load: load,
		asked: make(chan chan error), broken: make(chan error, 1), ended: ctx.Done(),
	}
	s.sup = &supervisor{opts: o, logger: l.own, folder: folder, failed: s.fail, running: map[string]*watch{}}
	s.sup.page = newPage(s.sup)
	logWarnings(l.own, v)
	for _, w := range o.unused(v) {
		_ = level.Warn(l.own).Log("msg", w)
	}
	if err := s.sup.apply(ctx, v); err != nil {
		return failure(l.own, "monitoring cannot be started", err)
	}
	s.recordReload(true)

	pages := pages{metrics: s.sup, telemetryPath: o.telemetryPath, prefix: o.prefix(), fleet: s.sup.page, waiting: s.sup.waiting, scrub: o.secrets.Scrub}
	if o.lifecycle {
		pages.reload = s.askReload
	}
	routes := newRoutes(pages)
	if p.demo != nil {
		routes = p.demo.routes(o.prefix(), routes)
	}
	wait := srv.serve(routes, l.slog, s.fail)
	addresses := srv.addresses()
	_ = level.Info(l.own).Log("msg", "listening", "address", strings.Join(addresses, ","), "telemetry_path", o.telemetryPath)
	if p.listening != nil {
		p.listening(addresses)
	}
	if p.demo != nil {
		p.demo.greet(p.greeting, addresses, o, v)
	}

	err = s.loop(ctx, hangups)
	unsaved := s.sup.stop()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer cancel()
	if err := srv.shutdown(drain); err != nil {
		_ = level.Warn(l.own).Log("msg", "answers were still being written and were cut off", "err", err)
	}
	wait()
	if err != nil {
		return failure(l.own, "the exporter cannot go on", err)
	}
	if len(unsaved) > 0 {
		_ = level.Error(l.own).Log("msg", "stopped, but the state could not be saved: what was counted since the last save is not on disk", "gitlabs", strings.Join(unsaved, ","),
			"remedy", "make room on the disk of --storage.path and check its permissions, then start again: jobs within poll.lookback are read and counted again")
		return exitFailure
	}
	_ = level.Info(l.own).Log("msg", "stopped, the state is saved")
	return exitOK
}

// loop owns reloads: one at a time, whoever asks. It returns nil when ctx ends.
func (s *service) loop(ctx context.Context, hangups <-chan os.Signal) error {
	ready := time.NewTicker(readyPoll)
	defer ready.Stop()
	prune := time.NewTicker(pruneInterval)
	defer prune.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.broken:
			return err
		case <-hangups:
			err = s.reload(ctx, "SIGHUP")
		case answer := <-s.asked:
			err = s.reload(ctx, "HTTP")
			answer <- err
		case <-ready.C:
			if len(s.sup.waiting()) == 0 {
				ready.Stop()
				_ = level.Info(s.logger).Log("msg", "ready: each GitLab was tried, or is served from saved state")
			}
		case <-prune.C:
			if err := s.sup.prune(); err != nil {
				_ = level.Warn(s.logger).Log("msg", "the storage folder cannot be tidied", "err", err)
			}
		}
		if errors.Is(err, errBroken) {
			return err
		}
	}
}

// reload loads the configuration and moves to it, or stays.
func (s *service) reload(ctx context.Context, by string) error {
	v, err := s.loadUntil(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // asked to stop while files were being read
	}
	if err != nil {
		logConfig(s.logger, err)
	} else {
		logWarnings(s.logger, v)
		err = s.sup.apply(ctx, v)
	}
	s.recordReload(err == nil)
	if err != nil {
		_ = level.Error(s.logger).Log("msg", "the configuration was not reloaded; the old one stays in force", "by", by, "err", err)
		return err
	}
	_ = level.Info(s.logger).Log("msg", "the configuration was reloaded", "by", by)
	return nil
}

// loadUntil loads the configuration; the end of ctx ends the wait for it. Each
// file has its own deadline, but there may be many on a mount that hangs.
func (s *service) loadUntil(ctx context.Context) (*config.Validated, error) {
	type loaded struct {
		v   *config.Validated
		err error
	}
	done := make(chan loaded, 1)
	go func() {
		v, err := s.load()
		done <- loaded{v, err}
	}()
	select {
	case l := <-done:
		return l.v, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askReload has the loop reload and waits for the outcome.
func (s *service) askReload(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case s.asked <- answer:
	case <-s.ended:
		return errors.New("the exporter is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recordReload sets the metrics of reloads; the first load counts.
func (s *service) recordReload(ok bool) { s.sup.exporter.Load().Self().ConfigReload(ok, time.Now()) }

// fail ends the program; the first cause is the one that is reported.
func (s *service) fail(err error) {
	select {
	case s.broken <- err:
	default:
	}
}

func logWarnings(l log.Logger, v *config.Validated) {
	for _, w := range v.Warnings() {
		_ = level.Warn(l).Log("msg", w)
	}
	for _, g := range v.GitLabs() {
		if g.API == snapshot.APIGraphQL && g.Scope != snapshot.ScopeInstance && g.Scope != snapshot.ScopeGroups {
			_ = level.Warn(l).Log("msg", "api: graphql has no list for this scope; REST is read", "gitlab", g.Name, "scope", g.Scope)
		}
	}
}
