package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/mdlayher/vsock"
	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/bounded"
	"gitlab-runner-fleet-exporter/internal/page"
)

// The routes beside metrics.
const (
	pathLanding = "/"
	pathHealthy = "/-/healthy"
	pathReady   = "/-/ready"
	pathReload  = "/-/reload"
	pathFleet   = "/fleet"
	pathRunner  = "/fleet/runner"
	pathAPI     = "/api/v1/fleet"
	pathWhy     = "/fleet/why"
	pathWhyAPI  = "/api/v1/why"
)

const (
	// drainFor is how long a stop waits for answers that are being written.
	drainFor = 5 * time.Second
	// The server's patience with slow clients.
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 2 * time.Minute
	idleTimeout       = 5 * time.Minute
	maxHeader         = 64 << 10
)

// pages are what the routes need from the rest of the program.
type pages struct {
	metrics       http.Handler
	telemetryPath string
	// prefix stands before each path; "": none.
	prefix string
	// fleet draws the health of the fleet.
	fleet *page.Page
	// waiting names the GitLabs that were not tried yet.
	waiting func() []string
	// reload loads the configuration anew; nil: --web.enable-lifecycle is off.
	reload func(ctx context.Context) error
	// scrub masks secrets in an error.
	scrub func(string) string
}

func newRoutes(p pages) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(p.telemetryPath, p.metrics) // limits itself
	for _, path := range []string{pathLanding + "{$}", pathFleet} {
		mux.Handle(path, reading(http.HandlerFunc(p.fleet.ServeFleet)))
	}
	mux.Handle(pathRunner, reading(http.HandlerFunc(p.fleet.ServeRunner)))
	mux.Handle(pathAPI, reading(http.HandlerFunc(p.fleet.ServeAPI)))
	mux.Handle(pathWhy, reading(http.HandlerFunc(p.fleet.ServeWhy)))
	mux.Handle(pathWhyAPI, reading(http.HandlerFunc(p.fleet.ServeWhyAPI)))
	mux.Handle(pathHealthy, reading(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, program+" is healthy.\n")
	})))
	mux.Handle(pathReady, reading(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if waiting := p.waiting(); len(waiting) > 0 {
			respond(w, http.StatusServiceUnavailable, "Not ready: not yet tried: "+strings.Join(waiting, ", ")+"\n")
			return
		}
		respond(w, http.StatusOK, program+" is ready.\n")
	})))
	// A page open in an administrator's browser must not be able to reload.
	mux.Handle(pathReload, http.NewCrossOriginProtection().Handler(reloading(p.reload, p.scrub)))
	if p.prefix == "" {
		return mux
	}
	// As Prometheus does: everything is under the prefix, and / leads there.
	outer := http.NewServeMux()
	outer.Handle(p.prefix+"/", http.StripPrefix(p.prefix, mux))
	outer.Handle("/{$}", reading(http.RedirectHandler(p.prefix+"/", http.StatusFound)))
	return outer
}

func reloading(reload func(ctx context.Context) error, scrub func(string) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reload == nil {
			respond(w, http.StatusForbidden, "Reloading over HTTP is off: start with --web.enable-lifecycle, or send SIGHUP.\n")
			return
		}
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			respond(w, http.StatusMethodNotAllowed, "Reload by POST.\n")
			return
		}
		if err := reload(r.Context()); err != nil {
			respond(w, http.StatusInternalServerError, "Not reloaded, the old configuration stays in force:\n"+scrub(err.Error())+"\n")
			return
		}
		respond(w, http.StatusOK, "Reloaded.\n")
	})
}

func respond(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // nothing can be reported to a client that went away
}

// reading lets only GET and HEAD through.
func reading(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			respond(w, http.StatusMethodNotAllowed, "Only GET and HEAD.\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// servers serve one handler on one or more listeners. Each listener has a
// server of its own, because exporter-toolkit wraps a server's handler once for
// each listener that it is given.
type servers struct {
	flags     *web.FlagConfig
	listeners []net.Listener
	servers   []*http.Server
}

// listen takes the addresses; a taken one shall be found before anything else starts.
func listen(ctx context.Context, flags *web.FlagConfig) (*servers, error) {
	if err := validateWeb(ctx, *flags.WebConfigFile); err != nil {
		return nil, err
	}
	s := &servers{flags: flags}
	if *flags.WebSystemdSocket {
		if os.Getenv("LISTEN_FDS") == "" {
			return nil, errors.New("--web.systemd-socket: systemd passed no sockets: start by a socket unit")
		}
		listeners, err := activation.Listeners()
		if err != nil {
			return nil, fmt.Errorf("--web.systemd-socket: %w", err)
		}
		for _, l := range listeners {
			if l != nil { // a socket that takes no connections
				s.listeners = append(s.listeners, l)
			}
		}
		if len(s.listeners) == 0 {
			return nil, errors.New("--web.systemd-socket: none of systemd's sockets takes connections")
		}
		return s, nil
	}
	for _, address := range *flags.WebListenAddresses {
		l, err := listenAt(ctx, address)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("--web.listen-address: %w", err)
		}
		s.listeners = append(s.listeners, l)
	}
	return s, nil
}

// validateWeb reads TLS and basic auth once, to find a mistake before the first scrape does.
func validateWeb(ctx context.Context, file string) error {
	_, err := bounded.Call(ctx, file, func() (struct{}, error) { return struct{}{}, web.Validate(file) })
	if err != nil {
		return errors.New("--web.config.file: " + yamlQuote.ReplaceAllString(err.Error(), "$1$2(not shown)"))
	}
	return nil
}

// yamlQuote is where the error of a YAML decoder repeats a value or a key, which
// may be a password in the wrong place. A key of small letters is a misspelt one.
var yamlQuote = regexp.MustCompile("(!!\\w+ )`[^`]*`|(field )\\S*[^a-z_\\s]\\S*")

// listenAt understands what exporter-toolkit does: host:port, and vsock://:port
// between a virtual machine and its host.
func listenAt(ctx context.Context, address string) (net.Listener, error) {
	rest, ok := strings.CutPrefix(address, "vsock://")
	if !ok {
		var lc net.ListenConfig
		return lc.Listen(ctx, "tcp", address)
	}
	_, port, err := net.SplitHostPort(rest)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		return nil, err
	}
	return vsock.Listen(uint32(n), nil)
}

// addresses are where the listeners really listen, port 0 resolved.
func (s *servers) addresses() []string {
	out := make([]string, len(s.listeners))
	for i, l := range s.listeners {
		out[i] = l.Addr().String()
	}
	return out
}

func (s *servers) close() {
	for _, l := range s.listeners {
		_ = l.Close() // on the way out after another failure
	}
}

// serve answers until shutdown. failed is called with what ended a server otherwise.
func (s *servers) serve(handler http.Handler, logger *slog.Logger, failed func(error)) (wait func()) {
	var g errgroup.Group
	for _, l := range s.listeners {
		srv := &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeader,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		}
		s.servers = append(s.servers, srv)
		g.Go(func() error {
			if err := web.Serve(l, srv, s.flags, logger); !errors.Is(err, http.ErrServerClosed) {
				failed(fmt.Errorf("web server at %s: %w", l.Addr(), err))
			}
			return nil
		})
	}
	return func() { _ = g.Wait() } // its functions return nil
}

// shutdown takes no more connections and waits for the answers under way, at
// most until ctx ends.
func (s *servers) shutdown(ctx context.Context) error {
	var g errgroup.Group
	for _, srv := range s.servers {
		g.Go(func() error {
			err := srv.Shutdown(ctx)
			if err != nil {
				_ = srv.Close() // waited long enough
			}
			return err
		})
	}
	return g.Wait()
}
