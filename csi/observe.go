package csi

import (
	"context"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Keys of log fields that several files write.
const (
	keyVolume = "volume_id"
	keyTarget = "target_path"
	keyPin    = "pin"
)

// metrics are what the driver counts. No label holds anything a user wrote.
type metrics struct {
	publish     *prometheus.HistogramVec
	operations  *prometheus.CounterVec
	agentErrors prometheus.Counter
	reconciled  prometheus.Counter
	unpinned    prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		publish: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ballast_csi_publish_seconds",
			Help: "How long NodePublishVolume took. result: ok (mounted by this call), mounted (before it), or why not (waiting, agent_away, ...).",
			// A hit takes milliseconds; a held call ends after 118 s.
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"result"}),
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ballast_csi_operations_total", Help: "CSI calls that ended, by method and gRPC code.",
		}, []string{"method", "code"}),
		agentErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ballast_csi_agent_errors_total", Help: "Times the agent could not be asked.",
		}),
		reconciled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ballast_csi_pins_reconciled_total", Help: "Pins released because their volumes were gone.",
		}),
		unpinned: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ballast_csi_mounts_without_pin", Help: "Volumes that are mounted while the agent has no pin for them, when last looked at. " +
				"Must be 0: their files may be evicted. Volumes of another install of Ballast on the same node count too.",
		}),
	}
	for _, c := range []prometheus.Collector{m.publish, m.operations, m.agentErrors, m.reconciled, m.unpinned} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) published(took time.Duration, mounted bool, err error) {
	result := "ok"
	switch {
	case err != nil:
		result = string(reasonOf(err))
	case mounted:
		result = "mounted"
	}
	m.publish.WithLabelValues(result).Observe(took.Seconds())
}

// observe counts every call, and logs every failed one, once. A panic is not caught: it
// would leave a target locked and the state of a mount unknown. The process ends, kubelet
// reads Unavailable, pods keep their mounts, and the next process starts from mountinfo.
func (s *Server) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	method, code := path.Base(info.FullMethod), status.Code(err)
	s.metrics.operations.WithLabelValues(method, code.String()).Inc()
	if err == nil {
		return resp, nil
	}
	fields := []zap.Field{
		zap.String("method", method), zap.Stringer("code", code),
		zap.Duration("took", time.Since(start)), zap.String("error", status.Convert(err).Message()),
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		fields = append(fields, zap.String(keyVolume, r.GetVolumeId()))
	}
	if r, ok := req.(interface{ GetTargetPath() string }); ok {
		fields = append(fields, zap.String(keyTarget, r.GetTargetPath()))
	}
	s.log.Log(levelOf(err, code), "CSI call failed", fields...)
	return resp, err
}

// levelOf keeps what is no news out of the log: a volume that is on its way, and probes
// for what CSI drivers may have.
func levelOf(err error, code codes.Code) zapcore.Level {
	switch reasonOf(err) {
	case waiting, pending, cancelled, stopping:
		return zapcore.DebugLevel
	}
	if code == codes.Unimplemented {
		return zapcore.DebugLevel
	}
	return zapcore.WarnLevel
}
