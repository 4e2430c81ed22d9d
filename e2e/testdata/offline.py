"""Reads a mounted hub-cache View with the real client: HF_HUB_CACHE is the mount.

argv[1] is the request as JSON, as for online.py, and {"offline": bool}. With
HF_HUB_OFFLINE=1 nothing but the mount may be needed; without, HF_ENDPOINT answers
and the mount stays as it is.
"""
import hashlib, json, os, sys

import huggingface_hub as hf

ask = json.loads(sys.argv[1])
repo, kind, commit, files = ask["repo"], ask["type"], ask["commit"], ask["files"]
cache = os.environ["HF_HUB_CACHE"]


def check(what, ok, got=""):
    print(f"{'ok ' if ok else 'BAD'} {what} {got}", flush=True)
    if not ok:
        sys.exit(1)


def hashed(root):
    out = {}
    for top, _, names in os.walk(root):
        for name in names:
            path = os.path.join(top, name)
            with open(path, "rb") as f:
                out[os.path.relpath(path, root)] = hashlib.sha256(f.read()).hexdigest()
    return out


try:
    open(os.path.join(cache, "probe"), "w").close()
    check("the mount refuses writes", False)
except OSError as e:
    check("the mount refuses writes", True, e.strerror)

calls = {
    "snapshot_download()": {},
    "snapshot_download(main)": {"revision": "main"},
    "snapshot_download(main, local_files_only)": {"revision": "main", "local_files_only": True},
    "snapshot_download(commit, local_files_only)": {"revision": commit, "local_files_only": True},
    "snapshot_download(commit)": {"revision": commit},
}
for what, args in calls.items():
    where = hf.snapshot_download(repo, repo_type=kind, **args)
    check(what, where.startswith(cache) and os.path.basename(where) == commit and hashed(where) == files)
for path in files:
    for revision in ("main", commit, None):
        got = hf.hf_hub_download(repo, path, repo_type=kind, revision=revision)
        if not got.startswith(cache) or hashlib.sha256(open(got, "rb").read()).hexdigest() != files[path]:
            check(f"hf_hub_download({path}, {revision})", False, got)
        got = hf.try_to_load_from_cache(repo, path, repo_type=kind, revision=revision)
        if not isinstance(got, str) or not os.path.isfile(got):
            check(f"try_to_load_from_cache({path}, {revision})", False, got)
check("hf_hub_download and try_to_load_from_cache of each file", True, 3 * len(files))

scan = hf.scan_cache_dir()
# 0.x does not know CACHEDIR.TAG and warns of it; nothing else comes of that.
warnings = [str(w) for w in scan.warnings if "CACHEDIR.TAG" not in str(w) or not hf.__version__.startswith("0.")]
found = [r for r in scan.repos if r.repo_id == repo and r.repo_type == kind]
check("scan_cache_dir", not warnings and len(scan.repos) == 1 and len(found) == 1, warnings)
revisions = list(found[0].revisions)
check("scan_cache_dir: the revision", len(revisions) == 1 and revisions[0].commit_hash == commit and revisions[0].refs == {"main"} and len(revisions[0].files) == len(files), revisions[0].refs)
if not ask["offline"] and hasattr(hf.HfApi(), "verify_repo_checksums"):
    v = hf.HfApi().verify_repo_checksums(repo, repo_type=kind)
    check("verify_repo_checksums of the mount", v.checked_count == len(files) and not v.mismatches, v.checked_count)
