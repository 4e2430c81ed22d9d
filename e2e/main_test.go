package e2e

import (
	"testing"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }
