package httptask

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func place(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	if address, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(address, 443)
	}
	parsed, err := netip.ParseAddrPort(text)
	require.NoError(t, err)
	return parsed
}

func allowed(t *testing.T, list string) *Allowed {
	t.Helper()
	a, err := ParseAllowed(list)
	require.NoError(t, err)
	return a
}

func TestGuard_LetsPublicAddressesThrough_AndNoOthers(t *testing.T) {
	t.Parallel()
	rows := map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "100.63.255.255": true, "100.128.0.0": true, "172.15.255.255": true, "172.32.0.1": true,
		"169.253.255.255": true, "169.255.0.0": true, "126.255.255.255": true, "128.0.0.1": true, "223.255.255.255": true, "11.0.0.0": true,
		"192.0.1.1": true, "198.17.255.255": true, "198.20.0.0": true, "2606:4700:4700::1111": true, "2a00:1450:4001:81b::200e": true,
		"2001:200::1": true, "::ffff:1.1.1.1": true,

		"127.0.0.1": false, "127.255.255.254": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "10.255.255.255": false,
		"172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "100.64.0.1": false, "100.127.255.255": false,
		"169.254.169.254": false, "169.254.0.1": false, "168.63.129.16": false, "100.100.100.200": false, "192.0.0.192": false,
		"192.0.2.1": false, "198.51.100.7": false, "203.0.113.9": false, "198.18.0.1": false, "198.19.255.255": false, "192.88.99.1": false,
		"224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::1.1.1.1": false, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::ffff:10.0.0.1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::808:808": false, "64:ff9b:1::1": false, "100::1": false, "fe80::1": false, "fe80::1%eth0": false,
		"fc00::1": false, "fd12:3456::1": false, "fd00:ec2::254": false, "ff02::1": false, "2001::1": false, "2001:db8::1": false,
		"2002:7f00:1::1": false, "3fff::1": false, "4000::1": false, "fec0::1": false,
	}
	everywhere := allowed(t, "*")
	for address, want := range rows {
		require.Equal(t, want, everywhere.permits("example.org", place(t, address)), address)
	}
	require.False(t, everywhere.permits("example.org", netip.AddrPort{}))
}

// Whatever lies within a network that is not public is refused, in either dress.
func TestGuard_RefusesEveryAddressOfASpecialNetwork(t *testing.T) {
	t.Parallel()
	everywhere, random := allowed(t, "*"), rand.New(rand.NewPCG(1, 2))
	for _, network := range special {
		for range 500 {
			address := randomIn(network, random)
			require.False(t, everywhere.permits("example.org", netip.AddrPortFrom(address, 80)), "%s of %s", address, network)
			if address.Is4() {
				dressed := netip.AddrFrom16(address.As16())
				require.False(t, everywhere.permits("example.org", netip.AddrPortFrom(dressed, 80)), "%s of %s", dressed, network)
			}
		}
	}
}

func randomIn(network netip.Prefix, random *rand.Rand) netip.Addr {
	bytes := network.Addr().AsSlice()
	for bit := network.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] ^= byte(random.IntN(2)) << (7 - bit%8)
	}
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

func TestGuard_LetsThroughWhatTheListNames(t *testing.T) {
	t.Parallel()
	rows := []struct {
		list, host, to string
		want           bool
	}{
		{"127.0.0.1", "127.0.0.1", "127.0.0.1:8080", true},
		{"127.0.0.1", "127.0.0.2", "127.0.0.2:8080", false},
		{"127.0.0.1", "1.1.1.1", "1.1.1.1:443", false}, // without * nothing else
		{"127.0.0.1,*", "1.1.1.1", "1.1.1.1:443", true},
		{"127.0.0.1:8080", "127.0.0.1", "127.0.0.1:8080", true},
		{"127.0.0.1:8080", "127.0.0.1", "127.0.0.1:8081", false},
		{"[::1]:8080", "::1", "[::1]:8080", true},
		{"[::1]:8080", "::1", "[::1]:80", false},
		{"::1", "::1", "[::1]:80", true},
		{"[::1]", "::1", "[::1]:80", true},
		{"10.0.0.0/8", "10.1.2.3", "10.1.2.3:80", true},
		{"10.0.0.0/8", "10.1.2.3", "[::ffff:10.1.2.3]:80", true},
		{"10.0.0.0/8", "11.1.2.3", "11.1.2.3:80", false},
		{"::ffff:10.0.0.0/104", "10.1.2.3", "10.1.2.3:80", true},
		{"64:ff9b::/96", "x.example", "[64:ff9b::808:808]:80", true},
		{"fe80::/10", "x.example", "[fe80::1%eth0]:80", true},
		{"Api.Example.org", "api.example.org", "10.0.0.9:443", true},
		{"api.example.org", "API.example.org.", "1.1.1.1:443", true},
		{"api.example.org.:443", "api.example.org", "1.1.1.1:443", true},
		{"api.example.org:443", "api.example.org", "1.1.1.1:444", false},
		{"api.example.org", "evil.api.example.org", "10.0.0.9:443", false},
		{"api.example.org", "example.org", "10.0.0.9:443", false},
		{"localhost:54321", "localhost", "127.0.0.1:54321", true},
		// A name that is allowed may not lead to the metadata of a cloud, nor to no address.
		{"api.example.org", "api.example.org", "169.254.169.254:80", false},
		{"api.example.org", "api.example.org", "[::ffff:169.254.169.254]:80", false},
		{"api.example.org", "api.example.org", "[64:ff9b::a9fe:a9fe]:80", false},
		{"api.example.org", "api.example.org", "[fd00:ec2::254]:80", false},
		{"api.example.org", "api.example.org", "168.63.129.16:80", false},
		{"api.example.org", "api.example.org", "0.0.0.0:80", false},
		{"169.254.169.254", "169.254.169.254", "169.254.169.254:80", true}, // asked for by its number
	}
	for _, row := range rows {
		require.Equal(t, row.want, allowed(t, row.list).permits(row.host, place(t, row.to)), "%s: %s at %s", row.list, row.host, row.to)
	}
}

func TestGuard_AListThatMakesNoSense_IsRefused(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"", " , ", "10.0.0.0/33", "api.example.org/path", "https://api.example.org", "a b", "host:port", "host:", "host:0",
		"host:65536", "*.example.org", "-host", "::1:x"} {
		_, err := ParseAllowed(list)
		require.Error(t, err, list)
	}
}

// The name server says something else the second time: what counts is where the connection goes.
func TestGuard_JudgesEachConnectionByItsAddress(t *testing.T) {
	t.Parallel()
	control := allowed(t, "*").control("rebind.example")
	require.NoError(t, control("tcp4", "93.184.215.14:443", nil))
	for _, to := range []string{"127.0.0.1:443", "[::1]:443", "[fe80::1%2]:443", "nowhere"} {
		err := control("tcp", to, nil)
		require.ErrorAs(t, err, new(*forbidden), to)
		require.ErrorContains(t, err, "rebind.example")
	}
}

func TestGuard_ANameThatLeadsHome_IsRefused(t *testing.T) {
	t.Parallel()
	response, err := newClient(allowed(t, "*"), nil).Get("http://localhost:9/")
	if err == nil {
		_ = response.Body.Close()
	}
	require.True(t, errors.As(bare(err), new(*forbidden)), "%v", err)
}
