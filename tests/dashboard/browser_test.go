package dashboard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// One browser serves all tests of the package; each tab has cookies of its own.
var browser struct {
	once  sync.Once
	ctx   context.Context
	close context.CancelFunc
	err   error
}

func closeBrowser() {
	if browser.close != nil {
		browser.close()
	}
}

// The shell without windows is enough, and starts in a third of the time.
func findBrowser() (string, error) {
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("the tests of the dashboard need Chromium: install Debian's package chromium-headless-shell or chromium")
}

func startBrowser() {
	program, err := findBrowser()
	if err != nil {
		browser.err = err
		return
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(program), chromedp.DisableGPU, chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.WindowSize(1280, 900), chromedp.Env("TZ=Europe/Berlin"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses to have one for root
	}
	allocator, endAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, end := chromedp.NewContext(allocator)
	browser.ctx, browser.close = ctx, func() { end(); endAllocator() }
	browser.err = chromedp.Do(ctx)
}

// tab is one of the browser, with what its page complained about.
type tab struct {
	t       *testing.T
	ctx     context.Context
	dash    *dash
	mu      sync.Mutex
	trouble []string
}

// browse opens a tab for whom the dash is opened for. At its end the test fails if a page wrote an error, or tried what it may not.
func (d *dash) browse(t *testing.T) *tab {
	t.Helper()
	browser.once.Do(startBrowser)
	require.NoError(t, browser.err)
	tab := &tab{t: t, dash: d}
	ctx, end := chromedp.NewContext(browser.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(tab.hear))
	tab.ctx = ctx
	tab.run(command(cdplog.Enable, cdp.Empty{}))
	t.Cleanup(func() {
		end()
		tab.mu.Lock()
		defer tab.mu.Unlock()
		require.Empty(t, tab.trouble, "the browser's console has complaints")
	})
	tab.login()
	return tab
}

// login takes the session that the dashboard gives to the token.
func (b *tab) login() {
	b.t.Helper()
	if b.dash.token == "" {
		return
	}
	b.dash.as("").logIn(b.t, b.dash.token, func(cookie *http.Cookie) {
		b.run(command(network.SetCookie, network.SetCookieParams{Name: cookie.Name, Value: cookie.Value, URL: b.dash.URL}))
	})
}

// logIn posts a token to the login page, and hands over the session's cookie.
func (d *dash) logIn(t testing.TB, token string, see func(*http.Cookie)) (status int, body string) {
	t.Helper()
	status, body, _ = d.do(t, http.MethodPost, "/login", url.Values{"token": {token}, "to": {"/keys"}}, nil)
	at, err := url.Parse(d.URL)
	require.NoError(t, err)
	for _, cookie := range d.client.Jar.Cookies(at) {
		if cookie.Name == "pgtick_session" && see != nil {
			see(cookie)
		}
	}
	return status, body
}

func (b *tab) hear(event any) {
	said := ""
	switch e := event.(type) {
	case *cdplog.EventEntryAdded:
		refused := strings.HasPrefix(e.Entry.Text, "Failed to load resource: the server responded with a status of 4") // pages that say no
		if (e.Entry.Level == cdplog.EntryLevelError || e.Entry.Source == cdplog.EntrySourceSecurity) && !refused {
			said = e.Entry.Text + " " + e.Entry.URL
		}
	case *runtime.EventExceptionThrown:
		said = (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error()
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			for _, a := range e.Args {
				said += string(a.Value) + " "
			}
		}
	}
	if said != "" {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trouble = append(b.trouble, said)
	}
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, b.soon(chromedp.Steps(actions...))))
}

// soon gives up in the end, and says so, where an element never comes.
func (b *tab) soon(action chromedp.Action[chromedp.Void]) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		ctx, end := context.WithTimeout(ctx, time.Minute)
		defer end()
		return action(ctx, target)
	}
}

// command is one of the browser's protocol.
func command[P any](c cdp.Command[P, cdp.Empty], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// visit opens a page, and returns when its script has run.
func (b *tab) visit(address string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.dash.URL + address))
	b.until(`document.body && document.body.dataset.ready`)
}

// eval asks the page; a promise is waited for. out may be nil.
func (b *tab) eval(js string, out any) {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]byte](js, chromedp.EvalAwaitPromise))
	require.NoError(b.t, err, js[:min(len(js), 300)])
	if out != nil {
		require.NoError(b.t, json.Unmarshal(text, out), js[:min(len(js), 300)])
	}
}

// until waits for the page to be so. While it moves to another page there is nobody to ask.
func (b *tab) until(js string) {
	b.t.Helper()
	var last string
	defer func() {
		if b.t.Failed() {
			b.t.Log("the page says: ", b.said(), "; waited for: ", js, "; last: ", last)
		}
	}()
	eventually(b.t, js, func() bool {
		is, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("!!("+js+")"))
		if err != nil {
			last = err.Error()
			if b.ctx.Err() != nil {
				require.NoError(b.t, err, js)
			}
		}
		return is
	})
}

// said is where the page is and the text of its main part, for messages.
func (b *tab) said() (text string) {
	text, _ = chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + ' ' + (document.body ? document.body.innerText.slice(0, 3000) : '')`))
	return text
}

// text is what the first element of that kind says, as it is seen.
func (b *tab) text(selector string) (text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.querySelector(%s)", quote(selector)))
	b.eval(fmt.Sprintf("document.querySelector(%s).innerText", quote(selector)), &text)
	return text
}

// click is a click of the mouse on what is there to be seen. Where a live page has moved it away under the mouse, it clicks again, as a user would.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.querySelector(%s)", quote(selector)))
	eventually(b.t, "a click on "+selector, func() bool {
		b.eval(`window.hit = null; window.watched ??= (addEventListener('click', (e) => { window.hit = e.target; }, true), true)`, nil)
		err := chromedp.Do(b.ctx, b.soon(chromedp.Steps(chromedp.ScrollIntoView(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))))
		if err != nil && strings.Contains(err.Error(), "node with given id") {
			return false // a live page has just put another one in its place
		}
		require.NoError(b.t, err, selector)
		hit, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](fmt.Sprintf(`window.hit === undefined || (window.hit !== null && !!window.hit.closest(%s))`, quote(selector))))
		return hit || err != nil // nothing to ask: the click led to another page
	})
}

// press is a click that leads to another page, or to the same one anew.
func (b *tab) press(selector string) {
	b.t.Helper()
	b.eval(`window.before = true`, nil)
	b.click(selector)
	b.until(`!window.before && document.body && document.body.dataset.ready`)
}

// confirm answers the question that the page asks before it acts, and waits for what follows.
func (b *tab) confirm(selector string) (asked string) {
	b.t.Helper()
	b.eval(`window.before = true`, nil)
	b.click(selector)
	b.until(`document.querySelector('#confirm').open`)
	asked = b.text("#confirm-text")
	b.click("#confirm-yes")
	b.until(`!window.before && document.body && document.body.dataset.ready`)
	return asked
}

// fill puts a text into a field, as if it were typed.
func (b *tab) fill(selector, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.querySelector(%s)", quote(selector)))
	b.eval(fmt.Sprintf("(() => { const f = document.querySelector(%s); f.focus(); f.select && f.select(); })()", quote(selector)), nil)
	if text == "" {
		b.run(chromedp.KeyEvent("\b"))
		return
	}
	b.run(command(input.InsertText, input.InsertTextParams{Text: text}))
}

// keys presses keys, where the focus is.
func (b *tab) keys(keys string) {
	b.t.Helper()
	b.run(chromedp.KeyEvent(keys))
}

func window(width, height int64, mobile bool) chromedp.Action[chromedp.Void] {
	return command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: mobile})
}

// phone makes the window as wide as a small phone, and checks that nothing sticks out.
func (b *tab) phone() {
	b.t.Helper()
	b.run(window(360, 740, true))
	var wide []string
	b.eval(`[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .tree, pre, .sr, .skip, table.heat, table.cards thead, .drawn') && e.getClientRects().length && e.getBoundingClientRect().right > 361)
		.slice(0, 5).map(e => e.outerHTML.slice(0, 160))`, &wide)
	require.Empty(b.t, wide, "these stick out of a window of 360 px")
	var width int
	b.eval(`document.documentElement.scrollWidth`, &width)
	require.LessOrEqual(b.t, width, 360, "the page must be moved sideways on a phone")
}

// desk undoes phone.
func (b *tab) desk() {
	b.t.Helper()
	b.run(window(1280, 900, false))
}

// dark has the system ask for dark pages.
func (b *tab) dark() { b.t.Helper(); b.scheme("dark") }

// light has the system ask for light ones.
func (b *tab) light() { b.t.Helper(); b.scheme("light") }

func (b *tab) scheme(name string) {
	b.t.Helper()
	b.run(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}}))
}

var axeText = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile(filepath.Join("..", "..", ".pgtick", "dashboard", "node_modules", "axe-core", "axe.min.js"))
	return string(text), err
})

// axe has an accessibility engine look at the page: nothing serious may be wrong with it.
func (b *tab) axe() {
	b.t.Helper()
	text, err := axeText()
	require.NoError(b.t, err, "axe-core is missing: .ci/prepare test installs it")
	b.eval(`void 0; `+text+`; !!window.axe`, nil)
	var found []struct {
		ID     string   `json:"id"`
		Impact string   `json:"impact"`
		Help   string   `json:"help"`
		Nodes  []string `json:"nodes"`
	}
	b.eval(`axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.filter(v => v.impact === 'serious' || v.impact === 'critical')
		.map(v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 4).map(n => n.html.slice(0, 200) + ' ' + n.any.map(a => a.message).join('; ').slice(0, 300))})))`,
		&found)
	require.Empty(b.t, found, "what the accessibility engine found at %s", b.address())
}

func (b *tab) address() (text string) {
	b.t.Helper()
	b.eval(`location.pathname + location.search`, &text)
	return text
}

func (b *tab) picture(width, height int64) (png []byte) {
	b.t.Helper()
	b.run(window(width, height, false))
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b.t, err)
	return png
}

func quote(text string) string {
	quoted, _ := json.Marshal(text)
	return string(quoted)
}
