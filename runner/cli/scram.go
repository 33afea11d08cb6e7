package cli

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// What PostgreSQL itself takes where nothing else is set, and so what every client and pooler knows.
const (
	scramIterations = 4096
	scramSaltBytes  = 16
)

// scramVerifier is what PostgreSQL keeps of a password: it can test one with it, and nobody can log in with it (RFC 5802, RFC 7677).
func scramVerifier(password string) (string, error) {
	salt := make([]byte, scramSaltBytes)
	_, _ = rand.Read(salt) // it never fails
	return scramVerifierWith(password, salt, scramIterations)
}

func scramVerifierWith(password string, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive the key of the password: %w", err)
	}
	stored := sha256.Sum256(signed256(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt), encode(stored[:]), encode(signed256(salted, "Server Key"))), nil
}

func signed256(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(text))
	return mac.Sum(nil)
}

// randomPassword has some 130 bits, and no character that a URL or a shell would take for its own.
func randomPassword() string { return rand.Text() }

const shortestPassword, longestPassword = 12, 200

// checkPassword takes only what stays as it is in every client: before they hash, some bring a password into another form of Unicode, and not
// all into the same one (SASLprep in PostgreSQL's own, PRECIS in pgx, none in others). Its errors never repeat the password.
func checkPassword(password string) error {
	switch length := utf8.RuneCountInString(password); {
	case password == "":
		return errors.New("is empty")
	case !utf8.ValidString(password):
		return errors.New("is not UTF-8")
	case length < shortestPassword || length > longestPassword:
		return fmt.Errorf("has %d characters: %d to %d are allowed", length, shortestPassword, longestPassword)
	case !norm.NFKC.IsNormalString(password):
		return errors.New("holds a character that clients write in several ways, such as a ligature or a letter with a separate accent: use others")
	}
	for _, r := range password {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) || r == '\u1806' ||
			unicode.IsSpace(r) && r != ' ' {
			return fmt.Errorf("holds the character %U, which clients leave out or change: use others", r)
		}
	}
	return nil
}
