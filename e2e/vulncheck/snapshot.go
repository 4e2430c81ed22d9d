package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// A snapshot is gzip of JSON lines: a heading, then a vulnerability each, in the order
// of their ids. The same clone gives the same bytes.

// heading says what a snapshot is of.
type heading struct {
	Date   string `json:"date"`   // of Commit, YYYY-MM-DD
	Commit string `json:"commit"` // of github.com/golang/vulndb
}

// vulnerability is what govulncheck uses of an entry of the database, named as there
// (https://go.dev/security/vuln/database#schema).
type vulnerability struct {
	ID        string     `json:"id"`
	Withdrawn string     `json:"withdrawn,omitempty"`
	Affected  []affected `json:"affected"`
	About     *about     `json:"database_specific,omitempty"`
}

type affected struct {
	Module struct {
		Path      string `json:"name"`
		Ecosystem string `json:"ecosystem"`
	} `json:"package"`
	Ranges  json.RawMessage `json:"ranges,omitempty"`
	Symbols json.RawMessage `json:"ecosystem_specific,omitempty"`
}

// about is where a person reads more. Snapshots do without: the id says it.
type about struct {
	URL string `json:"url"`
}

var validID = regexp.MustCompile(`^GO-\d{4}-\d{4,}$`)

// renew writes to path a snapshot of clone's commit.
func renew(ctx context.Context, clone, path string) error {
	said, err := exec.CommandContext(ctx, "git", "-C", clone, "log", "-1", "--format=%cs %H").Output()
	if err != nil {
		return fmt.Errorf("git log in %s: %w", clone, err)
	}
	var of heading
	if _, err := fmt.Sscan(string(said), &of.Date, &of.Commit); err != nil {
		return fmt.Errorf("git log in %s said %q", clone, said)
	}
	files, err := filepath.Glob(filepath.Join(clone, "data", "osv", "GO-*.json"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no data/osv/GO-*.json in %s: is it a clone of github.com/golang/vulndb?", clone)
	}
	var packed bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	lines := json.NewEncoder(zw)
	if err := lines.Encode(of); err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var v vulnerability
		if err := json.Unmarshal(data, &v); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		v.About = nil
		if err := lines.Encode(v); err != nil {
			return err
		}
	}
	if err := zw.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, packed.Bytes(), 0o644)
}

// unpack lays out a snapshot in dir as govulncheck reads it at a file:// URL
// (https://go.dev/security/vuln/database#api), and returns what it is of and how many
// vulnerabilities it holds.
func unpack(snapshot io.Reader, dir string) (of heading, n int, err error) {
	zr, err := gzip.NewReader(snapshot)
	if err != nil {
		return of, 0, err
	}
	lines := json.NewDecoder(zr)
	if err := lines.Decode(&of); err != nil {
		return of, 0, err
	}
	for _, sub := range []string{"ID", "index"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return of, 0, err
		}
	}
	byModule := map[string][]vulnerability{}
	for ; ; n++ {
		var v vulnerability
		if err := lines.Decode(&v); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return of, n, err
		}
		if !validID.MatchString(v.ID) {
			return of, n, fmt.Errorf("%q is no vulnerability's id", v.ID)
		}
		v.About = &about{"https://pkg.go.dev/vuln/" + v.ID}
		if err := put(dir, filepath.Join("ID", v.ID), v); err != nil {
			return of, n, err
		}
		for _, a := range v.Affected {
			byModule[a.Module.Path] = append(byModule[a.Module.Path], v)
		}
	}
	if n == 0 {
		return of, 0, errors.New("it holds no vulnerability")
	}
	return of, n, index(dir, of, byModule)
}

// index writes the two indices. That of modules leaves out which version fixed what:
// govulncheck then asks each entry.
func index(dir string, of heading, byModule map[string][]vulnerability) error {
	type id struct {
		ID string `json:"id"`
	}
	type module struct {
		Path  string `json:"path"`
		Vulns []id   `json:"vulns"`
	}
	var modules []module
	for path, vulns := range byModule {
		m := module{Path: path}
		for _, v := range vulns {
			m.Vulns = append(m.Vulns, id{v.ID})
		}
		modules = append(modules, m)
	}
	if err := put(dir, "index/modules", modules); err != nil {
		return err
	}
	return put(dir, "index/db", map[string]string{"modified": of.Date + "T00:00:00Z"})
}

// put writes v as the endpoint's file.
func put(dir, endpoint string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, endpoint+".json"), data, 0o644)
}
