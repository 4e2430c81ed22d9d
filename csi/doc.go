// Package csi owns the CSI edge: what kubelet asks (attributes, publish, unpublish)
// in the agent's words, the mounts of this node's volumes, their pins' reconciliation,
// registration with kubelet, and the one table of errors and codes.
//
// It must never know about HTTP, the store's layout or the API server. It has no state
// of its own: mountinfo says what is mounted, the agent says what is pinned.
//
// Invariants:
//   - Pin, then mount; unmount, then unpin. A pin is released only while its target is
//     known not to be a mount, and no mount elsewhere is seen to show its volume; a
//     left-over pin is safe, a lost one is not.
//   - After a final code kubelet forgets the volume and never unpublishes it, so one is
//     returned only when neither mount nor pin of the volume is left; else Unavailable.
//   - One operation at a time for a target and its pin, reconciliation included.
//   - What time can mend never ends a held call early; what a person must mend ends it
//     at once. Stopping ends every wait at once.
//   - A mount that is not the volume's own is never unmounted.
//   - The agent may be broken into, and this process is root: what it answers is bounded
//     before it is read and fit to print, its paths are mount's to distrust, and what it
//     lists decides about its own pins alone.
//   - A token lives for one call, in the message to the agent, and is in no text.
package csi
