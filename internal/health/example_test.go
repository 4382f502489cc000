package health_test

import (
	"fmt"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/health"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Two runners take the same jobs. One of them falls silent in mid-job.
func Example() {
	f := health.New()
	f.SetDense(true)
	start := time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	disk := map[string][]byte{}
	job := gitlab.Job{ID: 7, Status: "running", StartedAt: start.Add(20 * time.Second), Queued: 5, ProjectID: 3}
	for minute := range 10 {
		now := start.Add(time.Duration(minute+1) * time.Minute)
		// The list.
		f.ListingDone(now)
		f.Listed(health.Row{ID: 1, Type: snapshot.GroupType}, now)
		f.Listed(health.Row{ID: 2, Type: snapshot.GroupType, Executing: true}, now)
		// Details and machines.
		for id := int64(1); id <= 2; id++ {
			f.Describe(id, health.Traits{Type: snapshot.GroupType, Owner: "shop", Tags: []string{"docker"}})
			contact := now.Add(-10 * time.Second)
			if id == 2 {
				contact = start.Add(20 * time.Second)
			}
			f.Read(id, health.Reading{At: now, ContactedAt: contact, Machines: []health.Machine{
				{ID: 10 + id, SystemID: fmt.Sprint("s_", id), ContactedAt: contact, Executing: id == 2},
			}})
		}
		// Jobs.
		f.Jobs(2, now, []gitlab.Job{job}, nil)
		// The verdicts.
		changes, picture := f.Judge(now)
		for _, c := range changes {
			fmt.Printf("%s runner %d: %s to %s, reason %q\n", now.Format("15:04"), c.ID, c.From, c.To, c.Reason)
		}
		for _, i := range picture.Ill {
			fmt.Println(now.Format("15:04"), "runner", i.ID, "has", i.OrphanedJobs, "orphaned job, last seen", i.LastSeen.Format("15:04:05"))
		}
		for _, rec := range f.Records(now) {
			disk[string(rec.Key)] = rec.Value
		}
	}
	// After a restart.
	f = health.New()
	for key, value := range disk {
		if _, err := f.Load([]byte(key), value); err != nil {
			fmt.Println(err)
		}
	}
	ev, _ := f.Evidence(2)
	fmt.Println("restarted: runner 2", ev.Health, ev.Reason, "since", ev.Since.Format("15:04"))
	// Output:
	// 09:01 runner 1: unknown to alive, reason ""
	// 09:01 runner 2: unknown to alive, reason ""
	// 09:07 runner 2: alive to overdue, reason "job_silent"
	// 09:07 runner 2 has 1 orphaned job, last seen 09:00:20
	// 09:08 runner 2 has 1 orphaned job, last seen 09:00:20
	// 09:09 runner 2 has 1 orphaned job, last seen 09:00:20
	// 09:10 runner 2 has 1 orphaned job, last seen 09:00:20
	// restarted: runner 2 overdue job_silent since 09:07
}
