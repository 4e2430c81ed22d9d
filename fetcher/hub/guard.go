package hub

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/ballast-csi/ballast/fetcher"
)

// guard keeps redirects that leave the endpoint's origin from making this node ask
// its own services, its link or its cloud's metadata, which trust whoever can reach
// them. Private networks are not among them: mirrors keep content there.
type guard struct {
	loopback bool // allowed, because the endpoint is there itself
}

const loopbackClass = "loopback"

// forbidden lists where no content is.
var forbidden = []struct {
	class    string
	prefixes []netip.Prefix
}{
	{"unspecified", prefixes("0.0.0.0/8", "::/128")},
	{loopbackClass, prefixes("127.0.0.0/8", "::1/128")},
	{"link-local", prefixes("169.254.0.0/16", "fe80::/10")},
	{"multicast", prefixes("224.0.0.0/4", "ff00::/8")},
	{"broadcast", prefixes("255.255.255.255/32")},
	// Those that are not link-local: AWS (all of its services for instances), Google,
	// Scaleway, Alibaba, Azure, Oracle, Akamai.
	{"cloud metadata", prefixes("fd00:ec2::/32", "fd20:ce::254/128", "fd00:42::42/128",
		"100.100.100.200/32", "fd00:100::100:200/128", "168.63.129.16/32",
		"192.0.0.192/32", "fd00:c1::a9fe:a9fe/128", "fd00:a9fe:a9fe::1/128")},
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// nat64 addresses hold an IPv4 address in their last four bytes (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// offLimits says that a redirect leads where it may not.
type offLimits struct{ what string }

func (e *offLimits) Error() string { return fmt.Sprintf("%v: %s", fetcher.ErrOffLimits, e.what) }
func (e *offLimits) Unwrap() error { return fetcher.ErrOffLimits }

// address judges an address that is about to be connected to.
func (g guard) address(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		all := addr.As16()
		addr = netip.AddrFrom4([4]byte(all[12:]))
	}
	for _, f := range forbidden {
		for _, p := range f.prefixes {
			if p.Contains(addr) && !(g.loopback && f.class == loopbackClass) {
				return &offLimits{fmt.Sprintf("%s is a %s address", addr, f.class)}
			}
		}
	}
	return nil
}

// control is for a net.Dialer. It sees the address after every name is resolved, so
// that a name which changes its address between two looks gains nothing.
func (g guard) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return &offLimits{"the address cannot be read"}
	}
	return g.address(to.Addr())
}

// host judges the host of a URL by what is written there: behind a proxy, which
// connects itself, no more can be known. What some resolvers take for an address and
// netip does not (0x7f.1, 2130706433, 0177.0.0.1) is no name of a host either, for
// a top-level domain is not numeric (RFC 3696, section 2).
func (g guard) host(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		return g.address(addr)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if !g.loopback && (name == "localhost" || strings.HasSuffix(name, ".localhost")) {
		return &offLimits{"localhost is a " + loopbackClass + " address"}
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	numeric := strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x")
	ascii := !strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf })
	if numeric || !ascii { // digits of other scripts are digits to IDNA
		return &offLimits{"it is neither an IP address nor the name of a host"}
	}
	return nil
}

// isLoopback reports whether an endpoint's host is this machine by what is written.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}
