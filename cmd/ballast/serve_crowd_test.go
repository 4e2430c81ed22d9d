package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A cluster's agents may come by one address (an Ingress, a NAT), and there are more of
// them than a node has pods.
func TestServeAnswersACrowdBehindOneAddress(t *testing.T) {
	address := strings.TrimPrefix(newSharedCache(t).serve(t, serveFlags{}), "http://")
	answered := 0
	for range 200 {
		c, err := net.Dial("tcp", address)
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && res.StatusCode == http.StatusOK {
			answered++
		}
	}
	if answered < 200 {
		t.Errorf("%d of 200 connections were answered", answered)
	}
}
