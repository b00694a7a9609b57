package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metric is one figure.
type Metric struct {
	// Name is in lower case with underscores; that of a counter ends in _total.
	Name string
	Help string
	// Gauge says that the figure may fall.
	Gauge bool
	Value float64
	// Label and Is tell figures of one name apart. An empty Label means none.
	Label, Is string
}

// Counter makes a figure that only grows; Name gets the suffix _total.
func Counter(name string, value uint64, help string) Metric {
	return Metric{Name: name + "_total", Help: help, Value: float64(value)}
}

// Gauge makes a figure that may fall.
func Gauge(name string, value float64, help string) Metric {
	return Metric{Name: name, Help: help, Gauge: true, Value: value}
}

// With returns the metric with a label.
func (m Metric) With(label, is string) Metric {
	m.Label, m.Is = label, is
	return m
}

// collector asks for all figures at each scrape.
type collector struct{ gather func() []Metric }

// Describe tells nothing: the figures may be others at each scrape.
func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, m := range c.gather() {
		kind := prometheus.CounterValue
		if m.Gauge {
			kind = prometheus.GaugeValue
		}
		var labels, values []string
		if m.Label != "" {
			labels, values = []string{m.Label}, []string{m.Is}
		}
		desc := prometheus.NewDesc(m.Name, m.Help, labels, nil)
		metric, err := prometheus.NewConstMetric(desc, kind, m.Value, values...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(desc, err)
		}
		out <- metric
	}
}

// Handler serves what gather returns, figures of the process and of the Go runtime,
// and profiles. gather is called at each scrape, maybe by several at once.
func Handler(gather func() []Metric) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{gather}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Serve serves on l until ctx is done; it closes l.
func Serve(ctx context.Context, l net.Listener, gather func() []Metric) error {
	server := &http.Server{Handler: Handler(gather), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
