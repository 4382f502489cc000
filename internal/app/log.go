package app

import (
	"io"
	"log/slog"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	sloggokit "github.com/tjhop/slog-gokit"
)

// timeForm is RFC 3339 in UTC with milliseconds: sortable as text.
const timeForm = "2006-01-02T15:04:05.000Z07:00"

// loggers are the program's own logger and one for the libraries that take slog.
type loggers struct {
	own  log.Logger
	slog *slog.Logger
}

// newLoggers makes both over one writer. The bridge stands on the base logger:
// over the one that carries ts and caller each line would have two callers.
func newLoggers(w io.Writer, format, least string) loggers {
	w = log.NewSyncWriter(w)
	base := log.NewLogfmtLogger(w)
	if format == "json" {
		base = log.NewJSONLogger(w)
	}
	base = level.NewFilter(base, level.Allow(level.ParseDefault(least, level.InfoValue())))

	// What a library reports at Info (that it listens, and that TLS is off) is
	// logged by this program, once.
	bridged := slog.LevelWarn
	if least == "debug" {
		bridged = slog.LevelDebug
	}
	return loggers{
		own:  log.With(base, "ts", log.TimestampFormat(utcNow, timeForm), "caller", log.DefaultCaller),
		slog: slog.New(sloggokit.NewGoKitHandler(stamped{base}, bridged)),
	}
}

func utcNow() time.Time { return time.Now().UTC() }

// stamped gives lines of the bridge the ts of ours in place of slog's time.
type stamped struct{ to log.Logger }

// Log implements log.Logger.
func (s stamped) Log(keyvals ...any) error {
	out := make([]any, 2, len(keyvals)+2)
	out[0], out[1] = "ts", utcNow().Format(timeForm)
	for i := 0; i+1 < len(keyvals); i += 2 {
		if keyvals[i] != slog.TimeKey {
			out = append(out, keyvals[i], keyvals[i+1])
		}
	}
	return s.to.Log(out...)
}
