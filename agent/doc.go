// Package agent is the core of Ballast: it decides who may have which Snapshot,
// brings what is missing through one Flight per Snapshot, and hands out pinned
// Views. A request goes one way: authorise (authorise.go; question.go, ask.go and
// inquiry.go where the Hub must be asked, local.go where another Authority is) → a View that exists, or a Flight (flight.go, bring.go)
// → the store → a Pin → the View's path. What is here is also served file by file
// (library.go), by the same authorise.
//
// It must never know gRPC codes, mounts or CSI: errors here say what happened and
// what a person should do; agentrpc and csi translate.
//
// Invariants:
//   - nobody joins a Flight, sees progress, is shown a listing or a file, or is given a
//     View before authorise has let this caller through to this Repo; and a View is
//     pinned under an authorisation of that moment, not of before the download;
//   - what is known of a Repo is known of one store.Origin: a proof, a Ref, a Manifest, a
//     View, a Blob's way here count for no other that has its name later. Whose name it
//     is, is asked before a Manifest, and before a credential's first proof;
//   - a Digest that a Repo lists is a claim: bytes are shared between Repos only if they
//     came through one that everybody may read now (access.mayUse);
//   - the node's token proves nothing for anybody. It asks only what an anonymous question
//     has shown to be everybody's (just now; for content, up to ProofFor and RefMaxAge
//     ago), or, for namespaces to which the operator opened the Repo, what no anonymous
//     proof is on record of. So nobody else is told, or given, what only that token may
//     read, and a failure of it is nobody's;
//   - a Flight's waiters are Volumes: it outlives the calls that ask for it and
//     ends with its last waiter; nobody joins a Flight that is ending;
//   - a View's path leaves this package only after its Pin is durable;
//   - files are selected once a Flight, in its own time; what is here is had without;
//   - a local Authority (a manifest file, a shared cache) has a word only where the Hub has
//     none for this caller, or of a Repo that is bound to it; only for whom the operator
//     opened it, and all others learn nothing of it, nor wait for it (local.go). It is given
//     no token. What it said is compared with the Hub as soon as that answers, but for bound
//     Repos, about which the Hub is never asked (compare.go); what the Hub contradicts is
//     given to no new Volume, for good (dispute.go);
//   - a token lives in a fetcher.Secret, and proofs are kept by a keyed hash of it.
package agent
