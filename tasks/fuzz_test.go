package tasks

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

type fuzzed struct {
	Name  string              `json:"name"`
	N     int                 `json:"n"`
	Share float64             `json:"share"`
	Tags  []string            `json:"tags"`
	More  map[string]any      `json:"more"`
	Raw   json.RawMessage     `json:"raw"`
	Inner *struct{ A, B int } `json:"inner"`
}

// FuzzArgs decodes one text after another, as a runner does with the args of its jobs: each as if it were the first, whatever the one before left
// behind, and never with a field or a second value that nobody meant.
func FuzzArgs(f *testing.F) {
	for _, seed := range [][2]string{{`{}`, `{}`}, {`{"name": "a", "n": 1}`, `{"n": 1.5}`}, {`{} {}`, `{"name": "b"}`}, {`{"other": 1}`, `{}`}, {``, `{`}, {"{}  \n", "{}x"}, {`{"name": "\ud800", "raw": [1, {}]}`, `{"more": {"a": [null]}}`}, {`null`, `[]`}, {`{"n": 1e999}`, `{"N": 1}`},
		{`{"inner": {"A": 1}}`, `{"inner": null}`}, {"{\"name\": \"\xff\"}", `"x"`}, {`{"tags": ["` + string(bytes.Repeat([]byte("x"), 5000)) + `"]}`, `{"tags": null}`}, {`{"n": 1, "n": 2}`, `{"n":1}{`}} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		for _, text := range [][]byte{first, second, first} {
			var got, want fuzzed
			err := decode(text, &got)
			plain := decodePlainly(text, &want)
			require.Equal(t, plain == nil, err == nil, "%q: %v, %v", text, err, plain)
			if err == nil {
				require.True(t, reflect.DeepEqual(want, got), "%q: %+v, %+v", text, want, got)
			}
		}
	})
}

// decodePlainly is decode without anything kept from one text to the next.
func decodePlainly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		return bytes.ErrTooLarge // any error
	}
	return nil
}
