package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
	"github.com/ballast-csi/ballast/fetcher"
)

// demo runs the steps on a world.
type demo struct {
	*world
	out      *report
	mounts   int               // mounts of this namespace before the first step
	manifest *fetcher.Manifest // what the first pods must see, by the Hub's own word
	second   *fetcher.Manifest // the Hub's second commit
	changed  fetcher.File      // the one file that is new in it
	pods     []pod             // whose volumes are or may be mounted
	shown    int64             // bytes of the volumes mounted so far
	wasted   int64             // bytes fetched and refused
}

// runSteps shows everything on w, to the writer, and stops w. It returns nil only if
// every check held.
func runSteps(ctx context.Context, w *world, to io.Writer) error {
	begun := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	detach := context.AfterFunc(w.ctx, cancel) // a part that fails ends the demo
	out := newReport(ctx, to)
	d := &demo{world: w, out: out}
	for _, step := range []func(context.Context) bool{
		d.showParts, d.firstPod, d.readEverything, d.secondPod, d.refuseWrites, d.flippedBit, d.changedFile, d.withoutHub,
	} {
		if ctx.Err() != nil || !step(ctx) {
			break
		}
	}
	if !detach() || ctx.Err() != nil {
		return errors.Join(errors.New("ended before it was done"), w.stop())
	}
	d.everythingGone(ctx)
	checks, failed := out.totals()
	if failed > 0 {
		return fmt.Errorf("%d of %d checks did not hold", failed, checks)
	}
	out.title("All %d checks held, in %s.", checks, timeText(time.Since(begun)))
	sum := fmt.Sprintf("%s saw %s; %s came from the Hub", countText(len(d.pods), "pod"), sizeText(d.shown), sizeText(d.fetched()))
	if d.wasted > 0 {
		sum += fmt.Sprintf(", %s of it in vain: the flipped bit", sizeText(d.wasted))
	}
	out.line(sum + ".")
	return nil
}

func (d *demo) showParts(ctx context.Context) bool {
	var err error
	if d.mounts, err = mountCount(); err != nil {
		return d.out.check("this namespace's mounts can be read", err, "")
	}
	d.out.title("The parts, each behind its own socket")
	if d.hub != nil && !d.fillHub(ctx) {
		return false
	}
	if d.hub == nil {
		d.out.note("the Hub is %s; what needs a Hub of the demo's own is left out (a flipped bit, a new commit, a stopped Hub)", d.cfg.endpoint)
	}
	name, err := d.kubelet.hello(ctx)
	if !d.out.check("a CSI driver", err, "%s, on a unix socket", name) {
		return false
	}
	pins, err := d.agent.Pins(ctx, &agentpb.PinsRequest{})
	if stats := d.cache.Stats(); err == nil && stats.Blobs+stats.Views+len(pins.GetVolumes()) > 0 {
		err = fmt.Errorf("its cache is not empty: %+v", stats)
	}
	return d.out.check("a node's agent", err, "on another socket; its cache is empty")
}

func (d *demo) fillHub(ctx context.Context) bool {
	files := makeModel(d.cfg.size, 1)
	var done atomic.Int64
	var total, largest int64
	for _, f := range files {
		total += f.size
		largest = max(largest, f.size)
	}
	stop := d.out.progress("making", func() (int64, int64) { return done.Load(), total })
	m, err := putModel(ctx, d.hub.store, d.repoName, files, []string{"main", "v1"}, func(n int64) { done.Add(n) })
	stop()
	d.manifest = m
	return d.out.check("a Hub, with a model of noise", err, "%s, %s, the largest %s; it gives %s/s",
		countText(len(files), "file"), sizeText(total), sizeText(largest), sizeText(d.cfg.size.bytesPerSecond))
}

// publish mounts a pod's volume, showing progress towards the bytes to fetch.
func (d *demo) publish(ctx context.Context, p pod, ref fetcher.Ref, missing func() int64) (took time.Duration, fetched int64, err error) {
	attributes := map[string]string{"repo": d.repoName.String(), "revision": ref.String()}
	before, begun := d.fetched(), time.Now()
	stop := d.out.progress("fetching", func() (int64, int64) { return d.fetched() - before, missing() })
	err = d.kubelet.publish(ctx, p, attributes, d.fetched, func(event string) { d.out.note("the pod's event: %s", event) })
	took, fetched = time.Since(begun), d.fetched()-before
	stop()
	if err == nil || uncertain(err) {
		d.pods = append(d.pods, p)
	}
	if err != nil {
		return took, fetched, err
	}
	if m := d.world.manifest(ref); m != nil {
		d.shown += m.Bytes()
	}
	_, found, err := d.mounter.Lookup(p.target)
	if err == nil && !found {
		err = fmt.Errorf("NodePublishVolume succeeded, but nothing is mounted on %s", p.target)
	}
	return took, fetched, err
}

// requests returns how many requests the Hub had since a number of them, as text.
func (d *demo) requests(since int64) string {
	if d.hub == nil {
		return ""
	}
	return ", " + countText(int(d.hub.requests.Load()-since), "request")
}

func (d *demo) hubRequests() int64 {
	if d.hub == nil {
		return 0
	}
	return d.hub.requests.Load()
}

func (d *demo) firstPod(ctx context.Context) bool {
	d.out.step("Pod trainer wants %s at %s; this node has nothing of it", d.repoName, d.ref)
	p := d.kubelet.newPod(1, "trainer")
	asked := d.hubRequests()
	took, fetched, err := d.publish(ctx, p, d.ref, func() int64 {
		if m := d.world.manifest(d.ref); m != nil {
			return m.Bytes()
		}
		return 0
	})
	if !d.out.check("its volume is mounted", plain(err), "in %s: %s fetched, %s/s%s",
		timeText(took), sizeText(fetched), sizeText(rateOf(fetched, took)), d.requests(asked)) {
		return false
	}
	if d.hub == nil && !d.listFiles(ctx) {
		return false
	}
	info, _, err := d.mounter.Lookup(p.target)
	what := fmt.Sprintf("%s %s, its superblock is read-only: no remount can change that", info.FSType, shortSource(info.Source))
	switch {
	case err == nil && !info.ReadOnly:
		err = fmt.Errorf("mountinfo does not say ro: %+v", info)
	case err == nil && d.cfg.user && info.View == "":
		err = fmt.Errorf("mountinfo does not show a bind of the cache: %+v", info)
	case err == nil && !d.cfg.user && (!info.SuperReadOnly || info.Source != mount.Source(p.volumeID(), p.target)):
		err = fmt.Errorf("mountinfo does not show a read-only overlay of this volume: %+v", info)
	case d.cfg.user:
		what = "a read-only bind of the cache's " + info.View
	}
	d.out.check("mountinfo says read-only", err, "%s", what)
	if d.cfg.user {
		d.out.note("a bind, because the demo is in a user namespace; on a node, pods get an overlay whose superblock is read-only")
	}
	return true
}

// listFiles asks the Hub what must be in the volumes.
func (d *demo) listFiles(ctx context.Context) bool {
	const claim = "the Hub lists its files"
	m, err := d.askHub(ctx)
	if err != nil {
		return d.out.check(claim, err, "")
	}
	d.manifest = m
	return d.out.check(claim, nil, "%s, %s at commit %s: what pods see is compared with that",
		countText(len(m.Files), "file"), sizeText(m.Bytes()), m.Revision.Commit.Short())
}

// shortSource keeps the first digits of an overlay's source.
func shortSource(source string) string {
	return source[:min(len(source), len(mount.SourcePrefix)+8)]
}

// plain strips gRPC's wrapping from a failed call.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return fmt.Errorf("%s: %s", s.Code(), s.Message())
	}
	return err
}

func (d *demo) readEverything(ctx context.Context) bool {
	d.out.step("Every file is read through the mount and hashed")
	read, err := readAll(ctx, d.pods[0].target, d.manifest)
	d.out.check("all match, and none is extra", err, "%s", read)
	return true
}

func (d *demo) secondPod(ctx context.Context) bool {
	d.out.step("Pod server wants the same")
	p := d.kubelet.newPod(2, "server")
	asked := d.hubRequests()
	took, fetched, err := d.publish(ctx, p, d.ref, d.manifest.Bytes)
	if err == nil && fetched > 0 {
		err = fmt.Errorf("mounted in %s, but %s were fetched", timeText(took), sizeText(fetched))
	}
	if !d.out.check("its volume is mounted", plain(err), "in %s: %s fetched%s", timeText(took), sizeText(fetched), d.requests(asked)) {
		return false
	}
	same, different, err := sameInodes(d.manifest, d.pods[0].target, p.target)
	if err == nil && different > 0 {
		err = fmt.Errorf("%d of %d are two inodes", different, same+different)
	}
	d.out.check("one copy for both pods", err, "%d of %d files are the same inodes: once on disk, once in the page cache", same, same+different)
	return true
}

func (d *demo) refuseWrites(ctx context.Context) bool {
	d.out.step("Pod server tries to write")
	victim := d.manifest.Files[0]
	for _, f := range d.manifest.Files {
		if f.Size > 0 && f.Size < victim.Size || victim.Size == 0 {
			victim = f
		}
	}
	target := d.pods[1].target
	file := filepath.Join(target, victim.Path.String())
	tried, err := tryWrites(file)
	d.out.check("every way of writing is refused", err, "%s: %v", tried, unix.EROFS)
	const remount = "and after a remount as rw, too"
	if d.cfg.user {
		d.out.skip(remount, "a bind does not stand up to root in its namespace")
	} else {
		d.out.check(remount, remountAndWrite(target, file), "the superblock's is refused; the mount's, as runc does it, changes nothing")
	}
	d.out.check("the file is what it was", hashFile(ctx, filepath.Join(d.pods[0].target, victim.Path.String()), victim), "%s", victim.Path)
	return true
}

// remountAndWrite does what root in a container might, and what runc 1.2 and newer do
// for a pod that asks for a writable volume.
func remountAndWrite(target, file string) error {
	if err := unix.Mount("", target, "", unix.MS_REMOUNT, ""); err == nil {
		return errors.New("the superblock could be remounted as rw")
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("remount of the mount: %w", err)
	}
	_, err := tryWrites(file)
	return err
}
