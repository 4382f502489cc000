package collector

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-kit/log/level"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
)

// serve is a scrape: it negotiates as promhttp does, joins the blocks of the
// picture it found at its start, and reports afterwards what it has shown.
func (e *Exporter) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	groups, err := collected(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	wire := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	encoding := negotiateEncoding(r.Header)
	h := w.Header()
	h.Set("Content-Type", string(wire))
	h.Add("Vary", "Accept")
	h.Add("Vary", "Accept-Encoding")
	if encoding != identity {
		h.Set("Content-Encoding", encoding)
	}
	if r.Method == http.MethodHead {
		return
	}

	refuse := func() {
		h.Del("Content-Encoding")
		http.Error(w, "Too many scrapes are being answered already.", http.StatusServiceUnavailable)
	}
	release, ok := e.makers.acquire(r.Context())
	if !ok {
		refuse()
		return
	}
	list := *e.picture.Load()
	body, err := e.body(list, wire, groups)
	var packed *bytes.Buffer
	if err == nil && encoding != identity {
		if packed, err = e.pack(body, encoding); err == nil {
			body = [][]byte{packed.Bytes()}
		}
	}
	client := e.readers.enter(r.Context(), w)
	release() // not before there is room for the reader: both bound the pages in memory
	if client == nil {
		refuse()
		return
	}
	defer e.readers.leave(client)
	if err != nil {
		_ = level.Error(e.logger).Log("msg", "scrape failed", "err", err)
		h.Del("Content-Encoding")
		http.Error(w, "An error has occurred while serving metrics, see the log.", http.StatusInternalServerError)
		return
	}
	if err := e.deliver(w, client, body); err != nil {
		_ = level.Debug(e.logger).Log("msg", "scrape not written to its end", "err", err)
		return
	}
	if packed != nil {
		e.buffers.Put(packed) // not after a failed write, which HTTP/2 may still be at
	}
	if r.Context().Err() != nil {
		return
	}
	for _, en := range list {
		if groups.has(GroupFleet) {
			raise(&en.line.served, en.snap.Generation)
		}
		if groups.has(GroupRunner) {
			raise(&en.line.servedRows, en.rows.view.RowsGeneration)
		}
	}
}

// groups are the groups of families that a scrape asks for; nil: all.
type groups []Group

func (g groups) has(one Group) bool { return g == nil || slices.Contains(g, one) }

// collected reads ?collect[]=fleet|runner|exporter, which may stand several
// times: so a large fleet's runner_ families can be scraped more seldom than
// the rest.
func collected(r *http.Request) (groups, error) {
	var out groups
	for _, v := range r.URL.Query()["collect[]"] {
		g := Group(v)
		if g != GroupFleet && g != GroupRunner && g != GroupExporter {
			return nil, fmt.Errorf("unknown value %q of collect[]: it may be %s, %s or %s", v, GroupFleet, GroupRunner, GroupExporter)
		}
		out = append(out, g)
	}
	return out, nil
}

// body gathers the self metrics and lists the pieces of the answer in order.
func (e *Exporter) body(list []*entry, wire expfmt.Format, want groups) ([][]byte, error) {
	var f format
	switch wire.FormatType() {
	case expfmt.TypeTextPlain:
		f = formatText
	case expfmt.TypeOpenMetrics:
		f = formatOpenMetrics
	case expfmt.TypeProtoDelim, expfmt.TypeProtoText, expfmt.TypeProtoCompact:
		f = formatProto
	default:
		return nil, fmt.Errorf("negotiated a format without an encoder: %s", wire)
	}
	e.asked[f].Store(time.Now().UnixNano())

	pieces := e.fleet(list, f, want)

	// One collector's error must not hide the rest.
	var families []*dto.MetricFamily
	var err error
	if want.has(GroupExporter) {
		if families, err = e.registry.Gather(); err != nil {
			_ = level.Error(e.logger).Log("msg", "gathering self metrics", "err", err)
		}
	}
	var self bytes.Buffer
	var opts []expfmt.EncoderOption
	if e.created {
		opts = append(opts, expfmt.WithCreatedLines())
	}
	enc := expfmt.NewEncoder(&self, wire, opts...)
	if t := wire.FormatType(); t == expfmt.TypeProtoText || t == expfmt.TypeProtoCompact {
		// For people's eyes only: made from the protobuf, at any cost.
		if pieces, err = nil, reencode(pieces, enc); err != nil {
			return nil, err
		}
	}
	for _, mf := range families {
		if err := enc.Encode(mf); err != nil {
			return nil, fmt.Errorf("encode %s: %w", mf.GetName(), err)
		}
	}
	if c, ok := enc.(expfmt.Closer); ok { // "# EOF"
		if err := c.Close(); err != nil {
			return nil, fmt.Errorf("close encoder: %w", err)
		}
	}
	return append(pieces, self.Bytes()), nil
}

// fleet joins the published blocks family by family, so that a family stands
// once, with the series of all GitLabs.
func (e *Exporter) fleet(list []*entry, f format, want groups) [][]byte {
	pieces := make([][]byte, 0, len(e.families)*(len(list)+1))
	blocks := make([][2]block, len(list))
	for i, en := range list {
		blocks[i] = [2]block{en.main.block(f), en.rows.block(f)}
	}
	for i, fam := range e.families {
		if !want.has(fam.Group) {
			continue
		}
		group := 0
		if fam.rows {
			group = 1
		}
		head, size := len(pieces), 0
		pieces = append(pieces, fam.heads[f])
		for _, b := range blocks {
			if c := b[group][i]; len(c) > 0 {
				pieces = append(pieces, c)
				size += len(c)
			}
		}
		switch {
		case size == 0:
			pieces = pieces[:head]
		case f == formatProto:
			h := fam.heads[f]
			framed := make([]byte, 0, binary.MaxVarintLen64+len(h))
			framed = protowire.AppendVarint(framed, uint64(len(h)+size))
			framed = append(framed, h...)
			pieces[head] = framed
		}
	}
	return pieces
}

func reencode(pieces [][]byte, enc expfmt.Encoder) error {
	var all bytes.Buffer
	for _, c := range pieces {
		all.Write(c)
	}
	for all.Len() > 0 {
		var mf dto.MetricFamily
		if err := (protodelim.UnmarshalOptions{MaxSize: -1}).UnmarshalFrom(&all, &mf); err != nil {
			return fmt.Errorf("read back protobuf: %w", err)
		}
		if err := enc.Encode(&mf); err != nil {
			return fmt.Errorf("encode %s: %w", mf.GetName(), err)
		}
	}
	return nil
}

// pack compresses a page into memory: how fast a client reads must not decide
// how long a place among the makers is taken.
func (e *Exporter) pack(body [][]byte, encoding string) (*bytes.Buffer, error) {
	packed, _ := e.buffers.Get().(*bytes.Buffer)
	if packed == nil {
		packed = new(bytes.Buffer)
	}
	packed.Reset()
	if encoding == encodingGzip {
		return packed, writeGzip(packed, body, &e.gzips)
	}
	return packed, writeZstd(packed, body, &e.zstds)
}
