package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	fileExt     = ".db"
	newExt      = ".new"
	damagedMark = fileExt + ".damaged-"
	olderMark   = fileExt + ".older-"
	longName    = 100 // bytes of an escaped name, far below the 255 a file system allows
	hashBytes   = 16
)

// fileName returns the file of a GitLab's name, different for each name on every
// file system: no separator, no leading dot, and no upper case, because some file
// systems take "Corp" and "corp" for one name. A percent sign or a tilde is always
// an escape, so two names never share a file.
func fileName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	safe := b.String()
	if safe == "" {
		safe = "%" // no name: without this the file would be hidden
	}
	if len(safe) > longName {
		sum := sha256.Sum256([]byte(name))
		safe = safe[:longName/2] + "~" + hex.EncodeToString(sum[:hashBytes])
	}
	return safe + fileExt
}

// canonicalURL returns host, port and root of an address, which are the same for
// all addresses of one GitLab, without scheme, user, query and trailing slash. The
// error does not quote the address: it may hold a password.
func canonicalURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return "", errors.New("its address is not a URL with a host")
	}
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	port := u.Port()
	if u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		port = ""
	}
	if port != "" {
		host += ":" + port
	}
	return host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// putAside renames the file or folder at path to a name that is not yet in use.
// mark is damagedMark or olderMark.
func putAside(path, mark string, now time.Time) (string, error) {
	base := strings.TrimSuffix(path, fileExt) + mark + now.UTC().Format(stampForm)
	for n := 1; ; n++ {
		to := base
		if n > 1 {
			to = fmt.Sprintf("%s-%d", base, n)
		}
		_, err := os.Lstat(to)
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := os.Rename(path, to); err != nil {
			return "", err
		}
		return to, syncFolder(filepath.Dir(path))
	}
}

// putAsideAt returns the time in a name that putAside made.
func putAsideAt(name string) (time.Time, bool) {
	_, stamp, ok := strings.Cut(name, damagedMark)
	if !ok {
		_, stamp, ok = strings.Cut(name, olderMark)
	}
	if !ok {
		return time.Time{}, false
	}
	stamp, _, _ = strings.Cut(stamp, "-")
	at, err := time.Parse(stampForm, stamp)
	return at, err == nil
}

// syncFolder makes the name of a created or renamed file survive a power cut:
// fsync of the file alone saves only its content.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
