package monitor

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// A last save that fails is reported to whoever ended the monitor: an exit status 0
// would mean that all is on disk.
func TestFailedLastSaveIsReported(t *testing.T) {
	for _, full := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret, Runners: 5, JobsPerHour: 500})
			folder, state := openState(t, memoryDir(t))
			r := start(t, world, state, newScraper(), setup{})
			time.Sleep(5 * time.Minute)
			r.disk.set(false, full)
			time.Sleep(5 * time.Minute)
			r.stop()
			err := <-r.ended
			if got := errors.Is(err, ErrUnsaved) && errors.Is(err, os.ErrClosed); got != full || !full && err != nil {
				t.Errorf("disk full %t: Run returned %v", full, err)
			}
			if err := folder.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
