package dashboard_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// addresses are all pages that need no thing to exist.
func addresses() []string {
	return []string{"/", "/jobs", "/jobs/new", "/schedules", "/queues", "/runners", "/credits", "/actions", "/keys"}
}

// Each page is looked at in both colours and on a phone by the accessibility engine, and the browser's console has nothing to say.
func TestPages_OfAnEmptyDatabase_AreGoodToReadForEverybody(t *testing.T) {
	t.Parallel()
	d := open(t)
	b := d.browse(t)
	for _, address := range addresses() {
		b.light()
		b.visit(address)
		b.axe()
		b.dark()
		b.axe()
		b.phone()
		b.desk()
	}
	status, body := d.reader().get(t, "/jobs/new")
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, words(body), "You may look, but not act.")
}

func TestPages_ToReaders_HaveNoFormThatActs(t *testing.T) {
	t.Parallel()
	d := open(t)
	run(t, d.DB, `select pgtick.pause_queue('mail', 'upkeep'); select pgtick.schedule('nightly', '0 3 * * *', 'report'); select pgtick.enqueue('mail.send', p_queue => 'mail')`)
	for _, address := range addresses() {
		status, body := d.reader().get(t, address)
		if status == http.StatusForbidden {
			continue
		}
		require.Equal(t, http.StatusOK, status, address)
		_, main, _ := strings.Cut(body, "<main")
		require.NotContains(t, main, `method="post"`, address)
	}
}
