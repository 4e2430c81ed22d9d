package csi

import (
	"context"
	"errors"
	"fmt"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Probe returns an error unless the server answers on its own socket and, where it
// registers with kubelet, kubelet has accepted it. The agent is not asked: without it
// unpublish still works.
func (s *Server) Probe(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+s.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("csi: probe %s: %w", s.cfg.Socket, err)
	}
	defer conn.Close()
	if _, err := spec.NewIdentityClient(conn).Probe(ctx, &spec.ProbeRequest{}); err != nil {
		return fmt.Errorf("csi: probe %s: %w", s.cfg.Socket, err)
	}
	if s.cfg.RegistrationDir != "" && !s.registered.Load() {
		return errors.New("csi: kubelet has not registered the driver yet (it looks for plugins in its plugins_registry directory)")
	}
	return nil
}
