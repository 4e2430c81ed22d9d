package csi

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

var (
	// viewPath is the form of Ready.view. Nothing else of the cache is mounted as a
	// volume's content, whoever says so.
	viewPath = regexp.MustCompile(`^views/[A-Za-z0-9_]+/root$`)
	// viewWas is what a bind's directory may be called later, as mountinfo follows its
	// renames: a View's, one's that was set aside, or one's that was removed.
	viewWas = regexp.MustCompile(`^views/[A-Za-z0-9_]+(-suspect[0-9]+)?(\.partial)?/root$`)
)

// isBind reports whether m may be the bind that a publish made.
func isBind(m mount.Info) bool { return m.ReadOnly && viewWas.MatchString(m.View) }

// notShown returns an error unless it is certain that no mount, wherever it is, is as
// asked.
func (n *node) notShown(as func(mount.Info) bool) error {
	mounts, err := n.mounter.Mounts()
	if err != nil {
		return failf(nodeFailed, "whether it is mounted anywhere cannot be told: %v", err)
	}
	if i := slices.IndexFunc(mounts, as); i >= 0 {
		return failf(nodeFailed, "it is still mounted on %s", mounts[i].Target)
	}
	return nil
}

// gone returns an error unless it is certain that nothing shows the volume: neither is
// its target a mount, nor is there a mount of it elsewhere. The target alone does not
// say: something may be mounted over the way to it, and a subPath has another.
func (n *node) gone(volume *agentpb.Volume) error {
	if err := n.stillMounted(volume); err != nil {
		return err
	}
	return n.notElsewhere(volume)
}

// notElsewhere is gone's second half, for a volume whose target is no mount.
func (n *node) notElsewhere(volume *agentpb.Volume) error {
	if err := n.notShown(showing(volume)); err != nil {
		return err
	}
	if at, ok := parseTarget(volume.GetTargetPath()); ok && !isDir(at.pods) {
		return failf(nodeFailed, "%s cannot be seen from here, and so no mount in it: "+
			"the CSI driver's pod must mount kubelet's directory under its own path, and nothing may be mounted over it", at.pods)
	}
	return nil
}

// showing recognises the volume's mounts, and those of parts of it (subPath). An
// overlay says whose it is. A bind does not, but where it is does, beneath a directory
// of kubelet's that may be called otherwise in mountinfo.
func showing(volume *agentpb.Volume) func(mount.Info) bool {
	source := mount.Source(volume.GetId(), volume.GetTargetPath())
	at, ok := parseTarget(volume.GetTargetPath())
	return func(m mount.Info) bool {
		return m.Source == source || ok && m.View != "" &&
			(strings.HasSuffix(m.Target, at.within) || strings.Contains(m.Target, at.subPaths))
	}
}

// kubeletTarget is what there is to a target of the form
// <root>/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount.
type kubeletTarget struct {
	pods     string // <root>/pods
	within   string // the target from /pods on
	subPaths string // /pods/<uid>/volume-subpaths/<name>/, which holds mounts of its parts
}

// parseTarget reports whether target is of kubelet's form.
func parseTarget(target string) (kubeletTarget, bool) {
	dir := filepath.Dir(target)
	driver := filepath.Dir(dir)
	volumes := filepath.Dir(driver)
	pod := filepath.Dir(volumes)
	pods := filepath.Dir(pod)
	if filepath.Base(target) != "mount" || filepath.Base(driver) != "kubernetes.io~csi" ||
		filepath.Base(volumes) != "volumes" || filepath.Base(pods) != "pods" {
		return kubeletTarget{}, false
	}
	return kubeletTarget{
		pods:     pods,
		within:   strings.TrimPrefix(target, filepath.Dir(pods)),
		subPaths: "/pods/" + filepath.Base(pod) + "/volume-subpaths/" + filepath.Base(dir) + "/",
	}, true
}
