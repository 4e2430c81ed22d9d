package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// newCommit gives the Hub a second commit, with one file changed.
func (d *demo) newCommit(ctx context.Context) (err error) {
	d.second, err = putModel(ctx, d.hub.store, d.repoName, makeModel(d.cfg.size, 2), []string{"main", "v2"}, func(int64) {})
	if err != nil {
		return err
	}
	n := 0
	for i, f := range d.second.Files {
		if f != d.manifest.Files[i] {
			d.changed = f
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%d files differ between the two commits", n)
	}
	return nil
}

func (d *demo) flippedBit(ctx context.Context) bool {
	if d.hub == nil {
		return true
	}
	d.out.step("The Hub has a new commit; one bit of its one new file is flipped on the way")
	err := d.newCommit(ctx)
	changed := d.changed
	if !d.out.check("its tag v2 names the new commit", err, "%s is new, %s", changed.Path, sizeText(changed.Size)) {
		return false
	}
	d.hub.flip.Store(&changed)
	defer d.hub.flip.Store(nil)
	before := d.cache.Stats()
	p := d.kubelet.newPod(3, "updated")
	took, fetched, err := d.publish(ctx, p, mustRef("v2"), func() int64 { return changed.Size })
	d.wasted = fetched
	code, text := status.Code(err), status.Convert(err).Message()
	switch {
	case err == nil:
		err = errors.New("it was mounted")
	case !strings.Contains(text, changed.Path.String()) || !strings.Contains(text, "from hub"):
		err = fmt.Errorf("refused, but the error does not name the file and its source: %w", plain(err))
	default:
		err = nil
	}
	if !d.out.check("pod updated wants v2: refused", err, "after %s, %s: %s", timeText(took), code, text) {
		return false
	}
	_, mounted, err := d.mounter.Lookup(p.target)
	switch {
	case err != nil:
	case mounted:
		err = errors.New("something is mounted on its target")
	case d.cache.HasBlob(changed.Digest):
		err = fmt.Errorf("the cache says that it has %s", changed.Digest)
	case d.cache.Stats().Views != before.Views || d.cache.Stats().Pins != before.Pins:
		err = fmt.Errorf("the cache has a new view or pin: %+v, before %+v", d.cache.Stats(), before)
	}
	d.out.check("nothing of it is to be seen", err, "no mount, no view, no blob, no pin of %s", d.second.Revision)
	return true
}

// mustRef reads a Ref that is written in this package.
func mustRef(name string) fetcher.Ref {
	ref, err := fetcher.ParseRef(name)
	if err != nil {
		panic(err)
	}
	return ref
}

func (d *demo) changedFile(ctx context.Context) bool {
	if d.hub == nil {
		return true
	}
	d.out.step("kubelet tries again, and the bytes arrive as they are")
	m, changed := d.second, d.changed
	p := d.kubelet.newPod(3, "updated")
	took, fetched, err := d.publish(ctx, p, mustRef("v2"), func() int64 { return changed.Size })
	if err == nil && fetched != changed.Size {
		err = fmt.Errorf("mounted in %s, but %d bytes were fetched; the changed file has %d", timeText(took), fetched, changed.Size)
	}
	if !d.out.check("its volume is mounted", plain(err), "in %s: %s fetched, just that file of %s", timeText(took), sizeText(fetched), sizeText(m.Bytes())) {
		return false
	}
	read, err := readAll(ctx, p.target, m)
	d.out.check("all match the new commit", err, "%s", read)
	same, different, err := sameInodes(m, d.pods[0].target, p.target)
	if err == nil && different != 1 {
		err = fmt.Errorf("%d files are two inodes; one changed", different)
	}
	d.out.check("what did not change is stored once", err, "%d of %d inodes are shared with pod trainer's", same, same+different)
	read, err = readAll(ctx, d.pods[0].target, d.manifest)
	d.out.check("pod trainer keeps its commit", err, "%s: %s", d.manifest.Revision, read)
	return true
}

func (d *demo) withoutHub(ctx context.Context) bool {
	if d.hub == nil {
		return true
	}
	d.out.step("The Hub is stopped")
	d.hub.stop()
	conn, err := net.Dial("tcp", d.hub.listener.Addr().String())
	if err == nil {
		conn.Close()
		err = errors.New("it still accepts connections")
	} else {
		err = nil
	}
	d.out.check("nobody answers there", err, "connection refused")
	p := d.kubelet.newPod(4, "offline")
	commit := d.manifest.Revision.Commit
	took, fetched, err := d.publish(ctx, p, commit.Ref(), d.manifest.Bytes)
	if !d.out.check(fmt.Sprintf("pod offline wants commit %s", commit.Short()), plain(err), "mounted in %s: %s fetched", timeText(took), sizeText(fetched)) {
		return true
	}
	read, err := readAll(ctx, p.target, d.manifest)
	d.out.check("all match", err, "%s", read)
	return true
}

func (d *demo) everythingGone(ctx context.Context) {
	d.out.step("The pods are deleted")
	var err error
	for _, p := range d.pods {
		err = errors.Join(err, d.kubelet.unpublish(ctx, p))
	}
	d.out.check("every volume is unpublished", err, "%d of %d", len(d.pods), len(d.pods))
	left, err := mountCount()
	if err == nil && left != d.mounts {
		err = fmt.Errorf("mountinfo has %d lines; at the start it had %d", left, d.mounts)
	}
	d.out.check("nothing is mounted", err, "mountinfo has the %d lines that it had at the start", left)
	pins, err := d.agent.Pins(ctx, &agentpb.PinsRequest{})
	if err == nil && len(pins.GetVolumes()) > 0 {
		err = fmt.Errorf("%d are left: %v", len(pins.GetVolumes()), pins.GetVolumes())
	}
	d.out.check("no pin is left", plain(err), "everything could be evicted now")
	stats := d.cache.Stats()
	d.out.check("every part ends when told to", d.stop(), "nothing is running")
	d.out.check("the cache is sound, byte for byte", store.CheckStore(d.path("cache")), "%s, %s in %s",
		countText(stats.Blobs, "blob"), sizeText(stats.Bytes()), countText(stats.Views, "view"))
	if d.hub != nil {
		d.out.check("so is the embedded Hub's", store.CheckStore(d.path("hub")), "read by the same code")
	}
}
