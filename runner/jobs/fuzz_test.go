package jobs

import (
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// claimShape are the lengths of a claim's columns in the binary format; -1: any.
var claimShape = [19]int{8, 8, -1, -1, 2, 4, 4, -1, 8, 8, 16, -1, 8, 16, -1, 8, -1, -1, -1}

// FuzzClaimRow decodes rows that no database would send: bytes of any length in each column. The decoder says so, or gives what stands there.
func FuzzClaimRow(f *testing.F) {
	f.Add([]byte{}, []byte{}, false)
	f.Add([]byte("abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz"), []byte{8, 8, 4, 3, 2, 4, 4, 2, 8, 8, 16, 0, 8, 16, 2, 8, 1, 1, 2}, true)
	f.Add([]byte("0123456789"), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 15, 1, 0, 0, 0, 1}, true)
	f.Add(make([]byte, 200), []byte{0, 0, 5, 7, 0, 0, 0, 200, 0, 0, 0, 9, 255, 255, 3, 0, 255, 1, 40}, false)
	f.Fuzz(func(t *testing.T, data, lengths []byte, rightLengths bool) {
		columns := columnsOf(data, lengths, rightLengths)
		for _, version := range []int{0, 1} {
			var c Claim
			if err := decodeClaim(columns, version, &c, new(names)); err != nil {
				require.ErrorIs(t, err, errShort)
				require.False(t, rightLengths && len(columns[7]) > 0, "a row that is as it should be was refused")
				continue
			}
			require.Equal(t, int64(binary.BigEndian.Uint64(columns[0])), c.ID)
			require.Equal(t, string(columns[2])+"|"+string(columns[3])+"|"+string(columns[11])+"|"+string(columns[16])+"|"+string(columns[17]), c.Task+"|"+c.Queue+"|"+c.Schedule+"|"+c.LimitKey+"|"+c.Reservation)
			require.Equal(t, string(columns[7][min(version, len(columns[7])):]), string(c.Args))
			_, err := json.Marshal(c.Trace)
			require.NoError(t, err)
		}
	})
}

// columnsOf cuts data into columns, null where a length is 255.
func columnsOf(data, lengths []byte, rightLengths bool) [][]byte {
	columns := make([][]byte, len(claimShape))
	for i := range columns {
		length := 0
		if i < len(lengths) {
			length = int(lengths[i])
		}
		if rightLengths && claimShape[i] >= 0 {
			length = claimShape[i]
		} else if length == 255 {
			continue
		}
		columns[i] = make([]byte, length)
		data = data[copy(columns[i], data):]
	}
	return columns
}
