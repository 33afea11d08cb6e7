package httptask

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Allowed is what may be called. The zero value allows nothing.
type Allowed struct {
	public   bool
	names    []string         // host, or host:port, in small letters
	networks []netip.Prefix   // a single address is one as well
	places   []netip.AddrPort // an address with a port
}

var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

// ParseAllowed reads a list, separated by commas: * (every public address), host names, addresses, both with or without a port, and
// networks such as 10.0.0.0/8.
func ParseAllowed(list string) (*Allowed, error) {
	a := &Allowed{}
	for entry := range strings.SplitSeq(list, ",") {
		if entry = strings.ToLower(strings.TrimSpace(entry)); entry != "" && !a.add(entry) {
			return nil, fmt.Errorf("%q is neither *, nor a host or an address, perhaps with a port, nor a network such as 10.0.0.0/8", entry)
		}
	}
	if !a.public && len(a.names)+len(a.networks)+len(a.places) == 0 {
		return nil, fmt.Errorf("%q names nothing that may be called", list)
	}
	return a, nil
}

func (a *Allowed) add(entry string) bool {
	if entry == "*" {
		a.public = true
		return true
	}
	if network, err := netip.ParsePrefix(entry); err == nil {
		a.networks = append(a.networks, plainNetwork(network))
		return true
	}
	if address, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
		address = plain(address)
		a.networks = append(a.networks, netip.PrefixFrom(address, address.BitLen()))
		return true
	}
	if place, err := netip.ParseAddrPort(entry); err == nil {
		a.places = append(a.places, netip.AddrPortFrom(plain(place.Addr()), place.Port()))
		return true
	}
	host, port, hasPort := strings.Cut(entry, ":")
	host = strings.TrimSuffix(host, ".")
	if !hostName.MatchString(host) {
		return false
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return false
		}
		host = fmt.Sprintf("%s:%d", host, n)
	}
	a.names = append(a.names, host)
	return true
}

// plain is the address that really is meant: IPv4 may come dressed as IPv6, and a link-local address with its zone.
func plain(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }

func plainNetwork(network netip.Prefix) netip.Prefix {
	if network.Addr().Is4In6() && network.Bits() >= 96 {
		return netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96).Masked()
	}
	return network.Masked()
}

// permits judges one connection: host is what the URL names, to is where the connection goes. A host that is named may lie in a private
// network, but nothing that its name server says leads to the metadata of a cloud, or to no particular address.
func (a *Allowed) permits(host string, to netip.AddrPort) bool {
	address := plain(to.Addr())
	switch {
	case !address.IsValid():
		return false
	case slices.ContainsFunc(a.networks, func(n netip.Prefix) bool { return n.Contains(address) }):
		return true
	case slices.Contains(a.places, netip.AddrPortFrom(address, to.Port())):
		return true
	case a.namesHost(host, to.Port()):
		return !within(address, neverByName)
	}
	return a.public && isPublic(address)
}

func (a *Allowed) namesHost(host string, port uint16) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return slices.Contains(a.names, host) || slices.Contains(a.names, fmt.Sprintf("%s:%d", host, port))
}

func networks(list ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(list))
	for i, text := range list {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// From IANA's registries of special-purpose addresses, and the metadata of clouds. In IPv6 only 2000::/3 is global unicast at all.
var (
	metadata = networks("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32",
		"192.0.0.192/32")
	neverByName = append(networks("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "ff00::/8", "64:ff9b::a9fe:0/112"), metadata...)
	unicast6    = networks("2000::/3")
	special     = append(networks(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // this network, private, shared, loopback
		"192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", // protocols, documentation, benchmarks
		"192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4", // relays, multicast, reserved
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", // protocols (Teredo, ORCHID), documentation, 6to4, documentation
	), metadata...)
)

func within(address netip.Addr, list []netip.Prefix) bool {
	return slices.ContainsFunc(list, func(n netip.Prefix) bool { return n.Contains(address) })
}

// isPublic: a plain address of one machine somewhere in the internet.
func isPublic(address netip.Addr) bool {
	return (address.Is4() || within(address, unicast6)) && !within(address, special)
}

// forbidden is a connection that the guard has not let through.
type forbidden struct{ host, to string }

func (e *forbidden) Error() string {
	return fmt.Sprintf("%s leads to %s, which is not a public address, and PGTICK_HTTP_ALLOW does not allow it", e.host, e.to)
}

// control is called with the address that a connection is about to go to, after all names have been looked up: what a name server says at
// another time does not matter.
func (a *Allowed) control(host string) func(network, to string, _ syscall.RawConn) error {
	return func(_, to string, _ syscall.RawConn) error {
		if address, err := netip.ParseAddrPort(to); err == nil && a.permits(host, address) {
			return nil
		}
		return &forbidden{host, to}
	}
}
