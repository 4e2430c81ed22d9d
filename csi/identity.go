package csi

import (
	"context"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// identity is CSI's Identity service.
type identity struct {
	spec.UnimplementedIdentityServer
	name, version string
}

func (i *identity) GetPluginInfo(context.Context, *spec.GetPluginInfoRequest) (*spec.GetPluginInfoResponse, error) {
	return &spec.GetPluginInfoResponse{Name: i.name, VendorVersion: i.version}, nil
}

// GetPluginCapabilities lists none: there is no controller and no topology.
func (i *identity) GetPluginCapabilities(context.Context, *spec.GetPluginCapabilitiesRequest) (*spec.GetPluginCapabilitiesResponse, error) {
	return &spec.GetPluginCapabilitiesResponse{}, nil
}

// Probe answers that the driver is ready. Whether the agent is there is not its
// business: unpublish and repeat publishes work without it.
func (i *identity) Probe(context.Context, *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	return &spec.ProbeResponse{}, nil
}
