package why

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func instance(change func(*Runner)) Runner {
	r := Runner{ID: 1, Description: "one", Type: "instance_type", Tags: []string{"docker"}, DetailsRead: true, Available: true}
	if change != nil {
		change(&r)
	}
	return r
}

func pending(tags ...string) Job {
	return Job{ID: 7, Project: "acme/team/app", Status: "pending", Tags: tags, TagsKnown: true, Since: now.Add(-time.Minute)}
}

func offer(o Offer) func(string, string, bool) Offer {
	return func(string, string, bool) Offer { return o }
}

// TestEachReasonIsNamed: each reason for which a class does not take a job, and what is not
// known is no reason.
func TestEachReasonIsNamed(t *testing.T) {
	group := func(owner string) func(*Runner) {
		return func(r *Runner) { r.Type, r.Owner = "group_type", owner }
	}
	project := func(owner string) func(*Runner) {
		return func(r *Runner) { r.Type, r.Owner = "project_type", owner }
	}
	protected := func(r *Runner) { r.Protected = true }
	none := map[int64]bool{}
	self := map[int64]bool{1: true}
	for name, tt := range map[string]struct {
		job     Job
		runner  Runner
		e       Evidence
		verdict Verdict
		codes   []Code
		certain bool
		text    string
	}{
		"takes it":               {pending("docker"), instance(nil), Evidence{}, Takes, nil, false, ""},
		"GitLab offers it":       {pending("docker"), instance(nil), Evidence{Offer: offer(Offered)}, Takes, nil, true, ""},
		"GitLab lists it":        {pending("docker"), instance(nil), Evidence{Serves: self, Whole: true}, Takes, nil, true, ""},
		"no tags":                {pending(), instance(func(r *Runner) { r.RunUntagged = true }), Evidence{}, Takes, nil, false, ""},
		"a tag":                  {pending("docker", "gpu"), instance(nil), Evidence{}, Refuses, []Code{MissingTags}, false, "they lack the tag gpu"},
		"two tags":               {pending("gpu", "arm"), instance(nil), Evidence{}, Refuses, []Code{MissingTags}, false, "they lack the tags arm, gpu"},
		"case matters":           {pending("Docker"), instance(nil), Evidence{}, Refuses, []Code{MissingTags}, false, ""},
		"untagged":               {pending(), instance(nil), Evidence{}, Refuses, []Code{NoUntagged}, false, ""},
		"tags not known":         {Job{Status: "pending", Project: "a/b"}, instance(nil), Evidence{}, Unknown, []Code{TagsUnknown}, false, ""},
		"details not read":       {pending("docker"), instance(func(r *Runner) { r.DetailsRead = false }), Evidence{}, Unknown, []Code{DetailsUnread}, false, ""},
		"protected, not known":   {pending("docker"), instance(protected), Evidence{}, Unknown, []Code{RefUnknown}, false, ""},
		"protected, listed":      {pending("docker"), instance(protected), Evidence{Serves: self, Whole: true}, Unknown, []Code{RefUnknown}, false, ""},
		"protected, offered":     {pending("docker"), instance(protected), Evidence{Serves: self, Offer: offer(Offered)}, Takes, nil, true, ""},
		"protected, not offered": {pending("docker"), instance(protected), Evidence{Serves: self, Offer: offer(NotOffered)}, Refuses, []Code{ProtectedRef}, false, ""},
		"not offered, either":    {pending("docker"), instance(protected), Evidence{Offer: offer(NotOffered)}, Refuses, []Code{NotOfferedBy}, false, "its ref is not protected, or"},
		"not offered":            {pending("docker"), instance(nil), Evidence{Offer: offer(NotOffered)}, Refuses, []Code{NotOfferedBy}, false, ""},
		"instance runners off":   {pending("docker"), instance(nil), Evidence{Serves: none, Whole: true}, Refuses, []Code{SharedOff}, false, ""},
		"a list that is cut":     {pending("docker"), instance(nil), Evidence{Serves: none}, Takes, nil, false, ""},
		"its group":              {pending("docker"), instance(group("acme")), Evidence{}, Takes, nil, false, ""},
		"another group":          {pending("docker"), instance(group("acme/other")), Evidence{}, Refuses, []Code{OtherGroup}, false, "they serve the group acme/other"},
		"a group like its":       {pending("docker"), instance(group("acme/te")), Evidence{}, Refuses, []Code{OtherGroup}, false, ""},
		"group runners off":      {pending("docker"), instance(group("acme")), Evidence{Serves: none, Whole: true}, Refuses, []Code{OtherGroup}, false, "group runners are turned off"},
		"its project":            {pending("docker"), instance(project("acme/team/app")), Evidence{}, Takes, nil, false, ""},
		"another project":        {pending("docker"), instance(project("acme/x")), Evidence{Serves: none, Whole: true}, Refuses, []Code{OtherProject}, false, "locked"},
		"project not known":      {pending("docker"), instance(project("acme/x")), Evidence{}, Unknown, []Code{ProjectUnknown}, false, ""},
		"assigned to it too":     {pending("docker"), instance(project("acme/x")), Evidence{Serves: self, Whole: true}, Takes, nil, true, ""},
		"tags alone":             {Job{Status: "pending", Tags: []string{"docker"}, TagsKnown: true}, instance(group("acme")), Evidence{}, Takes, nil, false, ""},
		"paused":                 {pending("docker"), instance(func(r *Runner) { r.Available, r.Paused = false, true }), Evidence{}, Unavailable, []Code{PausedAll}, false, "its only runner is paused"},
		"offline":                {pending("docker"), instance(func(r *Runner) { r.Available = false }), Evidence{}, Unavailable, []Code{OfflineAll}, false, ""},
		"down, GitLab's online":  {pending("docker"), instance(func(r *Runner) { r.Down = true }), Evidence{}, Unavailable, []Code{DownAll}, false, ""},
		"a black hole":           {pending("docker"), instance(func(r *Runner) { r.Failing = true }), Evidence{}, Unavailable, []Code{FailingAll}, false, ""},
		"busy":                   {pending("docker"), instance(func(r *Runner) { r.Executing, r.Jobs = true, 1 }), Evidence{}, Busy, []Code{FullAll}, false, "GitLab does not know their limits"},
		"busy, as learned":       {pending("docker"), instance(func(r *Runner) { r.Executing, r.Jobs, r.Most = true, 4, 4 }), Evidence{}, Busy, []Code{FullAll}, false, ""},
		"room, as learned":       {pending("docker"), instance(func(r *Runner) { r.Executing, r.Jobs, r.Most = true, 3, 4 }), Evidence{}, Takes, nil, false, ""},
		"of an old list":         {pending("docker"), instance(func(r *Runner) { r.Old = true }), Evidence{}, Unknown, []Code{ListOld}, false, "older than poll.staleness"},
		"of an old list, busy":   {pending("docker"), instance(func(r *Runner) { r.Old, r.Executing, r.Jobs = true, true, 1 }), Evidence{}, Unknown, []Code{ListOld}, false, ""},
		"a tag and an old list":  {pending("gpu"), instance(func(r *Runner) { r.Old = true }), Evidence{}, Refuses, []Code{MissingTags, ListOld}, false, ""},
		"a tag and paused":       {pending("gpu"), instance(func(r *Runner) { r.Available, r.Paused = false, true }), Evidence{}, Refuses, []Code{MissingTags, PausedAll}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			classes := Explain(tt.job, []Runner{tt.runner}, tt.e)
			if len(classes) != 1 {
				t.Fatalf("%+v", classes)
			}
			c := classes[0]
			var codes []Code
			var texts strings.Builder
			for _, r := range c.Reasons {
				codes = append(codes, r.Code)
				texts.WriteString(r.Text + "\n")
			}
			if c.Verdict != tt.verdict || !slices.Equal(codes, tt.codes) || c.Certain != tt.certain || !strings.Contains(texts.String(), tt.text) {
				t.Errorf("%s %v certain %v: %s", c.Verdict, codes, c.Certain, texts.String())
			}
		})
	}
}

// TestNearestClassComesFirst: the classes are sorted by how little keeps them from the job,
// and runners that are alike are one class.
func TestNearestClassComesFirst(t *testing.T) {
	var runners []Runner
	add := func(tags string, change func(*Runner)) {
		r := instance(change)
		r.ID, r.Tags = int64(len(runners)+1), strings.Fields(tags)
		runners = append(runners, r)
	}
	add("x", nil)
	add("docker", nil)
	add("docker gpu", func(r *Runner) { r.Protected = true })
	add("docker gpu a", func(r *Runner) { r.Available = false })
	add("docker gpu b", func(r *Runner) { r.Executing, r.Jobs = true, 1 })
	add("docker gpu c", func(r *Runner) { r.Available, r.Paused = false, true })
	add("c docker gpu", nil) // as the one before
	add("docker gpu", func(r *Runner) { r.Type, r.Owner = "group_type", "other" })
	classes := Explain(pending("gpu", "docker"), runners, Evidence{})
	var got []string
	for _, c := range classes {
		got = append(got, string(c.Verdict)+" "+strings.Join(c.Tags, " "))
	}
	want := []string{
		"could_take c docker gpu", "busy b docker gpu", "none_available a docker gpu", "unknown docker gpu",
		"no docker", "no docker gpu", "no x",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	if c := classes[0]; c.Runners != 2 || c.Idle != 1 || c.Paused != 1 || c.Example != 7 || len(c.Reasons) != 0 {
		t.Errorf("%+v", c)
	}
}

// TestSummaryHasTheVerdict: the verdict on the job, and the statuses of one that does not wait.
func TestSummaryHasTheVerdict(t *testing.T) {
	long := pending("docker")
	long.Since = now.Add(-time.Hour)
	for name, tt := range map[string]struct {
		job     Job
		runners []Runner
		verdict Verdict
		text    string
	}{
		"nobody known":  {pending("docker"), nil, Unknown, "No runner is known here."},
		"takes":         {pending("docker"), []Runner{instance(nil)}, Takes, "1 available runner with room could take it, as far as is known."},
		"and waits":     {long, []Runner{instance(nil)}, Takes, "and it still waits"},
		"refused":       {pending("gpu"), []Runner{instance(nil)}, NoRunner, "None of the registered runners"},
		"offline":       {pending("docker"), []Runner{instance(func(r *Runner) { r.Available = false })}, Unavailable, "none of them is available"},
		"protected too": {pending("docker"), []Runner{instance(func(r *Runner) { r.Available = false }), instance(func(r *Runner) { r.ID, r.Protected = 2, true })}, Unavailable, "of others it is not known"},
		"running":       {Job{Status: "running", RunnerID: 5, Runner: "five"}, nil, NotWaiting, "it is running, on runner five (#5)."},
		"ended":         {Job{Status: "failed"}, nil, NotWaiting, "it failed."},
		"created":       {Job{Status: "created"}, nil, NotWaiting, "earlier stages"},
		"manual":        {Job{Status: "manual"}, nil, NotWaiting, "a person"},
		"resource":      {Job{Status: "waiting_for_resource"}, nil, NotWaiting, "resource group"},
		"scheduled":     {Job{Status: "scheduled"}, nil, NotWaiting, "delayed"},
		"of tomorrow":   {Job{Status: "dreaming"}, nil, NotWaiting, `"dreaming"`},
	} {
		a := Answer{Job: tt.job, Known: tt.runners}
		a.Conclude(&Evidence{Serves: map[int64]bool{}}, now)
		if a.Verdict != tt.verdict || !strings.Contains(a.Text, tt.text) {
			t.Errorf("%s: %s %q", name, a.Verdict, a.Text)
		}
		if a.Classes == nil || a.Unknown == nil {
			t.Errorf("%s: a list is nil", name)
		}
	}
	a := Answer{Job: pending("gpu"), Known: []Runner{instance(nil)}, Limits: []string{"a part"}}
	if a.Conclude(&Evidence{}, now); a.Verdict != Unknown || len(a.Limits) != 2 {
		t.Errorf("of a part of the runners: %s, %v", a.Verdict, a.Limits)
	}
}

// TestMisspeltTagIsNamedWithItsLikes: a tag that nobody has is named with those that are like it.
func TestMisspeltTagIsNamedWithItsLikes(t *testing.T) {
	r := instance(nil)
	r.Tags = []string{"docker", "gpu", "gpu-large", "linux", "GPU"}
	for tag, want := range map[string][]string{
		"dokcer": {"docker"}, "gpuu": {"gpu"}, "Gpu": {"GPU", "gpu"}, "linus": {"linux"}, "windows": nil, "a": nil, strings.Repeat("docker", 50): nil,
	} {
		got := UnknownTags(&Job{Tags: []string{tag, "docker"}}, []Runner{r})
		if len(got) != 1 || got[0].Tag != tag || !slices.Equal(sorted(got[0].Similar), sorted(want)) {
			t.Errorf("%q: %+v", tag, got)
		}
	}
	r.DetailsRead = false
	if got := UnknownTags(&Job{Tags: []string{"x"}}, []Runner{r}); len(got) != 0 {
		t.Errorf("a runner whose tags are not known may have it: %+v", got)
	}
}

var bases = []string{"https://gitlab.example.com", "http://other.example.com:8080/gitlab", "https://gitlab.example.com/deep/root/"}

// TestOnlyAddressesOfJobsAreAccepted: only an address of a configured GitLab's job names a request.
func TestOnlyAddressesOfJobsAreAccepted(t *testing.T) {
	for address, want := range map[string]struct {
		base int
		a    Address
	}{
		"https://gitlab.example.com/g/p/-/jobs/123":                      {0, Address{"g/p", 123}},
		"https://GitLab.example.com:443/g/s/u/p/-/jobs/123#L12\n":        {0, Address{"g/s/u/p", 123}},
		"http://gitlab.example.com/g/p.js/-/jobs/123/raw?x=y":            {0, Address{"g/p.js", 123}},
		"http://other.example.com:8080/gitlab/g/p/-/jobs/9":              {1, Address{"g/p", 9}},
		"https://gitlab.example.com/deep/root/g/p/-/jobs/9":              {2, Address{"g/p", 9}},
		"https://gitlab.example.com/g/.github/-/jobs/9":                  {0, Address{"g/.github", 9}},
		"https://gitlab.example.com/_g/p_1-x/-/jobs/9223372036854775807": {0, Address{"_g/p_1-x", 9223372036854775807}},
	} {
		base, a, err := Parse(address, bases, -1)
		if err != nil || base != want.base || a != want.a {
			t.Errorf("%s: %d %+v %v", address, base, a, err)
		}
	}
	for _, address := range []string{
		"", "x", "/g/p/-/jobs/1", "ftp://gitlab.example.com/g/p/-/jobs/1", "javascript:alert(1)", "//gitlab.example.com/g/p/-/jobs/1",
		"https://evil.example.com/g/p/-/jobs/1", "https://gitlab.example.com.evil.org/g/p/-/jobs/1", "https://gitlab.example.com:8443/g/p/-/jobs/1",
		"https://gitlab.example.com@evil.org/g/p/-/jobs/1", "https://user:pass@gitlab.example.com/g/p/-/jobs/1", "https://169.254.169.254/g/p/-/jobs/1",
		"https://other.example.com:8080/g/p/-/jobs/1", // outside its root
		"https://gitlab.example.com/p/-/jobs/1", "https://gitlab.example.com/g/p/-/jobs/", "https://gitlab.example.com/g/p/-/jobs/-1", "https://gitlab.example.com/g/p/-/jobs/+1",
		"https://gitlab.example.com/g/p/-/jobs/1x", "https://gitlab.example.com/g/p/-/jobs/99999999999999999999", "https://gitlab.example.com/g/p/-/jobs/0",
		"https://gitlab.example.com/g/../p/-/jobs/1", "https://gitlab.example.com/g/./p/-/jobs/1", "https://gitlab.example.com/g//p/-/jobs/1",
		"https://gitlab.example.com/g/%2e%2e/p/-/jobs/1", "https://gitlab.example.com/g/a%2fb/-/jobs/1", "https://gitlab.example.com/g/p%00/-/jobs/1",
		"https://gitlab.example.com/g/p%3Fx/-/jobs/1", "https://gitlab.example.com/g/p\n/-/jobs/1", "https://gitlab.example.com/g/prójekt/-/jobs/1",
		"https://gitlab.example.com/" + strings.Repeat("g/", 30) + "p/-/jobs/1", "https://gitlab.example.com/g/" + strings.Repeat("p", 3000) + "/-/jobs/1",
	} {
		if base, a, err := Parse(address, bases, -1); err == nil {
			t.Errorf("%q is taken for job %+v of %d", address, a, base)
		} else if strings.Contains(err.Error(), "pass") && !strings.Contains(err.Error(), "password") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
	if base, a, err := Parse("https://public.example.com/g/p/-/jobs/5", bases, 0); err != nil || base != 0 || a != (Address{"g/p", 5}) {
		t.Errorf("chosen: %d %+v %v", base, a, err)
	}
	if ProjectOf("http://other.example.com:8080/gitlab/new/name/-/jobs/9", bases[1]) != "new/name" || ProjectOf("x", bases[1]) != "" {
		t.Error("the project of GitLab's own address")
	}
	if !SameHost("http://a.example.com/x", "https://A.example.com:443/y") || SameHost("https://a.example.com", "https://b.example.com") {
		t.Error("hosts")
	}
}

// FuzzAddress: whatever is pasted, the project is a plain path and the job a number.
func FuzzAddress(f *testing.F) {
	f.Add("https://gitlab.example.com/g/p/-/jobs/123")
	f.Add("https://gitlab.example.com/g/%2e%2e/-/jobs/123")
	f.Fuzz(func(t *testing.T, address string) {
		base, a, err := Parse(address, bases, -1)
		if err != nil {
			return
		}
		if base < 0 || a.Job <= 0 || strings.ContainsAny(a.Project, "%?#\\ \x00") || strings.Contains("/"+a.Project+"/", "/../") || strings.Contains("/"+a.Project+"/", "/./") {
			t.Errorf("%q: %d %+v", address, base, a)
		}
	})
}

// slowDistance is the definition: the whole table, without a bound.
func slowDistance(x, y []rune) int {
	d := make([][]int, len(x)+1)
	for i := range d {
		d[i] = make([]int, len(y)+1)
		for j := range d[i] {
			switch {
			case i == 0 || j == 0:
				d[i][j] = i + j
			default:
				cost := 1
				if x[i-1] == y[j-1] {
					cost = 0
				}
				d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
				if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
					d[i][j] = min(d[i][j], d[i-2][j-2]+1)
				}
			}
		}
	}
	return d[len(x)][len(y)]
}

// TestDistanceIsTheDefinitionUpToItsBound over words of few letters, in which each case occurs.
func TestDistanceIsTheDefinitionUpToItsBound(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	counted := [mostDiffer + 2]int{}
	for range 200_000 {
		x := make([]rune, random.IntN(9))
		for i := range x {
			x[i] = rune('a' + random.IntN(3))
		}
		y := slices.Clone(x)
		for range random.IntN(4) {
			switch at := random.IntN(len(y) + 1); {
			case random.IntN(3) == 0:
				y = slices.Insert(y, at, rune('a'+random.IntN(3)))
			case at < len(y) && random.IntN(2) == 0:
				y = slices.Delete(y, at, at+1)
			case at+1 < len(y):
				y[at], y[at+1] = y[at+1], y[at]
			}
		}
		if max(len(x)-len(y), len(y)-len(x)) > mostDiffer {
			continue
		}
		want := min(slowDistance(x, y), mostDiffer+1)
		counted[want]++
		if got := distance(x, y); got != want {
			t.Fatalf("%q and %q: %d, want %d", string(x), string(y), got, want)
		}
	}
	if slices.Min(counted[:]) < 1000 {
		t.Errorf("by distance: %v", counted)
	}
}

// TestManyTagsAreCheapToAsk: whoever reaches the page may ask for 50 tags of a large fleet, as often as they like.
func TestManyTagsAreCheapToAsk(t *testing.T) {
	var runners []Runner
	for i := range 5000 {
		runners = append(runners, instance(func(r *Runner) {
			r.ID, r.Tags = int64(i+1), []string{fmt.Sprintf("some-team-tag-number-%05d", i), "linux"}
		}))
	}
	var job Job
	for i := range 50 {
		job.Tags = append(job.Tags, fmt.Sprintf("some-team-tag-nubmer-%05d", i))
	}
	began := time.Now()
	got := UnknownTags(&job, runners)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %s", took)
	} else {
		t.Logf("%d tags by 5,001: %s", len(got), took)
	}
	if len(got) != 50 || !slices.Equal(got[7].Similar, []string{"some-team-tag-number-00007", "some-team-tag-number-00000", "some-team-tag-number-00001"}) {
		t.Errorf("%+v", got[7])
	}
}
