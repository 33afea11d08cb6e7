package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzStorable takes results that a task has set: JSON stays JSON, means the same but for U+0000, and holds nothing any more that jsonb refuses for it.
func FuzzStorable(f *testing.F) {
	for _, text := range []string{`{}`, `"\u0000"`, `"\\u0000"`, `"\\\u0000"`, `{"\u0000": ["a\u0000b", "\\\\u0000"]}`, `"\\\\\\u0000\u0000"`, `"\u00001"`, `"\u000"`, `null`, `["\u0000\u0000"]`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var before any
		if json.Unmarshal(text, &before) != nil || strings.Contains(fmt.Sprint(before), "\ufffd") { // two names could become one
			return
		}
		after := storable(bytes.Clone(text))
		var kept any
		require.NoError(t, json.Unmarshal(after, &kept), "%q from %q", after, text)
		require.Equal(t, withoutNull(before), kept, "%q from %q", after, text)
	})
}

// withoutNull is a value as it can be kept.
func withoutNull(value any) any {
	switch v := value.(type) {
	case string:
		return strings.ReplaceAll(v, "\x00", "\ufffd")
	case []any:
		for i := range v {
			v[i] = withoutNull(v[i])
		}
	case map[string]any:
		kept := make(map[string]any, len(v))
		for name, field := range v {
			kept[strings.ReplaceAll(name, "\x00", "\ufffd")] = withoutNull(field)
		}
		return kept
	}
	return value
}
