package csi

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/fetcher"
)

// kubeletPrefix begins the keys that kubelet adds to a volume's attributes
// (podInfoOnMount; pkg/volume/csi/csi_util.go getPodInfoAttrs). With podInfoOnMount a
// user cannot set them.
const (
	kubeletPrefix = "csi.storage.k8s.io/"
	podName       = kubeletPrefix + "pod.name"
	podNamespace  = kubeletPrefix + "pod.namespace"
	podUID        = kubeletPrefix + "pod.uid"
	ephemeral     = kubeletPrefix + "ephemeral" // "true" for an inline volume
)

// attributes are the volume attributes, and what each may say.
var attributes = map[string]string{
	"repo":     "org/name, or datasets/org/name",
	"revision": "a branch, a tag or a commit of 40 hex digits (main if absent)",
	"layout":   "snapshot (the files at the root; if absent) or hub-cache (what HF_HUB_CACHE expects)",
	"include":  "patterns such as *.safetensors, separated by commas or newlines",
	"exclude":  "patterns such as *.bin, separated by commas or newlines",
}

// layouts are the values of the attribute layout.
var layouts = map[string]agentpb.Layout{
	"":          agentpb.Layout_SNAPSHOT,
	"snapshot":  agentpb.Layout_SNAPSHOT,
	"hub-cache": agentpb.Layout_HUB_CACHE,
}

// tokenKeys are the keys of nodePublishSecretRef's secret that may hold the token, the
// first one that is not empty being used. Other keys are not looked at.
var tokenKeys = []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "token"}

// parseVolume returns the volume that a request is about.
func parseVolume(r interface {
	GetVolumeId() string
	GetTargetPath() string
}) (*agentpb.Volume, error) {
	switch id, target := r.GetVolumeId(), r.GetTargetPath(); {
	case id == "":
		return nil, failf(badRequest, "volume_id is missing")
	case strings.ContainsRune(id, 0):
		return nil, failf(badRequest, "volume_id holds a NUL")
	case target == "":
		return nil, failf(badRequest, "target_path is missing")
	case !filepath.IsAbs(target) || filepath.Clean(target) != target || strings.ContainsRune(target, 0):
		return nil, failf(badRequest, "target_path %q must be a clean absolute path", target)
	default:
		return &agentpb.Volume{Id: id, TargetPath: target}, nil
	}
}

// parsePublish turns a request into the agent's. Every error is a badRequest.
func parsePublish(r *spec.NodePublishVolumeRequest, driver string) (*agentpb.AcquireRequest, error) {
	volume, err := parseVolume(r)
	if err != nil {
		return nil, err
	}
	if err := checkCapability(r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	a := r.GetVolumeContext()
	req, err := parseAttributes(a)
	if err != nil {
		return nil, err
	}
	// runc from 1.2 on makes a mount writable again for a pod that does not ask for a
	// read-only one. An overlay stands that; an inline volume can simply ask.
	if a[ephemeral] == "true" && !r.GetReadonly() {
		return nil, failf(badRequest, "an inline volume must be read-only. Write it so:\n"+
			"csi:\n  driver: %s\n  readOnly: true\n  volumeAttributes:\n    repo: %s", driver, req.GetRepo())
	}
	if req.Token, err = parseToken(r.GetSecrets()); err != nil {
		return nil, err
	}
	req.Volume = volume
	req.Writable = !r.GetReadonly()
	req.Pod = &agentpb.Pod{Namespace: a[podNamespace], Name: a[podName], Uid: a[podUID]}
	return req, nil
}

// checkCapability refuses what cannot be a directory. The access mode is not looked
// at: kubelet says SINGLE_NODE_WRITER for every inline volume.
func checkCapability(c *spec.VolumeCapability) error {
	if c == nil {
		return failf(badRequest, "volume_capability is missing")
	}
	if _, block := c.GetAccessType().(*spec.VolumeCapability_Block); block {
		return failf(badRequest, "a block volume was asked for: Ballast's volumes are directories (volumeMode: Filesystem)")
	}
	return nil
}

// parseAttributes reads the volume attributes. Repo and revision are checked by the
// very types that the agent uses, and handed on as those print them.
func parseAttributes(a map[string]string) (*agentpb.AcquireRequest, error) {
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, known := attributes[name]; !known && !strings.HasPrefix(name, kubeletPrefix) {
			return nil, unknownAttribute(name)
		}
	}
	if a["repo"] == "" {
		return nil, failf(badRequest, "volume attribute repo is missing: it must be %s", attributes["repo"])
	}
	repo, err := fetcher.ParseRepo(a["repo"])
	if err != nil {
		return nil, badAttribute("repo", err)
	}
	revision := "main"
	if a["revision"] != "" {
		revision = a["revision"]
	}
	ref, err := fetcher.ParseRef(revision)
	if err != nil {
		return nil, badAttribute("revision", err)
	}
	layout, known := layouts[a["layout"]]
	if !known {
		return nil, failf(badRequest, "volume attribute layout: %.64q: must be %s", a["layout"], attributes["layout"])
	}
	req := &agentpb.AcquireRequest{Repo: repo.String(), Revision: ref.String(), Layout: layout}
	if req.Include, err = parsePatterns("include", a["include"]); err != nil {
		return nil, err
	}
	if req.Exclude, err = parsePatterns("exclude", a["exclude"]); err != nil {
		return nil, err
	}
	return req, nil
}

func badAttribute(name string, err error) error {
	return failf(badRequest, "volume attribute %s: %v", name, err)
}

// parsePatterns splits at commas and newlines. A value that is not empty and holds no
// pattern is a mistake.
func parsePatterns(name, value string) ([]string, error) {
	if value == "" {
		return nil, nil
	}
	var patterns []string
	for p := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == '\n' }) {
		if p = strings.TrimSpace(p); p != "" {
			patterns = append(patterns, p)
		}
	}
	if len(patterns) == 0 {
		return nil, failf(badRequest, "volume attribute %s holds no pattern: it must be %s", name, attributes[name])
	}
	if _, err := fetcher.NewFilter(patterns, nil); err != nil {
		return nil, badAttribute(name, errors.Unwrap(err)) // without NewFilter's own "include:"
	}
	return patterns, nil
}

// parseToken returns the token, without white space around it, or "". Its errors name
// the key and never the value.
func parseToken(secrets map[string]string) (string, error) {
	for _, key := range tokenKeys {
		token, err := fetcher.ParseSecret(secrets[key])
		if err != nil {
			return "", failf(badRequest, "secret key %s: %v: write the token alone", key, err)
		}
		if !token.IsZero() {
			return token.Reveal(), nil
		}
	}
	return "", nil
}

// unknownAttribute names the attributes that there are, the nearest one first if it may
// be a slip of the finger.
func unknownAttribute(name string) error {
	hint := ""
	if strings.Contains(strings.ToLower(name), "token") {
		hint = " A token belongs in a Secret that nodePublishSecretRef names, under the key " + tokenKeys[0] + "."
	}
	best := 3 // edits that still look like a slip
	for _, known := range slices.Sorted(maps.Keys(attributes)) {
		if d := distance(strings.ToLower(name), known); d < best {
			best, hint = d, " Did you mean "+known+"?"
		}
	}
	return failf(badRequest, "volume attribute %.64q is unknown.%s The attributes are %s (write them in volumeAttributes)",
		name, hint, strings.Join(slices.Sorted(maps.Keys(attributes)), ", "))
}

// distance is the Levenshtein distance in bytes, or a large number for names that are
// far too long to be a slip.
func distance(a, b string) int {
	const far = 100
	if len(a) > far {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
