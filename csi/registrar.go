package csi

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.uber.org/zap"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrar is kubelet's plugin registration, version 1: kubelet finds the socket in
// its plugins_registry, asks for info, and says what came of it.
type registrar struct {
	registration.UnimplementedRegistrationServer
	info       *registration.PluginInfo
	log        *zap.Logger
	registered *atomic.Bool
	fail       context.CancelCauseFunc
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return r.info, nil
}

// NotifyRegistrationStatus ends the process on a refusal: kubelet asks again only when
// the socket is made anew.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	r.registered.Store(status.PluginRegistered)
	if status.PluginRegistered {
		r.log.Info("registered with kubelet")
	} else {
		r.log.Error("kubelet refused the driver", zap.String("error", status.Error))
		r.fail(fmt.Errorf("kubelet refused the driver %s: %s", r.info.Name, status.Error))
	}
	return &registration.RegistrationStatusResponse{}, nil
}
