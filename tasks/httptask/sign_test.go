package httptask

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// From the scheme's own tests: standard-webhooks/standard-webhooks, libraries/go/webhook_test.go, TestWebhookSign.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTime      = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestSign_GivesThePublishedSignature(t *testing.T) {
	t.Parallel()
	header := http.Header{}
	require.NoError(t, sign(header, vectorID, time.Unix(vectorTime, 0), []byte(vectorBody), []string{vectorSecret}))
	require.Equal(t, vectorID, header.Get("webhook-id"))
	require.Equal(t, "1614265330", header.Get("webhook-timestamp"))
	require.Equal(t, vectorSignature, header.Get("webhook-signature"))
}

func TestSign_WithSeveralSecrets_GivesASignatureOfEach(t *testing.T) {
	t.Parallel()
	header := http.Header{}
	raw := "a secret as it is"
	require.NoError(t, sign(header, vectorID, time.Unix(vectorTime, 0), []byte(vectorBody), []string{raw, vectorSecret}))
	each := strings.Split(header.Get("webhook-signature"), " ")
	require.Len(t, each, 2)
	require.Equal(t, signature([]byte(raw), vectorID, "1614265330", []byte(vectorBody)), each[0])
	require.Equal(t, vectorSignature, each[1])
}

func TestSign_WithABrokenSecret_SaysSo_AndNotWhatItIs(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"whsec_", "whsec_not base64!"} {
		err := sign(http.Header{}, vectorID, time.Unix(vectorTime, 0), nil, []string{secret})
		require.ErrorContains(t, err, "base64")
		require.NotContains(t, err.Error(), "not base64")
	}
}
