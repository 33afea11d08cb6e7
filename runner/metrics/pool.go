package metrics

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// poolCollector tells of the connections for tasks, as they are when somebody asks.
type poolCollector struct{ pool *pgxpool.Pool }

var (
	poolConnections = desc("pool_connections", "Connections for tasks, by state: used, idle, connecting.", "state")
	poolMost        = desc("pool_connections_max", "How many connections for tasks there may be (--connections).")
	poolAcquired    = desc("pool_acquires_total", "Times that a connection for tasks was taken.")
	poolWaits       = desc("pool_waits_total", "Times that somebody had to wait for one, or for a new one to be made.")
	poolWaited      = desc("pool_wait_seconds_total", "Time that was waited for them.")
	poolGivenUp     = desc("pool_waits_given_up_total", "Times that somebody gave up waiting.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pgtick_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (poolCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolConnections, poolMost, poolAcquired, poolWaits, poolWaited, poolGivenUp} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(to chan<- prometheus.Metric) {
	s := c.pool.Stat()
	for state, n := range map[string]int32{"used": s.AcquiredConns(), "idle": s.IdleConns(), "connecting": s.ConstructingConns()} {
		to <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(n), state)
	}
	to <- prometheus.MustNewConstMetric(poolMost, prometheus.GaugeValue, float64(s.MaxConns()))
	to <- prometheus.MustNewConstMetric(poolAcquired, prometheus.CounterValue, float64(s.AcquireCount()))
	to <- prometheus.MustNewConstMetric(poolWaits, prometheus.CounterValue, float64(s.EmptyAcquireCount()))
	to <- prometheus.MustNewConstMetric(poolWaited, prometheus.CounterValue, s.EmptyAcquireWaitTime().Seconds())
	to <- prometheus.MustNewConstMetric(poolGivenUp, prometheus.CounterValue, float64(s.CanceledAcquireCount()))
}
