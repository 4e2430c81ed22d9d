package storetest

import (
	"context"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Sink brings what the engine fetches into Store, as Repo's, and does nothing else.
type Sink struct {
	Store *store.Store
	Repo  fetcher.Repo
}

func (s Sink) Begin(_ context.Context, f fetcher.File) (fetcher.Ingest, error) {
	if s.Store.HasBlob(f.Digest) {
		return nil, nil
	}
	return s.Store.Ingest(store.Origin{Repo: s.Repo}, f)
}

func (s Sink) Commit(ctx context.Context, verified []fetcher.Ingest) error {
	var ins []*store.Ingest
	for _, in := range verified {
		ins = append(ins, in.(*store.Ingest))
	}
	return s.Store.Commit(ctx, ins)
}
