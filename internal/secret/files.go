package secret

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"unicode"

	"gitlab-runner-fleet-exporter/internal/bounded"
)

const (
	// mostSecret and mostCertificates bound what is read from a file; a bundle
	// of all public CAs has 0.3 MB.
	mostSecret       = 64 << 10
	mostCertificates = 4 << 20
)

// File is a secret in a file, as prometheus/common wants it: read again at each
// request, so that a rotated one needs no restart. What was read is noted in
// the list before anybody can send it.
type File struct {
	Path string
	List *List
	// Header is set where the secret is sent in a header as it is.
	Header bool
}

var (
	errEmpty   = errors.New("the file is empty: put the secret into it")
	errNotText = errors.New("the file must hold the secret alone, without line ends or control characters within")
)

// Fetch reads the file. It returns once the context ends, even if the read
// hangs. The error is an *fs.PathError.
func (f File) Fetch(ctx context.Context) (string, error) {
	data, err := bounded.ReadFile(ctx, f.Path, mostSecret)
	if err != nil {
		return "", err
	}
	value := strings.TrimSpace(string(data))
	f.List.Note(value)
	switch {
	case value == "":
		err = errEmpty
	case f.Header && strings.ContainsFunc(value, unicode.IsControl):
		// net/http would refuse the header in words that do not name the file.
		err = errNotText
	default:
		return value, nil
	}
	return "", &fs.PathError{Op: "read", Path: f.Path, Err: err}
}

// Description is how prometheus/common calls it.
func (f File) Description() string { return "file " + f.Path }

// Immutable is false: it is read at each request.
func (File) Immutable() bool { return false }

// Certificates reads the files of TLS: it is what prometheus/common calls a
// secret manager, whose references are names of files. Keys are noted in the
// list.
type Certificates struct{ List *List }

// Fetch reads a file; it returns once the context ends, even if the read hangs.
func (c Certificates) Fetch(ctx context.Context, path string) (string, error) { //nolint:contextcheck // see below
	if ctx == nil {
		ctx = context.Background() // outside a handshake crypto/tls has none
	}
	data, err := bounded.ReadFile(ctx, path, mostCertificates)
	if err != nil {
		return "", err
	}
	if text := string(data); strings.Contains(text, "PRIVATE KEY-----") {
		c.List.Note(text)
	}
	return string(data), nil
}
