package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/csi/mount"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
)

type demoFlags struct {
	dir            string
	repo           string
	revision       string
	endpoint       string
	tokensOverHTTP bool
	inside         string // set in the process that is in the namespace
	size           modelSize
}

// Values of --inside.
const (
	insideRoot = "root"
	insideUser = "user" // in a user namespace too
)

func demoCommand() *cobra.Command { return newDemoCommand(fullModel()) }

func newDemoCommand(size modelSize) *cobra.Command {
	f := demoFlags{size: size}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show all of it on this machine: no cluster, no internet, nothing left behind",
		Long: "Runs a Hub with a model of noise, a node's agent, its CSI driver and kubelet's part of four pods\n" +
			"in a mount namespace of its own, and checks everything that Ballast promises: one download,\n" +
			"every byte verified, read-only mounts, no network once cached. With --repo it does the same\n" +
			"with a model of the Hub at --hub-endpoint; a token is read from $HF_TOKEN.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.inside != "" {
				return f.show(cmd.Context(), cmd.OutOrStdout())
			}
			if f.repo == "" && (cmd.Flags().Changed("revision") || cmd.Flags().Changed("hub-endpoint")) {
				return usageError{errors.New("--revision and --hub-endpoint are of use with --repo only")}
			}
			if err := f.check(); err != nil {
				return usageError{err}
			}
			return f.launch(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "dir", "", "directory to work in, and to keep; absent or empty (default: a temporary one)")
	flags.StringVar(&f.repo, "repo", "", "repository of the Hub to use: org/name, or datasets/org/name")
	flags.StringVar(&f.revision, "revision", "main", "branch, tag or commit of --repo")
	flags.StringVar(&f.endpoint, "hub-endpoint", defaultConfig().Hub.Endpoint, "URL of the Hub for --repo; the default is $HF_ENDPOINT")
	flags.BoolVar(&f.tokensOverHTTP, "tokens-over-http", false, "send $HF_TOKEN to a Hub whose URL is http://, where anyone on the way can read it")
	flags.StringVar(&f.inside, "inside", "", "")
	_ = flags.MarkHidden("inside") // an error only if there is no such flag
	return cmd
}

// check reports what is wrong with what --repo and its kin say.
func (f demoFlags) check() error {
	if f.repo == "" {
		return nil
	}
	if _, err := fetcher.ParseRepo(f.repo); err != nil {
		return fmt.Errorf("--repo: %w", err)
	}
	if _, err := fetcher.ParseRef(f.revision); err != nil {
		return fmt.Errorf("--revision: %w", err)
	}
	if _, err := hub.New(hub.Config{Endpoint: f.endpoint}); err != nil {
		return fmt.Errorf("--hub-endpoint: %w", err)
	}
	return nil
}

// noNamespace tells what is missing, and what to do.
func noNamespace(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno // without what was called: it is this program itself
	}
	return fmt.Errorf("the demo mounts things, and a mount namespace of its own is not to be had here (the kernel says: %w).\n"+
		"Do one of these:\n"+
		"  - run it as root (in a container: a privileged one)\n"+
		"  - allow user namespaces to ordinary users; what forbids them is one of\n"+
		"      sysctl user.max_user_namespaces                        must not be 0\n"+
		"      sysctl kernel.unprivileged_userns_clone                1, where it exists (Debian)\n"+
		"      sysctl kernel.apparmor_restrict_unprivileged_userns    0, where it exists (Ubuntu)", err)
}

// launch runs the demo again in a mount namespace of its own, which takes every mount
// with it when the process ends, whichever way it does. Then it removes the directory.
func (f demoFlags) launch(ctx context.Context, out, errOut io.Writer) (err error) {
	if err := mount.CheckKernel(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := f.place()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // Pdeathsig is sent when the thread that started the child ends
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, exe, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	inside := insideRoot
	if mount.PrivateNamespace(cmd) || inUserNamespace() {
		inside = insideUser
	}
	cmd.Args = append(cmd.Args, "--inside="+inside, "--dir="+dir)
	if err = cmd.Start(); err != nil {
		return errors.Join(noNamespace(err), f.clean(dir, false))
	}
	err = cmd.Wait()
	interrupted := ctx.Err() != nil
	if cerr := f.clean(dir, err != nil && !interrupted); cerr != nil {
		return errors.Join(err, cerr)
	}
	switch {
	case interrupted && f.dir == "":
		return errors.New("interrupted; nothing is left of the demo")
	case interrupted:
		return fmt.Errorf("interrupted; nothing is mounted or running any more, and %s is kept", dir)
	case err != nil:
		return fmt.Errorf("the demo failed (%w); what its parts logged is in %s", err, filepath.Join(dir, demoLog))
	}
	return nil
}

// inUserNamespace reports whether this process is in a user namespace other than the
// machine's own, which alone maps every uid to itself (user_namespaces(7)).
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295"
}

// place makes the directory to work in, on a disk with room.
func (f demoFlags) place() (string, error) {
	need := f.size.disk()
	if f.repo != "" {
		need = 0 // not known; the cache says so if it does not fit
	}
	if f.dir != "" {
		dir, err := filepath.Abs(f.dir)
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil {
			return "", usageError{fmt.Errorf("--dir: %w", err)}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			return "", usageError{errors.Join(fmt.Errorf("--dir: %s must be a directory with nothing in it", dir), err)}
		}
		return dir, checkPlace(dir, need)
	}
	parents := []string{os.TempDir()}
	if os.Getenv("TMPDIR") == "" {
		parents = append(parents, "/var/tmp") // where /tmp is a small tmpfs, this is a disk
	}
	var errs []error
	for _, parent := range parents {
		err := checkPlace(parent, need)
		if err == nil {
			var dir string
			if dir, err = os.MkdirTemp(parent, "ballast-demo-"); err == nil {
				return filepath.Abs(dir)
			}
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("no place to work in: %w\nName a directory on a larger disk with --dir", errors.Join(errs...))
}

// checkPlace reports whether dir has room for need bytes and for a socket's path.
func checkPlace(dir string, need int64) error {
	const room = 107 - len("/ballast-demo-1234567890/run/agent.sock") // sun_path of unix(7)
	if len(dir) > room {
		return fmt.Errorf("%s: the path is too long for the sockets below it (%d bytes; at most %d)", dir, len(dir), room)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Errorf("%s: %s free, the demo needs %s", dir, sizeText(free), sizeText(need))
	}
	return nil
}

// clean removes the demo's directory, or all of it but the log. A directory that the
// user named stays as it is. Every mount was in a namespace that is gone.
func (f demoFlags) clean(dir string, keepLog bool) error {
	if f.dir != "" {
		return nil
	}
	if !keepLog {
		return os.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != demoLog {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// show is the demo itself, in its namespace.
func (f demoFlags) show(ctx context.Context, out io.Writer) error {
	switch err := mount.MakePrivate(); {
	case errors.Is(err, mount.ErrNamespace):
		return usageError{fmt.Errorf("--inside is what the demo tells itself, so leave it out: %w", err)}
	case err != nil:
		return noNamespace(err)
	}
	cfg := demoConfig{
		dir: f.dir, user: f.inside == insideUser, size: f.size,
		repo: f.repo, revision: f.revision, endpoint: f.endpoint, token: fetcher.NewSecret(os.Getenv("HF_TOKEN")), tokensOverHTTP: f.tokensOverHTTP,
	}
	how := "as root, in a mount namespace of its own"
	if cfg.user {
		how = "as an ordinary user, in user and mount namespaces of its own"
	}
	r := newReport(ctx, out)
	r.line(r.paint("1", "Ballast: Hugging Face snapshots on the node, fetched once, verified, mounted read-only"))
	r.line(r.wrap("", "Everything below is the real code on this machine, "+how+", in "+f.dir))
	w, err := newWorld(ctx, cfg)
	if err != nil {
		return err
	}
	if err := runSteps(ctx, w, out); err != nil {
		return err
	}
	if cfg.repo == "" {
		r.line("The same with a model of the Hub:  ballast demo --repo Qwen/Qwen3-0.6B")
	}
	return nil
}
