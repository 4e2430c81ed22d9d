package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cacheDiskBytes is the size of the disk that the machine has at /var/lib/ballast: a
// file system of its own, so that it can be filled.
const cacheDiskBytes = 8 << 30

// cable is the interface whose other end is the machine's eth0.
const cable = "node1"

// Machine is the node: a disk that stays, and while the power is on, an init process
// with containerd, kubelet and the pods below it.
type Machine struct {
	cluster *Cluster
	sandbox string
	init    *component // nil while the power is off
}

func (c *Cluster) newMachine(sandbox string) (*Machine, error) {
	disk := filepath.Join(c.dir, "disk", "cache.ext4")
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(cacheDiskBytes); err != nil {
		return nil, err
	}
	return &Machine{cluster: c, sandbox: sandbox}, run("mkfs.ext4 -q -E nodiscard,lazy_itable_init=1 " + disk)
}

// PowerOn boots the machine: it returns when containerd serves and kubelet is started.
func (m *Machine) PowerOn(ctx context.Context) error {
	if m.init != nil {
		return errors.New("the machine is on")
	}
	if err := writeNode(m.cluster.dir, m.cluster.tools, m.sandbox); err != nil {
		return err
	}
	waits, plug, err := os.Pipe()
	if err != nil {
		return err
	}
	defer plug.Close()
	out, err := logFile(m.cluster.dir, "machine")
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := again(context.WithoutCancel(ctx), "machine", m.cluster.dir, syscall.CLONE_NEWNET)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = waits, out, out
	m.init, err = begin("machine", cmd)
	waits.Close()
	if err != nil {
		return err
	}
	if err := makeCgroups(filepath.Base(m.cluster.dir), cmd.Process.Pid); err != nil {
		return err
	}
	// The cable: one end on the bridge, the other is the machine's eth0.
	if err := run(fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", cable, cmd.Process.Pid),
		"ip link set "+cable+" master ballast0", "ip link set "+cable+" up"); err != nil {
		return err
	}
	if _, err := io.WriteString(plug, "plugged in\n"); err != nil {
		return err
	}
	return m.cluster.wait(ctx, "the machine does not come up", func() (string, error) {
		select {
		case <-m.init.done:
			return "", fmt.Errorf("the machine's init has ended: %w; it said:\n%s", m.init.err, tail(filepath.Join(m.cluster.dir, "logs", "machine.log")))
		default:
		}
		if err := m.Ctr(ctx, "version"); err != nil {
			return err.Error(), nil
		}
		return "", nil
	})
}

// PowerCut ends every process of the machine at once, as a power cut does: its mounts
// and its network are gone, its disk stays.
func (m *Machine) PowerCut() error {
	if m.init == nil {
		return nil
	}
	m.init.stop()
	m.init = nil
	return errors.Join(unplug(), removeCgroups(filepath.Base(m.cluster.dir)))
}

// unplug removes the cable. The kernel does so too, with the machine's network
// namespace, but some time after the last process.
func unplug() error {
	for range 100 {
		_ = exec.Command("ip", "link", "del", cable).Run() // the kernel may be faster
		if _, err := net.InterfaceByName(cable); err != nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("interface %s is still there", cable)
}

// Root is the path of the machine's root directory, as seen from inside: one that is not
// there while the power is off.
func (m *Machine) Root() string { return fmt.Sprintf("/proc/%d/root", m.PID()) }

// PID is that of the machine's init, as seen from inside; 0 while the power is off.
func (m *Machine) PID() int {
	if m.init == nil {
		return 0
	}
	return m.init.cmd.Process.Pid
}

// Mounts is the machine's mountinfo (proc(5)): what is mounted on the node.
func (m *Machine) Mounts() (string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.PID()))
	return string(content), err
}

// Ctr runs containerd's own client on the images and containers of Kubernetes.
func (m *Machine) Ctr(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(m.cluster.tools.containerd, "ctr"),
		append([]string{"--address", m.Root() + containerdSocket, "--namespace", "k8s.io", "--timeout", "5m"}, args...)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}

// Import puts the images of a tar onto the node.
func (m *Machine) Import(ctx context.Context, tar string) error {
	return m.Ctr(ctx, "images", "import", "--local", tar)
}

// Processes finds the machine's processes whose arguments begin with argv, by their
// pids as seen from inside.
func (m *Machine) Processes(argv ...string) ([]int, error) {
	want := strings.Join(argv, "\x00") + "\x00"
	var found []int
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		cmdline, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || !strings.HasPrefix(string(cmdline), want) {
			continue // gone, or another
		}
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			return nil, err
		}
		found = append(found, pid)
	}
	return found, nil
}

// KillKubelet kills kubelet, which init starts again at once, as a service manager
// does, and returns when there is a new one.
func (m *Machine) KillKubelet(ctx context.Context) error {
	old, err := m.Processes(nodeProgram(m.cluster.dir, "kubernetes"), "kubelet")
	if err != nil {
		return err
	}
	if len(old) != 1 {
		return fmt.Errorf("%d kubelets run; want one", len(old))
	}
	if err := syscall.Kill(old[0], syscall.SIGKILL); err != nil {
		return err
	}
	return m.cluster.wait(ctx, "kubelet is not back", func() (string, error) {
		now, err := m.Processes(nodeProgram(m.cluster.dir, "kubernetes"), "kubelet")
		if err != nil || len(now) == 1 && now[0] != old[0] {
			return "", err
		}
		return fmt.Sprintf("kubelets: %v", now), nil
	})
}
