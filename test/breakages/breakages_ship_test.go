//go:build ship

package breakages

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

const (
	// settled is when everything breaks: by then the windows of half an hour
	// are full.
	settled = 45 * time.Minute
	// watched is how long after that nothing else may arrive. The last ones are
	// mended at lastHealed: pages fire on for 15m, tickets are sent every 30m.
	watched    = lastHealed + 45*time.Minute
	lastHealed = 3*time.Hour + 45*time.Minute
	// slack is real time, for what does not run faster: the exporter commits
	// once a second, and a machine stalls now and then.
	slack = 20 * time.Second
)

// expected is what has to arrive, and when at the latest after the breakage:
// the table of alerts/README.md.
type expected struct {
	what   string
	within time.Duration
	from   func(v *town) time.Time // instead of the breakage
	passes bool                    // it is over before anybody mends anything
}

type breakage struct {
	name   string
	poll   string // of the exporter, beside the defaults
	expect []expected
	strike func(v *town)
	heal   func(v *town)
	healed time.Duration // after the breakage
}

func dead(v *town) time.Time { return v.died }

// waited is when the first job was taken that had waited for five minutes.
func waited(v *town) (first time.Time) {
	for _, j := range v.world.Truth().Finished {
		if j.Queued >= 5*time.Minute && slices.Contains(v.runners["windows"], j.Runner) && (first.IsZero() || j.Picked.Before(first)) {
			first = j.Picked
		}
	}
	return first
}

func breakages() []breakage {
	return []breakage{
		{
			name:   "gitlab-down",
			expect: []expected{{what: "page GitLabRunnerFleetGitLabUnreadable", within: 10 * time.Minute}},
			// A status after which the exporter does not try again at once: the
			// waits between its tries, 20 s in all, do not run faster.
			strike: func(v *town) { v.mend = v.world.AddFault(gitlabsim.Fault{Status: 530}) },
			heal:   func(v *town) { v.mend() },
			healed: 30 * time.Minute,
		},
		{
			name:   "token-revoked",
			expect: []expected{{what: "page GitLabRunnerFleetTokenRefused unauthorized", within: 10 * time.Minute}},
			strike: func(v *town) { v.world.RevokeToken(token) },
			heal: func(v *town) {
				v.world.AddToken(spec(token))
			},
			healed: 30 * time.Minute,
		},
		{
			// They die between two jobs, with a contact a moment ago.
			name:   "tag-dies",
			expect: []expected{{what: "page GitLabRunnerTagLost gpu", within: 2*time.Hour + 15*time.Minute}},
			strike: func(v *town) { v.switchAll("gpu", false) },
			heal:   func(v *town) { v.switchAll("gpu", true) },
			healed: lastHealed,
		},
		{
			// With its job. Verdicts of health are passed by the exporter's own times, which
			// do not run faster: 6 minutes are two hours here. So it is found by what GitLab
			// says, and in one notification.
			name:   "machine-dies",
			expect: []expected{{what: "ticket GitLabRunnerOffline {shell 0}", within: 3*time.Hour + 40*time.Minute, from: dead}},
			strike: func(v *town) {
				r := v.runners["shell"][0]
				// GitLab fails it when it has heard nothing of it for an hour.
				v.runs(r, gitlabsim.JobSpec{Status: "failed", Reason: "no_updates_running"}, time.Hour)
				time.Sleep(lived(2 * time.Minute))
				v.world.SetOnline(r, false)
				v.died = v.now()
			},
			heal:   func(v *town) { v.world.SetOnline(v.runners["shell"][0], true) },
			healed: lastHealed,
		},
		{
			name: "black-hole",
			expect: []expected{{
				what: "ticket GitLabRunnerBlackHole {added}", within: 20 * time.Minute,
				from: func(v *town) time.Time { return v.nth(v.added, 8) },
			}},
			strike: func(v *town) {
				v.added = v.world.AddRunner(gitlabsim.RunnerSpec{
					Tags: []string{"docker", "linux"}, RunUntagged: true, Description: "hole-1", Version: "19.1.0", BlackHole: true, Weight: 15,
				})
			},
			heal:   func(v *town) { v.world.Pause(v.added, true) },
			healed: 80 * time.Minute,
		},
		{
			name:   "queue-jam",
			expect: []expected{{what: "ticket GitLabRunnerTagSaturated windows", within: 25 * time.Minute, from: waited}},
			strike: func(*town) {}, heal: func(*town) {}, // its line of jobs is told by the clock
			healed: 75 * time.Minute,
		},
		{
			name:   "mass-pause",
			expect: []expected{{what: "ticket GitLabRunnerMassPause group_type", within: 20 * time.Minute}},
			strike: func(v *town) { v.pauseSome("kubernetes", 7, true) },
			heal:   func(v *town) { v.pauseSome("kubernetes", 7, false) },
			healed: 60 * time.Minute,
		},
		{
			// One runner is deleted, the others lose the tag.
			name:   "tag-deleted",
			poll:   "details_interval: " + ms(lived(15*time.Minute)),
			expect: []expected{{what: "page GitLabRunnerTagLost arm64", within: 25 * time.Minute}},
			strike: func(v *town) {
				r := v.runners["arm64"]
				v.world.DeleteRunner(r[0])
				v.world.SetTags(r[1], []string{"docker"})
				v.world.SetTags(r[2], []string{"docker"})
			},
			heal: func(v *town) {
				r := v.runners["arm64"]
				v.world.SetTags(r[1], []string{"docker", "arm64"})
				v.world.SetTags(r[2], []string{"docker", "arm64"})
			},
			healed: 60 * time.Minute,
		},
		{
			// The other process goes on, and so do sums and alerts.
			name:   "blind-replica",
			expect: []expected{{what: "ticket GitLabRunnerFleetReplicaBlind", within: 25 * time.Minute}},
			strike: func(v *town) { v.world.RevokeToken(tokenOfReplica) },
			heal:   func(v *town) { v.world.AddToken(spec(tokenOfReplica)) },
			healed: 80 * time.Minute,
		},
		{
			// Its replica has been blind from the beginning, which is known and silenced. A
			// tag with a floor is paused behind that.
			name:   "silenced",
			expect: []expected{{what: "page GitLabRunnerTagLost gpu", within: 15 * time.Minute}},
			strike: func(v *town) { v.pauseSome("gpu", 3, true) },
			heal:   func(v *town) { v.pauseSome("gpu", 3, false) },
			healed: 60 * time.Minute,
		},
		{
			// The hour in which a proxy answers 404 to everything says nothing of runners.
			name:   "proxy-404",
			expect: []expected{{what: "page GitLabRunnerFleetGitLabUnreadable", within: 10 * time.Minute}},
			strike: func(v *town) { v.mend = v.world.AddFault(gitlabsim.Fault{Status: http.StatusNotFound}) },
			heal:   func(v *town) { v.mend() },
			healed: 60 * time.Minute,
		},
		{
			// An autoscaler takes the last machine away: the floor 0 says that it may.
			name: "nightly",
			strike: func(v *town) {
				for _, r := range v.runners["nightly"] {
					v.world.DeleteRunner(r)
				}
			},
			heal: func(v *town) {
				for range v.runners["nightly"] {
					v.world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"nightly"}, NoJobs: true, Description: "nightly", Version: "19.1.0"})
				}
			},
			healed: 2 * time.Hour,
		},
		{
			// All of a type, and with them four tags.
			name:   "maintenance",
			expect: []expected{{what: "ticket GitLabRunnerMassPause group_type", within: 20 * time.Minute}},
			strike: func(v *town) { v.pauseSome("kubernetes", 12, true) },
			heal:   func(v *town) { v.pauseSome("kubernetes", 12, false) },
			healed: 2 * time.Hour,
		},
	}
}

func (v *town) switchAll(kind string, online bool) {
	for _, r := range v.runners[kind] {
		v.world.SetOnline(r, online)
	}
}

// pauseSome pauses the first n runners of a kind.
func (v *town) pauseSome(kind string, n int, paused bool) {
	for _, r := range v.runners[kind][:n] {
		v.world.Pause(r, paused)
	}
}

// named puts the ids of runners into what is expected.
func (e expected) named(v *town) string {
	decimal := func(id int64) string { return strconv.FormatInt(id, 10) }
	return strings.NewReplacer("{shell 0}", decimal(v.runners["shell"][0]), "{added}", decimal(v.added)).Replace(e.what)
}

// TestShipBreakages breaks thirteen GitLabs and leaves two alone but for their
// daily noise.
func TestShipBreakages(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "exporter")
	run(t, "go", "build", "-o", binary, root)
	e := era{real: time.Now(), world: time.Date(2026, time.March, 3, 9, 0, 0, 0, time.UTC)}
	all := breakages()
	towns := map[string]*town{}
	var order []*town
	polls := map[string]string{}
	add := func(name string) {
		v := build(t, e, uint64(len(order)+1), name)
		if v.twice = name == "blind-replica" || name == "silenced"; v.twice {
			v.world.AddToken(spec(tokenOfReplica))
		}
		towns[name], order = v, append(order, v)
	}
	for _, b := range all {
		add(b.name)
		polls[b.name] = b.poll
	}
	add("healthy-1")
	add("healthy-2")

	box := newMailbox(t)
	exporter, alertmanager := stack(t, dir, binary, order, polls, box.url)
	t.Logf("everything stands after %v", time.Since(e.real).Round(time.Millisecond))
	silence(t, alertmanager, "GitLabRunnerFleetReplicaBlind", "silenced")

	for _, v := range order {
		v.world.Resume()
	}
	ctx, stop := context.WithCancel(t.Context())
	var going sync.WaitGroup
	defer going.Wait()
	defer stop()
	var jamFrom atomic.Pointer[time.Time]
	for _, v := range order {
		jammed := func() time.Time { return time.Time{} }
		if v.name == "queue-jam" {
			jammed = func() time.Time {
				if at := jamFrom.Load(); at != nil {
					return *at
				}
				return time.Time{}
			}
		}
		going.Go(func() { v.line(ctx, "windows", jammed) })
		if strings.HasPrefix(v.name, "healthy") {
			going.Go(func() { v.life(ctx) })
		}
	}

	// All times are the world's, from here on.
	begin := e.now()
	until := func(d time.Duration) { time.Sleep(time.Until(e.seen(begin.Add(d)))) }
	until(15 * time.Minute)
	towns["silenced"].world.RevokeToken(tokenOfReplica)
	until(settled - 5*time.Minute)
	for _, v := range order {
		for _, r := range v.runners["gpu"] {
			v.runs(r, gitlabsim.JobSpec{}, 3*time.Minute)
		}
	}
	until(settled)
	for _, a := range box.all() {
		t.Errorf("before anything broke: %s: %s: %s", a.gitlab, a.what, a.annotations["description"])
	}
	broke := e.now()
	struck := map[string]time.Time{}
	for _, b := range all {
		if b.name == "queue-jam" {
			at := e.now()
			jamFrom.Store(&at)
		}
		struck[b.name] = e.now()
		b.strike(towns[b.name])
	}
	mended := map[string]time.Time{}
	byHeal := slices.Clone(all)
	slices.SortStableFunc(byHeal, func(a, b breakage) int { return int(a.healed - b.healed) })
	for _, b := range byHeal {
		until(settled + b.healed)
		mended[b.name] = e.now()
		if b.name == "queue-jam" {
			jamFrom.Store(nil)
		}
		b.heal(towns[b.name])
	}
	// No more work, so that at the end all that was done can be counted.
	stop()
	for _, v := range order {
		v.world.Quiesce()
	}
	until(settled + watched)

	got := box.all()
	for _, b := range all {
		v := towns[b.name]
		var want []string
		for _, x := range b.expect {
			want = append(want, x.named(v))
		}
		for _, a := range got {
			if a.times > 0 && a.gitlab == v.name && !slices.Contains(want, a.what) {
				t.Errorf("%s: %s arrived after %v and was not expected: %s", v.name, a.what, e.after(struck[b.name], a.first), a.annotations["description"])
			}
		}
		for i, x := range b.expect {
			k := slices.IndexFunc(got, func(a arrival) bool { return a.times > 0 && a.gitlab == v.name && a.what == want[i] })
			if k < 0 {
				t.Errorf("%s: %s did not arrive", v.name, want[i])
				continue
			}
			a, from := got[k], struck[b.name]
			if x.from != nil {
				from = x.from(v)
			}
			took := e.after(from, a.first)
			over := e.after(mended[b.name], a.solved)
			t.Logf("%s: %s after %v (%v of real time), over %v after it was mended, told %d times\n\t%s\n\t%s\n\t%s", v.name, a.what, took,
				lived(took).Round(time.Millisecond), over, a.times, a.annotations["summary"], a.annotations["description"], a.annotations["dashboard_url"])
			if limit := x.within + span(slack); took > limit {
				t.Errorf("%s: %s took %v, more than %v", v.name, a.what, took, limit)
			}
			switch {
			case a.solved.IsZero():
				t.Errorf("%s: %s: no word that it is over", v.name, a.what)
			case over < 0 != x.passes:
				t.Errorf("%s: %s: over %v after it was mended", v.name, a.what, over)
			}
		}
	}
	for _, a := range got {
		if a.times == 0 {
			continue
		}
		if b := slices.IndexFunc(all, func(b breakage) bool { return b.name == a.gitlab }); b < 0 {
			t.Errorf("%q is healthy, and %s arrived %v after the others broke: %s", a.gitlab, a.what, e.after(broke, a.first), a.annotations["description"])
			t.Logf("%s: jobs that really hung: %v", a.gitlab, towns[a.gitlab].hung())
		}
	}
	for _, s := range box.bad {
		t.Errorf("a notification cannot be read: %s", s)
	}

	// What ended while GitLab could not be read was counted when it could again; what
	// waited long for its start and was then too short to be seen, by the next whole
	// deeper walk.
	var wrong []string
	for deadline := time.Now().Add(lived(2 * time.Hour)); ; time.Sleep(time.Second) {
		if wrong = miscounted(t, exporter, order); len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, s := range wrong {
		t.Error(s)
	}
	// What the exporter could not see or was kept from is no runner that left.
	for counter, want := range map[string]map[string]float64{
		"runners_left":   {"proxy-404": 0, "gitlab-down": 0, "token-revoked": 0, "maintenance": 0, "nightly": 2, "tag-deleted": 1},
		"runners_joined": {"proxy-404": 0, "gitlab-down": 0, "token-revoked": 0, "maintenance": 0, "nightly": 2, "black-hole": 1},
	} {
		got := counted(t, exporter, counter)
		for gitlab, n := range want {
			if v, ok := got[gitlab]; !ok || v != n {
				t.Errorf("%s: %s is %v, want %v", gitlab, counter, v, n)
			}
		}
	}
}

// miscounted tells of which GitLabs the exporter did not count each job once.
func miscounted(t *testing.T, exporter string, towns []*town) (wrong []string) {
	t.Helper()
	got := counted(t, exporter, "jobs_finished")
	for _, v := range towns {
		least, most := v.finished()
		if n := int(got[v.name]); most < 500 || n < least || n > most {
			wrong = append(wrong, fmt.Sprintf("%s: %d to %d jobs ended, %d were counted", v.name, least, most, n))
		}
	}
	return wrong
}

func (e era) after(world, at time.Time) time.Duration {
	return e.world.Add(span(at.Sub(e.real))).Sub(world).Round(time.Second)
}
