package hubapi

import (
	"net/http"
	"time"

	"go.uber.org/zap"
)

// noted is an answer whose status and length the access log says.
type noted struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (n *noted) Unwrap() http.ResponseWriter { return n.ResponseWriter }

func (n *noted) WriteHeader(status int) {
	n.status = status
	n.ResponseWriter.WriteHeader(status)
}

func (n *noted) Write(p []byte) (int, error) {
	written, err := n.ResponseWriter.Write(p)
	n.bytes += int64(written)
	return written, err
}

// note begins to write c's line of the access log, which the returned function ends. It
// says what was understood of the request and nothing as it came: no header, no query, no
// path. At Debug alone, for which files are not sent by the kernel.
func (c *call) note() func() {
	if !c.log.Core().Enabled(zap.DebugLevel) {
		return func() {}
	}
	n := &noted{ResponseWriter: c.w, status: http.StatusOK}
	c.w = n
	began := time.Now()
	return func() {
		c.log.Debug("answered", zap.String("from", c.r.RemoteAddr), zap.String("namespace", c.who.Namespace), zap.String("action", string(c.to.action)),
			zap.Stringer("repo", c.to.repo), zap.Stringer("ref", c.to.ref), zap.Stringer("file", c.to.path),
			zap.Int("status", n.status), zap.Int64("bytes", n.bytes), zap.Duration("took", time.Since(began)))
	}
}
