package credits

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/jackc/pgx/v5"
)

// Look asks a target once whether its table can be read as the sync needs it. It hands nothing over and changes nothing.
func Look(ctx context.Context, target Target, here *pgx.Conn) error {
	if r, is := target.(rest); is {
		return (&restSession{rest: r}).look(ctx)
	}
	there, err := target.read(ctx, here)
	if err != nil {
		return err
	}
	defer there.close()
	none := int64(0)
	_, err = there.page(ctx, 0, &none)
	return said(err, target)
}

// look does not try again, as a sync would.
func (s *restSession) look(ctx context.Context) error {
	defer s.close()
	query := url.Values{"limit": {"0"}, "select": {"transaction_id,user_id,type,amount,held_amount,balance_after,endpoint,period,created_at,completed_at,synced_at"}}
	a, err := s.once(ctx, http.MethodGet, query, http.Header{"Accept": {"application/json"}, "Accept-Profile": {restSchema}}, nil)
	switch {
	case err != nil:
		return fmt.Errorf("sync target %s can't be reached: %w", s, err)
	case a.isNotNow():
		return fmt.Errorf("sync target %s answers %s", s, a.words(s.key))
	}
	return said(s.judge(a), s)
}

// said names the target in what it says of entries; other errors name it already.
func said(err error, target fmt.Stringer) error {
	var no *refusal
	if errors.As(err, &no) {
		return fmt.Errorf("sync target %s answers %s", target, no.reason)
	}
	return err
}
