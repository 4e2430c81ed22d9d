package modelexpress

import "time"

// Keep sets how long what was learnt of a Revision is believed.
func (c *Client) Keep(d time.Duration) { c.limits.keep = d }

// Answer sets how long an answer is waited for.
func (c *Client) Answer(d time.Duration) { c.limits.answer = d }

// Unread sets how long a file may hold up a stream of all files.
func (c *Client) Unread(d time.Duration) { c.limits.unread = d }
