package httptask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// signingPrefix stands before a signing secret in base64; one without it is taken as it is.
const signingPrefix = "whsec_"

// sign adds the headers of the Standard Webhooks scheme: an id that stays the same when a call is repeated, the time of this attempt, and a
// signature over id, time and body with each secret.
func sign(header http.Header, id string, now time.Time, body []byte, secrets []string) error {
	at := strconv.FormatInt(now.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		key, err := signingKey(secret)
		if err != nil {
			return err
		}
		signatures[i] = signature(key, id, at, body)
	}
	header.Set("Webhook-Id", id)
	header.Set("Webhook-Timestamp", at)
	header.Set("Webhook-Signature", strings.Join(signatures, " "))
	return nil
}

func signingKey(secret string) ([]byte, error) {
	text, encoded := strings.CutPrefix(secret, signingPrefix)
	if !encoded {
		return []byte(secret), nil
	}
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(key) == 0 {
		return nil, errors.New("sign.secrets: a secret that begins with whsec_ goes on in base64, and one of these does not")
	}
	return key, nil
}

func signature(key []byte, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
