package main

import (
	"net"
	"net/netip"
	"sync"
)

// Bounds on connections, so that nobody's can keep the others out. A client of the Hub's
// opens some eight.
const (
	connectionsAPod      = 64
	connectionsAStranger = 8
	connectionsInAll     = 1024
	// connectionsForAny is how many there may be for a stranger to be let in: what is
	// beyond is for pods alone.
	connectionsForAny = connectionsInAll / 2
	// connectionsOfACluster is for 1,000 agents at once.
	connectionsOfACluster = 8 * 1024
)

// crowd is a listener that closes at once what is beyond these bounds, which are by
// address. Strangers are all who are not admitted, a pod that has just started among
// them. (netutil's LimitListener lets the next one wait, behind whoever holds all
// connections and says nothing.)
type crowd struct {
	*net.TCPListener
	admit         admission
	aGuest, inAll int // bounds for who is admitted

	mu   sync.Mutex // guards what follows
	open map[netip.Addr]int
	all  int
}

func newCrowd(l *net.TCPListener, admit admission) *crowd {
	return &crowd{TCPListener: l, admit: admit, aGuest: connectionsAPod, inAll: connectionsInAll, open: map[netip.Addr]int{}}
}

// newOpenCrowd admits everybody, a whole cluster behind one address too.
func newOpenCrowd(l *net.TCPListener) *crowd {
	c := newCrowd(l, func(netip.Addr) (string, bool) { return "", true })
	c.aGuest, c.inAll = connectionsOfACluster, connectionsOfACluster
	return c
}

// guest is a connection that has a place in a crowd until it is closed. It is a TCPConn,
// so that the kernel can send files (sendfile).
type guest struct {
	*net.TCPConn
	leave func()
}

func (g *guest) Close() error {
	defer g.leave()
	return g.TCPConn.Close()
}

func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.AcceptTCP()
		if err != nil {
			return nil, err
		}
		from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		who := from.Addr().Unmap()
		if c.enter(who) {
			return &guest{conn, sync.OnceFunc(func() { c.leave(who) })}, nil
		}
		conn.Close()
	}
}

func (c *crowd) enter(who netip.Addr) bool {
	most, inAll := connectionsAStranger, connectionsForAny
	if _, ok := c.admit(who); ok {
		most, inAll = c.aGuest, c.inAll
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[who] >= most || c.all >= inAll {
		return false
	}
	c.open[who]++
	c.all++
	return true
}

func (c *crowd) leave(who netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.open[who]--; c.open[who] == 0 {
		delete(c.open, who)
	}
}
