package csi

import (
	"flag"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
)

// sanitySkips are the specs that a driver of Identity and Node alone cannot run
// (csi-test v5.6.0 does not skip them by itself).
var sanitySkips = []string{
	// There is no controller service; these call it before they ask (controller.go, BeforeEach).
	`\[Controller Server\]`,
	// Creates its volume through the controller first.
	`NodeUnpublishVolume should remove target path`,
	// The same, to ask for the stats of a path that is not there.
	`should fail when volume does not exist on the specified path`,
}

func TestCSISanity(t *testing.T) {
	if n := flag.Lookup("test.count").Value.String(); n != "1" {
		t.Skipf("ginkgo refuses to run with -count=%s", n)
	}
	b := newBench(t)
	_, stop := b.run(t)
	cfg := sanity.NewTestConfig()
	cfg.Address = b.cfg.Socket
	cfg.TargetPath = filepath.Join(b.dir, "sanity-target")
	cfg.StagingPath = filepath.Join(b.dir, "sanity-staging")
	sc := sanity.GinkgoTest(&cfg)

	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.SkipStrings = sanitySkips
	reporter.Succinct, reporter.NoColor, reporter.SilenceSkips = true, true, true
	passed := 0
	ginkgo.ReportAfterSuite("count", func(r ginkgo.Report) {
		passed = r.SpecReports.CountWithState(types.SpecStatePassed)
	})
	if !ginkgo.RunSpecs(t, "csi-sanity", suite, reporter) {
		t.Error("csi-sanity failed")
	}
	sc.Finalize()
	fmt.Println() // ginkgo leaves its line open
	// Ten run; a skip that grew too wide would pass everything.
	if passed < 10 {
		t.Errorf("%d specs passed", passed)
	}
	must(t, stop())
}
