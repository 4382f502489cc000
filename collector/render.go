package collector

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// format is a wire format that is rendered ahead. Both versions of OpenMetrics
// are the same bytes; the two debugging forms of protobuf are made from formatProto.
type format uint8

const (
	formatText format = iota
	formatOpenMetrics
	formatProto
	numFormats = 3
)

// view is what a collect function reads.
type view struct {
	*snapshot.GitLab
	series  int            // how many series the fleet families of this GitLab have
	dropped map[string]int // by family: how many gave way to the ceiling
	// only are the runners that have runner_ series while the others give way;
	// nil: all.
	only map[int64]struct{}
}

// part is one group of families of one published snapshot: the runner_ ones, or
// all others. It is rendered at most once a format, ahead or on demand.
type part struct {
	families []*family
	rows     bool
	view     view
	shard    string
	created  bool
	scratch  *sync.Pool

	counts    []int     // series of each fleet family, as Prometheus counts them
	kept      []int     // of them, those that stay while the healthy runners give way
	series    int       // the sum of counts
	bad       int       // series left out for a wrong number of labels or buckets
	reduction reduction // its families are not rendered

	once   [numFormats]sync.Once
	blocks [numFormats]block
}

// newPart counts the series and renders nothing.
func (e *Exporter) newPart(s *snapshot.GitLab, rows bool) *part {
	p := &part{
		families: e.families, rows: rows, view: view{GitLab: s}, shard: e.shard, created: e.created,
		scratch: &e.scratch, counts: make([]int, len(e.families)), kept: make([]int, len(e.families)),
	}
	ill := p.view
	ill.only = longestIll(&p.view)
	for i, f := range p.families {
		if f.rows != rows || f.self {
			continue
		}
		var bad int
		p.counts[i], bad = f.count(&p.view)
		p.series += p.counts[i]
		p.bad += bad
		if f.ill {
			p.kept[i], _ = f.count(&ill)
		}
	}
	return p
}

func (f *family) count(v *view) (series, bad int) {
	n := &counting{}
	sk := sink{family: f, out: n}
	f.collect(v, &sk)
	return n.series, sk.bad
}

// at is the part as it is shown with a reduction; nothing of it is rendered yet.
func (p *part) at(r reduction) *part {
	out := &part{
		families: p.families, rows: p.rows, view: p.view, shard: p.shard, created: p.created, scratch: p.scratch,
		counts: p.counts, kept: p.kept, series: p.series, bad: p.bad, reduction: r,
	}
	if out.view.only = nil; p.rows && r == withoutHealthy {
		out.view.only = longestIll(&p.view)
	}
	return out
}

// block is a part in one format: the bytes of each family of the exporter,
// none where the family has no series or belongs to the other part.
type block [][]byte

func (p *part) block(f format) block {
	p.once[f].Do(func() {
		buf, _ := p.scratch.Get().(*[]byte)
		if buf == nil {
			buf = new([]byte)
		}
		b := make(block, len(p.families))
		for i, fam := range p.families {
			if fam.rows != p.rows || p.reduction.drops(fam) {
				continue
			}
			*buf = p.render(fam, f, (*buf)[:0])
			// The exact size: what append left over would stay for as long as the block.
			b[i] = bytes.Clone(*buf)
		}
		p.scratch.Put(buf)
		p.blocks[f] = b
	})
	return p.blocks[f]
}

func (p *part) render(fam *family, f format, buf []byte) []byte {
	slots := fam.slots(p.view.Name, p.shard)
	sk := sink{family: fam}
	if f == formatProto {
		out := newProtoEmitter(fam, slots, buf)
		sk.out = out
		fam.collect(&p.view, &sk)
		return out.buf
	}
	out := newTextEmitter(fam, slots, f == formatOpenMetrics, p.created, buf)
	sk.out = out
	fam.collect(&p.view, &sk)
	return out.buf
}

// emitter takes the series of one family. Label values stand in the order of
// Family.Labels without gitlab, are valid UTF-8, and are borrowed: they must be
// copied before the call returns.
type emitter interface {
	sample(lv []string, v float64, created time.Time)
	histogram(lv []string, buckets []uint64, sum float64, created time.Time)
}

// sink is what collect functions write to. It stands between them and the
// emitter so that label values need no slice on the heap for each of 200,000 series.
type sink struct {
	family *family
	out    emitter
	lv     [maxLabels]string
	bad    int
}

const maxLabels = 12

func (s *sink) labels(values []string) ([]string, bool) {
	if len(values) != len(s.family.Labels)-1 {
		s.bad++
		return nil, false
	}
	for i, v := range values {
		if !utf8.ValidString(v) {
			// One such byte would make Prometheus refuse the whole scrape.
			v = strings.ToValidUTF8(v, string(utf8.RuneError))
		}
		s.lv[i] = v
	}
	return s.lv[:len(values)], true
}

func (s *sink) gauge(v float64, labels ...string) {
	if lv, ok := s.labels(labels); ok {
		s.out.sample(lv, v, time.Time{})
	}
}

func (s *sink) counter(v float64, created time.Time, labels ...string) {
	if lv, ok := s.labels(labels); ok {
		s.out.sample(lv, v, created)
	}
}

func (s *sink) histogram(h *snapshot.Histogram) {
	if len(h.Buckets) != len(s.family.Buckets)+1 {
		s.bad++
		return
	}
	if lv, ok := s.labels(h.Labels); ok {
		s.out.histogram(lv, h.Buckets, h.Sum, h.Created)
	}
}

// counting counts series as Prometheus stores them.
type counting struct{ series int }

func (c *counting) sample([]string, float64, time.Time) { c.series++ }

func (c *counting) histogram(_ []string, buckets []uint64, _ float64, _ time.Time) {
	c.series += len(buckets) + 2 // _sum and _count
}

// slot is one label of a family's series: a constant, or the value at arg.
type slot struct {
	name  string
	value string
	arg   int // -1: constant
}

// slots lists a family's labels in their order on the wire, by name.
func (f *family) slots(gitlab, shard string) []slot {
	slots := make([]slot, 0, len(f.Labels)+1)
	slots = append(slots, slot{name: "gitlab", value: strings.ToValidUTF8(gitlab, string(utf8.RuneError)), arg: -1})
	for i, name := range f.Labels[1:] {
		slots = append(slots, slot{name: name, arg: i})
	}
	if shard != "" && !f.self {
		slots = append(slots, slot{name: "shard", value: shard, arg: -1})
	}
	slices.SortFunc(slots, func(a, b slot) int { return cmp.Compare(a.name, b.name) })
	return slots
}

// textEmitter writes text 0.0.4 or OpenMetrics, to the byte what expfmt writes
// of the same series.
type textEmitter struct {
	buf     []byte
	om      bool
	created bool
	name    string // as on a sample line
	base    string // without _total
	counter bool
	les     []string // values of le, +Inf last

	// A series' labels are lits[0], value args[0], lits[1] … lits[n], without
	// the closing brace.
	lits []string
	args []int
	lab  []byte // the labels of the series at hand
}

func newTextEmitter(f *family, slots []slot, om, created bool, buf []byte) *textEmitter {
	t := &textEmitter{
		buf: buf, om: om, created: om && created,
		name: f.Name, base: strings.TrimSuffix(f.Name, "_total"), counter: f.Type == Counter,
	}
	lit := "{"
	for i, s := range slots {
		if i > 0 {
			lit += ","
		}
		lit += s.name + `="`
		if s.arg < 0 {
			lit += string(appendEscaped(nil, s.value)) + `"`
			continue
		}
		t.lits = append(t.lits, lit)
		t.args = append(t.args, s.arg)
		lit = `"`
	}
	t.lits = append(t.lits, lit)
	for _, b := range f.Buckets {
		t.les = append(t.les, string(appendFloat(nil, b, om)))
	}
	t.les = append(t.les, "+Inf")
	return t
}

func (t *textEmitter) labels(lv []string) {
	t.lab = t.lab[:0]
	for i, a := range t.args {
		t.lab = append(t.lab, t.lits[i]...)
		t.lab = appendEscaped(t.lab, lv[a])
	}
	t.lab = append(t.lab, t.lits[len(t.args)]...)
}

func (t *textEmitter) sample(lv []string, v float64, created time.Time) {
	t.labels(lv)
	t.start(t.name, "", "")
	t.buf = append(appendFloat(t.buf, v, t.om), '\n')
	if t.counter {
		t.createdLine(created)
	}
}

func (t *textEmitter) histogram(lv []string, buckets []uint64, sum float64, created time.Time) {
	t.labels(lv)
	var total uint64
	for i, n := range buckets {
		total += n
		t.start(t.name, "_bucket", t.les[i])
		t.count(total)
	}
	t.start(t.name, "_sum", "")
	t.buf = append(appendFloat(t.buf, sum, t.om), '\n')
	t.start(t.name, "_count", "")
	t.count(total)
	t.createdLine(created)
}

// start writes a line up to its value.
func (t *textEmitter) start(name, suffix, le string) {
	t.buf = append(t.buf, name...)
	t.buf = append(t.buf, suffix...)
	t.buf = append(t.buf, t.lab...)
	if le != "" {
		t.buf = append(t.buf, `,le="`...)
		t.buf = append(t.buf, le...)
		t.buf = append(t.buf, '"')
	}
	t.buf = append(t.buf, "} "...)
}

func (t *textEmitter) count(n uint64) {
	if t.om {
		t.buf = strconv.AppendUint(t.buf, n, 10)
	} else {
		t.buf = appendFloat(t.buf, float64(n), false)
	}
	t.buf = append(t.buf, '\n')
}

func (t *textEmitter) createdLine(created time.Time) {
	if !t.created || created.IsZero() {
		return
	}
	t.start(t.base, "_created", "")
	t.buf = append(appendFloat(t.buf, float64(created.UnixNano())/1e9, true), '\n')
}

// appendEscaped escapes a label value as both text formats want it.
func appendEscaped(buf []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); i++ {
		var esc string
		switch s[i] {
		case '\\':
			esc = `\\`
		case '\n':
			esc = `\n`
		case '"':
			esc = `\"`
		default:
			continue
		}
		buf = append(buf, s[from:i]...)
		buf = append(buf, esc...)
		from = i + 1
	}
	return append(buf, s[from:]...)
}

// appendFloat writes a number as expfmt does; OpenMetrics wants a point or an
// exponent in each.
func appendFloat(buf []byte, v float64, om bool) []byte {
	switch {
	case math.IsNaN(v):
		return append(buf, "NaN"...)
	case math.IsInf(v, +1):
		return append(buf, "+Inf"...)
	case math.IsInf(v, -1):
		return append(buf, "-Inf"...)
	case v == 0: // -0 too
		buf = append(buf, '0')
	case v > 0 && v < 1e6 && v == math.Trunc(v): // most values; format 'g' has no exponent there
		buf = strconv.AppendInt(buf, int64(v), 10)
	default:
		from := len(buf)
		buf = strconv.AppendFloat(buf, v, 'g', -1, 64)
		if bytes.ContainsAny(buf[from:], "e.") {
			return buf
		}
	}
	if om {
		buf = append(buf, ".0"...)
	}
	return buf
}

// protoEmitter writes io.prometheus.client.Metric messages, each as field 4 of
// a MetricFamily whose header and length the scrape puts in front. By hand,
// because 200,000 message objects would be two million allocations.
type protoEmitter struct {
	buf    []byte
	bounds []float64
	typ    Type
	pairs  []protoPair
	msg    []byte // the Metric at hand
	val    []byte // its Gauge, Counter or Histogram
	sub    []byte // a bucket or timestamp in that
}

type protoPair struct {
	encoded []byte // constant: the whole field; else the LabelPair's name field
	arg     int
}

func newProtoEmitter(f *family, slots []slot, buf []byte) *protoEmitter {
	p := &protoEmitter{buf: buf, bounds: f.Buckets, typ: f.Type}
	for _, s := range slots {
		pair := appendBytesField(nil, 1, s.name)
		if s.arg < 0 {
			pair = appendBytesField(nil, 1, appendBytesField(pair, 2, s.value))
		}
		p.pairs = append(p.pairs, protoPair{encoded: pair, arg: s.arg})
	}
	return p
}

func (p *protoEmitter) labels(lv []string) {
	p.msg = p.msg[:0]
	for i := range p.pairs {
		pair := &p.pairs[i]
		if pair.arg < 0 {
			p.msg = append(p.msg, pair.encoded...)
			continue
		}
		v := lv[pair.arg]
		p.msg = protowire.AppendTag(p.msg, 1, protowire.BytesType)
		p.msg = protowire.AppendVarint(p.msg, uint64(len(pair.encoded)+1+protowire.SizeBytes(len(v)))) //nolint:gosec // a length
		p.msg = append(p.msg, pair.encoded...)
		p.msg = appendBytesField(p.msg, 2, v)
	}
}

func (p *protoEmitter) sample(lv []string, v float64, created time.Time) {
	p.labels(lv)
	field := protowire.Number(2)
	p.val = appendDoubleField(p.val[:0], 1, v)
	if p.typ == Counter {
		field = 3
		p.timestamp(3, created)
	}
	p.flush(field)
}

func (p *protoEmitter) histogram(lv []string, buckets []uint64, sum float64, created time.Time) {
	p.labels(lv)
	var total uint64
	for _, n := range buckets {
		total += n
	}
	p.val = appendVarintField(p.val[:0], 1, total)
	p.val = appendDoubleField(p.val, 2, sum)
	total = 0
	for i, bound := range p.bounds { // +Inf is left out, as client_golang does
		total += buckets[i]
		p.sub = appendDoubleField(appendVarintField(p.sub[:0], 1, total), 2, bound)
		p.val = appendBytesField(p.val, 3, p.sub)
	}
	p.timestamp(15, created)
	p.flush(7)
}

func (p *protoEmitter) timestamp(field protowire.Number, t time.Time) {
	if t.IsZero() {
		return
	}
	p.sub = appendVarintField(p.sub[:0], 1, uint64(t.Unix()))   //nolint:gosec // int64 on the wire is its two's complement
	p.sub = appendVarintField(p.sub, 2, uint64(t.Nanosecond())) //nolint:gosec // 0 to 999,999,999
	p.val = appendBytesField(p.val, field, p.sub)
}

func (p *protoEmitter) flush(field protowire.Number) {
	p.msg = appendBytesField(p.msg, field, p.val)
	p.buf = appendBytesField(p.buf, 4, p.msg)
}

func appendBytesField[B ~string | ~[]byte](buf []byte, n protowire.Number, v B) []byte {
	buf = protowire.AppendTag(buf, n, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(len(v)))
	return append(buf, v...)
}

func appendVarintField(buf []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(buf, n, protowire.VarintType), v)
}

func appendDoubleField(buf []byte, n protowire.Number, v float64) []byte {
	buf = protowire.AppendTag(buf, n, protowire.Fixed64Type)
	return binary.LittleEndian.AppendUint64(buf, math.Float64bits(v))
}

// prepare makes what stands before a family's series in each format.
func (f *family) prepare() {
	for _, to := range []format{formatText, formatOpenMetrics} {
		om := to == formatOpenMetrics
		name, help := f.Name, strings.NewReplacer("\\", `\\`, "\n", `\n`).Replace(f.Help)
		if om {
			help = string(appendEscaped(nil, f.Help))
			if f.Type == Counter {
				name = strings.TrimSuffix(name, "_total")
			}
		}
		head := "# HELP " + name + " " + help + "\n# TYPE " + name + " " + string(f.Type) + "\n"
		if om && f.Unit != "" {
			head += "# UNIT " + name + " " + f.Unit + "\n"
		}
		f.heads[to] = []byte(head)
	}
	types := map[Type]uint64{Counter: 0, Gauge: 1, Histogram: 4}
	head := appendBytesField(nil, 1, f.Name)
	head = appendBytesField(head, 2, f.Help)
	head = appendVarintField(head, 3, types[f.Type])
	if f.Unit != "" {
		head = appendBytesField(head, 5, f.Unit)
	}
	f.heads[formatProto] = head
}
