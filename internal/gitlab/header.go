package gitlab

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"net/http/httptrace"
	"sync/atomic"
)

// maxHeader bounds a response's status line and header. GitLab's are some kB;
// net/http reads 10 MiB, of which each line costs several times its length, and
// quotes a malformed one whole in its error.
const maxHeader = 256 << 10

var errLongHeader tooLarge = "the header of the answer is longer than 256 KiB"

// DialContext connects as net.Dialer does. On its connections a Client bounds
// the header of an answer, which otherwise only a http.Transport can
// (MaxResponseHeaderBytes), and prometheus/common gives no access to that.
func DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &headerConn{Conn: conn}
	c.free()
	return c, nil
}

// headerConn is a connection from which only so much is read while a header is
// expected.
type headerConn struct {
	net.Conn

	left atomic.Int64
}

// connAddr leads from a connection that wraps a headerConn (TLS, conntrack) to it.
type connAddr struct {
	net.Addr

	conn *headerConn
}

// LocalAddr is the address, with the connection in it.
func (c *headerConn) LocalAddr() net.Addr { return connAddr{c.Conn.LocalAddr(), c} }

// Read fails when the header is too long.
func (c *headerConn) Read(p []byte) (int, error) {
	if c.left.Load() <= 0 {
		return 0, errLongHeader
	}
	n, err := c.Conn.Read(p)
	c.left.Add(-int64(n))
	return n, err
}

func (c *headerConn) free() { c.left.Store(math.MaxInt64) }

// headerLimit bounds the header of one answer, until freed.
type headerLimit struct{ conn atomic.Pointer[headerConn] }

// with returns a context whose request is bounded.
func (l *headerLimit) with(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if secure, ok := info.Conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
			return // other answers come over it at the same time; HTTP/2 has a limit of its own
		}
		if addr, ok := info.Conn.LocalAddr().(connAddr); ok {
			addr.conn.left.Store(maxHeader)
			l.conn.Store(addr.conn)
		}
	}})
}

// free lets the body be read, and reports whether the header was too long.
func (l *headerLimit) free() (exceeded bool) {
	c := l.conn.Load()
	if c == nil {
		return false
	}
	exceeded = c.left.Load() <= 0
	c.free()
	return exceeded
}
