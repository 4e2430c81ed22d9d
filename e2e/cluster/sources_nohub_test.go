package cluster

import (
	"crypto/sha1"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/e2e/modelexpress"
	"github.com/ballast-csi/ballast/fetcher"
)

// TestPodsRunWhereThereIsNoHub: the agent is told of none, and what pods may have is what
// the operator says. What each Source gave is printed. A pod that reads meanwhile is not
// disturbed by the agent's rolls.
func TestPodsRunWhereThereIsNoHub(t *testing.T) {
	w := onNode(t)
	models, group := w.share(t, "models"), w.share(t, "group")
	mx := w.modelExpress(t, modelexpress.Newest)
	listed := w.named(t, "org/nohub-listed")
	unasked := w.hub.Traffic(listed.repo)
	manifest := w.manifestOf(t, listed.repo)
	if sent := w.hub.Traffic(listed.repo).Since(unasked); sent.Total() != 0 || sent.Requests == 0 {
		t.Errorf("`ballast manifest` asked the Hub %d times, and was sent %d bytes of content", sent.Requests, sent.Total())
	}
	asked := w.hub.Traffic(listed.repo)
	mx.keep(t, listed)

	o := w.operate(t, models, group)
	o.apply(t, manifestsMap, map[string]string{"listed.json": manifest})
	without := settings(
		"hub: {disabled: true}",
		"sources:", models.entry(true), group.entry(true), mx.entry("mx"),
		"manifests: {dir: "+manifestsDir+"}",
		"open:",
		`- {authority: models, namespaces: ["*"]}`,
		`- {authority: group, namespaces: ["*"]}`,
		`- {repos: "org/*", namespaces: ["*"]}`)
	o.roll(t, without)
	ns := w.namespace(t)

	kept := unpublished("org/nohub-kept")
	models.keep(t, kept)
	volume := inline(kept.repo)
	reader := w.pod(ns, "authority", &volume, rereads)
	t.Run("a volume marked authority", func(t *testing.T) {
		before := w.agentCounts(t)
		reader = w.create(t, reader)
		ran := w.running(t, reader, time.Minute)
		w.check(t, reader, modelDir, kept, "")
		w.eventOf(t, reader, 20*time.Second, fetched, kept.repo, "from models")
		g := w.given(t, before)
		g.gave(t, map[string]int64{"models": kept.bytes()})
		t.Logf("scheduled to running %s; %s; events:\n%s", round(ran.running.Sub(ran.scheduled)), g, w.saidOf(t, reader))
	})

	t.Run("a manifest file and Model Express", func(t *testing.T) {
		before := w.agentCounts(t)
		volume := inline(listed.repo, "exclude", notServed)
		p := w.create(t, w.pod(ns, "manifest", &volume))
		ran := w.running(t, p, time.Minute)
		served := listed.only(isServed)
		w.check(t, p, modelDir, served, "")
		w.eventOf(t, p, 20*time.Second, fetched, listed.repo, "from mx")
		g := w.given(t, before)
		g.gave(t, map[string]int64{"mx": served.bytes()})
		t.Logf("%s; scheduled to running %s; %s; events:\n%s", mx, round(ran.running.Sub(ran.scheduled)), g, w.saidOf(t, p))
		if again := w.hub.Traffic(listed.repo).Since(asked); again.Requests != 0 {
			t.Errorf("the Hub was asked %d times", again.Requests)
		}
	})

	t.Run("a volume of another group", func(t *testing.T) {
		const owner, its = 1000, 1234
		kept := unpublished("org/nohub-group")
		group.keep(t, kept)
		group.forGroup(t, kept, owner, its)
		volume := inline(kept.repo)
		p := w.create(t, w.pod(ns, "group", &volume))
		said := w.eventOf(t, p, 20*time.Second, "supplementalGroups", fmt.Sprint(its), group.name, kept.repo)
		w.nothingFor(t, p)
		rounds := w.readsOn(t, reader)
		o.roll(t, without, its)
		rolled := time.Now()
		ran := w.running(t, p, 30*time.Second)
		w.check(t, p, modelDir, kept, "")
		g := w.given(t, nil)
		g.gave(t, map[string]int64{"group": kept.bytes()})
		t.Logf("before: %s\nwith supplementalGroups: [%d] the pod ran %s after the roll; %s", said, its, round(ran.running.Sub(rolled)), g)
		if now := w.readsOn(t, reader); now <= rounds {
			t.Errorf("the pod beside it had read %d rounds before the roll, and %d after", rounds, now)
		}
	})
}

// unpublished is a small model that no Hub knows.
func unpublished(repo string) model {
	m := model{repo: repo, files: hub.SmallModel(seeds.Add(1)).Files()}
	m.commit = fmt.Sprintf("%x", sha1.Sum([]byte(repo)))
	return m
}

// manifestOf is what `ballast manifest` prints about repo's main.
func (w *world) manifestOf(t *testing.T, repo string) string {
	t.Helper()
	ballast := exec.CommandContext(t.Context(), filepath.Join(w.dir, program), "manifest", "--hub-endpoint="+w.hub.URL(), repo+"@main")
	var said strings.Builder
	ballast.Stderr = &said
	manifest, err := ballast.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", ballast.Args, err, said.String())
	}
	return string(manifest)
}

// notServed are patterns of what Model Express never has, for a volume's `exclude`.
const notServed = "*/*,.*,README.md"

// isServed reports whether Model Express has files of this path: none of a folder, none
// whose name begins with a dot, no README.md (and no images, which the models have not).
func isServed(name string) bool {
	return !strings.Contains(name, "/") && !strings.HasPrefix(name, ".") && name != "README.md"
}

// isNotServed is the other ones.
func isNotServed(name string) bool { return !isServed(name) }

// severalPieces is a model of which one file is of several Pieces.
func severalPieces(seed uint64) hub.Model {
	return hub.Model{Seed: seed, Weights: []int{fetcher.PieceSize + 54321, 70001}, Small: 6}
}
