package collector

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockIsReadAtEachScrape: the clock is read at each scrape, not when something changed.
func TestClockIsReadAtEachScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExporter(t, Options{Shards: 3})
		for _, want := range []string{"9.466848e+08", "9.466848625e+08"} { // 2000-01-01, where a bubble's time begins
			if body := scrapeBody(t, e, acceptText); !strings.Contains(body, "\n"+selfPrefix+"time_seconds "+want+"\n") || !strings.Contains(body, "\n"+selfPrefix+"shards 3\n") {
				t.Errorf("want %s:\n%s", want, body)
			}
			time.Sleep(62500 * time.Millisecond)
		}
	})
	if body := scrapeBody(t, newExporter(t, Options{}), acceptText); !strings.Contains(body, "\n"+selfPrefix+"shards 1\n") {
		t.Error("a process alone is one shard")
	}
}
