package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be the simulated GitLab, as the tool is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == simulateCommand {
		main()
	}
	os.Exit(m.Run())
}

// TestMeasuresASmallFleet runs the whole measurement on a fleet whose figures
// are known.
func TestMeasuresASmallFleet(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	var out, said bytes.Buffer
	began := time.Now()
	p := []string{"-runners=120", "-limits=0", "-latency=1ms", "-history=1h", "-steady=2s", "-settle=30s", "-picture=30s", "-scrapes=3", "-temp=" + temp, "-ldflags="}
	if code := run(t.Context(), p, strings.NewReader(""), &out, &said); code != 0 {
		t.Fatalf("status %d:\n%s", code, &said)
	}
	for _, want := range []string{
		`\| runners \| 120 \|`, `\| every runner listed \| \d+\.\d s \|`, `\| first complete picture, all tags \| \d+\.\d s \|`,
		`\| requests it needs \| 244 \|`, `\| every reading on time \| \d+\.\d s \|`, `\| answers 429 \| 0 \|`, `\| series \| \d,\d{3} \|`,
		`\| scrape p50 / p99, protobuf, gzip \| \d+\.\d ms / \d+\.\d ms \(\d\.\d MiB\) \|`,
	} {
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("no %s in\n%s", want, &out)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	t.Logf("%v\n%s", time.Since(began), &out)
}

func TestStopsAtItsBounds(t *testing.T) {
	t.Parallel()
	// The exporter is ended with an error, and what was measured is told.
	var out, said bytes.Buffer
	code := run(t.Context(), []string{"-runners=50", "-limits=0", "-latency=0", "-history=0", "-max-requests=20", "-temp=" + t.TempDir(), "-ldflags="}, strings.NewReader(""), &out, &said)
	if code != 1 || !strings.Contains(said.String(), errEnough.Error()) || !strings.Contains(out.String(), "| 50 |") {
		t.Errorf("status %d\n%s\n%s", code, &said, &out)
	}
	for _, bad := range [][]string{{"-runners=x"}, {"-limits=-1"}, {"extra"}, {"-nonsense"}} {
		if code := run(t.Context(), bad, strings.NewReader(""), io.Discard, io.Discard); code != 1 {
			t.Errorf("%v: status %d", bad, code)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	c := &oneCase{plan: &plan{latency: 20 * time.Millisecond, concurrency: 16}, runners: 10_000}
	if n := c.needed(); n != 20_102 {
		t.Errorf("%d requests needed", n)
	}
	if d := c.ideal(16_000); d != 20*time.Second {
		t.Errorf("16,000 requests of 20 ms, 16 at once: %v", d)
	}
	c.limit = 600
	for n, want := range map[int]time.Duration{1: 1250 * time.Microsecond, 600: 750 * time.Millisecond, 601: time.Minute, 1201: 2 * time.Minute} {
		if d := c.ideal(n); d != want {
			t.Errorf("%d requests at 600 a minute: %v, want %v", n, d, want)
		}
	}
	d := make([]time.Duration, 100)
	for i := range d {
		d[99-i] = time.Duration(i + 1)
	}
	if p50, p99 := quantile(d, 0.5), quantile(d, 0.99); p50 != 50 || p99 != 99 {
		t.Errorf("p50 %d, p99 %d", p50, p99)
	}
	if s := thousands(1234567) + " " + thousands(12) + " " + thousands(123456); s != "1,234,567 12 123,456" {
		t.Error(s)
	}
	if n := series([]byte("# HELP a b\na 1\na{b=\"c\"} 2\n# EOF\n")); n != 2 {
		t.Errorf("%d series", n)
	}
}

// TestReadsItself: the figures of the kernel are of the right size.
func TestReadsItself(t *testing.T) {
	t.Parallel()
	if load() == "-" {
		t.Log("no /proc here: the report shows dashes")
		return
	}
	sum := 0
	for cpuTime(os.Getpid()) == 0 { // a hundredth of a second at the most
		sum++
	}
	now, peak := memory(os.Getpid())
	if now < 1<<20 || peak < now/2 || peak > 1<<36 {
		t.Errorf("resident %d, peak %d", now, peak)
	}
	if !strings.Contains(machine(), "CPUs") || strings.HasPrefix(machine(), " ") {
		t.Error(machine())
	}
	t.Log(machine(), sum)
}
