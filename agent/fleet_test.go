package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// The Hub's limits for those who come without a token from one address, in each window
// of five minutes (hub-docs, rate-limits.md).
const (
	apiLimit       = 500
	resolversLimit = 3000
	window         = 5 * time.Minute
)

// podsPerNode start on every node of a fleet at once.
const podsPerNode = 5

// fleet is many nodes behind one address: an agent each, on a cache of its own, and
// one Hub for all.
type fleet struct {
	t     *testing.T
	hub   *hubtest.Hub
	nodes []*node
}

type node struct {
	*agent.Agent
	store *store.Store
}

// newFleet starts n nodes that ask h.
func newFleet(t *testing.T, h *hubtest.Hub, n int, edits ...func(*agent.Config)) *fleet {
	t.Helper()
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if need := uint64(n * 60); limit.Cur < need { // of all nodes' and the Hub's ends together
		t.Skipf("%d nodes in one process need %d open files, and the limit is %d", n, need, limit.Cur)
	}
	f := &fleet{t: t, hub: h}
	dir := quickDir(t)
	for i := range n {
		f.nodes = append(f.nodes, f.start(filepath.Join(dir, fmt.Sprint(i)), edits))
	}
	return f
}

// quickDir is a directory in memory if there is one: not the disk is what is measured,
// which a real node has to itself.
func quickDir(t *testing.T) string {
	t.Helper()
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && int64(st.Bavail)*st.Frsize > 1<<30 {
		if dir, err := os.MkdirTemp("/dev/shm", "ballast-fleet-"); err == nil {
			t.Cleanup(func() { os.RemoveAll(dir) })
			return dir
		}
	}
	return t.TempDir()
}

func (f *fleet) start(dir string, edits []func(*agent.Config)) *node {
	s, err := store.Open(store.Config{Dir: dir, Reserve: -1})
	must(f.t, err)
	client, err := hub.New(hub.Config{Endpoint: f.hub.URL(), Connections: 4, TokensOverHTTP: true})
	must(f.t, err)
	engine, err := fetcher.NewEngine(fetcher.EngineConfig{Connections: 4, Ahead: 32})
	must(f.t, err)
	cfg := agent.Config{Store: s, Hub: client, Sources: []fetcher.Source{client}, Engine: engine, Log: zap.NewNop()}
	for _, edit := range edits {
		edit(&cfg)
	}
	a, err := agent.New(cfg)
	must(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close(), store.CheckStore(dir)); err != nil {
			f.t.Errorf("%s: %v", dir, err)
		}
		client.CloseIdle()
	})
	return &node{a, s}
}

// tally is what it took to start podsPerNode pods on every node, all at once.
type tally struct {
	hubtest.Counts
	nodes         int
	took, slowest time.Duration
}

// publish starts the pods as kubelet does: a call is held for two minutes, and one that
// ends waiting is followed by another. None may be refused.
func (f *fleet) publish(edits ...func(*agent.Request)) tally {
	f.t.Helper()
	f.hub.ResetRequests()
	began := time.Now()
	var mu sync.Mutex
	var slowest time.Duration
	var pods sync.WaitGroup
	for i, n := range f.nodes {
		for p := range podsPerNode {
			pods.Go(func() {
				err := n.publish(f.t.Context(), request(fmt.Sprintf("%d-%d-%d", began.UnixNano(), i, p), goodRepo, edits...))
				mu.Lock()
				defer mu.Unlock()
				slowest = max(slowest, time.Since(began))
				if err != nil {
					f.t.Errorf("node %d, pod %d: %v", i, p, err)
				}
			})
		}
	}
	pods.Wait()
	return tally{f.hub.Counts(), len(f.nodes), time.Since(began), slowest}
}

func (n *node) publish(ctx context.Context, req agent.Request) error {
	for {
		call, cancel := context.WithTimeout(ctx, 118*time.Second)
		_, err := n.Acquire(call, req)
		cancel()
		var waiting *agent.WaitingError
		if !errors.As(err, &waiting) || ctx.Err() != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond) // kubelet's first gap
	}
}

// asked is how many requests a node made beside those of content, at the Hub.
func (c tally) asked() float64 { return float64(c.API+c.ResolveHEAD) / float64(c.nodes) }

func (c tally) log(t *testing.T, what string, length time.Duration) {
	t.Helper()
	t.Logf("%-42s %4d nodes x %d pods: %5d api, %5d HEAD resolve, %6d content resolve, %6d CDN, %5d of 429; %.2f a node beside content; took %s (%.1f windows of %s), slowest pod %s",
		what, c.nodes, podsPerNode, c.API, c.ResolveHEAD, c.ResolveGET, c.CDN, c.Refused, c.asked(),
		c.took.Round(time.Millisecond), float64(c.took)/float64(length), length, c.slowest.Round(time.Millisecond))
}

// modelOf is a repository of n files of which a few are in LFS, small enough for many
// caches in one process.
func modelOf(n int) map[string][]byte {
	files := map[string][]byte{}
	for i := range n {
		name := fmt.Sprintf("part-%03d.json", i)
		if i%4 == 0 {
			name = fmt.Sprintf("model-%03d.safetensors", i)
		}
		files[name] = noise(uint64(1000+i), 500+i)
	}
	return files
}

// A thousand pods of 200 nodes start at once behind one address, with the Hub's limits
// and its window as they are; only the age at which a Ref is asked again is shorter.
func TestFleetAsksTheHubLittle(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	const nodes, refMaxAge = 200, 10 * time.Second
	h := hubtest.New(t)
	commit := h.AddRepo(goodRepo, modelOf(12))
	h.Limit(apiLimit, resolversLimit, window)
	f := newFleet(t, h, nodes, func(c *agent.Config) { c.RefMaxAge = refMaxAge })

	cold := f.publish()
	cold.log(t, "cold, 12 files", window)
	if cold.asked() > 3 || cold.ResolveGET != 12*nodes || cold.Refused > 0 {
		t.Errorf("a cold node asks %.2f times beside content: %+v", cold.asked(), cold)
	}
	time.Sleep(refMaxAge)
	h.Limit(apiLimit, resolversLimit, window) // the next five minutes
	warm := f.publish()
	warm.log(t, "bytes cached, a Ref to be asked", window)
	if warm.asked() > 1 || warm.ResolveGET+warm.CDN+warm.Refused > 0 {
		t.Errorf("with the bytes in its cache a node asks %.2f times: %+v", warm.asked(), warm)
	}
	pinned := f.publish(at(commit))
	pinned.log(t, "bytes cached, a pinned commit", window)
	if pinned.Counts != (hubtest.Counts{}) {
		t.Errorf("a pinned commit of a repository proved public is asked about: %+v", pinned)
	}
}

// A repository of more files than the limits let through at once comes as they do: with
// its windows a hundred times shorter than the Hub's, for which RateLimit still tells
// whole seconds, so that a wait of a window is told a third longer than it is.
func TestFleetTakesWhatTheLimitsAllow(t *testing.T) {
	if !*long {
		t.Skip("200 nodes fetch 300 files each as 20 windows of the Hub's limits allow, which takes minutes; make test-long runs it")
	}
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	const nodes, length = 200, window / 100
	h := hubtest.New(t)
	h.AddRepo(goodRepo, modelOf(300))
	h.Limit(apiLimit, resolversLimit, length)
	c := newFleet(t, h, nodes).publish()
	c.log(t, "cold, 300 files", length)
}

// The node's token has an allowance of its own at the Hub, beside that of all who come
// without one. A window is a tenth of the Hub's: shorter ones the engine waits out by
// itself, before the agent looks for another way.
func TestFleetWithTheNodesTokenGetsMoreThrough(t *testing.T) {
	if !*long {
		t.Skip("it waits for a window of half a minute to end; make test-long runs it")
	}
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	const nodes, length = 20, window / 10
	run := func(what string, edits ...func(*agent.Config)) tally {
		h := hubtest.New(t)
		h.AddToken("hf_node")
		h.AddRepo(goodRepo, modelOf(12))
		h.Limit(2*nodes, 8*nodes, length) // of the 13 or 14 resolves of a cold node
		c := newFleet(t, h, nodes, edits...).publish()
		c.log(t, what, length)
		return c
	}
	without := run("cold, half of it allowed")
	with := run("the same with the node's token", func(c *agent.Config) {
		c.NodeToken = func() (fetcher.Secret, error) { return fetcher.NewSecret("hf_node"), nil }
	})
	if without.took < length || with.took > length {
		t.Errorf("without the token it took %s, with it %s; want it to save a window of %s", without.took, with.took, length)
	}
	if with.asked() > 4 { // one more, so that the token tells nobody of a private repository
		t.Errorf("with the token a cold node asks %.2f times beside content: %+v", with.asked(), with)
	}
}
