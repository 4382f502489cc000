package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec" //nolint:depguard // a tool that starts the program it measures
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
)

// world is what the simulation gets on its standard input, so that the
// token stands in no process list. When that input ends, so does it: no
// simulation outlives its parent.
type world struct {
	Token     string
	Runners   int
	Active    int // that get jobs; 0: all
	Tags      int
	Jobs      float64 // an hour and runner that gets any
	History   time.Duration
	Latency   time.Duration
	RateLimit int // requests a minute
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
	w := o.make()
	if _, err := simgraphql.Mount(w); err != nil {
		return fmt.Errorf("simulated GraphQL: %w", err)
	}
	control := http.NewServeMux()
	answer := func(path string, f func() any) {
		control.HandleFunc(path, func(rw http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(rw).Encode(f()) // the parent is gone
		})
	}
	answer("/requests", func() any { return counts{w.Requests(), w.RequestsByStatus()} })
	answer("/truth", func() any { return truthOf(w) })
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

// make is the world that was asked for, its history lived through.
func (o world) make() *gitlabsim.World {
	options := gitlabsim.Options{
		Seed: 1, Runners: o.Runners, Tags: o.Tags, JobsPerHour: o.Jobs * float64(o.Runners), History: o.History, Token: o.Token,
		RateLimit: o.RateLimit,
		Latency:   func(string) time.Duration { return o.Latency },
	}
	if o.Active == 0 {
		return gitlabsim.New(options)
	}
	// The simulation draws how much each runner of a fleet of its own making
	// works, and everyone gets a share. A runner that is added can be left out:
	// so a fleet is drawn, and added to an empty world whose clock stands at the
	// beginning of its history.
	began := time.Now().Add(-o.History)
	standing := true
	now := func() time.Time {
		if standing {
			return began
		}
		return time.Now()
	}
	drawn := gitlabsim.New(gitlabsim.Options{Seed: options.Seed, Now: now, Runners: o.Runners, Tags: o.Tags}).Fleet()
	options.Now, options.Runners, options.History, options.JobsPerHour = now, 0, 0, o.Jobs*float64(o.Active)
	w := gitlabsim.New(options)
	var able, idle []int64
	for _, r := range drawn.Runners {
		if r.Alive && !r.Paused {
			able = append(able, r.ID)
		}
	}
	active := map[int64]bool{}
	for k := range min(o.Active, len(able)) {
		active[able[k*len(able)/min(o.Active, len(able))]] = true // spread over the fleet
	}
	var groups, projects int64
	for _, r := range drawn.Runners {
		for groups < r.Group {
			groups = w.AddGroup(fmt.Sprint("group-", groups), 0)
		}
		for projects < slices.Max(append(r.Projects, 0)) {
			projects = w.AddProject(fmt.Sprint("project-", projects), 1)
		}
		spec := gitlabsim.RunnerSpec{
			ID: r.ID, Type: r.Type, Description: r.Description, Tags: r.Tags, RunUntagged: r.RunUntagged, Paused: r.Paused,
			Protected: r.Protected, Group: r.Group, Projects: r.Projects, Managers: len(r.Managers), Offline: !r.Alive,
			LastContact: r.Contacted, Created: r.Created, NoJobs: !active[r.ID],
		}
		if len(r.Managers) == 0 {
			spec.Managers = -1
		}
		if r.Alive && !r.Paused && !active[r.ID] {
			idle = append(idle, r.ID)
		}
		w.AddRunner(spec)
	}
	o.pastJobs(w, idle, began)
	standing = false
	w.Now() // live through it before anyone asks
	return w
}

// pastJobs gives idle runners the jobs that they executed before they fell
// idle, in the first half of the history: what a page of an idle runner holds
// is read all the same.
func (o world) pastJobs(w *gitlabsim.World, idle []int64, began time.Time) {
	each := int(math.Round(min(o.Jobs*o.History.Hours(), 100))) // a page
	for k := range each {
		at := began.Add(o.History / 2 * time.Duration(k) / time.Duration(each))
		for _, id := range idle {
			w.CreateJob(gitlabsim.JobSpec{Runner: id, Created: began, Queued: time.Second, Started: at, Finished: at.Add(o.History / 2 / time.Duration(each))})
		}
	}
}

func truthOf(w *gitlabsim.World) aggregates {
	t := w.Fleet()
	a := aggregates{Runners: len(t.Runners), Executing: len(t.Executing), Tags: map[string]int{}}
	for _, r := range t.Runners {
		a.Managers += len(r.Managers)
	}
	for tag, kinds := range t.TagCounts {
		for _, n := range kinds {
			a.Tags[tag] += n
		}
	}
	return a
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
	s := &simulation{cmd: exec.CommandContext(ctx, self, simulateCommand)}
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
	err = s.ask(ctx, "/requests", &c)
	return c, err
}

func (s *simulation) truth(ctx context.Context) (a aggregates, err error) {
	err = s.ask(ctx, "/truth", &a)
	return a, err
}

func (s *simulation) ask(ctx context.Context, path string, into any) error {
	body, err := fetch(ctx, s.Control+path, "", "")
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	return err
}
