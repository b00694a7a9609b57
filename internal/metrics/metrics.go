package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"strings"
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

// Options say what is served.
type Options struct {
	// Gather returns the figures. It is called at each scrape, maybe by several at once.
	Gather func() []Metric
	// Profiles serves those of net/http/pprof too, and what else that tells of a process.
	Profiles bool
}

// maxSeconds is how long a profile or a trace may last.
const maxSeconds = 60

// Handler serves the figures, and those of the process and of the Go runtime.
func Handler(o Options) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{o.Gather}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	if o.Profiles {
		mux.HandleFunc("GET /debug/pprof/", bounded(pprof.Index))
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", bounded(pprof.Profile))
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", bounded(pprof.Trace))
	}
	return local(mux)
}

// bounded refuses a profile that would last too long.
func bounded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if text := r.FormValue("seconds"); text != "" {
			if n, err := strconv.ParseFloat(text, 64); err != nil || n < 0 || n > maxSeconds {
				http.Error(w, fmt.Sprintf("seconds must be at most %d", maxSeconds), http.StatusBadRequest)
				return
			}
		}
		h(w, r)
	}
}

// local refuses what came to a loopback address under a name: a page in a browser on this
// machine, whose own name leads there, could read the answer (DNS rebinding).
func local(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && to.IP.IsLoopback() && !isLiteral(r.Host) {
			http.Error(w, "ask for an address or for localhost, not for a name", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// isLiteral says that the host of a request is an address or localhost.
func isLiteral(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost"
}

// Serve serves on l until ctx is done; it closes l.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	server := &http.Server{
		Handler: Handler(o), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, WriteTimeout: 2 * maxSeconds * time.Second,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
