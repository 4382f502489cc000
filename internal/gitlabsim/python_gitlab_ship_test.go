//go:build ship

package gitlabsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestShipPythonGitLabReadsTheTruth lets python-gitlab read the simulated GitLab over HTTP, with
// its own paging, and compares what it saw with the truth.
func TestShipPythonGitLabReadsTheTruth(t *testing.T) {
	const python = "/usr/bin/python3"
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import gitlab").CombinedOutput(); err != nil {
		t.Fatalf("python-gitlab is missing: apt-get install python3-gitlab (%v: %s)", err, out)
	}
	w, _ := newWorld(Options{Seed: 6, Runners: 45, Tags: 12, JobsPerHour: 200, History: 4 * time.Hour, ExternalURL: "https://gitlab.corp.example"})
	paused := len(pausedOnes(w))
	s := httptest.NewServer(w.Handler())
	defer s.Close()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "read_everything.py"), s.URL, apiToken)
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var saw struct {
		User, Version string
		Total         int
		Runners       map[string]struct {
			Type   string
			Paused bool
			Online *bool
			Tags   []string
		}
		Jobs      map[string][][3]any
		Keyset    map[string][]int64
		Managers  map[string][]string
		Owned     int
		Paused    int
		Tagged    []int64
		Group     []int64
		Project   []int64
		JobRunner []any `json:"job_runner"`
		Missing   []any
		Refused   []any
	}
	if err := json.Unmarshal(raw, &saw); err != nil {
		t.Fatal(err)
	}
	truth := w.Truth()
	if saw.User != "boss" || saw.Version != "19.1.0-ee" || saw.Total != 45 || len(saw.Runners) != 45 || saw.Paused != paused {
		t.Errorf("saw user %q, version %q, %d of %d runners, %d paused (truth %d)", saw.User, saw.Version, len(saw.Runners), saw.Total, saw.Paused, paused)
	}
	jobs := map[int64][]string{}
	for _, j := range slices.Concat(truth.Finished, truth.Executing) {
		jobs[j.Runner] = append(jobs[j.Runner], fmt.Sprint(j.ID, j.Status, j.Project))
	}
	owned := 0
	var tagged []int64
	for _, r := range truth.Runners {
		key := strconv.FormatInt(r.ID, 10)
		got := saw.Runners[key]
		if got.Type != r.Type || got.Paused != r.Paused || !slices.Equal(got.Tags, r.Tags) || (got.Online == nil) != r.Contacted.IsZero() || got.Online != nil && *got.Online != r.Online {
			t.Errorf("runner %d: saw %+v, truth %+v", r.ID, got, r)
		}
		var seen []string
		var descending []int64
		for _, j := range saw.Jobs[key] {
			seen = append(seen, fmt.Sprint(int64(j[0].(float64)), j[1], int64(j[2].(float64))))
			descending = append(descending, int64(j[0].(float64)))
		}
		slices.Reverse(descending)
		if !slices.Equal(descending, saw.Keyset[key]) {
			t.Errorf("runner %d: by keyset %v, by pages %v", r.ID, saw.Keyset[key], descending)
		}
		slices.Sort(seen)
		slices.Sort(jobs[r.ID])
		if !slices.Equal(seen, jobs[r.ID]) {
			t.Errorf("runner %d: saw jobs %v, truth %v", r.ID, seen, jobs[r.ID])
		}
		var systems []string
		for _, m := range r.Managers {
			systems = append(systems, m.SystemID)
		}
		if !slices.Equal(systems, saw.Managers[key]) {
			t.Errorf("runner %d: saw machines %v, truth %v", r.ID, saw.Managers[key], systems)
		}
		if r.Type != "instance_type" {
			owned++
		}
		if slices.Contains(r.Tags, "docker") {
			tagged = append(tagged, r.ID)
		}
	}
	slices.Sort(tagged)
	if saw.Owned != owned || !slices.Equal(saw.Tagged, tagged) || len(saw.Group) == 0 || len(saw.Project) == 0 || len(tagged) == 0 {
		t.Errorf("owned %d (truth %d), tagged %v (truth %v), group %v, project %v", saw.Owned, owned, saw.Tagged, tagged, saw.Group, saw.Project)
	}
	if fmt.Sprint(saw.JobRunner[0]) != fmt.Sprint(saw.JobRunner[1]) {
		t.Errorf("job's runner %v", saw.JobRunner)
	}
	if fmt.Sprint(saw.Missing) != "[404 404 Runner Not Found]" {
		t.Errorf("missing: saw %v", saw.Missing)
	}
	if len(saw.Refused) != 2 || !strings.Contains(fmt.Sprint(saw.Refused), "400 type does not have a valid value") {
		t.Errorf("refused: %v", saw.Refused)
	}
}

func pausedOnes(w *World) (l []int64) {
	for _, r := range w.Truth().Runners {
		if r.Paused {
			l = append(l, r.ID)
		}
	}
	return l
}
