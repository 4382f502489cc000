package collector

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

// reference is the same table behind client_golang's registry: what our own
// rendering must be equal to.
type reference struct {
	families []*family
	shard    string
	views    []*view
}

func (r *reference) desc(f *family) *prometheus.Desc {
	labels := slices.Clone(f.Labels)
	if r.shard != "" && !f.self {
		labels = append(labels, "shard")
	}
	return prometheus.V2.NewDesc(f.Name, f.Help, prometheus.UnconstrainedLabels(labels), nil, prometheus.WithUnit(f.Unit))
}

func (r *reference) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range r.families {
		ch <- r.desc(f)
	}
}

func (r *reference) Collect(ch chan<- prometheus.Metric) {
	for _, v := range r.views {
		for _, f := range r.families {
			f.collect(v, &sink{family: f, out: &registryEmitter{ref: r, family: f, gitlab: v.Name, ch: ch}})
		}
	}
}

type registryEmitter struct {
	ref    *reference
	family *family
	gitlab string
	ch     chan<- prometheus.Metric
}

func (e *registryEmitter) values(lv []string) []string {
	out := append([]string{e.gitlab}, lv...)
	if e.ref.shard != "" && !e.family.self {
		out = append(out, e.ref.shard)
	}
	return out
}

func (e *registryEmitter) sample(lv []string, v float64, created time.Time) {
	desc := e.ref.desc(e.family)
	switch {
	case e.family.Type == Gauge:
		e.ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, e.values(lv)...)
	case created.IsZero():
		e.ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, e.values(lv)...)
	default:
		e.ch <- prometheus.MustNewConstMetricWithCreatedTimestamp(desc, prometheus.CounterValue, v, created, e.values(lv)...)
	}
}

func (e *registryEmitter) histogram(lv []string, buckets []uint64, sum float64, created time.Time) {
	cumulative := map[float64]uint64{}
	var total uint64
	for i, n := range buckets {
		total += n
		if i < len(e.family.Buckets) {
			cumulative[e.family.Buckets[i]] = total
		}
	}
	desc := e.ref.desc(e.family)
	if created.IsZero() {
		e.ch <- prometheus.MustNewConstHistogram(desc, total, sum, cumulative, e.values(lv)...)
		return
	}
	e.ch <- prometheus.MustNewConstHistogramWithCreatedTimestamp(desc, total, sum, cumulative, created, e.values(lv)...)
}

// referenceOf gathers what e publishes through a pedantic registry.
func referenceOf(t *testing.T, e *Exporter) (*prometheus.Registry, []*dto.MetricFamily) {
	t.Helper()
	ref := &reference{families: e.families, shard: e.shard}
	for _, en := range *e.picture.Load() {
		ref.views = append(ref.views, &en.main.view)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(ref)
	mfs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return reg, mfs
}

// TestEqualToReference: our protobuf holds what the registry gathers, and our
// two texts are byte for byte what expfmt makes of our protobuf.
func TestEqualToReference(t *testing.T) {
	for name, sc := range scenarios() {
		t.Run(name, func(t *testing.T) {
			e := newExporter(t, sc.options)
			for _, s := range sc.publish {
				s.Counters = withOddCounters(s.Counters)
				e.Publish(s)
			}
			_, want := referenceOf(t, e)
			ours := decode(t, join(e.fleet(*e.picture.Load(), formatProto, nil)))

			for _, f := range []struct {
				format format
				wire   expfmt.Format
			}{{formatText, expfmt.FmtText}, {formatOpenMetrics, expfmt.FmtOpenMetrics_1_0_0}} {
				var opts []expfmt.EncoderOption
				if e.created {
					opts = append(opts, expfmt.WithCreatedLines())
				}
				var b bytes.Buffer
				enc := expfmt.NewEncoder(&b, f.wire, opts...)
				for _, mf := range ours {
					if err := enc.Encode(mf); err != nil {
						t.Fatal(err)
					}
				}
				if got := string(join(e.fleet(*e.picture.Load(), f.format, nil))); got != b.String() {
					t.Errorf("%s differs from expfmt's:\n%s", f.wire, firstDifference(got, b.String()))
				}
				if f.format == formatText {
					p := expfmt.NewTextParser(model.LegacyValidation)
					if _, err := p.TextToMetricFamilies(&b); err != nil {
						t.Errorf("expfmt cannot parse our text: %v", err)
					}
				}
			}

			for _, mf := range ours {
				sortMetrics(mf)
			}
			if len(ours) != len(want) {
				t.Errorf("%d families, the registry has %d", len(ours), len(want))
			}
			for i := range min(len(ours), len(want)) {
				if !proto.Equal(ours[i], want[i]) {
					t.Errorf("family %d differs\nours: %v\nwant: %v", i, ours[i], want[i])
				}
			}
		})
	}
}

// withOddCounters adds values that formats write in their own way.
func withOddCounters(c *snapshot.Counters) *snapshot.Counters {
	if c == nil {
		return nil
	}
	d := *c
	for i, v := range []float64{0.5, 999999, 1e6, 1234567.25, 1e21, 3e-9} {
		d.TagJobsFinished = append(d.TagJobsFinished, snapshot.Counter{
			Labels: []string{"odd\\\n\"\xff" + string(rune('a'+i)), "failed", "script"}, Value: v,
			Created: []time.Time{{}, t0, t0.Truncate(time.Second), time.Unix(0, 0), t0, t0}[i],
		})
	}
	d.JobQueued = append(d.JobQueued, snapshot.Histogram{Labels: []string{"group_type"}, Buckets: make([]uint64, 13)})
	return &d
}

func sortMetrics(mf *dto.MetricFamily) {
	slices.SortStableFunc(mf.Metric, func(a, b *dto.Metric) int {
		for i := range a.Label {
			if c := cmp.Compare(a.Label[i].GetValue(), b.Label[i].GetValue()); c != 0 {
				return c
			}
		}
		return 0
	})
}

func join(pieces [][]byte) []byte {
	var b bytes.Buffer
	for _, p := range pieces {
		b.Write(p)
	}
	return b.Bytes()
}

func decode(t *testing.T, body []byte) []*dto.MetricFamily {
	t.Helper()
	var out []*dto.MetricFamily
	r := bytes.NewReader(body)
	for {
		mf := &dto.MetricFamily{}
		err := protodelim.UnmarshalOptions{MaxSize: -1}.UnmarshalFrom(r, mf)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, mf)
	}
}

// TestWholeBodyParses: fleet and self metrics together, as a scraper reads them.
func TestWholeBodyParses(t *testing.T) {
	e, err := New(Options{}) // with go_ and process_
	if err != nil {
		t.Fatal(err)
	}
	e.Publish(small("corp"))
	e.Publish(small("public"))
	families := map[string][]string{}
	for _, accept := range []string{acceptText, acceptProto} {
		w := scrape(t, e, accept, "")
		dec := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
		for {
			var mf dto.MetricFamily
			err := dec.Decode(&mf)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", accept, err)
			}
			families[accept] = append(families[accept], mf.GetName())
		}
		slices.Sort(families[accept])
		if dup := len(families[accept]) - len(slices.Compact(slices.Clone(families[accept]))); dup != 0 {
			t.Errorf("%s: %d families stand twice", accept, dup)
		}
		for _, name := range []string{fleetPrefix + "up", selfPrefix + "build_info", "go_goroutines", "process_cpu_seconds_total"} {
			if !slices.Contains(families[accept], name) {
				t.Errorf("%s: %s is missing", accept, name)
			}
		}
	}
	if !slices.Equal(families[acceptText], families[acceptProto]) {
		t.Error("text and protobuf hold different families")
	}
	om := scrapeBody(t, e, acceptOM)
	if strings.Count(om, "# EOF\n") != 1 || !strings.HasSuffix(om, "# EOF\n") {
		t.Error("OpenMetrics does not end with the only # EOF")
	}
	for _, line := range []string{
		"# TYPE gitlab_runner_fleet_jobs_finished counter\n",
		"# UNIT gitlab_runner_fleet_job_duration_seconds seconds\n",
		`gitlab_runner_fleet_job_duration_seconds_bucket{gitlab="corp",runner_type="instance_type",status="success",le="60.0"} 3` + "\n",
	} {
		if !strings.Contains(om, line) {
			t.Errorf("OpenMetrics lacks %q", line)
		}
	}
	if strings.Contains(om, "_created") {
		t.Error("_created samples without having been asked for")
	}
	for _, accept := range []string{
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text",
	} {
		body := scrapeBody(t, e, accept)
		for _, name := range []string{fleetPrefix + "runner_status", selfPrefix + "build_info"} {
			if !strings.Contains(body, name) {
				t.Errorf("%s: %s is missing", accept, name)
			}
		}
	}
}

func TestRegistryLintFindsNothing(t *testing.T) {
	e := newExporter(t, Options{})
	e.Publish(small("corp"))
	reg, _ := referenceOf(t, e)
	e.Self().Declare("corp", []string{"runners"}, []string{"timeout"})
	e.Self().DeclareRetries("corp", []string{"timeout"})
	for _, g := range []prometheus.Gatherer{reg, e.registry} {
		problems, err := testutil.GatherAndLint(g)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestPromtoolAcceptsAScrape(t *testing.T) {
	promtool := rig.Tool(t, "promtool")
	e := newExporter(t, Options{})
	e.Publish(small("corp"))
	e.Publish(waiting("public"))
	e.Self().Declare("corp", []string{"runners"}, []string{"timeout"})
	e.Self().DeclareRetries("corp", []string{"timeout"})
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics", "--lint=all")
	cmd.Stdin = strings.NewReader(scrapeBody(t, e, acceptText))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// FuzzLabelValue: whatever stands in a label comes back through expfmt's parser.
func FuzzLabelValue(f *testing.F) {
	for _, s := range []string{"", "plain", `back\slash`, "two\nlines", `"quoted"`, `\n`, "\\", "é\xff", "}", "\r\t\x00", "a,b=\"c\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		s := waiting("corp")
		s.Expected = []snapshot.Expected{{Tag: value, Runners: 1}}
		e := newExporter(t, Options{})
		e.Publish(s)
		want := strings.ToValidUTF8(value, "\uFFFD")
		name := fleetPrefix + "tag_expected_runners"

		p := expfmt.NewTextParser(model.LegacyValidation)
		mfs, err := p.TextToMetricFamilies(bytes.NewReader(join(e.fleet(*e.picture.Load(), formatText, nil))))
		if err != nil {
			t.Fatal(err)
		}
		labels := mfs[name].GetMetric()[0].GetLabel()
		if got := labels[len(labels)-1].GetValue(); got != want {
			t.Errorf("text: %q came back as %q", want, got)
		}
		_, ref := referenceOf(t, e)
		var b bytes.Buffer
		enc := expfmt.NewEncoder(&b, expfmt.FmtOpenMetrics_1_0_0)
		for _, mf := range ref {
			if mf.GetName() == name {
				if err := enc.Encode(mf); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := join(e.fleet(*e.picture.Load(), formatOpenMetrics, nil)); !bytes.Contains(got, b.Bytes()) {
			t.Errorf("OpenMetrics does not hold\n%s", b.Bytes())
		}
	})
}

// FuzzFloat: numbers are written as expfmt writes them.
func FuzzFloat(f *testing.F) {
	for _, v := range []float64{0, 1, -1, 0.5, 10, 999999, 1e6, 1.7e9, 1e21, 1e-7, -5} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v float64) {
		mf := &dto.MetricFamily{
			Name: new("x"), Type: dto.MetricType_GAUGE.Enum(),
			Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: &v}}},
		}
		for _, wire := range []expfmt.Format{expfmt.FmtText, expfmt.FmtOpenMetrics_1_0_0} {
			om := wire == expfmt.FmtOpenMetrics_1_0_0
			var b bytes.Buffer
			if err := expfmt.NewEncoder(&b, wire).Encode(mf); err != nil {
				t.Fatal(err)
			}
			want := strings.Fields(b.String())
			if got := string(appendFloat(nil, v, om)); got != want[len(want)-1] {
				t.Errorf("%v: %q, expfmt writes %q", v, got, want[len(want)-1])
			}
		}
	})
}
