package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed static
var staticFiles embed.FS

// asset is a file for browsers, compressed once.
type asset struct {
	kind    string
	plain   []byte
	zipped  []byte
	address string // with a hash of what is in it, so that browsers may keep it for good
}

var kinds = map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8"}

// assets are by their names, and by their addresses.
var assets = sync.OnceValue(func() map[string]*asset {
	all := map[string]*asset{}
	entries, _ := staticFiles.ReadDir("static")
	for _, e := range entries {
		plain, err := staticFiles.ReadFile("static/" + e.Name())
		if err != nil {
			continue
		}
		hash := sha256.Sum256(plain)
		extension := path.Ext(e.Name())
		a := &asset{kind: kinds[extension], plain: plain, zipped: gzipped(plain, gzip.BestCompression),
			address: "/static/" + strings.TrimSuffix(e.Name(), extension) + "." + hex.EncodeToString(hash[:8]) + extension}
		all[e.Name()], all[a.address] = a, a
	}
	return all
})

// assetAddress is where a file of static/ is to be had.
func assetAddress(name string) string { return assets()[name].address }

func gzipped(plain []byte, level int) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, level)
	_, _ = w.Write(plain)
	_ = w.Close()
	return out.Bytes()
}

func serveAsset(w http.ResponseWriter, r *http.Request) {
	a := assets()[r.URL.Path]
	if a == nil || !strings.HasPrefix(r.URL.Path, "/static/") {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	writeZipped(w, r, http.StatusOK, a.plain, a.zipped)
}

// writeZipped sends what the browser takes.
func writeZipped(w http.ResponseWriter, r *http.Request, status int, plain, zipped []byte) {
	w.Header().Add("Vary", "Accept-Encoding")
	body := plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		body = zipped
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
