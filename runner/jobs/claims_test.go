package jobs

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCarrier_ThatHoldsNoTexts_CarriesNothing(t *testing.T) {
	t.Parallel()
	require.Equal(t, map[string]string{"traceparent": "00-1-2-01"}, carrier(json.RawMessage(`{"traceparent": "00-1-2-01"}`)))
	for _, odd := range []string{"", `{"traceparent": 1}`, `[]`, `"x"`, `{"a": {}}`} {
		require.Nil(t, carrier(json.RawMessage(odd)), odd)
	}
	require.Nil(t, carrier(nil))
}
