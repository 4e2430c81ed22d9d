// Command pod is every container of our test pods, and the sandbox that holds a pod
// together: one static binary, the only file of its image.
//
//	pod pause               holds a pod: reaps its orphans until SIGTERM
//	pod true                ends at once
//	pod hold                prints "started <RFC 3339 time>", and waits for SIGTERM
//	pod sum DIR             prints what is below DIR, with each file's SHA-256
//	pod reread DIR          reads DIR's files round after round, until SIGTERM
//	pod attack DIR SCRATCH  tries to change the read-only volume at DIR
//
// It reports what it sees as JSON on standard output and judges nothing that a test
// can judge. It must never know Ballast.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = "usage: pod pause | true | hold | sum DIR | reread DIR | attack DIR SCRATCH"

func main() {
	started := time.Now()
	if len(os.Args) < 2 {
		fail(usage)
	}
	if err := run(started, os.Args[1], os.Args[2:]); err != nil {
		fail("pod " + os.Args[1] + ": " + err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

func run(started time.Time, command string, args []string) error {
	switch {
	case command == "true" && len(args) == 0:
		return nil
	case command == "hold" && len(args) == 0:
		return hold(started, os.Stdout)
	case command == "pause" && len(args) == 0:
		return pause()
	case command == "sum" && len(args) == 1:
		return sum(args[0], os.Stdout)
	case command == "reread" && len(args) == 1:
		return reread(args[0], os.Stdout)
	case command == "attack" && len(args) == 2:
		return attack(args[0], args[1], os.Stdout)
	case command == "attack" && len(args) == 3:
		return attackAgain(args[0], args[1], args[2], os.Stdout)
	}
	return fmt.Errorf("%s", usage)
}

// hold tells when the container started, and waits until it is to stop.
func hold(started time.Time, w io.Writer) error {
	ctx, stop := untilStopped() // first: whoever reads the line may send the signal
	defer stop()
	if _, err := fmt.Fprintln(w, "started", started.UTC().Format(time.RFC3339Nano)); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// untilStopped is done when the container is told to stop. As PID 1 it must ask for
// these signals, or the kernel drops them.
func untilStopped() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
}

// pause is PID 1 of a pod whose containers share a PID namespace: orphans become its
// children, and stay as zombies unless it waits for them.
func pause() error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	for {
		reap() // before the first signal too: a child may have died earlier
		select {
		case <-stop:
			return nil
		case <-died: // one signal may stand for several children
		}
	}
}

// reap waits for every child that is dead by now.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 { // none dead, or ECHILD: none at all
			return
		}
	}
}
