//go:build ship

package store

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A disk that is full in earnest: a small tmpfs, which only root can mount.
// Another file holds the room that is given back.
func TestShipFullDiskLosesNoCommit(t *testing.T) {
	path := t.TempDir()
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=3m,mode=0700"); err != nil {
		t.Fatalf("mount a tmpfs (this test runs as root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(path, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(t.Context(), Options{Path: path, Layout: 1})
	if err != nil {
		t.Fatal(err)
	}
	s := openState(t, f, "corp")
	if err := full(s, path, func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
