package modelexpress

import (
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// Keep sets how long what was learnt of a Revision is believed.
func (c *Client) Keep(d time.Duration) { c.limits.keep = d }

// Answer sets how long an answer is waited for.
func (c *Client) Answer(d time.Duration) { c.limits.answer = d }

// Unread sets how long a file may hold up a stream of all files.
func (c *Client) Unread(d time.Duration) { c.limits.unread = d }

// Unbegun is an Object of f that has no stream.
func Unbegun(c *Client, rev fetcher.Revision, f fetcher.File) fetcher.Object {
	return &object{client: c, rev: rev, file: f}
}

// ParseURL says where a URL leads: host:port, and tls.
func ParseURL(s string) (string, error) {
	t, err := parseURL(s)
	if t.tls {
		return t.address + " tls", err
	}
	return t.address, err
}
