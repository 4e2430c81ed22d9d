package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/agentrpc"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/unixsock"
	"github.com/ballast-csi/ballast/cmd/ballast/settings"
)

func agentCommand() *cobra.Command {
	var file string
	var printIt bool
	given := defaultConfig()
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the node's agent: fetch, verify and keep snapshots",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, places, err := loadConfig(cmd, file, given)
			if err != nil {
				return err
			}
			if printIt {
				return settings.Print(cmd.OutOrStdout(), c)
			}
			return c.runAgent(cmd.Context(), places)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file of all that an agent can be told; flags win over it. --print-config shows what there is. With a - before its name it may be absent, as a ConfigMap that nobody made")
	cmd.Flags().BoolVar(&printIt, "print-config", false, "print what counts, from the file, flags, environment and defaults, as such a file with a comment for each option, and start nothing")
	settings.Register(cmd.Flags(), given)
	return cmd
}

func (c *config) runAgent(ctx context.Context, places *settings.Places) (err error) {
	log, err := newLogger(c.LogLevel)
	if err != nil {
		return err
	}
	// net/http repeats there what a server sends when nobody asks: that may be the token.
	stdlog.SetOutput(io.Discard)
	made, err := c.newParts(places, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, made.close()) }()
	s, err := store.Open(c.Cache.store(log.Named("store")))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	// Each knows the other only by what this function ties together.
	var a *agent.Agent
	var pods agent.Pods
	var admit admission
	watch := func(context.Context) error { return nil }
	if c.Kube.Enabled {
		k, err := watchPods(c.Kube.NodeName, func(uid string) { a.PodDeleting(uid) }, log.Named("kube"))
		if err != nil {
			return usageError{fmt.Errorf("%s: %w", places.Name("kube.enabled"), err)}
		}
		pods, admit, watch = podWatch{k}, podWatch{k}.admit, k.Run
	}
	reg := newRegistry("agent")
	if a, err = made.newAgent(s, pods, reg); err != nil {
		return err
	}
	hubAPI, err := c.HubAPI.open(cacheLibrary{a}, admit, log.Named("hubapi"))
	if err != nil {
		return err
	}
	socket, web, err := c.listen(places, log)
	if err != nil {
		return err
	}
	gatherers := prometheus.Gatherers{reg}
	if c.CSIHTTPSocket != "" {
		gatherers = append(gatherers, remoteMetrics(c.CSIHTTPSocket))
	}
	log.Info("agent starts", zap.String("version", version), zap.String("cache_dir", c.Cache.Dir), zap.String("socket", c.Socket),
		zap.String("http_address", web.Addr().String()), zap.Strings("sources", made.sourceNames()), zap.Strings("authorities", made.authorityNames()),
		zap.String("hub_endpoint", c.Hub.Endpoint), zap.Bool("kube", c.Kube.Enabled), zap.String("hub_address", c.HubAPI.Address))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return watch(ctx) })
	g.Go(func() error { return agentrpc.Serve(ctx, socket, a) })
	g.Go(func() error { return hubAPI.run(ctx) })
	g.Go(func() error { return serveHTTP(ctx, web, observe(gatherers, log, nil)) })
	err = g.Wait()
	log.Info("agent has stopped", zap.Error(err))
	return err
}

// listen opens the agent's two doors: the socket for the CSI driver, and HTTP.
func (c *config) listen(places *settings.Places, log *zap.Logger) (socket, web net.Listener, err error) {
	if socket, err = unixsock.Listen(c.Socket, log.Named("rpc"), c.CSIUID, os.Getuid()); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", places.Name("socket"), err)
	}
	if web, err = net.Listen("tcp", c.HTTPAddress); err != nil {
		socket.Close()
		return nil, nil, fmt.Errorf("%s: %w", places.Name("httpAddress"), err)
	}
	return socket, web, nil
}

// store is how the cache is opened. No percentage and no bytes leave nothing free.
func (c cacheConfig) store(log *zap.Logger) store.Config {
	if c.ReservePercent == 0 && c.ReserveBytes == 0 {
		c.ReserveBytes = -1
	}
	return store.Config{Dir: c.Dir, Reserve: c.ReserveBytes, ReservePercent: c.ReservePercent, Log: log}
}
