package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec" //nolint:depguard // a tool that starts the program it measures
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// world is what the simulation is told on its standard input, so that the
// token stands in no process list. When that input ends, so does it: no
// simulation outlives its parent.
type world struct {
	Token       string
	Runners     int
	Tags        int
	JobsPerHour float64
	History     time.Duration
	Latency     time.Duration
	RateLimit   int // requests a minute
}

// addresses is its answer on standard output.
type addresses struct{ API, Control string }

// counts is what the control address answers: requests by route and by status.
type counts struct {
	Routes   map[string]int
	Statuses map[int]int
}

func (c counts) total() (n int) {
	for _, v := range c.Routes {
		n += v
	}
	return n
}

// simulate is the simulated GitLab, as a process of its own: its CPU and
// memory must not be taken for the exporter's.
func simulate(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	var o world
	in := json.NewDecoder(stdin)
	if err := in.Decode(&o); err != nil {
		return fmt.Errorf("read the options: %w", err)
	}
	w := gitlabsim.New(gitlabsim.Options{
		Seed: 1, Runners: o.Runners, Tags: o.Tags, JobsPerHour: o.JobsPerHour, History: o.History, Token: o.Token,
		RateLimit: o.RateLimit,
		Latency:   func(string) time.Duration { return o.Latency },
	})
	control := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(counts{w.Requests(), w.RequestsByStatus()}) // the parent is gone
	})
	var a addresses
	for _, s := range []struct {
		address *string
		handler http.Handler
	}{{&a.API, w.Handler()}, {&a.Control, control}} {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*s.address = "http://" + l.Addr().String()
		srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: time.Minute}
		defer func() { _ = srv.Close() }()
		go func() { _ = srv.Serve(l) }() // ends with Close
	}
	if err := json.NewEncoder(stdout).Encode(a); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, io.MultiReader(in.Buffered(), stdin))
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

// simulation is the running child.
type simulation struct {
	addresses

	cmd   *exec.Cmd
	stdin io.Closer
}

func startSimulation(ctx context.Context, o world, stderr io.Writer) (*simulation, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &simulation{cmd: exec.CommandContext(ctx, self, simulateCommand)} //nolint:gosec // this program
	s.cmd.Stderr = stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.stdin = in
	if err = json.NewEncoder(in).Encode(o); err == nil {
		err = json.NewDecoder(out).Decode(&s.addresses)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("start the simulated GitLab: %w", err)
	}
	return s, nil
}

func (s *simulation) stop() {
	_ = s.stdin.Close()
	_ = s.cmd.Wait() // its end is all that is wanted
}

func (s *simulation) counts(ctx context.Context) (c counts, err error) {
	body, err := fetch(ctx, s.Control, "", "")
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	return c, err
}
