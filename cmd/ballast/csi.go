package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/agentrpc"
	"github.com/ballast-csi/ballast/agent/unixsock"
	"github.com/ballast-csi/ballast/csi"
	"github.com/ballast-csi/ballast/csi/mount"
)

type csiFlags struct {
	driver          string
	nodeID          string
	cacheDir        string
	socket          string
	registrationDir string
	kubeletSocket   string
	agentSocket     string
	agentUID        int
	httpSocket      string
	reconcileEvery  time.Duration
	logLevel        string
}

func csiCommand() *cobra.Command {
	var f csiFlags
	cmd := &cobra.Command{
		Use:   "csi",
		Short: "Run the node's CSI driver: mount what the agent keeps; no network socket",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runCSI(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.driver, "driver", csi.DefaultDriver, "name of the CSIDriver object")
	flags.StringVar(&f.nodeID, "node-id", os.Getenv("NODE_NAME"), "name of the node; the default is $NODE_NAME")
	flags.StringVar(&f.cacheDir, "cache-dir", defaultCacheDir, "directory of the cache")
	flags.StringVar(&f.socket, "csi-socket", "/csi/csi.sock", "unix socket to serve kubelet on")
	flags.StringVar(&f.registrationDir, "registration-dir", "", "kubelet's plugins_registry directory; empty: do not register")
	flags.StringVar(&f.kubeletSocket, "kubelet-csi-socket", "", "--csi-socket as kubelet sees it; needed with --registration-dir")
	flags.StringVar(&f.agentSocket, "agent-socket", defaultAgentSocket, "unix socket of the agent")
	flags.IntVar(&f.agentUID, "agent-uid", defaultAgentUID, "uid of the agent's process; no other is talked to")
	flags.StringVar(&f.httpSocket, "http-socket", defaultCSIHTTP, "unix socket for /healthz, /readyz and /metrics")
	flags.DurationVar(&f.reconcileEvery, "reconcile-every", 10*time.Minute, "how often pins are compared with what is mounted")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func runCSI(ctx context.Context, f csiFlags) error {
	log, err := newLogger(f.logLevel)
	if err != nil {
		return err
	}
	if err := mount.CheckKernel(); err != nil {
		return err
	}
	conn, err := agentrpc.Dial(f.agentSocket, f.agentUID)
	if err != nil {
		return fmt.Errorf("--agent-socket: %w", err)
	}
	defer conn.Close()
	reg := newRegistry("csi")
	server, err := csi.New(csi.Config{
		Driver:            f.driver,
		Version:           version,
		NodeID:            f.nodeID,
		CacheDir:          f.cacheDir,
		Socket:            f.socket,
		RegistrationDir:   f.registrationDir,
		KubeletSocketPath: f.kubeletSocket,
		Agent:             agentpb.NewAgentClient(conn),
		Log:               log.Named("csi"),
		Registerer:        reg,
		ReconcileEvery:    f.reconcileEvery,
	})
	if err != nil {
		return usageError{err}
	}
	// Besides root, only the agent, which shows the driver's metrics.
	web, err := unixsock.Listen(f.httpSocket, log, os.Getuid(), f.agentUID)
	if err != nil {
		return fmt.Errorf("--http-socket: %w", err)
	}
	log.Info("csi driver starts", zap.String("version", version), zap.String("node_id", f.nodeID), zap.String("csi_socket", f.socket),
		zap.String("agent_socket", f.agentSocket), zap.String("http_socket", f.httpSocket))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return serveHTTP(ctx, web, observe(reg, log, server.Probe)) })
	err = g.Wait()
	log.Info("csi driver has stopped", zap.Error(err))
	return err
}
