// Package collector holds THE table of metric families, turns the snapshots
// that monitors publish into an exposition, and keeps the exporter's metrics
// about itself.
//
// Fleet families are not held in a Prometheus registry: gathering 200,000
// series costs a third of a second and hundreds of megabytes at every scrape.
// They are rendered once a publish into blocks of bytes, one for each GitLab,
// family and format, and a scrape only joins blocks (exposition.go). The
// registry holds the few self metrics (self.go).
//
// To add a family: add a row to the table (table.go), a collect function beside
// its neighbours (families.go), and run the tests with -update.
package collector

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Options configure an Exporter.
type Options struct {
	// Disable names families that are not exported (metrics.disable). A name
	// that is not in the table is an error.
	Disable []string
	// SeriesLimit is the ceiling over all fleet families of all GitLabs
	// (metrics.series_limit); 0: none.
	SeriesLimit int
	// Shard is the value of the label shard on every fleet family; "" where
	// there is one shard only, and then there is no such label.
	Shard string
	// Shards is how many processes share the runners (--shard.count); 0 is 1.
	Shards int
	// CreatedSamples adds _created lines to OpenMetrics text. Protobuf carries
	// created timestamps always.
	CreatedSamples bool
	// Logger receives what a scrape cannot report to its client. nil: nothing is logged.
	Logger log.Logger
	// Registry takes the self metrics. nil: a new one, with the go_ and
	// process_ families.
	Registry *prometheus.Registry
}

// Exporter serves what monitors publish. All methods may be called from any
// goroutine; the publishes of one GitLab come one after the other.
type Exporter struct {
	logger   log.Logger
	registry *prometheus.Registry
	self     *Self
	created  bool
	shard    string
	families []*family // exported from snapshots, sorted by name

	publishing sync.Mutex // serialises writers of picture; a scrape never takes it
	limit      int
	reduction  reduction // to stay below limit
	picture    atomic.Pointer[[]*entry]

	// asked is when a scrape last asked for a format, in Unix nanoseconds: one
	// nobody asks for is not worth rendering at each publish.
	asked [numFormats]atomic.Int64

	scratch sync.Pool // *[]byte, for rendering
	zstds   sync.Pool // *zstd.Encoder
	gzips   sync.Pool // *gzip.Writer
	buffers sync.Pool // *bytes.Buffer, of compressed pages

	makers  slots
	readers readers
}

// hotFor is how long a format stays rendered ahead after a scrape asked for it.
const hotFor = 10 * time.Minute

// entry is one GitLab in the picture. It is immutable but for what is rendered
// on demand within its parts.
type entry struct {
	snap *snapshot.GitLab
	line *lineage
	main *part // everything but runner_
	rows *part // runner_; shared between entries of the same RowsGeneration
}

// lineage is one uninterrupted row of publishes of a GitLab. A scrape that
// began before a GitLab was withdrawn and published anew must not mark the new
// one's generations as read: they start again at 1.
type lineage struct {
	served, servedRows atomic.Uint64
}

// New makes an Exporter with nothing published. It fails when Disable names an
// unknown family, or the registry already holds a self metric.
func New(o Options) (*Exporter, error) {
	e := &Exporter{
		logger:   o.Logger,
		registry: o.Registry,
		created:  o.CreatedSamples,
		shard:    o.Shard,
		limit:    o.SeriesLimit,
		makers:   make(slots, maxMakers),
	}
	if e.logger == nil {
		e.logger = log.NewNopLogger()
	}
	e.picture.Store(new([]*entry))

	table := table()
	disabled := make(map[string]bool, len(o.Disable))
	var errs []error
	for _, name := range o.Disable {
		if !slices.ContainsFunc(table, func(f *family) bool { return f.Name == name }) {
			errs = append(errs, fmt.Errorf("disable: unknown metric family %q", name))
		}
		disabled[name] = true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	if e.registry == nil {
		e.registry = prometheus.NewRegistry()
		e.registry.MustRegister(
			collectors.NewGoCollector(),
			collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		)
	}
	var err error
	if e.self, err = newSelf(e.registry, table, disabled, o.Shards); err != nil {
		return nil, err
	}
	if !disabled[buildInfo] {
		if err := e.registry.Register(version.NewCollector(strings.TrimSuffix(buildInfo, "_build_info"))); err != nil {
			return nil, fmt.Errorf("register %s: %w", buildInfo, err)
		}
	}
	for _, f := range table {
		if f.collect != nil && !disabled[f.Name] {
			f.prepare()
			e.families = append(e.families, f)
		}
	}
	slices.SortFunc(e.families, func(a, b *family) int { return strings.Compare(a.Name, b.Name) })
	return e, nil
}

// Self is where the exporter's events are counted.
func (e *Exporter) Self() *Self { return e.self }

// Publish makes s what the next scrape shows of its GitLab. The snapshot must
// not change any more. Rendering is done here, before the swap, so a scrape
// never waits for it; runner_ families are kept while RowsGeneration stands
// still. A Generation below the last one means another monitor took over, and
// Served starts again; call Withdraw first where that may happen.
func (e *Exporter) Publish(s *snapshot.GitLab) {
	e.publishing.Lock()
	defer e.publishing.Unlock()

	old := *e.picture.Load()
	at, found := find(old, s.Name)
	next := &entry{snap: s, line: &lineage{}}
	if found && old[at].snap.Generation <= s.Generation {
		prev := old[at]
		next.line = prev.line
		// A withdrawal hides rows at once, whatever their generation.
		if prev.snap.RowsGeneration == s.RowsGeneration &&
			(prev.snap.Fleet == nil) == (s.Fleet == nil) &&
			(prev.snap.Counters == nil) == (s.Counters == nil) {
			next.rows = prev.rows
		}
	}
	if next.rows == nil {
		next.rows = e.newPart(s, true)
	}
	next.main = e.newPart(s, false)
	if bad := next.main.bad + next.rows.bad; bad > 0 {
		_ = level.Error(e.logger).Log("msg", "series with a wrong number of labels or buckets left out", "gitlab", s.Name, "count", bad)
	}

	var list []*entry
	if found {
		list = slices.Clone(old)
		list[at] = next
	} else {
		list = slices.Insert(slices.Clone(old), at, next)
	}
	e.show(list, next)
}

// show puts the list under the ceiling, renders the entries that changed in
// the formats that are asked for, and makes it the picture.
func (e *Exporter) show(list []*entry, changed *entry) {
	was := e.reduction
	e.reduction = chooseReduction(list, e.limit, was)
	if e.reduction != was {
		_ = level.Warn(e.logger).Log("msg", e.reduction.message(), "series_limit", e.limit)
	}
	now := time.Now().UnixNano()
	for i, en := range list {
		if en == changed || en.rows.reduction != e.reduction {
			en = en.at(e.reduction)
			list[i] = en
			for f := range format(numFormats) {
				if now-e.asked[f].Load() < int64(hotFor) {
					en.main.block(f)
					en.rows.block(f)
				}
			}
		}
	}
	e.picture.Store(&list)
}

// Withdraw removes a GitLab from the exposition, after a reload without it. Its
// self metrics are removed with Self.Forget.
func (e *Exporter) Withdraw(name string) {
	e.publishing.Lock()
	defer e.publishing.Unlock()
	old := *e.picture.Load()
	if at, found := find(old, name); found {
		e.show(slices.Delete(slices.Clone(old), at, at+1), nil)
	}
}

// Pictures are what is shown of each GitLab, by name. They must not be changed.
func (e *Exporter) Pictures() []*snapshot.GitLab {
	list := *e.picture.Load()
	out := make([]*snapshot.GitLab, len(list))
	for i, en := range list {
		out[i] = en.snap
	}
	return out
}

// Served is the highest Generation of this GitLab whose families, all but
// runner_, a completed scrape has read: answered 200 and written to the end. 0:
// none yet. The ledger keeps a new series at 0 until then.
func (e *Exporter) Served(name string) uint64 {
	list := *e.picture.Load()
	if at, found := find(list, name); found {
		return list[at].line.served.Load()
	}
	return 0
}

// ServedRows is the highest RowsGeneration whose runner_ families a completed
// scrape has read; 0: none yet. They are rebuilt more seldom than the rest, so
// Served does not cover them.
func (e *Exporter) ServedRows(name string) uint64 {
	list := *e.picture.Load()
	if at, found := find(list, name); found {
		return list[at].line.servedRows.Load()
	}
	return 0
}

// Handler answers GET and HEAD of the telemetry path. It does no network I/O
// and answers before the first Publish too.
func (e *Exporter) Handler() http.Handler { return http.HandlerFunc(e.serve) }

func find(list []*entry, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(en *entry, name string) int {
		return strings.Compare(en.snap.Name, name)
	})
}

// raise keeps the highest value: scrapes complete in any order.
func raise(a *atomic.Uint64, v uint64) {
	for {
		old := a.Load()
		if v <= old || a.CompareAndSwap(old, v) {
			return
		}
	}
}
