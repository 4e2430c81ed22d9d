// Package agent is the core of Ballast: it decides who may have which Snapshot,
// brings what is missing through one Flight per Snapshot, and hands out pinned
// Views. A request goes one way: authorise (access.go, resolve.go) → a View that
// exists, or a Flight (flight.go) → the store → a Pin → the View's path.
//
// It must never know gRPC codes, mounts or CSI: errors here say what happened and
// what a person should do; agentrpc and csi translate.
//
// Invariants:
//   - nobody joins a Flight, sees progress or is given a View before authorise
//     has let this (credential, Repo) through;
//   - a Flight's waiters are Volumes: it outlives the calls that ask for it and
//     ends with its last waiter; nobody joins a Flight that is ending;
//   - a View's path leaves this package only after its Pin is durable;
//   - a token lives in a fetcher.Secret, and proofs are kept by a keyed hash of it.
package agent
