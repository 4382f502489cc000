package inventory

import (
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func TestBehindCountsMinorReleases(t *testing.T) {
	for _, c := range []struct {
		v, newest string
		want      int
	}{
		{"17.5.0", "17.5.3", 0},
		{"17.5.9", "17.5.3", 0},
		{"17.4.0", "17.5.0", 1},
		{"17.6.0", "17.5.0", 0},
		{"18.0.0", "17.11.0", 0},
		{"17.11.0", "18.0.0", 1},
		{"16.11.4", "17.0.0-ee", 1},
		{"15.11.0", "16.0.0", 1},
		{"14.10.0", "15.0.0", 1},  // 14 ended with 14.10
		{"13.12.0", "14.0.0", 1},  // 13 with 13.12
		{"12.10.0", "13.0.0", 1},  // 12 with 12.10
		{"11.11.0", "12.0.0", 1},  // 11 with 11.11
		{"10.8.0", "11.0.0", 1},   // 10 with 10.8
		{"9.5.0", "10.0.0", 1},    // 9 with 9.5
		{"13.0.0", "14.0.0", 13},  // 13.0 to 13.12
		{"13.12.0", "15.0.0", 12}, // and all eleven of 14
		{"13.5.0", "15.2.0", 8 + 11 + 2},
		{"v17.5.0", "17.7.0", 2},
		{"17.5", "17.7.1", 2},
		{"17.5.0~pre.88.gb8e0d7d1", "17.7.0", 2},
		{"19.1.0-ee", "19.2.0-pre", 1},
		{"", "17.0.0", -1},
		{"17.0.0", "", -1},
		{"development version", "17.0.0", -1},
		{"17", "17.0.0", -1},
		{"17.x.0", "17.1.0", -1},
		{"-1.5.0", "17.1.0", -1},
		{"17.-5.0", "17.1.0", -1},
		{"99999999999999999999.1", "17.1.0", -1},
		{"17.99999999999999999999", "17.1.0", -1},
		{"17.1.0", "2000000000.0.0", -1}, // counting up to it would take a minute
	} {
		if got := behind(c.v, c.newest); got != c.want {
			t.Errorf("%q is %d behind %q, want %d", c.v, got, c.newest, c.want)
		}
	}
}

func TestVersionsCompareAsReleases(t *testing.T) {
	ascending := []string{"", "nonsense", "9.5.0", "13.12.0", "14.0.0", "14.0.1", "14.0.10", "14.2.0", "14.10.0", "15.0.0"}
	for i, a := range ascending {
		for j, b := range ascending {
			got := compareVersions(a, b)
			if (i < j) != (got < 0) || (i > j) != (got > 0) {
				t.Errorf("%q against %q: %d", a, b, got)
			}
		}
	}
	if compareVersions("v17.1.0", "17.1.0-rc1") != 0 {
		t.Error("the same release under two spellings differs")
	}
}

// A version is any text that a runner sends: whatever it is, a picture is made at once.
func TestAnyTextMayBeAVersion(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1, 2, 3, 4, 5, 6), true, t0)
	for id, v := range map[int64]string{1: "17.5.0", 2: "17.5.0", 3: "", 4: "development version", 5: "1999999999.0.0", 6: "16.11.0"} {
		d := tagged(up(id))
		d.Version = v
		inv.Details(id, d, nil, t0)
	}
	inv.SetVersion("17.7.2-ee")
	began := time.Now()
	f := inv.Fleet(noJobs, false)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a runner that lies about its version held the picture up for %v", took)
	}
	want := []snapshot.Version{
		{Version: "(unknown)", Runners: 1, Behind: -1},
		{Version: "16.11.0", Runners: 1, Behind: 8},
		{Version: "17.5.0", Runners: 2, Behind: 2},
		{Version: "1999999999.0.0", Runners: 1, Behind: -1},
		{Version: "development version", Runners: 1, Behind: -1},
	}
	if len(f.Versions) != len(want) {
		t.Fatalf("versions %+v", f.Versions)
	}
	for i, v := range f.Versions {
		if v != want[i] {
			t.Errorf("%+v, want %+v", v, want[i])
		}
	}
	// The newest of fleet and GitLab: here a runner is ahead.
	d := tagged(up(1))
	d.Version = "17.9.0"
	inv.Details(1, d, nil, t0)
	for _, v := range inv.Fleet(noJobs, false).Versions {
		if v.Version == "17.5.0" && v.Behind != 4 {
			t.Errorf("%+v", v)
		}
	}
	if again := reload(t, inv, options()); again.Version() != "17.7.2-ee" {
		t.Errorf("GitLab's version after a restart: %q", again.Version())
	}
}

func TestVersionIsThatOfTheOldestOnlineMachine(t *testing.T) {
	for _, c := range []struct {
		name     string
		managers []gitlab.Manager
		want     string
	}{
		{"no machines", []gitlab.Manager{}, "18.0.0"},
		{"not read", nil, "18.0.0"},
		{"numbers, not letters", []gitlab.Manager{{Status: "online", Version: "17.10.0"}, {Status: "online", Version: "17.9.0"}}, "17.9.0"},
		{"offline ones do not count", []gitlab.Manager{{Status: "online", Version: "17.10.0"}, {Status: "offline", Version: "9.0.0"}, {Status: "stale", Version: "8.0.0"}}, "17.10.0"},
		{"none online", []gitlab.Manager{{Status: "offline", Version: "9.0.0"}}, "18.0.0"},
		{"one without a version", []gitlab.Manager{{Status: "online"}, {Status: "online", Version: "17.1.0"}}, "17.1.0"},
		{"one that cannot be read is to be looked at", []gitlab.Manager{{Status: "online", Version: "17.1.0"}, {Status: "online", Version: "dev"}}, "dev"},
	} {
		inv := New(options())
		inv.Listed(ups(1), true, t0)
		inv.Details(1, tagged(up(1)), c.managers, t0)
		if got := inv.Fleet(noJobs, true).Rows[0].Version; got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
