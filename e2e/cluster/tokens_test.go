package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Every token of a scenario is a canary: nothing that Ballast, kubelet or containerd
// says or writes may have it, in any form. A run ends with a search, and some of what
// comes and goes is searched while it is there.
//
// (TestSearchFindsATokenInAnyForm and TestSearchFindsATokenWhereverItIs try the search.)
//
// Left out are etcd and the API server's memory, which keep Secrets by nature, and the
// Hub's own files. What kubelet mounts of a Secret into a pod that names it is a tmpfs
// of that pod's, and gone with it.

// canary is in every token. It is long enough to be found though it was encoded at any
// offset, and needs no escape in a URL.
const canary = "BallastCanary"

// token is one that nobody else has, of an account named for a person to read.
func (w *world) token(account string) string { return "hf_" + canary + account + rand.Text() }

// forms are what text may look like: itself, and within what was encoded in base64, at
// any offset, or as hexadecimal digits.
func forms(of string) [][]byte {
	digits := []byte(hex.EncodeToString([]byte(of)))
	all := [][]byte{[]byte(of), digits, bytes.ToUpper(digits)}
	for offset := range 3 {
		text := append(make([]byte, offset), of...)
		first, last := (8*offset+5)/6, 8*len(text)/6 // of the characters that are its alone
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			all = append(all, []byte(e.EncodeToString(text))[first:last])
		}
	}
	return all
}

// search looks for what has one text in it, and keeps what it found.
type search struct {
	forms [][]byte
	logs  string // directory of what Ballast's containers said that are gone

	mu     sync.Mutex // guards all below
	found  map[string]bool
	looked map[string]int64 // bytes, by what they were of
}

func newSearch(token, logs string) *search {
	return &search{forms: forms(token), logs: logs, found: map[string]bool{}, looked: map[string]int64{}}
}

// look searches content, which is of some kind and somewhere.
func (s *search) look(kind, where string, content []byte) {
	hit := slices.ContainsFunc(s.forms, func(form []byte) bool { return bytes.Contains(content, form) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked[kind] += int64(len(content))
	if hit {
		s.found[kind+" "+where] = true
	}
}

// file searches one, and its name. One that is gone has been searched for.
func (s *search) file(kind, path string) error {
	s.look(kind, path, []byte(path))
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	const overlap = 64 // more than any form has
	part := make([]byte, 1<<20)
	kept := 0
	for {
		n, err := io.ReadFull(f, part[kept:])
		s.look(kind, path, part[:kept+n])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		kept = copy(part, part[len(part)-overlap:])
	}
}

// tree searches every file below root, the names of all entries, and what links say.
func (s *search) tree(kind, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular():
			return s.file(kind, path)
		case d.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(path)
			s.look(kind, path, []byte(to))
		}
		s.look(kind, path, []byte(path))
		return nil
	})
}

// processes searches the arguments and the environment of every process that is seen
// here but this one's.
func (s *search) processes() {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if dir == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		for _, name := range []string{"cmdline", "environ"} {
			if content, err := os.ReadFile(filepath.Join(dir, name)); err == nil { // else it has ended
				s.look(name, dir, content)
			}
		}
	}
}

// keepLogs links what Ballast's containers say below pods, kubelet's directory: a
// deleted pod's is removed.
func (s *search) keepLogs(pods string) error {
	logs, err := filepath.Glob(filepath.Join(pods, "ballast_*", "*", "*.log*"))
	if err != nil {
		return err
	}
	for _, path := range logs {
		info, err := os.Lstat(path)
		if err != nil {
			continue // removed just now
		}
		name := strings.ReplaceAll(strings.TrimPrefix(path, pods+"/"), "/", "_")
		kept := filepath.Join(s.logs, fmt.Sprintf("%s.%d", name, info.Sys().(*syscall.Stat_t).Ino)) // they are rotated
		if err := os.Link(path, kept); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// watch searches what comes and goes until the process ends: events and pods, as the API
// server tells of each change; processes; and the metrics of both parts.
func (s *search) watch(w *world) error {
	factory := informers.NewSharedInformerFactory(w.client, 0)
	see := func(obj any) {
		if text, err := json.Marshal(obj); err == nil {
			s.look(fmt.Sprintf("%T", obj), string(text[:min(len(text), 300)]), text)
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }}
	for _, informer := range []cache.SharedIndexInformer{factory.Core().V1().Events().Informer(), factory.Core().V1().Pods().Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(make(chan struct{}))
	go func() {
		for range time.Tick(time.Second) {
			s.processes()
			s.metrics(w)
			if err := s.keepLogs(filepath.Join(w.dir, "disk", "var", "log", "pods")); err != nil {
				s.look("logs", err.Error(), []byte(canary)) // what cannot be searched is not clean
			}
		}
	}()
	return nil
}

// metrics searches what the agent shows, the driver's among it.
func (s *search) metrics(w *world) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	pods, err := w.client.CoreV1().Pods("ballast").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + agent})
	if err != nil {
		return
	}
	for _, p := range pods.Items {
		if said, err := w.client.CoreV1().Pods(p.Namespace).ProxyGet("http", p.Name, "9808", "/metrics", nil).DoRaw(ctx); err == nil {
			s.look("metrics", p.Name, said)
		}
	}
}

// end searches what is left when all scenarios have ended and everything still runs.
func (s *search) end(w *world) error {
	s.processes()
	s.metrics(w)
	pods := filepath.Join(w.dir, "disk", "var", "log", "pods")
	err := errors.Join(s.keepLogs(pods), s.tree("logs", s.logs), s.tree("logs", pods), s.tree("logs", filepath.Join(w.dir, "logs")))
	for _, dir := range []string{cacheDir, "/run/ballast", "/run/ballast-csi", "/var/lib/kubelet"} {
		err = errors.Join(err, s.tree("files", w.onDisk(dir)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for where := range s.found {
		err = errors.Join(err, fmt.Errorf("a token is in: %s", where))
	}
	for _, kind := range []string{"cmdline", "environ", "metrics", "logs", "files", "*v1.Event", "*v1.Pod"} {
		if s.looked[kind] == 0 {
			err = errors.Join(err, fmt.Errorf("no %s were searched", kind))
		}
	}
	fmt.Printf("searched for tokens, by bytes: %v\n", s.looked)
	return err
}

// searched is the run of the tests with the search at its end.
type searched struct{ tests interface{ Run() int } }

func (r searched) Run() int {
	code := r.tests.Run()
	if running == nil || running.search == nil {
		return code // no cluster was asked for, or it did not start
	}
	if err := running.search.end(running); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: tokens:", err)
		return max(code, 1)
	}
	return code
}
