package migrations

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

var supabaseHost = regexp.MustCompile(`^db\.([a-z0-9]+)\.supabase\.[a-z.]+$`)

// Address is where a database may be worked on, as pgtick.addresses records it: the Supabase project's reference where host or user
// name one, otherwise the host without its port; then a slash and the database's name. Nothing that an upgrade or a failover of the
// server changes is part of it. All ways to this machine itself are localhost.
func Address(cfg *pgx.ConnConfig) string {
	return project(cfg) + "/" + cfg.Database
}

func project(cfg *pgx.ConnConfig) string {
	host := strings.ToLower(strings.TrimSuffix(cfg.Host, "."))
	if found := supabaseHost.FindStringSubmatch(host); found != nil {
		return found[1]
	}
	if _, reference, ok := strings.Cut(cfg.User, "."); ok && strings.Contains(host, ".pooler.supabase.") {
		return reference
	}
	if isLocal(host) {
		return "localhost"
	}
	return host
}

func isLocal(host string) bool {
	if host == "" || host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
