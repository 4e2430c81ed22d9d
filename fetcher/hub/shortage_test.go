package hub

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

// A node that is out of files learns nothing about the Hub: it may not act as if that
// were away. Whether the Hub is named by an address or a name is the same.
func TestOurOwnShortageIsNotTheHubsAbsence(t *testing.T) {
	a := newAsker(t)
	named, err := New(Config{Endpoint: "http://hub.example", TokensOverHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(named.CloseIdle)
	named.transport = newTransport(1, nil, net.Dialer{Resolver: &net.Resolver{PreferGo: true}}) // as a static binary has it
	byName := a
	byName.c = named
	giveBack := useUpFiles(t)
	errs := map[string]error{"by address": a.ask(resolvers, "friend"), "by name": byName.ask(resolvers, "friend")}
	giveBack()
	for how, err := range errs {
		if fetcher.Unreachable(err) || !errors.Is(err, syscall.EMFILE) {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// useUpFiles opens all files that this process may, until it is told to give them back.
func useUpFiles(t *testing.T) (giveBack func()) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	var held []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		held = append(held, f)
	}
	return func() {
		for _, f := range held {
			f.Close()
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}
}
