package agent

import (
	"context"
	"sync"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

type blobKey struct {
	digest fetcher.Digest
	origin store.Origin
}

// sink brings one flight's bytes into the store. Flights that want the same bytes
// through the same Origin at the same time fetch them once: the second waits in Begin.
type sink struct {
	agent    *Agent
	origin   store.Origin
	progress *progress
}

func (s *sink) Begin(ctx context.Context, f fetcher.File) (fetcher.Ingest, error) {
	defer s.progress.begin()()
	a := s.agent
	unlock, err := a.inbound.lock(ctx, blobKey{f.Digest, s.origin})
	if err != nil {
		return nil, err
	}
	if a.store.HasBlob(f.Digest) {
		may, err := a.access.mayUse(f.Digest, s.origin)
		if may || err != nil {
			unlock()
			s.progress.hold(f.Size)
			return nil, err
		}
	}
	in, err := a.store.Ingest(s.origin, f)
	if err != nil {
		unlock()
		return nil, err
	}
	held := f.Size
	for _, p := range in.Missing() {
		held -= p.Size
	}
	s.progress.hold(held)
	return &ingest{Ingest: in, unlock: sync.OnceFunc(unlock), sources: s.progress.sources}, nil
}

func (s *sink) Commit(ctx context.Context, verified []fetcher.Ingest) error {
	ins := make([]*store.Ingest, len(verified))
	for i, in := range verified {
		ins[i] = in.(*ingest).Ingest
	}
	return s.agent.store.Commit(ctx, ins)
}

// ingest is a store.Ingest that lets the next one in when it is closed.
type ingest struct {
	*store.Ingest
	unlock  func()
	sources *ledger
}

func (i *ingest) Close() error {
	defer i.unlock()
	defer i.sources.close(i.File())
	return i.Ingest.Close()
}
