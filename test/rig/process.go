// Package rig starts, awaits and stops the programs that tests drive as
// processes of their own: the exporter, Prometheus, Alertmanager.
//
// All of them listen on port 0 and log the address that they got. A port that
// a test looks for beforehand may be taken by the time the program listens.
package rig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec" //nolint:depguard // what the exporter must not do is this package's duty
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// Process is a program that runs until it is stopped.
type Process struct {
	cmd  *exec.Cmd
	log  *Log
	done chan struct{}
}

// Start starts cmd, whose output goes to log, unless the caller wants the
// standard output by itself and has set it.
func Start(cmd *exec.Cmd, log *Log) (*Process, error) {
	p := &Process{cmd: cmd, log: log, done: make(chan struct{})}
	if cmd.Stderr = log; cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // the status is read from ProcessState
		close(p.done)
	}()
	return p, nil
}

// PID is the process' id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the end of what the program wrote.
func (p *Process) Log() string { return p.log.String() }

// Address waits until the program logs where it listens.
func (p *Process) Address(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if address := p.log.address(); address != "" {
			return address, nil
		}
		if err := p.Pause(ctx, 2*time.Millisecond); err != nil {
			return "", fmt.Errorf("no address from %s: %w", filepath.Base(p.cmd.Path), err)
		}
	}
}

// Pause waits for d, unless the program or the context ends before.
func (p *Process) Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w\n%s", ctx.Err(), p.log)
	case <-p.done:
		return fmt.Errorf("%s ended: %v\n%s", filepath.Base(p.cmd.Path), p.cmd.ProcessState, p.log)
	}
}

// Stop interrupts the program and returns its exit status: -1 where it had to
// be killed, because it did not end within 30 s.
func (p *Process) Stop() int {
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.Kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal, and is no error where the program has ended.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Wait waits until the program ends by itself, and returns its exit status.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("%s does not end: %w\n%s", filepath.Base(p.cmd.Path), ctx.Err(), p.log)
	}
}

// Kill ends it as the kernel's OOM killer does.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// LogSize is how much of a log is kept.
const LogSize = 4 << 20

// What the exporter, Prometheus and Alertmanager log: msg=listening address=…,
// msg="Listening on" component=web address=….
var listening = regexp.MustCompile(`msg="?[Ll]istening(?: on)?"?(?: component=\w+)? address=(\S+)`)

// Log keeps the end of what a program writes, and the first address that it
// reports to listen on.
type Log struct {
	// Drop, where set, receives each line and keeps it out where it returns true.
	Drop func(line []byte) bool

	mu      sync.Mutex
	b, part []byte
	listen  string
}

// Write never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		end := bytes.IndexByte(l.part, '\n')
		if end < 0 {
			break
		}
		l.line(l.part[:end+1])
		l.part = l.part[end+1:]
	}
	if over := len(l.b) - LogSize; over > 0 {
		l.b = append(l.b[:0], l.b[over:]...)
	}
	return len(p), nil
}

func (l *Log) line(line []byte) {
	if l.Drop != nil && l.Drop(line) {
		return
	}
	if l.listen == "" {
		if m := listening.FindSubmatch(line); m != nil {
			l.listen = string(m[1])
		}
	}
	l.b = append(l.b, line...)
}

func (l *Log) address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listen
}

// String is what is kept.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b) + string(l.part)
}
