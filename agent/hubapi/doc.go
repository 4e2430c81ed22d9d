// Package hubapi serves cached snapshots in the Hub's own HTTP API, so that any
// client of the Hub reads from a node's cache by changing its endpoint: peers,
// HF_ENDPOINT users, the demo, the tests.
//
// It owns routes, headers and JSON bodies. It must never know about fetching: what
// is not cached is answered as absent, and no request makes a byte of a file travel to
// this node. Who may have what is the Library's decision, which is why every question
// to it carries its Caller.
//
// Invariants:
//   - Who is let in is decided by the address of the connection alone, before anything
//     of the request is looked at (Config.Admit). No header has a say, and a token in a
//     request that is not let in goes nowhere.
//   - A Caller's token is what the Library proves, and it is sent, kept and logged
//     nowhere else. One in a form that the Hub does not know is refused.
//   - What the Library refuses is answered before anything is told of what was asked
//     for: a private repository's answer is a missing one's, but for names that the
//     client sent itself.
//   - What an answer costs is bounded by what the answer holds: a page, a range, the
//     paths asked for. A client that does not read holds its connection, for as long
//     as the answer takes at 1 MiB/s and a minute.
//   - Nothing is logged of a request as it came; what was asked, at Debug.
//   - Repository, revision and file path are parsed once, in parseRoute, into
//     fetcher's types; nothing else reads the URL's path.
//   - A file's ETag is its Digest's sum, and its bytes are those of a Blob, so a
//     Range answered today continues one answered before a restart.
//   - No answer names a Xet hash: a client that saw one would ask for a Xet token,
//     which a cache cannot give, where plain ranges of verified bytes are at hand.
//
// What is served, as huggingface_hub 0.30 to 2.4 ask for it (their hf_api.py and
// file_download.py); {kind} is models or datasets, {rev} is one path segment with
// its slashes as %2F:
//
//	GET  /api/{kind}/{repo}                     and /revision/{rev}
//	GET  /api/{kind}/{repo}/tree/{rev}[/{path}] recursive, limit, cursor
//	POST /api/{kind}/{repo}/paths-info/{rev}    paths, as a form or JSON
//	GET  /api/{kind}/{repo}/refs                and /auth-check
//	GET  /[datasets/]{repo}/resolve/{rev}/{path}
//	GET  /api/whoami-v2                         401: there are no accounts here
package hubapi
