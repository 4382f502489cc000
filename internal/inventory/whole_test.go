package inventory

import (
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Sums of machines and versions wait for the machines of all, or for three
// failures, and stay from then on.
func TestMachineSumsWaitForAll(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1, 2, 3), true, t0)
	whole := func() bool { return inv.Fleet(noJobs, false).MachinesWhole }
	for id := range int64(3) {
		if inv.DetailsFailed(3); id < 2 {
			inv.Details(id+1, tagged(up(id+1), "a"), nil, t0)
		}
	}
	if f := inv.Fleet(noJobs, false); !f.Detailed || f.MachinesWhole || f.ManagersRead {
		t.Errorf("details alone: %t, machines %t, read %t", f.Detailed, f.MachinesWhole, f.ManagersRead)
	}
	inv.Machines(1, []gitlab.Manager{{Status: "online", Version: "17.5.0"}, {Status: "online", Version: "17.2.0"}})
	inv.Machines(404, nil)
	if whole() || !inv.Awaits(snapshot.PartMachines, 2, Jobs{}) || inv.Awaits(snapshot.PartMachines, 1, Jobs{}) {
		t.Error("whole with one of two")
	}
	for i := range detailsTries {
		if whole() {
			t.Errorf("whole after %d failures", i)
		}
		inv.MachinesFailed(2, false)
	}
	f := inv.Fleet(noJobs, false)
	if !f.MachinesWhole || !f.ManagersRead || f.Managers[snapshot.InstanceType][snapshot.Online] != 2 {
		t.Errorf("whole %t, read %t, machines %v", f.MachinesWhole, f.ManagersRead, f.Managers)
	}
	if len(f.Versions) != 3 || f.Versions[1].Version != "17.2.0" {
		t.Errorf("versions %+v", f.Versions)
	}
	// Machines that cannot be read any more keep the version that they had.
	inv.Details(1, tagged(up(1), "a"), nil, t0.Add(time.Minute))
	if f = inv.Fleet(noJobs, false); f.Versions[1].Version != "17.2.0" {
		t.Errorf("versions %+v", f.Versions)
	}
	inv.Listed(ups(1, 2, 3, 4), true, t0.Add(time.Minute))
	if !whole() {
		t.Error("a newcomer withdrew the machines")
	}
	if inv = reload(t, inv, options()); !whole() || !inv.Whole(snapshot.PartDetails) {
		t.Error("a restart withdrew the machines for a newcomer and for one that cannot be read")
	}
}

// Where GitLab does not show machines no version waits for them.
func TestVersionsDoNotWaitForHiddenMachines(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1, 2), true, t0)
	for id := range int64(2) {
		inv.Details(id+1, tagged(up(id+1), "a"), nil, t0)
	}
	inv.MachinesFailed(2, true)
	if inv.Fleet(noJobs, false).MachinesWhole || inv.Awaits(snapshot.PartMachines, 2, Jobs{}) {
		t.Error("one runner without machines speaks for all")
	}
	if inv.SetMachines(true) || !inv.SetMachines(false) || inv.SetMachines(false) {
		t.Error("a change is not reported as one")
	}
	if f := inv.Fleet(noJobs, false); !f.MachinesWhole || f.ManagersRead {
		t.Errorf("whole %t, read %t", f.MachinesWhole, f.ManagersRead)
	}
}

// Sums of jobs wait for each runner that may be executing, and for no other.
func TestJobSumsWaitForBusyRunners(t *testing.T) {
	type list struct {
		execution, status string
		listed            int // by the list; -1: it did not count
	}
	read, failed := Jobs{ReadAt: t0}, Jobs{Failed: true}
	for name, c := range map[string]struct {
		list
		jobs  Jobs
		whole bool
	}{
		"not read":                               {list{"", "online", -1}, Jobs{}, false},
		"read":                                   {list{"", "online", -1}, read, true},
		"failed three times":                     {list{"", "online", -1}, failed, true},
		"offline, it may still execute":          {list{"", "offline", -1}, Jobs{}, false},
		"its contact may not be shown yet":       {list{"", "never_contacted", -1}, Jobs{}, false},
		"out of contact for a week":              {list{"", "stale", -1}, Jobs{}, true},
		"stale, but the list shows that it does": {list{"active", "stale", -1}, Jobs{}, false},
		"idle by the list":                       {list{"idle", "online", -1}, Jobs{}, true},
		"active by the list":                     {list{"active", "online", -1}, Jobs{}, false},
		"active and read":                        {list{"active", "online", -1}, read, true},
		"the list shows how many":                {list{"active", "online", 3}, Jobs{}, true},
		"the list shows none":                    {list{"", "online", 0}, Jobs{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			inv := New(options())
			r := up(1)
			r.Execution, r.Status = c.execution, c.status
			inv.Listed([]gitlab.Runner{r}, true, t0)
			if c.listed >= 0 {
				inv.SetListedJobs(1, c.listed)
			}
			of := func(int64) Jobs { return c.jobs }
			f := inv.Fleet(of, false)
			if f.JobsWhole != c.whole || inv.Awaits(snapshot.PartJobs, 1, c.jobs) == c.whole || inv.Whole(snapshot.PartJobs) != c.whole {
				t.Errorf("whole %t, want %t", f.JobsWhole, c.whole)
			}
			if !c.whole {
				return
			}
			r.ID, r.Execution, r.Status = 2, "active", "online"
			inv.Listed([]gitlab.Runner{r}, true, t0.Add(time.Minute))
			if !inv.Fleet(noJobs, false).JobsWhole || !reload(t, inv, options()).Fleet(noJobs, false).JobsWhole {
				t.Error("a newcomer withdrew the sums")
			}
		})
	}
}

// A fleet without runners is whole; the first that come are a first picture.
func TestAnEmptyFleetIsWhole(t *testing.T) {
	inv := New(options())
	inv.Listed(nil, true, t0)
	if f := inv.Fleet(noJobs, false); !f.Detailed || !f.MachinesWhole || !f.JobsWhole {
		t.Errorf("%+v", f)
	}
	r := up(1)
	r.Execution = "active"
	inv.Listed([]gitlab.Runner{r}, true, t0.Add(time.Minute))
	if f := inv.Fleet(noJobs, false); f.Detailed || f.MachinesWhole || f.JobsWhole {
		t.Errorf("%+v", f)
	}
}
