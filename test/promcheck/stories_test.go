package promcheck

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/page"
	"gitlab-runner-fleet-exporter/internal/queue"
)

// company is a fleet of 24 runners in four pools that execute jobs all day.
func company(seed uint64) (o gitlabsim.Options, pools func(w *gitlabsim.World) map[string][]int64) {
	o = gitlabsim.Options{Seed: seed, JobsPerHour: 600, History: time.Hour, TickPeers: true, Shape: gitlabsim.JobShape{MeanQueued: 5 * time.Second}}
	return o, func(w *gitlabsim.World) map[string][]int64 {
		out := map[string][]int64{}
		for _, tag := range []string{"docker", "linux", "shell", "arm"} {
			for range 6 {
				out[tag] = append(out[tag], w.AddRunner(gitlabsim.RunnerSpec{Tags: []string{tag}, Created: w.Now().Add(-30 * 24 * time.Hour)}))
			}
		}
		// One that is there for jobs which seldom come.
		for range 2 {
			out["deploy"] = append(out["deploy"], w.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"deploy"}, Created: w.Now().Add(-30 * 24 * time.Hour), NoJobs: true}))
		}
		return out
	}
}

// TestPageMetricsAndNotificationsAgree: in each of five stories the notification, of
// the right severity and once, the metrics and the page name the same, at the same
// time, and nothing else.
func TestPageMetricsAndNotificationsAgree(t *testing.T) {
	if testing.Short() {
		t.Skip("lives through five times four hours")
	}
	const begins = 90 // minute
	for name, c := range map[string]struct {
		happen  func(w *gitlabsim.World, pools map[string][]int64, minute int) (runner int64)
		want    func(runner int64) []string
		metrics func(s scrape, runner string) bool
		page    func(p reported, runner int64) bool
		// The page must show it while the notification is out, for at least so long.
		minutes int
	}{
		"death in mid-job": {
			happen: func(w *gitlabsim.World, pools map[string][]int64, minute int) int64 {
				if minute != begins {
					return 0
				}
				id := pools["docker"][0]
				w.CreateJob(gitlabsim.JobSpec{Runner: id, Started: w.Now(), Tags: []string{"docker"}})
				w.SetOnline(id, false)
				return id
			},
			want: func(id int64) []string {
				return []string{"warning GitLabRunnerOrphanedJobs " + strconv.FormatInt(id, 10)}
			},
			metrics: func(s scrape, id string) bool {
				n, ok := s.at("runner_orphaned_jobs", "runner_id", id)
				return ok && n >= 1
			},
			page: func(p reported, id int64) bool {
				for _, r := range p.Runners {
					if r.ID == id {
						return r.Orphaned >= 1 && (r.Health == "down" || r.Health == "overdue")
					}
				}
				return false
			},
			minutes: 10,
		},
		"black hole": {
			happen: func(w *gitlabsim.World, _ map[string][]int64, minute int) int64 {
				if minute != begins {
					return 0
				}
				return w.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"docker"}, BlackHole: true})
			},
			want: func(id int64) []string { return []string{"warning GitLabRunnerBlackHole " + strconv.FormatInt(id, 10)} },
			metrics: func(s scrape, id string) bool {
				_, ok := s.at("runner_suspect_since_timestamp_seconds", "runner_id", id, "reason", "black_hole")
				return ok
			},
			page: func(p reported, id int64) bool {
				for _, r := range p.Runners {
					if r.ID == id {
						return len(r.Suspects) > 0 && r.Suspects[0].Reason == "black_hole"
					}
				}
				return false
			},
			minutes: 30,
		},
		"wedged pool": {
			happen: func(w *gitlabsim.World, pools map[string][]int64, minute int) int64 {
				if minute != begins {
					return 0
				}
				for range 7 {
					w.CreateJob(gitlabsim.JobSpec{Tags: []string{"deploy"}})
				}
				return pools["deploy"][0]
			},
			want: func(int64) []string { return []string{"warning GitLabRunnerTagWedged deploy"} },
			metrics: func(s scrape, _ string) bool {
				n, _ := s.at("queue_tag_jobs", "tag", "deploy")
				busy, ok := s.at("tag_busy_runners", "tag", "deploy")
				return n == 7 && ok && busy == 0
			},
			page: func(p reported, _ int64) bool {
				return !slices.ContainsFunc(p.Tags, func(t page.Tag) bool { return t.Tag == "deploy" && t.Problem == "lost" })
			},
			minutes: 60,
		},
		"outage of GitLab": {
			happen: func(w *gitlabsim.World, _ map[string][]int64, minute int) int64 {
				if minute == begins {
					w.AddFault(gitlabsim.Fault{Status: 502, Until: w.Now().Add(40 * time.Minute)})
				}
				return 0
			},
			want: func(int64) []string { return []string{"critical GitLabRunnerFleetGitLabUnreadable"} },
			metrics: func(s scrape, _ string) bool {
				up, ok := s.at("up")
				return ok && up == 0
			},
			page: func(p reported, _ int64) bool {
				return p.State != "ok" && len(p.GitLabs) == 1 && p.GitLabs[0].State != "ok"
			},
			minutes: 20,
		},
		"cache clear": {
			happen: func(w *gitlabsim.World, _ map[string][]int64, minute int) int64 {
				if minute == begins {
					w.FlushRedis()
				}
				return 0
			},
			want: func(int64) []string { return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &lab{last: 4 * time.Hour, runners: true, queue: queue.Options{Interval: time.Minute}}
			var pools map[string][]int64
			var fill func(w *gitlabsim.World) map[string][]int64
			l.world, fill = company(7)
			l.setup = func(w *gitlabsim.World) { pools = fill(w) }
			var runner int64
			l.each = func(w *gitlabsim.World, minute int) {
				if id := c.happen(w, pools, minute); id != 0 {
					runner = id
				}
			}
			l.run(t)
			all := l.judge(t)
			got, log := heard(all, l.began)
			if want := c.want(runner); !slices.Equal(got, want) {
				t.Errorf("notifications %q, want %q", got, want)
			}
			t.Log(strings.Join(log, "\n"))
			if len(got) != 1 || c.metrics == nil {
				return
			}
			// While it was out, metrics and page had it, and before the story they did not.
			both, shown := 0, 0
			for i, s := range l.scrapes {
				metrics, onPage := c.metrics(s, strconv.FormatInt(runner, 10)), c.page(l.pages[i], runner)
				if minute := int(s.time.Sub(l.began) / time.Minute); minute > 30 && minute < begins && metrics {
					t.Errorf("minute %d: the metrics have it before it happens", minute)
				}
				if metrics {
					shown++
				}
				if metrics && onPage {
					both++
				}
			}
			if shown < c.minutes || both != shown {
				t.Errorf("the metrics have it for %d minutes, want %d or more; the page agrees in %d of them", shown, c.minutes, both)
			}
		})
	}
}
