// Package kube is what the agent knows of Kubernetes, and the only user of
// client-go: which of this node's pods are being deleted, which have a user
// namespace of their own, whose an address is, and events on pods.
//
// It must never know how snapshots are fetched, nor what a volume waits for: it is
// told texts and tells uids.
//
// Invariants:
//   - one watch, of this node's pods only, and of each pod only what is asked here
//     is kept (trim);
//   - a pod that has not been seen is fetched, never guessed;
//   - an address is one live pod's of this node or nobody's;
//   - that a pod is being deleted is told once, whether its deletion was watched,
//     was under way at the start, or was missed and noticed by a later list;
//   - telling never blocks and never floods: one event a (pod, reason, type), updated
//     at most once a minute. record.EventRecorder is not used: it can be neither
//     flushed nor waited for, limits only behind its queue, and retries one event for
//     two minutes before the next.
//
// Without the API server nothing here fails for good: the watch, and what is told,
// are tried again.
package kube
