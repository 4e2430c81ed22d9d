// Package report is what e2e/pod prints, as JSON, for the tests that read its logs.
package report

import "time"

// Sum is all that "pod sum" prints.
type Sum struct {
	Entries []Entry `json:"entries"` // in lexical order
	Files   int     `json:"files"`
	Bytes   int64   `json:"bytes"` // of all files
	Seconds float64 `json:"seconds"`
}

// Entry is a name below the directory.
type Entry struct {
	Path   string `json:"path"` // slashes, relative
	Type   string `json:"type"` // "file", "directory", "symlink" or "other"
	Size   int64  `json:"size"` // bytes; of files only
	Mode   string `json:"mode"` // octal, as "0444", with setuid, setgid and sticky
	SHA256 string `json:"sha256,omitempty"`
}

// Round is a line of "pod reread". A line with an error is the last.
type Round struct {
	Round   int       `json:"round"` // from 1, which the others are compared with
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Error   string    `json:"error,omitempty"`
}

// Attempt is a line of "pod attack".
type Attempt struct {
	Attempt string `json:"attempt"`
	Error   string `json:"error"`   // empty: the kernel let it through
	Changed bool   `json:"changed"` // and the volume was another afterwards
}
