package hubcache

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(leakless{m}) }

// leakless runs tests that may leave no goroutine.
type leakless struct{ m *testing.M }

func (l leakless) Run() int {
	code := l.m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
