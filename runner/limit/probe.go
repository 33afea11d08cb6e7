package limit

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Probe asks a Redis for a real decision, which also finds out one that answers but takes no writes or no scripts. What that leaves there,
// under a key of its own, is forgotten within some minutes.
func Probe(ctx context.Context, client redis.UniversalClient, prefix string) error {
	return newScript(client, decideLua, nonce()).probe(ctx, prefix)
}

func (s *script) probe(ctx context.Context, prefix string) error {
	rule := Rule{Rate: maxRate, Period: minPeriod, Burst: maxBurst}
	_, err := s.decide(ctx, []call{{key: prefix + "probe:" + s.nonce, terms: rule.terms()}})
	return err
}
