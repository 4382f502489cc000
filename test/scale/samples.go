package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// samples are a scrape's body in OpenMetrics text.
type samples []byte

// unpack is the body that came with gzip.
func unpack(body []byte) (samples, error) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("unpack a scrape: %w", err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("unpack a scrape: %w", err)
	}
	return out, nil
}

// each calls f with the name, the labels as they are written and the value of
// each sample. Names come without the prefix that all of ours have.
func (s samples) each(f func(name, labels string, value float64)) {
	for line := range bytes.Lines(s) {
		end := bytes.IndexAny(line, "{ ")
		if end <= 0 || line[0] == '#' {
			continue
		}
		last := bytes.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(string(bytes.TrimSpace(line[last+1:])), 64)
		if err != nil {
			continue
		}
		f(strings.TrimPrefix(string(line[:end]), "gitlab_runner_fleet_"), string(line[end:max(last, end)]), v)
	}
}

// sums are the samples summed by name; one that is not shown is not in the map.
func (s samples) sums() map[string]float64 {
	out := map[string]float64{}
	s.each(func(name, _ string, v float64) { out[name] += v })
	return out
}

// by sums the samples of one name by the value of a label.
func (s samples) by(name, label string) map[string]float64 {
	out := map[string]float64{}
	s.each(func(n, labels string, v float64) {
		if n != name {
			return
		}
		for _, before := range []string{"{", ","} {
			if _, rest, ok := strings.Cut(labels, before+label+`="`); ok {
				value, _, _ := strings.Cut(rest, `"`) // the simulation's values hold no quotes
				out[value] += v
				return
			}
		}
	})
	return out
}

// series counts the samples, and those of runner_ families among them.
func (s samples) series() (all, ofRunners int) {
	s.each(func(name, _ string, _ float64) {
		all++
		if strings.HasPrefix(name, "runner_") {
			ofRunners++
		}
	})
	return all, ofRunners
}
