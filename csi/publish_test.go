package csi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

func TestPublishMountsAndUnpublishLeavesNothing(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")

	_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	got, err := os.ReadFile(filepath.Join(target, "config.json"))
	if err != nil || string(got) != "{}" {
		t.Errorf("through the mount: %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o644); err == nil {
		t.Error("the volume is writable")
	}
	if info, _ := b.mounted(t, target); info.Source != mount.Source("vol", target) {
		t.Errorf("mountinfo: %+v", info)
	}
	if n := b.agent.pinned(); n != 1 {
		t.Errorf("%d pins", n)
	}

	for range 3 {
		_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
		must(t, err)
	}
	if n := b.agent.pinned(); n != 0 {
		t.Errorf("%d pins left", n)
	}
	if names, err := os.ReadDir(filepath.Dir(target)); err != nil || len(names) != 0 {
		t.Errorf("kubelet's directory holds %v, %v", names, err)
	}
	b.podGone(t, "pod-1")
	_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
}

func TestPublishHandsTheRequestToTheAgent(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")
	r := publishRequest("vol", target)
	r.VolumeContext["repo"] = "datasets/org/name"
	r.VolumeContext["revision"] = "v1.0"
	r.VolumeContext["layout"] = "hub-cache"
	r.VolumeContext["include"] = "*.json, *.safetensors\nsub/,"
	r.VolumeContext["exclude"] = "*.bin"
	r.Secrets = map[string]string{"HF_TOKEN": " \t" + testToken + "\r\n"}
	_, err := client.NodePublishVolume(t.Context(), r)
	must(t, err)

	got := proto.CloneOf(b.agent.acquires[0])
	if wait := got.GetWait().AsDuration(); wait < noDeadline-2*margin || wait > noDeadline-margin {
		t.Errorf("a call without a deadline waits %s", wait)
	}
	got.Wait = nil
	want := &agentpb.AcquireRequest{
		Volume: &agentpb.Volume{Id: "vol", TargetPath: target},
		Pod:    &agentpb.Pod{Namespace: "default", Name: "pod", Uid: "1-2-3"},
		Repo:   "datasets/org/name", Revision: "v1.0", Layout: agentpb.Layout_HUB_CACHE,
		Include: []string{"*.json", "*.safetensors", "sub/"}, Exclude: []string{"*.bin"}, Token: testToken,
	}
	if !proto.Equal(got, want) {
		t.Errorf("the agent was asked %v\nwant %v", got, want)
	}
}

func TestRepeatPublishIsAnsweredFromMountinfoAlone(t *testing.T) {
	for name, bind := range map[string]bool{"overlay": false, "bind": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			client, _ := b.run(t)
			target := b.target(t, "pod-1")
			b.agent.set(func(a *fakeAgent) { a.acquire = answering(bindReady(bind)) })
			_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
			must(t, err)
			before, _ := b.mounted(t, target)

			var asked int
			b.agent.set(func(a *fakeAgent) { a.away, asked = true, a.asked })
			r := publishRequest("vol", target)
			r.VolumeContext["repo"] = "not a repo" // what is mounted is mounted
			for range 3 {
				_, err = client.NodePublishVolume(t.Context(), r)
				must(t, err)
			}
			b.agent.set(func(a *fakeAgent) {
				if a.asked != asked {
					t.Errorf("the agent was asked %d times", a.asked-asked)
				}
			})
			if after, _ := b.mounted(t, target); after != before {
				t.Errorf("mount changed from %+v to %+v", before, after)
			}
		})
	}
}

func bindReady(bind bool) *agentpb.AcquireResponse {
	r := ready()
	r.GetReady().Bind = bind
	return r
}

func TestBindIsMountedOnlyForAVolumeThatIsReadOnly(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")
	b.agent.set(func(a *fakeAgent) { a.acquire = answering(bindReady(true)) })
	r := publishRequest("vol", target)
	r.VolumeContext[ephemeral], r.Readonly = "false", false
	_, err := client.NodePublishVolume(t.Context(), r)
	wantCode(t, err, codes.InvalidArgument)
	b.wantMounted(t, target, false)
	if n := b.agent.pinned(); n != 0 {
		t.Errorf("%d pins left", n)
	}
	r.Readonly = true
	_, err = client.NodePublishVolume(t.Context(), r)
	must(t, err)
	if info, _ := b.mounted(t, target); info.View != testView || !info.ReadOnly {
		t.Errorf("mountinfo: %+v", info)
	}
	_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	b.wantMounted(t, target, false)
}

func TestAForeignMountIsNamedAndLeftAlone(t *testing.T) {
	for name, source := range map[string]string{"tmpfs": "tmpfs", "overlay": mount.Source("other", "/x")} { // another volume's
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			client, _ := b.run(t)
			target := b.target(t, "pod-1")
			_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
			must(t, err)
			layers := map[string]string{"overlay": "lowerdir=" + filepath.Join(b.cfg.CacheDir, testView) + ":" + filepath.Join(b.cfg.CacheDir, testEmpty)}
			must(t, unix.Mount(source, target, name, 0, layers[name])) // on top of ours
			before, _ := b.mounted(t, target)

			_, err = client.NodePublishVolume(t.Context(), publishRequest("vol", target))
			wantCode(t, err, codes.Unavailable)
			if !strings.Contains(err.Error(), source) || !strings.Contains(err.Error(), target) {
				t.Errorf("error does not name it: %v", err)
			}
			r := publishRequest("vol", target)
			r.VolumeContext["repo"] = ""
			_, err = client.NodePublishVolume(t.Context(), r)
			wantCode(t, err, codes.Unavailable)
			_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
			wantCode(t, err, codes.Unavailable)
			if after, _ := b.mounted(t, target); after != before {
				t.Errorf("mount changed from %+v to %+v", before, after)
			}
			if n := b.agent.pinned(); n != 1 {
				t.Errorf("%d pins: ours lies below, and must keep its pin", n)
			}
		})
	}
}

// A mount of something else of the cache, or a writable one, is not what a publish
// makes: to call it mounted would leave a pod without a pin.
func TestABindThatIsNoReadOnlyViewIsForeign(t *testing.T) {
	for name, test := range map[string]struct {
		source string // in the cache
		flags  uintptr
	}{
		"something else of the cache, writable": {"pins", 0},
		"something else of the cache":           {"pins", unix.MS_RDONLY},
		"a View, writable":                      {testView, 0},
		"what holds a View":                     {"views/v1", unix.MS_RDONLY},
		"a directory of a View":                 {testView + "/sub", unix.MS_RDONLY},
		"a name that no View has":               {"views/v2.other/root", unix.MS_RDONLY},
		"a root that is no View's":              {"pins/root", unix.MS_RDONLY},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			client, _ := b.run(t)
			target := b.target(t, "pod-1")
			source := filepath.Join(b.cfg.CacheDir, test.source)
			must(t, os.MkdirAll(source, 0o755))
			must(t, os.Mkdir(target, 0o750))
			must(t, unix.Mount(source, target, "", unix.MS_BIND, ""))
			must(t, unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|test.flags, ""))
			before, _ := b.mounted(t, target)

			_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
			wantCode(t, err, codes.Unavailable)
			if err == nil || !strings.Contains(err.Error(), target) || !strings.Contains(err.Error(), before.Root) {
				t.Errorf("error does not name it: %v", err)
			}
			_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
			wantCode(t, err, codes.Unavailable)
			if after, found := b.mounted(t, target); !found || after != before {
				t.Errorf("mount changed from %+v to %+v", before, after)
			}
		})
	}
}

func TestAnOverlayThatCanBeWrittenIsForeignWhateverItsSource(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	upper := filepath.Join(b.dir, "upper") // on tmpfs: an overlay's upper layer must not be an overlay
	for _, d := range []string{target, upper} {
		must(t, os.Mkdir(d, 0o755))
	}
	must(t, unix.Mount("tmpfs", upper, "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(upper, unix.MNT_DETACH) }()
	for _, d := range []string{"up", "work"} {
		must(t, os.Mkdir(filepath.Join(upper, d), 0o755))
	}
	must(t, unix.Mount(mount.Source("vol", target), target, "overlay", 0,
		"lowerdir="+filepath.Join(b.cfg.CacheDir, testView)+",upperdir="+upper+"/up,workdir="+upper+"/work"))
	_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	wantCode(t, err, codes.Unavailable)
	must(t, unix.Unmount(target, 0))
}

func TestTheAgentsPathsAreNotTrusted(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")
	views := filepath.Join(b.dir, "cache/views")
	must(t, os.MkdirAll(filepath.Join(b.dir, "cache/pins/root"), 0o755))
	must(t, os.Symlink("v1", filepath.Join(views, "link")))
	for _, d := range []string{"etc", "fifo", "other"} {
		must(t, os.Mkdir(filepath.Join(views, d), 0o755))
	}
	must(t, os.Symlink("/etc", filepath.Join(views, "etc/root")))
	must(t, unix.Mkfifo(filepath.Join(views, "fifo/root"), 0o600))
	other := filepath.Join(views, "other/root")
	must(t, os.Mkdir(other, 0o755))
	must(t, unix.Mount("tmpfs", other, "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(other, 0) }()

	for _, view := range []string{
		"", ".", "..", "../kubelet", "/etc", testView + "/../../../..", testView + "/sub", "views", "views/v1", "pins", "pins/root",
		"views/../root", "views//root", "views/./root", "./" + testView, testView + "/", "/" + testView,
		"views/link/root", "views/etc/root", "views/fifo/root", "views/other/root", "views/absent/root",
	} {
		for _, bind := range []bool{false, true} {
			r := bindReady(bind)
			r.GetReady().View = view
			b.agent.set(func(a *fakeAgent) { a.acquire = answering(r) })
			_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
			wantCode(t, err, codes.Internal)
			b.wantMounted(t, target, false)
			if n := b.agent.pinned(); n != 0 {
				t.Errorf("view %q: %d pins left beside a final code", view, n)
			}
		}
	}
}

func TestMountsOutliveTheServerAndTheNextOneFindsThem(t *testing.T) {
	b := newBench(t)
	client, stop := b.run(t)
	target := b.target(t, "pod-1")
	_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	f, err := os.Open(filepath.Join(target, "config.json"))
	must(t, err)
	defer f.Close()
	must(t, stop())

	buf := make([]byte, 2)
	if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "{}" {
		t.Errorf("an open file after the server is gone: %q, %v", buf, err)
	}
	if _, err := os.ReadFile(filepath.Join(target, "config.json")); err != nil {
		t.Errorf("a new reader after the server is gone: %v", err)
	}
	f.Close()

	next := newBench(t, func(c *Config) { c.CacheDir = b.cfg.CacheDir })
	next.agent.set(func(a *fakeAgent) { a.away = true })
	client, _ = next.run(t)
	_, err = client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	next.wantMounted(t, target, false)
}

func TestUnpublishSucceedsWithoutTheAgentAndKeepsThePin(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")
	_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	b.agent.set(func(a *fakeAgent) { a.away = true })
	_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	b.wantMounted(t, target, false)
	if n := b.agent.pinned(); n != 1 {
		t.Errorf("%d pins", n)
	}
}

func TestUnpublishThatCannotUnmountKeepsThePin(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")
	_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	f, err := os.Open(filepath.Join(target, "config.json"))
	must(t, err)
	_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	wantCode(t, err, codes.Unavailable)
	if n := b.agent.pinned(); n != 1 {
		t.Errorf("%d pins: the volume is still mounted", n)
	}
	f.Close()
	_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
}

func TestUnpublishNeverRemovesFiles(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")
	must(t, os.MkdirAll(filepath.Join(target, "precious"), 0o755))
	_, err := client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	if err == nil || !strings.Contains(err.Error(), target) {
		t.Errorf("unpublish of a directory with files = %v", err)
	}
	if _, err := os.Stat(filepath.Join(target, "precious")); err != nil {
		t.Error(err)
	}
}
