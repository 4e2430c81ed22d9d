package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// reachable is how long the public database may take to answer that it is there.
const reachable = 10 * time.Second

// check is one run over modules and a binary.
type check struct {
	govulncheck string   // path of the program
	db          string   // URL, http or file
	snapshot    []byte   // used when db cannot be reached
	modules     []string // their directories
	binary      string   // its path; empty: none
	out         io.Writer
}

// run checks all there is to check. Its error names each that is vulnerable or could
// not be checked; which of the two, govulncheck has written to c.out.
func (c check) run(ctx context.Context) error {
	if len(c.modules) == 0 && c.binary == "" {
		return errors.New("no module and no binary to check")
	}
	dir, err := os.MkdirTemp("", "vulndb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db, err := c.database(ctx, dir)
	if err != nil {
		return err
	}
	var failed []string
	for _, module := range c.modules {
		if err := c.tell(ctx, module, "-C", module, "-db", db, "./..."); err != nil {
			failed = append(failed, fmt.Sprintf("module %s (%v)", module, err))
		}
	}
	if c.binary != "" {
		if err := c.tell(ctx, c.binary, "-mode", "binary", "-db", db, c.binary); err != nil {
			failed = append(failed, fmt.Sprintf("binary %s (%v)", c.binary, err))
		}
	}
	if failed != nil {
		return fmt.Errorf("vulnerable, or not checked: %s", strings.Join(failed, ", "))
	}
	return nil
}

// tell runs govulncheck on what.
func (c check) tell(ctx context.Context, what string, args ...string) error {
	fmt.Fprintf(c.out, "%s: ", what)
	cmd := exec.CommandContext(ctx, c.govulncheck, args...)
	cmd.Stdout, cmd.Stderr = c.out, c.out
	return cmd.Run()
}

// database returns the URL of the database to use: c.db if it answers, otherwise that
// of the snapshot, unpacked in dir.
func (c check) database(ctx context.Context, dir string) (string, error) {
	why := ask(ctx, c.db)
	if why == nil {
		fmt.Fprintf(c.out, "by %s\n", c.db)
		return c.db, nil
	}
	of, n, err := unpack(bytes.NewReader(c.snapshot), dir)
	if err != nil {
		return "", fmt.Errorf("%w; and the snapshot: %w", why, err)
	}
	fmt.Fprintf(c.out, "%v\nby the snapshot of %s instead, %d vulnerabilities: what was found since is not seen\n", why, of.Date, n)
	return "file://" + filepath.ToSlash(dir), nil
}

// ask returns why the database at url cannot be used, nil if it can.
func ask(ctx context.Context, url string) error {
	if strings.HasPrefix(url, "file:") {
		return nil // govulncheck says what is wrong with it
	}
	ctx, cancel := context.WithTimeout(ctx, reachable)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(url, "/")+"/index/db.json.gz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err // names the URL
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, answer.Status)
	}
	return nil
}
