package fetcher_test

import (
	"crypto/sha1"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestDigestOfKnownContent(t *testing.T) {
	million := strings.Repeat("a", 1_000_000)
	for _, c := range []struct {
		alg     fetcher.Algorithm
		content string
		hex     string
	}{
		// FIPS 180-4 examples.
		{fetcher.SHA256, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{fetcher.SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{fetcher.SHA256, million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
		// git hash-object; the first two are in git's own documentation.
		{fetcher.GitBlobSHA1, "", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"},
		{fetcher.GitBlobSHA1, "test content\n", "d670460b4b4aece5915caf5c68d12f560a9fe3e4"},
		{fetcher.GitBlobSHA1, million, fmt.Sprintf("%x", sha1.Sum([]byte("blob 1000000\x00"+million)))},
	} {
		h := fetcher.NewHasher(c.alg, int64(len(c.content)))
		for rest := c.content; rest != ""; {
			n := min(7919, len(rest))
			h.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		d, err := h.Digest()
		if err != nil || d.Hex() != c.hex || d.Algorithm() != c.alg {
			t.Errorf("%s of %.20q: %s, %v, want %s", c.alg, c.content, d, err, c.hex)
		}
		if again, err := fetcher.ParseDigest(d.String()); err != nil || again != d {
			t.Errorf("%s reads as %s, %v", d, again, err)
		}
	}
}

func TestGitAgreesOnBlobNames(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed")
	}
	for _, content := range []string{"", "x", "binary \x00\xff\r\n", strings.Repeat("line\n", 10_000)} {
		cmd := exec.CommandContext(t.Context(), git, "hash-object", "--no-filters", "--stdin")
		cmd.Stdin = strings.NewReader(content)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		h := fetcher.NewHasher(fetcher.GitBlobSHA1, int64(len(content)))
		h.Write([]byte(content))
		if d, err := h.Digest(); err != nil || d.Hex() != strings.TrimSpace(string(out)) {
			t.Errorf("%.20q: %s, %v, git says %s", content, d, err, out)
		}
	}
}

func TestParseDigestRefusesWhatIsNone(t *testing.T) {
	hex40, hex64 := strings.Repeat("ab", 20), strings.Repeat("ab", 32)
	for _, s := range []string{
		"", ":", "sha256", "sha256:", "sha256:" + hex40, "git-blob-sha1:" + hex64, "sha1:" + hex40, "SHA256:" + hex64,
		"sha256:" + strings.ToUpper(hex64), "sha256:" + hex64 + " ", "sha256:" + strings.Repeat("*", 64), hex64, "sha256:../" + hex64[3:],
	} {
		if d, err := fetcher.ParseDigest(s); err == nil || !d.IsZero() {
			t.Errorf("%q reads as %s", s, d)
		}
	}
}

func FuzzParseDigest(f *testing.F) {
	for _, s := range []string{"sha256:" + strings.Repeat("ab", 32), "git-blob-sha1:" + strings.Repeat("ab", 20), "sha256:", "md5:00", "sha256:" + strings.Repeat("AB", 32)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := fetcher.ParseDigest(s)
		if d.IsZero() != (err != nil) {
			t.Fatalf("%q reads as %s, %v", s, d, err)
		}
		if err == nil && (d.String() != s || strings.Trim(d.Hex(), "0123456789abcdef") != "" || len(d.Hex()) < 40) {
			t.Errorf("%q reads as %s", s, d)
		}
	})
}
