package alerts

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

// an alert as the API of Alertmanager takes and gives it.
type posted struct {
	Labels map[string]string `json:"labels"`
	Status struct {
		State       string   `json:"state"`
		InhibitedBy []string `json:"inhibitedBy"`
	} `json:"status"`
}

func al(name string, labels ...string) map[string]string {
	l := map[string]string{"alertname": name}
	for pair := range slices.Chunk(labels, 2) {
		l[pair[0]] = pair[1]
	}
	return l
}

// TestOnePageForOneCause asks the real Alertmanager, with the example as it
// is, which alerts it would let through.
func TestOnePageForOneCause(t *testing.T) {
	base := alertmanager(t)
	for i, c := range []struct {
		cause  string
		alerts []map[string]string
		heard  []string // names and identities that are not inhibited
		page   int      // groups of notifications for the pager
	}{
		{
			cause: "the exporter is down",
			alerts: []map[string]string{
				al("GitLabRunnerFleetExporterDown"),
				al("GitLabRunnerFleetExporterTargetDown", "instance", "a"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "gpu", "runner_type", "instance_type"),
				al("GitLabRunnerOffline", "gitlab", "corp", "runner_id", "7", "runner_type", "instance_type"),
			},
			heard: []string{"GitLabRunnerFleetExporterDown"}, page: 1,
		},
		{
			cause: "GitLab refuses the token; the other GitLab is well and lost a tag",
			alerts: []map[string]string{
				al("GitLabRunnerFleetTokenRefused", "gitlab", "corp", "reason", "unauthorized"),
				al("GitLabRunnerFleetGitLabUnreadable", "gitlab", "corp"),
				al("GitLabRunnerFleetShardMissing", "gitlab", "corp"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "gpu", "runner_type", "instance_type"),
				al("GitLabRunnerTagLost", "gitlab", "lab", "tag", "gpu", "runner_type", "instance_type"),
				al("GitLabRunnerFleetStateNotSaved", "instance", "a"),
			},
			heard: []string{"GitLabRunnerFleetStateNotSaved a", "GitLabRunnerFleetTokenRefused corp", "GitLabRunnerTagLost lab gpu"}, page: 2,
		},
		{
			cause: "one of two processes is blind: nothing of the fleet is muted",
			alerts: []map[string]string{
				al("GitLabRunnerFleetReplicaBlind", "gitlab", "corp", "instance", "b"),
				al("GitLabRunnerFleetClockSkew", "gitlab", "corp", "instance", "b"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "gpu", "runner_type", "instance_type"),
			},
			heard: []string{"GitLabRunnerFleetClockSkew corp b", "GitLabRunnerFleetReplicaBlind corp b", "GitLabRunnerTagLost corp gpu"}, page: 1,
		},
		{
			cause: "staging has no exporter; production lost a tag",
			alerts: []map[string]string{
				al("GitLabRunnerFleetExporterDown", "cluster", "staging"),
				al("GitLabRunnerTagLost", "cluster", "staging", "gitlab", "corp", "tag", "old"),
				al("GitLabRunnerTagLost", "cluster", "production", "gitlab", "corp", "tag", "gpu"),
			},
			heard: []string{"GitLabRunnerFleetExporterDown", "GitLabRunnerTagLost corp gpu"}, page: 2,
		},
		{
			cause: "one pause of twelve runners empties seven tags; one of them has a floor",
			alerts: []map[string]string{
				al("GitLabRunnerMassPause", "gitlab", "corp", "runner_type", "group_type"),
				al("GitLabRunnerTagEmpty", "gitlab", "corp", "tag", "a", "runner_type", "group_type"),
				al("GitLabRunnerTagEmpty", "gitlab", "corp", "tag", "b", "runner_type", "group_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "deploy", "runner_type", "group_type"),
			},
			heard: []string{"GitLabRunnerMassPause corp", "GitLabRunnerTagLost corp deploy"}, page: 1,
		},
		{
			cause: "seven tags are lost at once: one page",
			alerts: []map[string]string{
				al("GitLabRunnerTypeOffline", "gitlab", "corp", "runner_type", "group_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "a", "runner_type", "group_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "b", "runner_type", "group_type"),
				al("GitLabRunnerTagHalfGone", "gitlab", "corp", "tag", "c", "runner_type", "group_type"),
				al("GitLabRunnerOffline", "gitlab", "corp", "runner_type", "group_type"),
			},
			heard: []string{"GitLabRunnerTagLost corp a", "GitLabRunnerTagLost corp b", "GitLabRunnerTypeOffline corp"}, page: 1,
		},
		{
			cause: "nobody watches one GitLab any more; another lost a tag",
			alerts: []map[string]string{
				al("GitLabRunnerFleetGitLabUnwatched", "gitlab", "corp"),
				al("GitLabRunnerTagQueueSlow", "gitlab", "corp", "tag", "gpu"),
				al("GitLabRunnerTagLost", "gitlab", "lab", "tag", "gpu"),
			},
			heard: []string{"GitLabRunnerFleetGitLabUnwatched corp", "GitLabRunnerTagLost lab gpu"}, page: 2,
		},
		{
			cause: "GitLab is down",
			alerts: []map[string]string{
				al("GitLabRunnerFleetGitLabUnreadable", "gitlab", "corp"),
				al("GitLabRunnerFleetReadingLagging", "gitlab", "corp", "stage", "details", "instance", "a"),
				al("GitLabRunnerTypeLost", "gitlab", "corp", "runner_type", "instance_type"),
				al("GitLabRunnerFleetTokenExpiresSoon", "gitlab", "corp"),
			},
			heard: []string{"GitLabRunnerFleetGitLabUnreadable corp", "GitLabRunnerFleetTokenExpiresSoon corp"}, page: 1,
		},
		{
			cause: "a type is lost: its tags and runners are explained, tags of another or of both are not",
			alerts: []map[string]string{
				al("GitLabRunnerTypeLost", "gitlab", "corp", "runner_type", "instance_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "gpu", "runner_type", "instance_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "arm", "runner_type", "instance_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "own", "runner_type", "project_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "both"),
				al("GitLabRunnerOffline", "gitlab", "corp", "runner_id", "7", "runner_type", "instance_type"),
			},
			heard: []string{"GitLabRunnerTagLost corp both", "GitLabRunnerTagLost corp own", "GitLabRunnerTypeLost corp"}, page: 1,
		},
		{
			cause: "all runners are lost",
			alerts: []map[string]string{
				al("GitLabRunnerFleetLost", "gitlab", "corp"),
				al("GitLabRunnerTypeLost", "gitlab", "corp", "runner_type", "instance_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "both"),
				al("GitLabRunnerTagBelowFloor", "gitlab", "corp", "tag", "both"),
				al("GitLabRunnerFleetTokenExpiring", "gitlab", "corp"),
			},
			heard: []string{"GitLabRunnerFleetLost corp", "GitLabRunnerFleetTokenExpiring corp"}, page: 1,
		},
		{
			cause: "most of the fleet is silent; what the exporter itself needs is not muted",
			alerts: []map[string]string{
				al("GitLabRunnerFleetSilent", "gitlab", "corp"),
				al("GitLabRunnerFleetLost", "gitlab", "corp"),
				al("GitLabRunnerFleetJudgementSuspended", "gitlab", "corp"),
				al("GitLabRunnerTypeHalfDown", "gitlab", "corp", "runner_type", "instance_type"),
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "gpu"),
				al("GitLabRunnerTagHalfDown", "gitlab", "corp", "tag", "arm"),
				al("GitLabRunnerTagWedged", "gitlab", "corp", "tag", "x64"),
				al("GitLabRunnerQueueNoneAvailable", "gitlab", "corp", "tags", "gpu,linux"),
				al("GitLabRunnerDown", "gitlab", "corp", "runner_id", "7", "runner_type", "instance_type"),
				al("GitLabRunnerOrphanedJobs", "gitlab", "corp", "runner_id", "8", "runner_type", "instance_type"),
				al("GitLabRunnerDown", "gitlab", "lab", "runner_id", "7", "runner_type", "instance_type"),
				al("GitLabRunnerFleetTokenExpiring", "gitlab", "corp"),
			},
			heard: []string{"GitLabRunnerDown lab 7", "GitLabRunnerFleetSilent corp", "GitLabRunnerFleetTokenExpiring corp"}, page: 1,
		},
		{
			cause: "a pool takes nothing: its queue follows; a misspelt tag and a tag of another GitLab do not",
			alerts: []map[string]string{
				al("GitLabRunnerTagWedged", "gitlab", "corp", "tag", "pool-07", "runner_type", "instance_type"),
				al("GitLabRunnerTagQueueOld", "gitlab", "corp", "tag", "pool-07", "runner_type", "instance_type"),
				al("GitLabRunnerTagQueueSlow", "gitlab", "corp", "tag", "pool-07", "runner_type", "instance_type"),
				al("GitLabRunnerTagQueueOld", "gitlab", "lab", "tag", "pool-07", "runner_type", "instance_type"),
				al("GitLabRunnerQueueNoRunner", "gitlab", "corp", "tags", "dokcer"),
			},
			heard: []string{"GitLabRunnerQueueNoRunner corp", "GitLabRunnerTagQueueOld lab pool-07", "GitLabRunnerTagWedged corp pool-07"},
		},
		{
			cause: "a jam: the lack of capacity explains that jobs wait long",
			alerts: []map[string]string{
				al("GitLabRunnerTagSaturated", "gitlab", "corp", "tag", "pool-06"),
				al("GitLabRunnerTagQueueOld", "gitlab", "corp", "tag", "pool-06"),
				al("GitLabRunnerTagQueueSlow", "gitlab", "corp", "tag", "team-03"),
				al("GitLabRunnerTagQueueOld", "gitlab", "corp", "tag", "team-03"),
			},
			heard: []string{"GitLabRunnerTagQueueSlow corp team-03", "GitLabRunnerTagSaturated corp pool-06"},
		},
		{
			cause: "a lost tag explains its waiting jobs",
			alerts: []map[string]string{
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "gpu", "runner_type", "instance_type"),
				al("GitLabRunnerTagWedged", "gitlab", "corp", "tag", "gpu", "runner_type", "instance_type"),
				al("GitLabRunnerTagQueueOld", "gitlab", "corp", "tag", "gpu", "runner_type", "instance_type"),
			},
			heard: []string{"GitLabRunnerTagLost corp gpu"}, page: 1,
		},
		{
			cause: "GitLab cannot be read, so its queue is unknown too",
			alerts: []map[string]string{
				al("GitLabRunnerFleetGitLabUnreadable", "gitlab", "corp"),
				al("GitLabRunnerFleetQueueUnread", "gitlab", "corp"),
				al("GitLabRunnerQueueNoneAvailable", "gitlab", "corp", "tags", "gpu"),
			},
			heard: []string{"GitLabRunnerFleetGitLabUnreadable corp"}, page: 1,
		},
		{
			cause: "half of a type is down, and with it a tag; a tag of another type too",
			alerts: []map[string]string{
				al("GitLabRunnerTypeHalfDown", "gitlab", "corp", "runner_type", "group_type"),
				al("GitLabRunnerTagHalfDown", "gitlab", "corp", "tag", "arm", "runner_type", "group_type"),
				al("GitLabRunnerTagHalfDown", "gitlab", "corp", "tag", "gpu", "runner_type", "project_type"),
				al("GitLabRunnerTagHalfGone", "gitlab", "corp", "tag", "gpu", "runner_type", "project_type"),
				al("GitLabRunnerDown", "gitlab", "corp", "runner_type", "group_type"),
				al("GitLabRunnerDown", "gitlab", "corp", "runner_id", "9", "runner_type", "instance_type"),
			},
			heard: []string{"GitLabRunnerDown corp 9", "GitLabRunnerTagHalfDown corp gpu", "GitLabRunnerTypeHalfDown corp"}, page: 1,
		},
		{
			cause: "a tag is lost: its tickets are explained, those of other tags are not",
			alerts: []map[string]string{
				al("GitLabRunnerTagLost", "gitlab", "corp", "tag", "gpu"),
				al("GitLabRunnerTagQueueSlow", "gitlab", "corp", "tag", "gpu"),
				al("GitLabRunnerTagSaturated", "gitlab", "corp", "tag", "arm"),
				al("GitLabRunnerTagQueueSlow", "gitlab", "corp", "tag", "arm"),
				al("GitLabRunnerTagInfrastructureFailures", "gitlab", "corp", "tag", "arm"),
			},
			heard: []string{"GitLabRunnerTagInfrastructureFailures corp arm", "GitLabRunnerTagLost corp gpu", "GitLabRunnerTagSaturated corp arm"}, page: 1,
		},
		{
			cause: "many at once are one matter",
			alerts: []map[string]string{
				al("GitLabRunnerTypeOffline", "gitlab", "corp", "runner_type", "group_type"),
				al("GitLabRunnerOffline", "gitlab", "corp", "runner_id", "7", "runner_type", "group_type"),
				al("GitLabRunnerOffline", "gitlab", "corp", "runner_id", "8", "runner_type", "project_type"),
				al("GitLabRunnerMassPause", "gitlab", "corp", "runner_type", "group_type"),
				al("GitLabRunnerPausedLong", "gitlab", "corp", "runner_id", "9", "runner_type", "group_type"),
				al("GitLabRunnerTagHalfGone", "gitlab", "corp", "tag", "arm", "runner_type", "group_type"),
				al("GitLabRunnerTagQueueSlow", "gitlab", "corp", "tag", "arm", "runner_type", "group_type"),
				al("GitLabRunnerTagSaturated", "gitlab", "corp", "tag", "x64", "runner_type", "group_type"),
				al("GitLabRunnerTagHalfGone", "gitlab", "corp", "tag", "gpu", "runner_type", "project_type"),
				al("GitLabRunnerTagHalfGone", "gitlab", "corp", "tag", "both"),
				al("GitLabRunnerTypeInfrastructureFailures", "gitlab", "corp", "runner_type", "group_type"),
				al("GitLabRunnerTagInfrastructureFailures", "gitlab", "corp", "tag", "gpu", "runner_type", "group_type"),
				al("GitLabRunnerTagInfrastructureFailures", "gitlab", "corp", "tag", "own", "runner_type", "project_type"),
			},
			heard: []string{"GitLabRunnerMassPause corp", "GitLabRunnerOffline corp 8", "GitLabRunnerTagHalfGone corp both", "GitLabRunnerTagHalfGone corp gpu", "GitLabRunnerTagInfrastructureFailures corp own", "GitLabRunnerTypeInfrastructureFailures corp", "GitLabRunnerTypeOffline corp"},
		},
	} {
		// Alerts of one case must not meet those of another.
		world := strconv.Itoa(i)
		heard, page := ask(t, base, world, c.alerts, c.heard)
		if !slices.Equal(heard, c.heard) {
			t.Errorf("%s: heard %q, want %q", c.cause, heard, c.heard)
		}
		if page != c.page {
			t.Errorf("%s: %d pages, want %d", c.cause, page, c.page)
		}
		endAll(t, base, c.alerts)
	}
}

// ask posts alerts and returns those that are not inhibited, and how many
// groups of them go to the pager. Alertmanager's parts learn of an alert one
// after the other: it has some seconds to come to what is wanted.
func ask(t *testing.T, base, world string, list []map[string]string, want []string) (heard []string, pages int) {
	t.Helper()
	severities := alerts(t)
	for _, l := range list {
		l["severity"] = severities[l["alertname"]].Labels["severity"]
		if l["severity"] == "" {
			t.Fatalf("there is no alert %s", l["alertname"])
		}
	}
	post(t, base, list, time.Now().Add(time.Hour))
	deadline := time.Now().Add(10 * time.Second)
	for {
		var got []posted
		call(t, base+"/api/v2/alerts", nil, &got)
		heard, pages = through(got)
		if len(got) == len(list) && slices.Equal(heard, want) || time.Now().After(deadline) {
			if len(got) != len(list) {
				t.Errorf("case %s: Alertmanager holds %d alerts of %d", world, len(got), len(list))
			}
			return heard, pages
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// through are the alerts that are not inhibited, and how many groups of them
// go to the pager.
func through(list []posted) (heard []string, pages int) {
	groups := map[string]bool{}
	for _, a := range list {
		if len(a.Status.InhibitedBy) > 0 {
			continue
		}
		var id []string
		for _, k := range []string{"alertname", "gitlab", "tag", "runner_id", "instance"} {
			if a.Labels[k] != "" {
				id = append(id, a.Labels[k])
			}
		}
		heard = append(heard, strings.Join(id, " "))
		if a.Labels["severity"] == "critical" {
			groups[a.Labels["cluster"]+"\x00"+a.Labels["gitlab"]] = true
		}
	}
	slices.Sort(heard)
	return heard, len(groups)
}

// endAll ends alerts and waits until Alertmanager shows none.
func endAll(t *testing.T, base string, list []map[string]string) {
	t.Helper()
	post(t, base, list, time.Now())
	deadline := time.Now().Add(20 * time.Second)
	for {
		var left []posted
		call(t, base+"/api/v2/alerts", nil, &left)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d alerts do not end", len(left))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func post(t *testing.T, base string, list []map[string]string, ends time.Time) {
	t.Helper()
	var body []map[string]any
	for _, l := range list {
		body = append(body, map[string]any{"labels": l, "startsAt": time.Now().Add(-time.Hour), "endsAt": ends})
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	call(t, base+"/api/v2/alerts", raw, nil)
}

// call does one request; with a body a POST.
func call(t *testing.T, url string, body []byte, out any) {
	t.Helper()
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s %v", method, url, resp.Status, raw, err)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			t.Fatal(err)
		}
	}
}

// alertmanager starts the real one with the example and returns its address.
func alertmanager(t *testing.T) string {
	t.Helper()
	s := rig.Serve(t, tool(t, tools+"/alertmanager", "make tools"), "--config.file="+routingFile, "--storage.path="+t.TempDir(), "--cluster.listen-address=")
	s.Ready(t, "/-/ready")
	return "http://" + s.Address
}
