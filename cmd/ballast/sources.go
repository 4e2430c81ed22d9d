package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/cmd/ballast/settings"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hubcache"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
)

// parts are what a configuration makes an agent of.
type parts struct {
	config agent.Config // without Store, Pods and Registerer
	undo   []func() error
}

// newParts makes them, and tells all that is wrong with the files they are made of. It
// asks nothing of the network. The parts are closed after the agent has ended.
func (c *config) newParts(places *settings.Places, log *zap.Logger) (_ *parts, err error) {
	k := &checker{places: places}
	p := &parts{config: agent.Config{
		Log: log.Named("agent"), Open: c.Open.rules(), Bindings: bindings(c.Authorities),
		PublicFor: c.PublicFor, ProofFor: c.ProofFor, ProofGrace: c.ProofGrace, RefMaxAge: c.RefMaxAge,
	}}
	defer func() {
		if err != nil {
			err = errors.Join(usageError{err}, p.close())
		}
	}()
	p.config.NodeToken, err = nodeToken(c.Hub.TokenFile)
	k.note("hub.tokenFile", err)
	var client *hub.Client
	if !c.Hub.Disabled {
		client, err = hub.New(hub.Config{
			Endpoint: c.Hub.Endpoint, CAFile: c.Hub.CAFile, UserAgent: userAgent(), Connections: c.Connections,
			TokensOverHTTP: c.Hub.TokensOverHTTP, Log: log.Named("hub")})
		k.note("hub.caFile", err) // the endpoint has been checked
		p.config.Hub = client
	}
	for i, s := range c.Sources {
		k.note(fmt.Sprintf("sources[%d]", i), p.addSource(s, client, log))
	}
	if c.Manifests.Dir != "" {
		k.note("manifests.dir", findDir(c.Manifests.Dir, log))
		files, err := manifestfile.New(manifestfile.Config{Dir: c.Manifests.Dir, Log: log.Named(manifestfile.DefaultName)})
		k.note("manifests.dir", err)
		p.config.Authorities = append(p.config.Authorities, files)
	}
	p.config.Engine, err = fetcher.NewEngine(fetcher.EngineConfig{Connections: c.Connections, Log: log.Named("fetch")})
	k.note("connections", err)
	return p, errors.Join(k.errs...)
}

func userAgent() string { return "ballast/" + version }

// addSource makes one Source of the chain.
func (p *parts) addSource(s sourceConfig, client *hub.Client, log *zap.Logger) error {
	switch {
	case s.PVC != nil:
		if err := findDir(s.PVC.Dir, log); err != nil {
			return err
		}
		cache, err := hubcache.New(hubcache.Config{Name: s.Name, Dir: s.PVC.Dir, Log: log.Named(s.Name)})
		if err != nil {
			return err
		}
		p.config.Sources = append(p.config.Sources, cache)
		if s.PVC.Authority {
			p.config.Authorities = append(p.config.Authorities, cache)
		}
	case s.Hub != nil:
		p.config.Sources = append(p.config.Sources, client)
	case s.ModelExpress != nil:
		m := s.ModelExpress
		server, err := modelexpress.New(modelexpress.Config{
			Name: s.Name, URL: m.URL, TokenFile: m.TokenFile, Wait: m.Wait, Streams: m.Streams, UserAgent: userAgent(), Log: log.Named(s.Name)})
		if err != nil {
			return err
		}
		p.undo = append(p.undo, server.Close)
		p.config.Sources = append(p.config.Sources, server)
	}
	return nil
}

// findDir makes sure that there is a directory at path. A volume that does not answer is
// not waited for: it is mounted, and asked again when it is needed.
func findDir(path string, log *zap.Logger) error {
	found := make(chan error, 1)
	go func() {
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			err = errNoDir
		}
		found <- err
	}()
	select {
	case err := <-found:
		switch {
		case errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("%w: is the volume mounted into this container, and there?", err)
		case errors.Is(err, errNoDir):
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil // what else is wrong is told when something is asked of it
	case <-time.After(5 * time.Second):
		log.Warn("a directory does not answer; going on without having seen it", zap.String("dir", path))
		return nil
	}
}

var errNoDir = errors.New("it is not a directory")

// newAgent builds the core on an open store; pods may be nil.
func (p *parts) newAgent(s *store.Store, pods agent.Pods, reg prometheus.Registerer) (*agent.Agent, error) {
	cfg := p.config
	cfg.Store, cfg.Pods, cfg.Registerer = s, pods, reg
	return agent.New(cfg)
}

func (p *parts) sourceNames() (names []string) {
	for _, s := range p.config.Sources {
		names = append(names, s.Name())
	}
	return names
}

// authorityNames are those beside the Hub.
func (p *parts) authorityNames() (names []string) {
	for _, a := range p.config.Authorities {
		names = append(names, a.Name())
	}
	return names
}

// close ends what the parts hold.
func (p *parts) close() (err error) {
	for _, undo := range p.undo {
		err = errors.Join(err, undo())
	}
	p.undo = nil
	return err
}
