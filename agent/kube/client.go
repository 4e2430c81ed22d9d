package kube

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// InCluster returns a client of the cluster whose pod this process runs in. version
// goes into its User-Agent: ballast-agent/VERSION.
func InCluster(version string) (kubernetes.Interface, error) {
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return newClient(cfg, version)
}

// newClient fits cfg to this package: a GET for a pod that starts and an event a
// minute for each that waits; a node has some hundred pods.
func newClient(cfg *rest.Config, version string) (kubernetes.Interface, error) {
	cfg.UserAgent = component + "/" + version
	cfg.QPS, cfg.Burst = 10, 40 // requests a second, requests
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client of %s: %w", cfg.Host, err)
	}
	return client, nil
}
