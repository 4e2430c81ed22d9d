package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ballast-csi/ballast/cmd/ballast/settings"
	"github.com/ballast-csi/ballast/fetcher/hub"
)

// Defaults that the two processes share; the directories are hostPaths on a node. Each
// socket's directory belongs to the process that serves it: whoever may write there
// decides what is at the socket's path.
const (
	defaultCacheDir    = "/var/lib/ballast"
	defaultAgentSocket = "/run/ballast/agent.sock"
	defaultCSIHTTP     = "/run/ballast-csi/http.sock"
	// Nobody's: the mounts of pods with a user namespace map what is below 65536, and
	// kubelet takes the uids from there on, 65536 a pod, for these pods themselves
	// (pkg/kubelet/userns); OpenShift gives namespaces those from 1000000000 on.
	defaultAgentUID = 2000000000
)

// config is all that an agent can be told, by a file, by flags, or both: a flag wins over
// the file, and the file over what defaultConfig takes from the environment. It holds no
// secret, only names of files that do.
type config struct {
	LogLevel      string        `yaml:"logLevel" flag:"log-level" doc:"debug, info, warn or error"`
	Cache         cacheConfig   `yaml:"cache" doc:"where snapshots are kept, and how much of its disk is left free"`
	Socket        string        `yaml:"socket" flag:"socket" doc:"unix socket to serve the CSI driver on"`
	CSIUID        int           `yaml:"csiUID" flag:"csi-uid" doc:"uid of the CSI driver's process; besides it only this process's own uid may connect"`
	HTTPAddress   string        `yaml:"httpAddress" flag:"http-address" doc:"address for /healthz, /readyz and /metrics"`
	CSIHTTPSocket string        `yaml:"csiHTTPSocket" flag:"csi-http-socket" doc:"unix socket of the CSI driver whose metrics are shown too; empty for none"`
	Kube          kubeConfig    `yaml:"kube" doc:"this node's pods"`
	HubAPI        hubAPIConfig  `yaml:"hubAPI" doc:"the Hub's own HTTP API over what is kept here"`
	Hub           hubConfig     `yaml:"hub" doc:"the Hugging Face Hub: it says what a repository is and who may read it, and may be a source"`
	Connections   int           `yaml:"connections" flag:"connections" doc:"connections that fetch at the same time for one snapshot"`
	PublicFor     time.Duration `yaml:"publicFor" flag:"public-for" doc:"how long a proof that a repository is public holds"`
	ProofFor      time.Duration `yaml:"proofFor" flag:"proof-for" doc:"how long a proof that a token may read a repository holds"`
	ProofGrace    time.Duration `yaml:"proofGrace" flag:"proof-grace" doc:"added to --proof-for while the Hub cannot be reached"`
	RefMaxAge     time.Duration `yaml:"refMaxAge" flag:"ref-max-age" doc:"how long a resolved branch or tag is not asked again"`

	Sources     []sourceConfig  `yaml:"sources" doc:"where bytes come from, in the order in which they are asked; none is trusted: what they give is verified. Without this key: modelExpress if $MODEL_EXPRESS_URL is set, then hub unless it is disabled. Each entry has one of pvc, modelExpress and hub:"`
	Manifests   manifestsConfig `yaml:"manifests" doc:"manifest files, which say what repositories are where the Hub cannot be asked"`
	Authorities []bindingConfig `yaml:"authorities" doc:"repositories of which one authority alone says what they are; the first entry that matches counts. Of those that are not the Hub's the Hub is never asked anything, so whoever registers such a name there gains nothing. Each entry:"`
	Open        openings        `yaml:"open" flag:"open" doc:"PATTERN=NAMESPACE,...: open the repositories that match (org/*, datasets/org/*, org/name) to the pods of these namespaces without a proof of their own; * alone is every namespace; may be given several times. In a file each entry has repos or authority, and namespaces:"`
}

type cacheConfig struct {
	Dir            string  `yaml:"dir" flag:"cache-dir" doc:"directory of the cache; this process must own it"`
	ReservePercent float64 `yaml:"reservePercent" flag:"reserve-percent" doc:"percent of the cache's disk that downloads leave free: more than kubelet's eviction thresholds (15 by default) where it shares the disk"`
	ReserveBytes   int64   `yaml:"reserveBytes" flag:"reserve-bytes" doc:"the same in bytes, in place of the percentage; negative: leave nothing free"`
}

type kubeConfig struct {
	Enabled  bool   `yaml:"enabled" flag:"kube" doc:"watch this node's pods through the API server: waits end with their pods, progress becomes events, and hostUsers: false works"`
	NodeName string `yaml:"nodeName" flag:"node-name" doc:"name of the node, for --kube; the default is $NODE_NAME"`
}

// hubAPIConfig says where this node's pods find the Hub's HTTP API over the cache.
type hubAPIConfig struct {
	Address string `yaml:"address" flag:"hub-address" doc:"address to serve the Hub's HTTP API on, for the pods of this node (their HF_ENDPOINT); empty: it is not served. Needs --kube: a pod is known by its address, so that must reach this port as it is: by hostPort (portmap keeps it for the node's own pods), or by a Service with internalTrafficPolicy: Local"`
	TLSCert string `yaml:"tlsCert" flag:"hub-tls-cert" doc:"PEM file of the certificate, and its chain, for --hub-address; read anew when it changes. Without one it is plain HTTP, which carries pods' tokens readable between them and this process, on this node"`
	TLSKey  string `yaml:"tlsKey" flag:"hub-tls-key" doc:"PEM file of that certificate's private key"`
	// settle is how long a pod's containers may run before the watch shows its address:
	// the kubelet reports that a second or two after it has started them.
	settle time.Duration
}

type hubConfig struct {
	Endpoint       string `yaml:"endpoint" flag:"hub-endpoint" doc:"URL of the Hub, or of a mirror; the default is $HF_ENDPOINT. HTTPS_PROXY and NO_PROXY of the environment are heeded"`
	TokenFile      string `yaml:"tokenFile" flag:"hub-token-file" doc:"file of a Hub token that asks about public repositories, for its higher rate limits; it opens private ones only to whom --open does; empty: none"`
	TokensOverHTTP bool   `yaml:"tokensOverHTTP" flag:"tokens-over-http" doc:"send tokens to a Hub whose URL is http://, where anyone on the way can read them"`
	CAFile         string `yaml:"caFile" flag:"hub-ca-file" doc:"PEM file of certificates that are trusted beside the system's, for the Hub and where it sends for content; empty: none"`
	Disabled       bool   `yaml:"disabled" doc:"there is no Hub: nothing is ever asked of it, and authorities alone say what a repository is"`
}

// sourceConfig is one Source of the chain; of its kinds one is there.
type sourceConfig struct {
	Name         string              `yaml:"name" doc:"its word in events, metrics and below, 1 to 32 of a-z, 0-9 and -; the default is pvc, modelexpress or hub; no two may have the same"`
	PVC          *pvcConfig          `yaml:"pvc" doc:"a Hugging Face cache directory on a volume that is mounted into the agent's pod"`
	ModelExpress *modelExpressConfig `yaml:"modelExpress" doc:"a Model Express server"`
	Hub          *struct{}           `yaml:"hub" doc:"the Hub of above"`
}

type pvcConfig struct {
	Dir       string `yaml:"dir" doc:"what HF_HUB_CACHE or HF_HOME is for who fills it"`
	Authority bool   `yaml:"authority" doc:"true: it is an authority too, of its name: its refs and listings are believed where the Hub cannot be asked or has no such repository, and never against the Hub"`
}

type modelExpressConfig struct {
	URL       string        `yaml:"url" doc:"host:port, or http:// or https:// before it; the default is $MODEL_EXPRESS_URL"`
	TokenFile string        `yaml:"tokenFile" doc:"file of a bearer token, as a projected service account token; read anew for each call"`
	Wait      time.Duration `yaml:"wait" doc:"how long it may take to fetch a model itself before the next source is asked; the default is 30m"`
	Streams   int           `yaml:"streams" doc:"how many files it streams at the same time; the default is 4"`
}

type manifestsConfig struct {
	Dir string `yaml:"dir" doc:"directory of *.json files that ballast manifest wrote, as a mounted ConfigMap; they are an authority named manifest; empty: none"`
}

type bindingConfig struct {
	Repos     string `yaml:"repos" doc:"a pattern as team/* or datasets/team/*"`
	Authority string `yaml:"authority" doc:"hub, manifest, or the name of a pvc with authority: true"`
}

type openConfig struct {
	Repos      string   `yaml:"repos" doc:"a pattern as team/* or datasets/team/*"`
	Authority  string   `yaml:"authority" doc:"in place of repos: whatever this authority alone, not the Hub, says"`
	Namespaces []string `yaml:"namespaces" doc:"names of namespaces; * alone is every namespace"`
}

// defaultConfig is what counts when nothing is said.
func defaultConfig() *config {
	return &config{
		LogLevel:      "info",
		Cache:         cacheConfig{Dir: defaultCacheDir, ReservePercent: 20},
		Socket:        defaultAgentSocket,
		HTTPAddress:   ":9808",
		CSIHTTPSocket: defaultCSIHTTP,
		Kube:          kubeConfig{NodeName: os.Getenv("NODE_NAME")},
		HubAPI:        hubAPIConfig{settle: 3 * time.Second},
		Hub:           hubConfig{Endpoint: env("HF_ENDPOINT", hub.DefaultEndpoint)},
		Connections:   8,
		PublicFor:     24 * time.Hour,
		ProofFor:      10 * time.Minute,
		RefMaxAge:     time.Minute,
	}
}

// loadConfig is what file says, unless it is "", or is absent and begins with "-", and what
// the flags of cmd do, which were registered for given; it is whole and checked.
func loadConfig(cmd *cobra.Command, file string, given *config) (*config, *settings.Places, error) {
	c, places := defaultConfig(), settings.Defaults(given)
	name, optional := strings.CutPrefix(file, "-")
	if optional && name == "" {
		return nil, nil, usageError{errors.New("--config=-: no name of a file after the -; for the standard input give /dev/stdin")}
	}
	if file != "" {
		text, err := os.ReadFile(name)
		switch {
		case optional && errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, nil, usageError{fmt.Errorf("--config: %w", err)}
		default:
			if places, err = settings.Read(name, text, c); err != nil {
				return nil, nil, usageError{err}
			}
		}
	}
	places.Override(cmd.Flags(), given, c)
	c.complete(places)
	if err := c.check(places); err != nil {
		return nil, nil, usageError{err}
	}
	return c, places, nil
}

// complete fills in what is left to be understood, so that the whole can be printed.
func (c *config) complete(places *settings.Places) {
	url := os.Getenv("MODEL_EXPRESS_URL")
	if !places.Given("sources") {
		if url != "" {
			c.Sources = append(c.Sources, sourceConfig{ModelExpress: &modelExpressConfig{}})
		}
		if !c.Hub.Disabled {
			c.Sources = append(c.Sources, sourceConfig{Hub: &struct{}{}})
		}
	}
	for i := range c.Sources {
		s := &c.Sources[i]
		if kinds := s.kinds(); len(kinds) == 1 && !places.Given(fmt.Sprintf("sources[%d].name", i)) {
			s.Name = strings.ToLower(kinds[0])
		}
		if m := s.ModelExpress; m != nil {
			m.URL = cmp.Or(m.URL, url)
			m.Wait = cmp.Or(m.Wait, 30*time.Minute)
			m.Streams = cmp.Or(m.Streams, 4)
		}
	}
}

// kinds are the kinds that s has, one if it is right.
func (s sourceConfig) kinds() (list []string) {
	for kind, there := range map[string]bool{"pvc": s.PVC != nil, "modelExpress": s.ModelExpress != nil, "hub": s.Hub != nil} {
		if there {
			list = append(list, kind)
		}
	}
	slices.Sort(list)
	return list
}
