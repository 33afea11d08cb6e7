// Package dashboard_test opens the dashboard's pages as people do: by HTTP, and in a real browser.
package dashboard_test

import (
	"testing"

	"github.com/pgtick/pgtick/tests/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.Main(m)
	closeBrowser()
	for _, end := range atEnd {
		end()
	}
}

// atEnd undoes what was made for all tests.
var atEnd []func()
