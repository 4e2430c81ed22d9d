package agent

import (
	"errors"
	"sync"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// nodeToken is the token that the operator lent to the node (Config.NodeToken). It is a
// help and never a need: without it, or when it fails, one asks as if there were none.
type nodeToken struct {
	read func() (fetcher.Secret, error)
	log  *zap.Logger

	mu         sync.Mutex // guards what follows: each trouble is logged once
	unreadable string
	refused    fetcher.Secret
}

// get returns the token, zero if there is none now. A nil nodeToken has none.
func (n *nodeToken) get() fetcher.Secret {
	if n == nil || n.read == nil {
		return fetcher.Secret{}
	}
	token, err := n.read()
	text := ""
	if err != nil {
		text, token = err.Error(), fetcher.Secret{}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if text != n.unreadable && text != "" {
		n.log.Warn("the node's token cannot be read; going on without it", zap.Error(err))
	}
	n.unreadable = text
	return token
}

// failed is told what token met before it was done without. Only what a person must mend
// is logged.
func (n *nodeToken) failed(token fetcher.Secret, err error) {
	if !errors.Is(err, fetcher.ErrBadToken) && !errors.Is(err, fetcher.ErrForbidden) && !errors.Is(err, fetcher.ErrInsecure) {
		n.log.Debug("the node's token did not help", zap.Error(err))
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if token != n.refused {
		n.log.Warn("the node's token is of no use; going on without it", zap.Error(err))
		n.refused = token
	}
}
