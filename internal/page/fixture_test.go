package page

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// noon is the present of the fixtures.
var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// world builds snapshots directly: no monitor, no GitLab.
type world struct {
	gitlabs  []*snapshot.GitLab
	evidence map[int64]snapshot.HealthEvidence
	now      time.Time
}

func (w *world) page(o Options) *Page {
	o.Pictures = func() []*snapshot.GitLab { return w.gitlabs }
	if w.evidence != nil {
		o.Evidence = func(_ string, id int64) (snapshot.HealthEvidence, bool) {
			e, ok := w.evidence[id]
			return e, ok
		}
	}
	o.Now = func() time.Time { return w.now }
	return New(o)
}

// build is a GitLab that is being put together.
type build struct{ *snapshot.GitLab }

func newBuild(name string) build {
	s := &snapshot.GitLab{
		Name: name, URL: "https://" + name + ".example.com", Version: "18.6.1", Generation: 1, RowsGeneration: 1, Time: noon.Add(-5 * time.Second), Up: true,
		Scopes: []snapshot.ScopeState{{Kind: snapshot.ScopeInstance, Up: true}},
		Fleet:  &snapshot.Fleet{Detailed: true, MachinesWhole: true, JobsWhole: true},
		Health: &snapshot.HealthPicture{Time: noon.Add(-5 * time.Second)},
	}
	s.Self.Stages[snapshot.StageRunners] = snapshot.StageState{LastSuccess: noon.Add(-20 * time.Second), Interval: time.Minute}
	return build{s}
}

// runner adds a healthy runner and returns it to be changed. Ids rise.
func (b build) runner(id int64, description string, tags ...string) *snapshot.Runner {
	slices.Sort(tags)
	b.Fleet.Rows = append(b.Fleet.Rows, snapshot.Runner{
		ID: id, Description: description, Tags: tags, Version: "18.6.0", Platform: "linux", Arch: "amd64",
		ContactedAt: noon.Add(-4 * time.Minute), LastSeen: noon.Add(-4 * time.Minute), DetailsAt: noon.Add(-time.Duration(id%13+1) * time.Minute),
		ManagersOnline: 1, ManagersKnown: 1,
	})
	return &b.Fleet.Rows[len(b.Fleet.Rows)-1]
}

// ill adds a verdict on the last runner.
func (b build) ill(change func(*snapshot.Ill)) {
	r := &b.Fleet.Rows[len(b.Fleet.Rows)-1]
	i := snapshot.Ill{ID: r.ID, Type: r.Type, Paused: r.Paused, LastSeen: r.LastSeen}
	change(&i)
	b.Health.Ill = append(b.Health.Ill, i)
}

func (b build) down(reason snapshot.HealthReason, since time.Time) {
	b.Fleet.Rows[len(b.Fleet.Rows)-1].LastSeen = since.Add(-time.Hour)
	b.ill(func(i *snapshot.Ill) { i.Health, i.Reason, i.Since = snapshot.HealthDown, reason, since })
}

// sum fills in the tags from the rows, as internal/inventory does.
func (b build) sum() *snapshot.GitLab {
	ill := map[int64]*snapshot.Ill{}
	if b.Health != nil {
		for i := range b.Health.Ill {
			ill[b.Health.Ill[i].ID] = &b.Health.Ill[i]
		}
	}
	tags := map[string]*snapshot.Tag{}
	for i := range b.Fleet.Rows {
		r := &b.Fleet.Rows[i]
		paused := 0
		if r.Paused {
			paused = 1
		}
		for _, name := range r.Tags {
			t := tags[name]
			if t == nil {
				t = &snapshot.Tag{Name: name}
				tags[name] = t
			}
			if t.Runners[r.Type] == nil {
				t.Runners[r.Type] = new([snapshot.NumStatuses][2]int)
			}
			t.Runners[r.Type][r.Status][paused]++
			if r.Status == snapshot.Online && !r.Paused {
				t.Available++
				if x := ill[r.ID]; x == nil || x.Usable() {
					t.Usable++
				}
			}
		}
	}
	names := make([]string, 0, len(tags))
	for n := range tags {
		names = append(names, n)
	}
	slices.Sort(names)
	gone := b.Fleet.Tags
	b.Fleet.Tags = nil
	for _, n := range names {
		b.Fleet.Tags = append(b.Fleet.Tags, *tags[n])
	}
	b.Fleet.Tags = append(b.Fleet.Tags, gone...)
	return b.GitLab
}

// gone adds a tag whose runners were deleted.
func (b build) gone(tag string, lastAvailable time.Time) {
	t := snapshot.Tag{Name: tag, LastAvailable: lastAvailable}
	t.Runners[0] = new([snapshot.NumStatuses][2]int)
	b.Fleet.Tags = append(b.Fleet.Tags, t)
}

// healthy is five runners that are well.
func healthy() *world {
	b := newBuild("corp")
	for id := range int64(5) {
		b.runner(id+1, fmt.Sprintf("build-%02d", id+1), "docker", "linux")
	}
	b.Expected = []snapshot.Expected{{Tag: "docker", Runners: 2}}
	return &world{gitlabs: []*snapshot.GitLab{b.sum()}, now: noon}
}

// small is five runners of which some are in trouble.
func small() *world {
	b := newBuild("corp")
	b.runner(1, "gpu-a100-01", "cuda", "gpu")
	b.down(snapshot.HealthJobSilent, noon.Add(-22*time.Minute))
	b.Health.Ill[0].OrphanedJobs = 1
	b.Health.Ill[0].Jobs = []snapshot.JobRef{{ID: 901, URL: "https://corp.example.com/g/p/-/jobs/901"}, {ID: 902}}
	r := b.runner(2, "gpu-a100-02", "cuda", "gpu")
	r.Paused, r.PausedSince = true, noon.Add(-3*time.Hour)
	b.runner(3, "build-01", "docker", "linux")
	b.runner(4, "build-02", "docker", "linux")
	b.ill(func(i *snapshot.Ill) {
		i.Suspects[snapshot.SuspectBlackHole] = noon.Add(-9 * time.Minute)
		i.Grounds[snapshot.SuspectBlackHole] = snapshot.Grounds{Jobs: 9, Projects: 3, Seconds: 8, Elsewhere: 14}
		i.ConsecutiveFailed = 9
	})
	b.runner(5, "build-03", "docker", "linux")
	b.Expected = []snapshot.Expected{{Tag: "gpu", Runners: 2}}
	b.Health.Runners[0][snapshot.HealthDown][snapshot.HealthJobSilent][0] = 1
	return &world{gitlabs: []*snapshot.GitLab{b.sum()}, now: noon, evidence: map[int64]snapshot.HealthEvidence{1: {
		Health: snapshot.HealthDown, Reason: snapshot.HealthJobSilent, Since: noon.Add(-22 * time.Minute), FirstSeen: noon.AddDate(0, -3, 0),
		ReadAt: noon.Add(-20 * time.Second), LastSeen: noon.Add(-33 * time.Minute), ContactedAt: noon.Add(-33 * time.Minute), LastStart: noon.Add(-50 * time.Minute),
		LastEnd: noon.Add(-52 * time.Minute), Silence: 33 * time.Minute, Habit: 58 * time.Minute, Limit: 70 * time.Minute, Missed: 3, Chance: 2e-6, Hits: 88, Misses: 1, Peers: 1,
		ConsecutiveFailed: 0,
	}}}
}

// large is 5,000 runners and 40 problems.
func large() *world {
	b := newBuild("corp")
	sites := []string{"ams", "fra", "sin", "iad", "pdx"}
	for id := int64(1); id <= 5000; id++ {
		site := sites[id%5]
		b.runner(id, fmt.Sprintf("ci-%s-%04d", site, id), "docker", "linux", "site-"+site, fmt.Sprintf("team-%02d", id%83))
		row := &b.Fleet.Rows[len(b.Fleet.Rows)-1]
		switch {
		case site == "sin" && id < 905: // a site lost its network: 181 of them
			b.down(snapshot.HealthSilentAmongPeers, noon.Add(-47*time.Minute+time.Duration(id%7)*time.Minute))
		case id%700 == 3:
			b.down(snapshot.HealthSilent, noon.Add(-time.Duration(id)*time.Minute/10))
		case id%900 == 8:
			b.down(snapshot.HealthJobSilent, noon.Add(-time.Duration(id%50+12)*time.Minute))
			b.Health.Ill[len(b.Health.Ill)-1].OrphanedJobs = 1
		case id%1200 == 6:
			b.ill(func(i *snapshot.Ill) {
				i.Suspects[snapshot.SuspectBlackHole] = noon.Add(-time.Duration(id%40+3) * time.Minute)
				i.Grounds[snapshot.SuspectBlackHole] = snapshot.Grounds{Jobs: 9, Projects: 3, Seconds: 8, Elsewhere: 15, Failed: 1}
				i.ConsecutiveFailed = 9
			})
		case id%1600 == 11:
			b.ill(func(i *snapshot.Ill) {
				i.Suspects[snapshot.SuspectInfrastructure] = noon.Add(-5 * time.Hour)
				i.Grounds[snapshot.SuspectInfrastructure] = snapshot.Grounds{Jobs: 7, Projects: 4, Elsewhere: 311, Failed: 6, Expected: 0.6}
			})
		case id%1000 == 21:
			b.ill(func(i *snapshot.Ill) {
				i.Health, i.Reason, i.Since = snapshot.HealthOverdue, snapshot.HealthSilent, noon.Add(-8*time.Minute)
			})
		case id%500 == 77:
			row.Paused, row.PausedSince = true, noon.Add(-26*time.Hour)
		case id%600 == 99:
			row.Status, row.StatusSince = snapshot.Stale, noon.AddDate(0, 0, -40)
			b.down(snapshot.HealthAbandoned, noon.AddDate(0, 0, -80))
		}
	}
	for id := int64(5001); id <= 5006; id++ { // pools of their own
		b.runner(id, fmt.Sprintf("gpu-h100-%d", id-5000), "gpu", "h100")
		if id > 5001 {
			b.down(snapshot.HealthJobSilent, noon.Add(-time.Duration(id-4990)*time.Minute))
		}
	}
	for id := int64(5007); id <= 5009; id++ {
		r := b.runner(id, fmt.Sprintf("mac-mini-%d", id-5006), "macos", "xcode-17")
		r.Paused, r.PausedSince = true, noon.Add(-100*time.Minute)
	}
	b.gone("windows-2019", noon.Add(-37*time.Minute))
	b.gone("legacy-arm", noon.AddDate(0, 0, -5))
	b.Expected = []snapshot.Expected{{Tag: "gpu", Runners: 3}, {Tag: "macos", Runners: 2}, {Tag: "prod-deploy", Runners: 1}}
	b.Self.First = nil
	return &world{gitlabs: []*snapshot.GitLab{b.sum()}, now: noon}
}

// hostile is what anyone with a runner's token can write into names and tags.
func hostile() *world {
	b := newBuild("corp")
	names := []string{
		`<script>document.title="run"</script><img src=x onerror="document.title='run'">`,
		"\u202egnitsil eht dne eht morf\u202c عامل البناء רץ",
		strings.Repeat("漢", 255),
		`"><a href="javascript:document.title='run'">x</a>`,
		strings.Repeat("W", 255),
		"",
	}
	for i, n := range names {
		b.runner(int64(i+1), n, "t", `"><script>document.title="run"</script>`, strings.Repeat("長", 300), "a b/c?d#e&f%20+")
		b.down(snapshot.HealthSilent, noon.Add(-time.Duration(i*40+5)*time.Minute))
	}
	return &world{gitlabs: []*snapshot.GitLab{b.sum()}, now: noon}
}

func TestFixtureHasASilentSite(t *testing.T) {
	w := large()
	s := w.gitlabs[0]
	silent := 0
	for _, i := range s.Health.Ill {
		if i.Reason == snapshot.HealthSilentAmongPeers {
			silent++
		}
	}
	if silent != 181 || len(s.Fleet.Rows) != 5009 {
		t.Errorf("%d silent of %d", silent, len(s.Fleet.Rows))
	}
	if !slices.IsSortedFunc(s.Health.Ill, func(a, b snapshot.Ill) int { return int(a.ID - b.ID) }) {
		t.Error("not sorted")
	}
}
