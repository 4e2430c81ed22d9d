package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// asRun has the test binary be a run of its own, as `make e2e` is, and says how it ends.
const asRun = "BALLAST_E2E_AS_RUN"

func TestMain(m *testing.M) {
	if how := os.Getenv(asRun); how != "" {
		Main(Run{Tests: aRun(how), Prepare: prepare})
	}
	if err := prepare(context.Background(), "", os.Stdout); err != nil {
		fail(err)
	}
	os.Exit(m.Run())
}

func prepare(ctx context.Context, _ string, w io.Writer) error {
	_, err := Build(ctx, "../kubernetes", w)
	return err
}

// aRun has a real node up, says so, and then waits, fails, or ends.
type aRun string

func (how aRun) Run() int {
	c, err := upAndRunning()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer c.Stop()
	fmt.Println("up in", Dir())
	switch how {
	case "wait":
		select {}
	case "fail":
		return 1
	case "reboot":
		for range 5 {
			if err := errors.Join(c.Machine().PowerCut(), c.Machine().PowerOn(context.Background())); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	return 0
}

func upAndRunning() (*Cluster, error) {
	tools, err := Build(context.Background(), "../kubernetes", os.Stdout)
	if err != nil {
		return nil, err
	}
	c, err := Start(context.Background(), Config{Dir: Dir(), Tools: tools, Sandbox: "none"})
	if err != nil {
		return nil, err
	}
	if mounts, err := c.Machine().Mounts(); err != nil || !strings.Contains(mounts, CacheDisk) {
		return nil, fmt.Errorf("the machine's mounts: %w\n%s", err, mounts)
	}
	return c, nil
}
