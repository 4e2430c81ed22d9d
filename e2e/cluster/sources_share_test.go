package cluster

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sharesDir is where the node has what stands for shared storage: a file system of its
// own, not the cache's.
const sharesDir = "/var/lib/shares"

// share is a volume that others fill, and Ballast only reads.
type share struct {
	name string // of its claim in Ballast's namespace, and of the Source
	dir  string // as the tests reach it
}

// share makes an empty directory on the node, a PersistentVolume of it, and a claim in
// Ballast's namespace, until the test ends.
func (w *world) share(t *testing.T, name string) share {
	t.Helper()
	s := share{name: name, dir: w.onDisk(path.Join(sharesDir, name))}
	if err := errors.Join(os.MkdirAll(s.dir, 0o755), os.Chmod(s.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	none, volume := "", "ballast-"+name
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	volumes, claims := w.client.CoreV1().PersistentVolumes(), w.client.CoreV1().PersistentVolumeClaims("ballast")
	t.Cleanup(func() {
		// A claim that is in use stays until it is not: the agent's pod is the last to go.
		if err := errors.Join(claims.Delete(context.Background(), name, metav1.DeleteOptions{}),
			volumes.Delete(context.Background(), volume, metav1.DeleteOptions{}), os.RemoveAll(s.dir)); err != nil {
			t.Error(err)
		}
	})
	held := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: volume}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: modes, StorageClassName: none, ClaimRef: &corev1.ObjectReference{Namespace: "ballast", Name: name},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path.Join(sharesDir, name)}},
	}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: modes, StorageClassName: &none, VolumeName: volume, Resources: corev1.VolumeResourceRequirements{Requests: size},
	}}
	eventually(t, 20*time.Second, func() string { // an earlier test's may not be gone yet
		_, err := volumes.Create(t.Context(), held, metav1.CreateOptions{})
		return errorText(err)
	})
	eventually(t, 20*time.Second, func() string {
		_, err := claims.Create(t.Context(), claim, metav1.CreateOptions{})
		return errorText(err)
	})
	return s
}

// mounted is where the agent has s.
func (s share) mounted() string { return path.Join("/sources", s.name) }

// keep writes m as huggingface_hub does since 1.22: blobs named by what the Hub says of
// them, a snapshot of links to them, what the tree lists, and main.
func (s share) keep(t *testing.T, m model) {
	t.Helper()
	type entry struct {
		Size      int    `json:"size"`
		BlobID    string `json:"blob_id"`
		LFSSHA256 string `json:"lfs_sha256,omitempty"`
		LFSSize   int    `json:"lfs_size,omitempty"`
	}
	tree := struct {
		Version int              `json:"format_version"`
		Files   map[string]entry `json:"files"`
	}{1, map[string]entry{}}
	for name, content := range m.files {
		sum, e := blobName(name, content), entry{Size: len(content)}
		if e.BlobID = sum; isLFS(name, content) {
			pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", sum, len(content))
			e = entry{Size: len(content), BlobID: gitName([]byte(pointer)), LFSSHA256: sum, LFSSize: len(content)}
		}
		tree.Files[name] = e
		s.write(t, s.blob(m, name), content)
		link := filepath.Join(s.folder(m), "snapshots", m.commit, name)
		up := strings.Repeat("../", strings.Count(name, "/")+2)
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(up+"blobs/"+sum, link)); err != nil {
			t.Fatal(err)
		}
	}
	listed, err := json.MarshalIndent(tree, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(s.folder(m), "trees", m.commit+".json"), listed)
	s.write(t, filepath.Join(s.folder(m), "refs", "main"), []byte(m.commit))
}

// folder is that of m's repository in the cache.
func (s share) folder(m model) string {
	return filepath.Join(s.dir, "models--"+strings.ReplaceAll(m.repo, "/", "--"))
}

// blob is where the cache has the bytes of a file of m.
func (s share) blob(m model, name string) string {
	return filepath.Join(s.folder(m), "blobs", blobName(name, m.files[name]))
}

func (s share) write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// damage flips a bit in the middle of what the cache has of a file of m.
func (s share) damage(t *testing.T, m model, name string) {
	t.Helper()
	content := append([]byte{}, m.files[name]...)
	content[len(content)/2] ^= 1
	s.write(t, s.blob(m, name), content)
}

// forGroup has s be of a user and a group, who alone may read it: a Job with an umask of
// 027 left it so.
func (s share) forGroup(t *testing.T, m model, uid, gid int) {
	t.Helper()
	if err := filepath.WalkDir(s.folder(m), func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(name, uid, gid); err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		if d.IsDir() {
			return os.Chmod(name, 0o750)
		}
		return os.Chmod(name, 0o640)
	}); err != nil {
		t.Fatal(err)
	}
}

// isLFS reports whether the models' .gitattributes make a file LFS.
func isLFS(name string, content []byte) bool {
	return (strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(name, ".bin")) && len(content) > 0
}

// blobName is what huggingface_hub calls the blob of a file: the ETag that the Hub gives.
func blobName(name string, content []byte) string {
	if isLFS(name, content) {
		return fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return gitName(content)
}

// gitName is git's name of a file with this content.
func gitName(content []byte) string {
	return fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...)))
}
