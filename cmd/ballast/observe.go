package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/zap"
)

// newRegistry returns a registry of its own with the Go runtime's and the
// process's metrics, which a label tells apart where two processes are shown
// together.
func newRegistry(process string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	own := prometheus.WrapRegistererWith(prometheus.Labels{"process": process}, reg)
	own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// observe answers /healthz (the process answers), /readyz (and ready, if given,
// finds nothing wrong) and /metrics.
func observe(metrics prometheus.Gatherer, log *zap.Logger, ready func(context.Context) error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if ready != nil {
			if err := ready(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog:      zap.NewStdLog(log.Named("metrics")),
		ErrorHandling: promhttp.ContinueOnError,
	}))
	return mux
}

// serveHTTP serves h on l until ctx ends. It closes l.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http on %s: %w", l.Addr(), err)
	}
	return nil
}

// overSocket returns an HTTP client whose every request goes to a unix socket.
func overSocket(path string) *http.Client {
	return &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
		},
	}
}

// remoteMetrics gathers the metrics of the process that serves /metrics on a unix
// socket. While that process is away there are none: its absence is told by
// ballast_csi_up.
func remoteMetrics(socket string) prometheus.Gatherer {
	client := overSocket(socket)
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		up := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ballast_csi_up",
			Help: "1 if the CSI driver's process on this node answered when its metrics were read.",
		})
		own := prometheus.NewRegistry()
		own.MustRegister(up)
		families, err := readMetrics(client)
		if err == nil {
			up.Set(1)
		}
		mine, gerr := own.Gather()
		return append(mine, families...), gerr
	})
}

func readMetrics(client *http.Client) ([]*dto.MetricFamily, error) {
	resp, err := client.Get("http://socket/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %s", resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	byName, err := parser.TextToMetricFamilies(resp.Body)
	var families []*dto.MetricFamily
	for _, f := range byName {
		families = append(families, f)
	}
	return families, err
}
