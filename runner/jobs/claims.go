package jobs

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// readClaims decodes the rows of a claim. A runner reads tens of thousands of them a second, so in the binary format they are decoded by
// hand; a pooler that wants the simple protocol gets text, and pgx decodes that.
func readClaims(rows pgx.Rows, n int) ([]Claim, error) {
	if err := rows.Err(); err != nil { // of a statement before it in the same round trip: then there is nothing to describe
		return nil, err
	}
	fields := rows.FieldDescriptions()
	if len(fields) == 0 || fields[0].Format != pgx.BinaryFormatCode {
		return pgx.CollectRows(rows, scanClaim)
	}
	defer rows.Close()
	version := 0 // of a jsonb, before its text, which pgx asks for as text where it may choose
	if fields[7].Format == pgx.BinaryFormatCode {
		version = 1
	}
	var claims []Claim
	var names names
	for rows.Next() {
		if claims == nil {
			claims = make([]Claim, 0, min(n, 256))
		}
		claims = append(claims, Claim{})
		if err := decodeClaim(rows.RawValues(), version, &claims[len(claims)-1], &names); err != nil {
			return nil, err
		}
	}
	return claims, rows.Err()
}

func scanClaim(row pgx.CollectableRow) (c Claim, err error) {
	var slot *time.Time
	var schedule, owner *string
	var startedAt time.Time
	var limitKey, reservation *string
	var trace json.RawMessage
	err = row.Scan(&c.ID, &c.Fence, &c.Task, &c.Queue, &c.Priority, &c.Attempt, &c.MaxAttempts, &c.Args, &c.RunAt, &c.CreatedAt,
		&c.Timeout, &schedule, &slot, &owner, &c.Checkpoint, &startedAt, &limitKey, &reservation, &trace)
	c.Trace = carrier(trace)
	c.Waited = startedAt.Sub(c.RunAt)
	if schedule != nil {
		c.Schedule = *schedule
	}
	if owner != nil {
		c.OwnerID = *owner
	}
	if slot != nil {
		c.Slot = *slot
	}
	if limitKey != nil {
		c.LimitKey = *limitKey
	}
	if reservation != nil {
		c.Reservation = *reservation
	}
	return c, err
}

// names keeps the strings that are the same in nearly every row.
type names struct{ task, queue, schedule string }

func (n *names) keep(kept *string, value []byte) string {
	if *kept != string(value) { // compares without making a string
		*kept = string(value)
	}
	return *kept
}

var errShort = errors.New("a column of a claim is shorter than its type")

func decodeClaim(v [][]byte, version int, c *Claim, n *names) error {
	if len(v) != 19 || len(v[0]) != 8 || len(v[1]) != 8 || len(v[4]) != 2 || len(v[5]) != 4 || len(v[6]) != 4 || len(v[7]) < 1 ||
		len(v[8]) != 8 || len(v[9]) != 8 || len(v[10]) != 16 || len(v[15]) != 8 {
		return errShort
	}
	c.ID, c.Fence = bigint(v[0]), bigint(v[1])
	c.Task, c.Queue, c.Schedule = n.keep(&n.task, v[2]), n.keep(&n.queue, v[3]), n.keep(&n.schedule, v[11])
	c.Priority = int(smallint(v[4]))
	c.Attempt, c.MaxAttempts = int(integer(v[5])), int(integer(v[6]))
	c.Args = jsonOf(v[7], version)
	c.RunAt, c.CreatedAt = moment(v[8]), moment(v[9])
	c.Timeout = time.Duration(bigint(v[10]))*time.Microsecond + time.Duration(integer(v[10][8:]))*24*time.Hour + time.Duration(integer(v[10][12:]))*30*24*time.Hour
	if len(v[12]) == 8 {
		c.Slot = moment(v[12])
	}
	if u := v[13]; len(u) == 16 {
		c.OwnerID = fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
	}
	c.Checkpoint = jsonOf(v[14], version)
	c.Waited = moment(v[15]).Sub(c.RunAt)
	c.LimitKey, c.Reservation = string(v[16]), string(v[17])
	c.Trace = carrier(jsonOf(v[18], version))
	return nil
}

// carrier reads a trace context. One that holds something else than texts carries nothing, and must not keep its job, nor those claimed
// with it, from running.
func carrier(text json.RawMessage) (fields map[string]string) {
	if text == nil || json.Unmarshal(text, &fields) != nil {
		return nil
	}
	return fields
}

// jsonOf copies a JSON text, since the row's buffer is used again.
func jsonOf(value []byte, version int) json.RawMessage {
	if len(value) <= version {
		return nil
	}
	return append(json.RawMessage(nil), value[version:]...)
}

// moment is a timestamptz: microseconds since the year 2000.
func moment(value []byte) time.Time {
	return time.UnixMicro(bigint(value) + 946684800_000000)
}

// Numbers of the server are signed: their bits are taken as they are.
func bigint(value []byte) int64   { return int64(binary.BigEndian.Uint64(value)) } //nolint:gosec // as above
func integer(value []byte) int32  { return int32(binary.BigEndian.Uint32(value)) } //nolint:gosec // as above
func smallint(value []byte) int16 { return int16(binary.BigEndian.Uint16(value)) } //nolint:gosec // as above
