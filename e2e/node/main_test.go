package node

import (
	"context"
	"io"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main(Run{Tests: m, Prepare: func(ctx context.Context, dir string, w io.Writer) error {
		_, err := Build(ctx, "../kubernetes", w)
		return err
	}})
}

func TestNothing(t *testing.T) { t.Log(os.Getpid()) }
