package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// What the kernel shows under /proc. Elsewhere these are zero, and the report
// shows a dash.

// userHZ is the unit of times in /proc: 100 on every Linux.
const userHZ = 100

// cpuTime is what a process has used, as a user and in the kernel.
func cpuTime(pid int) (user, system time.Duration) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	// The command, in parentheses, may hold anything; utime and stime are the
	// 12th and 13th fields after it.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, 0
	}
	ticks := func(s []byte) time.Duration {
		n, _ := strconv.ParseInt(string(s), 10, 64) // the kernel's
		return time.Duration(n) * time.Second / userHZ
	}
	return ticks(f[11]), ticks(f[12])
}

// memory is the resident memory of a process in bytes: now, and at its highest.
func memory(pid int) (now, peak int64) {
	file := "/proc/" + strconv.Itoa(pid) + "/status"
	return field(file, "VmRSS:") * 1024, field(file, "VmHWM:") * 1024
}

// field is the number after a name in a file of /proc.
func field(file, name string) int64 {
	rest := strings.Fields(line(file, name))
	if len(rest) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(rest[0], 10, 64)
	return n
}

// line is what follows a name in a file of /proc.
func line(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, name); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:"))
		}
	}
	return ""
}

// load is the load average of the last minute.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "-"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// machine describes where the figures come from.
func machine() string {
	return fmt.Sprintf("%s (%d CPUs), %.0f GiB memory, %s/%s, %s", line("/proc/cpuinfo", "model name"), runtime.NumCPU(),
		float64(field("/proc/meminfo", "MemTotal:"))/(1<<20), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// size sums the files below a folder.
func size(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
