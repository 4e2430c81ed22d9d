package agent

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Values of the result labels.
const (
	resultHit      = "hit"
	resultFetched  = "fetched"
	resultWaiting  = "waiting"
	resultRefused  = "refused"
	resultComplete = "complete"
	resultMismatch = "mismatch"
	resultDenied   = "denied"
	resultFailed   = "failed"
)

type metrics struct {
	acquires      *prometheus.CounterVec
	fetchedBytes  *prometheus.CounterVec
	sourcePassed  *prometheus.CounterVec
	flightSeconds *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, a *Agent) (*metrics, error) {
	m := &metrics{
		acquires: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ballast_acquires_total",
			Help: "Calls for a View, by how they ended: hit (no byte fetched), fetched, waiting (the call's time was over), refused.",
		}, []string{"result"}),
		fetchedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ballast_fetched_bytes_total",
			Help: "Bytes received from each Source, verified or not.",
		}, []string{"source"}),
		sourcePassed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ballast_source_passed_total",
			Help: "How often each Source was passed over for a file, by why: absent, mismatch, unreachable, stalled, denied, rate_limited, failed.",
		}, []string{"source", "reason"}),
		flightSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ballast_flight_seconds",
			Help:    "How long Flights took, by how they ended: complete, mismatch, denied, failed.",
			Buckets: prometheus.ExponentialBuckets(0.1, 3, 10),
		}, []string{"result"}),
	}
	for _, s := range a.cfg.Sources { // from the start, so that one that gives nothing is seen
		m.fetchedBytes.WithLabelValues(s.Name())
		for _, r := range reasons {
			m.sourcePassed.WithLabelValues(s.Name(), string(r.why))
		}
	}
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.acquires, m.fetchedBytes, m.sourcePassed, m.flightSeconds,
		gauge("ballast_flights", "Flights under way.", func() float64 {
			a.mu.Lock()
			defer a.mu.Unlock()
			return float64(len(a.flights))
		}),
		gauge("ballast_waiting_volumes", "Volumes that wait for a Flight.", func() float64 {
			a.mu.Lock()
			defer a.mu.Unlock()
			n := 0
			for _, f := range a.flights {
				n += len(f.waiters)
			}
			return float64(n)
		}),
		storeCollector{a.store},
	} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// acquired counts a call that was given a View.
func (m *metrics) acquired(mountable Mountable) {
	result := resultHit
	if mountable.Fetched > 0 {
		result = resultFetched
	}
	m.acquires.WithLabelValues(result).Inc()
}

// storeCollector shows what the cache holds, counted once a scrape.
type storeCollector struct{ store *store.Store }

var (
	storeBytes = prometheus.NewDesc("ballast_store_bytes", "Bytes that the cache holds: Blobs, copies in Views, Ingests.", nil, nil)
	storeBlobs = prometheus.NewDesc("ballast_store_blobs", "Blobs in the cache.", nil, nil)
	storeViews = prometheus.NewDesc("ballast_store_views", "Views in the cache.", nil, nil)
	storePins  = prometheus.NewDesc("ballast_store_pins", "Pins: Volumes that use a View.", nil, nil)
)

func (c storeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{storeBytes, storeBlobs, storeViews, storePins} {
		descs <- d
	}
}

func (c storeCollector) Collect(metrics chan<- prometheus.Metric) {
	st := c.store.Stats()
	for d, value := range map[*prometheus.Desc]float64{
		storeBytes: float64(st.Bytes()), storeBlobs: float64(st.Blobs), storeViews: float64(st.Views), storePins: float64(st.Pins),
	} {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
}

func flightResult(err error) string {
	var mismatch *fetcher.MismatchError
	switch {
	case err == nil:
		return resultComplete
	case errors.As(err, &mismatch):
		return resultMismatch
	case fetcher.Denied(err):
		return resultDenied
	}
	return resultFailed
}
