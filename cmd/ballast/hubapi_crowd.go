package main

import (
	"net"
	"net/netip"
	"sync"
)

// Bounds on connections, so that one pod's cannot keep the others out. A client of the
// Hub's opens some eight.
const (
	connectionsAPod  = 64
	connectionsInAll = 1024
)

// crowd is a listener that closes at once what is beyond these bounds. All who are not
// admitted count as one pod together. (netutil's LimitListener lets the next one wait,
// behind whoever holds all connections and says nothing.)
type crowd struct {
	*net.TCPListener
	admit admission

	mu    sync.Mutex // guards what follows
	open  map[netip.Addr]int
	inAll int
}

func newCrowd(l *net.TCPListener, admit admission) *crowd {
	return &crowd{TCPListener: l, admit: admit, open: map[netip.Addr]int{}}
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
		if _, ok := c.admit(who); !ok {
			who = netip.Addr{}
		}
		if c.enter(who) {
			return &guest{conn, sync.OnceFunc(func() { c.leave(who) })}, nil
		}
		conn.Close()
	}
}

func (c *crowd) enter(who netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[who] >= connectionsAPod || c.inAll >= connectionsInAll {
		return false
	}
	c.open[who]++
	c.inAll++
	return true
}

func (c *crowd) leave(who netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inAll--
	if c.open[who]--; c.open[who] == 0 {
		delete(c.open, who)
	}
}
