package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/e2e/modelexpress"
)

// large is the file of several Pieces of severalPieces.
const large = "model-00001-of-00002.safetensors"

// TestEachFileComesFromTheFirstSourceThatHasIt: what each Source gave is printed, and what
// was wrong with the others.
func TestEachFileComesFromTheFirstSourceThatHasIt(t *testing.T) {
	w := onNode(t)
	models := w.share(t, "models")
	mx, old, spare := w.modelExpress(t, modelexpress.Newest), w.modelExpress(t, modelexpress.WithoutRevisions), w.modelExpress(t, modelexpress.Newest)
	spare.end()
	o := w.operate(t, models)
	o.roll(t, settings("sources:", models.entry(true), mx.entry("mx"), old.entry("mx-old"), "- hub: {}", spare.entry("spare"),
		`open: [{authority: models, namespaces: ["*"]}]`))
	ns := w.namespace(t)

	// First: what an old server does not know it fails to download, and then it rests.
	t.Run("another commit of Model Express is passed over", func(t *testing.T) {
		m := w.named(t, "org/chain-other-commit")
		old.keep(t, m)
		const one = "config.json"
		p := w.runs(t, ns, "its-commit", inline(m.repo, "include", one), m.only(func(name string) bool { return name == one }))
		w.eventOf(t, p, 20*time.Second, fetched, m.repo, "from mx-old")
		its := m.commit
		m.files = hub.SmallModel(seeds.Add(1)).Files()
		m = w.upload(t, m)
		sent, before := w.hub.Traffic(m.repo), w.agentCounts(t)
		p = w.runs(t, ns, "other-commit", inline(m.repo, "revision", m.commit), m)
		w.eventOf(t, p, 20*time.Second, fetched, m.repo, "from hub", "mx-old passed over")
		g := w.given(t, before)
		t.Logf("%s has %s, the Hub's main is %s; %s; events:\n%s", old, its, m.commit, g, w.saidOf(t, p))
		if sent := w.hub.Traffic(m.repo).Since(sent).Total(); sent != m.bytes() {
			t.Errorf("the Hub sent %d bytes of %d", sent, m.bytes())
		}
		g.gave(t, map[string]int64{"hub": m.bytes()})
		if g.passed["mx-old absent"] == 0 {
			t.Errorf("%s; want mx-old among those that were passed over", g)
		}
	})

	t.Run("one damaged file of a volume comes from the Hub", func(t *testing.T) {
		m := w.several(t, "org/chain-damaged")
		models.keep(t, m)
		models.damage(t, m, large)
		before := w.agentCounts(t)
		p := w.runs(t, ns, "damaged", inline(m.repo), m)
		said := w.eventOf(t, p, 20*time.Second, "Warning", "BallastSourceMismatch", large, "models passed over", "does not match its digest")
		sum := w.eventOf(t, p, 20*time.Second, fetched, m.repo, "from models", "from hub", "models passed over for "+large)
		g := w.given(t, before)
		t.Logf("%s\n%s\n%s", g, said, sum)
		if g.passed["models mismatch"] != 1 {
			t.Errorf("models was passed over for a mismatch %d times; want 1", g.passed["models mismatch"])
		}
		w.sentOnly(t, m, func(name string) bool { return name == large })
		if g.bytes["hub"] != int64(len(m.files[large])) || g.bytes["models"] < m.bytes()-g.bytes["hub"] {
			t.Errorf("%s; want %d from hub and the rest from models", g, len(m.files[large]))
		}
	})

	t.Run("the Hub adds what Model Express never has", func(t *testing.T) {
		m := w.several(t, "org/chain-topped-up")
		mx.keep(t, m)
		before := w.agentCounts(t)
		p := w.runs(t, ns, "topped-up", inline(m.repo), m)
		sum := w.eventOf(t, p, 20*time.Second, fetched, m.repo, "from mx", "from hub")
		g := w.given(t, before)
		t.Logf("%s; %s\n%s", mx, g, sum)
		w.sentOnly(t, m, isNotServed)
		served := m.only(isServed)
		g.gave(t, map[string]int64{"mx": served.bytes(), "hub": m.bytes() - served.bytes()})
	})

	outage := w.beginOutage(t, ns)
	t.Run("a poisoned volume never wins over the Hub", func(t *testing.T) { w.poisons(t, ns, models) })

	t.Run("a pod waits until one Source is back", func(t *testing.T) { w.endOutage(t, outage, spare) })
}

// outage is a pod that waits for a model that no Source gives.
type outage struct {
	pod  *corev1.Pod
	all  model // as published
	left model // what the node has not got of what the pod is to have
}

// beginOutage has a pod wait for what no Source has: the Hub, which told what the model
// is, and the last Source are away, and the others have not got it.
func (w *world) beginOutage(t *testing.T, ns string) outage {
	t.Helper()
	const known = "config.json"
	m := w.named(t, "org/chain-outage")
	w.runs(t, ns, "before", inline(m.repo, "revision", m.commit, "include", known), m.only(func(name string) bool { return name == known }))
	o := outage{all: m, left: m.only(func(name string) bool { return isServed(name) && name != known })}
	t.Cleanup(w.hub.Away(m.repo))
	volume := inline(m.repo, "revision", m.commit, "exclude", notServed)
	o.pod = w.create(t, w.pod(ns, "waits", &volume))
	return o
}

// shortestOutage is how long the pod waits at the least.
const shortestOutage = 30 * time.Second

// endOutage has spare, which was away, come back with the model.
func (w *world) endOutage(t *testing.T, o outage, spare *modelExpress) {
	t.Helper()
	scheduled := w.lives.wait(t, o.pod.UID, time.Minute, "scheduled", func(l life) bool { return !l.scheduled.IsZero() }).scheduled
	t.Logf("while all are away: %s", w.eventOf(t, o.pod, 20*time.Second, "BallastWaiting", o.all.repo, "hub", "spare"))
	time.Sleep(time.Until(scheduled.Add(shortestOutage)))
	w.nothingFor(t, o.pod)

	spare.keep(t, o.all)
	before := w.agentCounts(t)
	spare.start(t)
	back := time.Now()
	ran := w.running(t, o.pod, time.Minute).running
	if late := ran.Sub(back); late > 15*time.Second {
		t.Errorf("the pod ran %s after a Source was back", late)
	}
	lasted, failed := back.Sub(scheduled), len(w.failedMounts(t, o.pod))
	if limit := int(lasted / heldCall); failed > limit {
		t.Errorf("%d calls of kubelet's failed within %s; want at most %d, each held for %s", failed, lasted, limit, heldCall)
	}
	g := w.given(t, before)
	t.Logf("%s; the outage lasted %s, kubelet told of %d failed calls; the pod ran %s after it; %s; events:\n%s",
		spare, round(lasted), failed, round(ran.Sub(back)), g, w.saidOf(t, o.pod))
	g.gave(t, map[string]int64{"spare": o.left.bytes()})
	w.check(t, o.pod, modelDir, o.all.only(isServed), "")
}

// poisons has models hold, whole and consistent, what the Hub has otherwise: it is taken
// while the Hub is away, and by no new pod once the Hub has answered.
func (w *world) poisons(t *testing.T, ns string, models share) {
	t.Helper()
	m := w.named(t, "org/chain-poisoned")
	wrong := unpublished(m.repo)
	models.keep(t, wrong)
	back := w.hub.Away(m.repo)
	defer func() { back() }()
	volume := inline(m.repo)
	reader := w.create(t, w.pod(ns, "poisoned", &volume, rereads))
	w.running(t, reader, time.Minute)
	w.check(t, reader, modelDir, wrong, "")
	t.Logf("while the Hub is away:\n%s", w.saidOf(t, reader))

	back()
	answers := time.Now()
	const disputes = `ballast_authority_disputes_total{authority="models"}`
	eventually(t, 40*time.Second, func() string {
		if n := w.agentCounts(t)[disputes]; n != 1 {
			return fmt.Sprintf("%s is %v", disputes, n)
		}
		return ""
	})
	t.Logf("disputed %s after the Hub was back", round(time.Since(answers)))
	w.runs(t, ns, "by-the-hub", inline(m.repo), m)
	back = w.hub.Away(m.repo)
	pinned := inline(m.repo, "revision", wrong.commit)
	late := w.create(t, w.pod(ns, "late", &pinned))
	t.Logf("once the Hub has answered: %s", w.eventOf(t, late, 30*time.Second, "Warning", m.repo, "models", "withdrawn"))
	w.nothingFor(t, late)
	w.readsOn(t, reader)
}

// several publishes a model of severalPieces.
func (w *world) several(t *testing.T, repo string) model {
	t.Helper()
	return w.upload(t, model{repo: repo, files: severalPieces(seeds.Add(1)).Files()})
}

// runs creates a pod with this volume, and returns when it runs and has all of m.
func (w *world) runs(t *testing.T, ns, name string, volume corev1.VolumeSource, m model) *corev1.Pod {
	t.Helper()
	p := w.create(t, w.pod(ns, name, &volume))
	ran := w.running(t, p, time.Minute)
	w.check(t, p, modelDir, m, "")
	t.Logf("%s: scheduled to running %s, %d files", name, round(ran.running.Sub(ran.scheduled)), len(m.files))
	return p
}

// sentOnly checks that the Hub sent these files of m, each once, and no other.
func (w *world) sentOnly(t *testing.T, m model, these func(name string) bool) {
	t.Helper()
	sent := w.hub.Traffic(m.repo).Bytes
	var wrong []string
	for name, content := range m.files {
		want := int64(0)
		if these(name) {
			want = int64(len(content))
		}
		if sent[name] != want {
			wrong = append(wrong, name)
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		t.Errorf("the Hub sent %v; other than it should: %q", sent, wrong)
	}
}
