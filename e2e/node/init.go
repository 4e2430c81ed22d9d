package node

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const containerdSocket = "/run/containerd/containerd.sock"

// machineInit is what runs as the machine's first process: it sets up what a booted
// machine has, then keeps containerd and kubelet running. It returns only errors.
func machineInit(work string) error {
	// The other side says so when eth0 is there.
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the network: %w", err)
	}
	runtime.LockOSThread() // the one that has the cgroups
	if err := privateProc(); err != nil {
		return err
	}
	if err := ownCgroups(); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(NodeName)); err != nil {
		return err
	}
	if err := run(
		"ip link set lo up",
		"ip addr add "+machineIP+"/24 dev eth0",
		"ip link set eth0 up",
		"ip route add default via "+HostIP,
	); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return err
	}
	if err := mountDisks(filepath.Join(work, "disk")); err != nil {
		return err
	}
	if err := newBootID(); err != nil {
		return err
	}
	return keepRunning(work)
}

// mountDisks shows an empty /run, and a /var/lib and /var/log that have nothing of
// this machine's but all that the node had before its last power cut.
func mountDisks(disk string) error {
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755"); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
		}
	}
	for _, dir := range []string{"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log/pods", "/var/log/containers"} {
		kept := filepath.Join(disk, dir)
		if err := bind(kept, dir); err != nil {
			return err
		}
	}
	// What the CSI driver's pod mounts below here must be seen by all.
	if err := syscall.Mount("", "/var/lib/kubelet", "", syscall.MS_SHARED|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("make /var/lib/kubelet shared: %w", err)
	}
	if err := os.MkdirAll(CacheDisk, 0o755); err != nil {
		return err
	}
	if err := run("mount -o loop " + filepath.Join(disk, "cache.ext4") + " " + CacheDisk); err != nil {
		return err
	}
	return bind(filepath.Join(CacheDisk, "ballast"), "/var/lib/ballast")
}

// CacheDisk is where the machine's disk for caches is mounted: /var/lib/ballast is
// a directory of it.
const CacheDisk = "/var/lib/disk"

func bind(from, to string) error {
	for _, dir := range []string{from, to} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}

// newBootID has kubelet see that the machine was booted: the kernel's own boot id
// (random(4)) is this machine's.
func newBootID() error {
	b := make([]byte, 16)
	rand.Read(b)
	const file = "/run/boot_id"
	if err := os.WriteFile(file, fmt.Appendf(nil, "%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), 0o444); err != nil {
		return err
	}
	if err := syscall.Mount(file, "/proc/sys/kernel/random/boot_id", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("show a boot id: %w", err)
	}
	// The kernel lets a user namespace mount a proc of its own only where one is in
	// sight that nothing covers (mount_too_revealing in fs/namespace.c).
	const whole = "/run/proc"
	if err := os.Mkdir(whole, 0o555); err != nil {
		return err
	}
	if err := syscall.Mount("proc", whole, "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", whole, err)
	}
	return nil
}

// keepRunning starts containerd and kubelet, starts either again when it ends, and
// reaps what the shims leave to it.
func keepRunning(work string) error {
	services := nodeServices(work)
	running := map[int]string{}
	start := func(name string) error {
		argv := services[name]
		out, err := logFile(work, name)
		if err != nil {
			return err
		}
		defer out.Close()
		pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: append([]string{"PATH=" + filepath.Dir(argv[0]) + ":" + os.Getenv("PATH")}, os.Environ()...), Files: []uintptr{0, out.Fd(), out.Fd()}})
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		running[pid] = name
		return nil
	}
	for name := range services {
		if err := start(name); err != nil {
			return err
		}
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait: %w", err)
		}
		if name, ok := running[pid]; ok {
			fmt.Printf("%s ended with %v; starting it again\n", name, status)
			delete(running, pid)
			time.Sleep(time.Second)
			if err := start(name); err != nil {
				return err
			}
		}
	}
}
