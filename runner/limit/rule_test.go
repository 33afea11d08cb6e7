package limit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgtick/pgtick/runner/limit"
)

func TestCheck_OfARuleThatCannotBeKept_NamesFieldValueAndRule(t *testing.T) {
	t.Parallel()
	good := limit.Rule{Task: "mail.send", Rate: 100, Period: time.Minute, Burst: 10}
	require.NoError(t, good.Check())
	for name, c := range map[string]struct {
		change func(*limit.Rule)
		says   []string
	}{
		"no task":                        {func(r *limit.Rule) { r.Task = "" }, []string{`task ""`, "1 to 200 characters"}},
		"a long task":                    {func(r *limit.Rule) { r.Task = strings.Repeat("ä", 201) }, []string{"task", "1 to 200 characters"}},
		"no rate":                        {func(r *limit.Rule) { r.Rate = 0 }, []string{"mail.send", "rate 0", "1 to 1000000", "pause the queue"}},
		"a negative rate":                {func(r *limit.Rule) { r.Rate = -5 }, []string{"rate -5"}},
		"a rate of more than a million":  {func(r *limit.Rule) { r.Rate = 1_000_001 }, []string{"rate 1000001", "1 to 1000000"}},
		"half a second":                  {func(r *limit.Rule) { r.Period = time.Second / 2 }, []string{"period 500ms", "1 second to 31 days"}},
		"a year":                         {func(r *limit.Rule) { r.Period = 365 * 24 * time.Hour }, []string{"period 8760h0m0s", "1 second to 31 days"}},
		"nanoseconds":                    {func(r *limit.Rule) { r.Period = time.Second + 1 }, []string{"period 1.000000001s", "whole microseconds"}},
		"no burst":                       {func(r *limit.Rule) { r.Burst = 0 }, []string{"burst 0", "1 to 1000000"}},
		"a burst of more than a million": {func(r *limit.Rule) { r.Burst = 1_000_001 }, []string{"burst 1000001"}},
		"a burst of a lifetime":          {func(r *limit.Rule) { r.Rate, r.Period, r.Burst = 1, 31*24*time.Hour, 12 }, []string{"burst 12", "at most 11"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rule := good
			c.change(&rule)
			err := rule.Check()
			var wrong *limit.RuleError
			require.ErrorAs(t, err, &wrong)
			for _, part := range c.says {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func TestCheck_AtTheEnds_IsContent(t *testing.T) {
	t.Parallel()
	for _, rule := range []limit.Rule{
		{"t", 1, time.Second, 1}, {"t", 1_000_000, time.Second, 1_000_000}, {"t", 1, limit.MaxPeriod, 11}, {strings.Repeat("ä", 200), 1_000_000, limit.MaxPeriod, 1_000_000},
	} {
		require.NoError(t, rule.Check())
	}
}
