"""Reads a repository through HF_ENDPOINT with the real client, as programs do.

argv[1] is the request as JSON: {"repo", "type", "commit", "files": {path: sha256},
"folders": [path]}. Prints a line for each call and exits 1 at the first that did
not do what it must.
"""
import hashlib, json, os, sys

import huggingface_hub as hf
from huggingface_hub.utils import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

ask = json.loads(sys.argv[1])
repo, kind, commit, files = ask["repo"], ask["type"], ask["commit"], ask["files"]
api = hf.HfApi()


def check(what, ok, got=""):
    print(f"{'ok ' if ok else 'BAD'} {what} {got}", flush=True)
    if not ok:
        sys.exit(1)


def refuses(what, error, call):
    try:
        got = call()
    except error as e:
        check(what, True, type(e).__name__)
    else:
        check(what, False, f"gave {got}")


def hashed(root):
    out = {}
    for top, _, names in os.walk(root):
        for name in names:
            path = os.path.join(top, name)
            with open(path, "rb") as f:
                out[os.path.relpath(path, root)] = hashlib.sha256(f.read()).hexdigest()
    return out


info = (api.model_info if kind == "model" else api.dataset_info)(repo)
check("repo info", info.id == repo and info.sha == commit and {s.rfilename for s in info.siblings} == set(files), info.sha)
blobs = api.repo_info(repo, repo_type=kind, revision=commit, files_metadata=True)
check("repo info with blobs", all(s.size is not None and s.blob_id for s in blobs.siblings), len(blobs.siblings))
tree = list(api.list_repo_tree(repo, repo_type=kind, revision="main", recursive=True))
check("list_repo_tree", {f.path for f in tree if isinstance(f, hf.hf_api.RepoFile)} == set(files) and {f.path for f in tree if isinstance(f, hf.hf_api.RepoFolder)} == set(ask["folders"]), len(tree))
check("list_repo_files", sorted(api.list_repo_files(repo, repo_type=kind)) == sorted(files))
some = sorted(files)[:2]
check("get_paths_info", [f.path for f in api.get_paths_info(repo, some + ["missing"], repo_type=kind)] == some, some)
check("list_repo_refs", [b.target_commit for b in api.list_repo_refs(repo, repo_type=kind).branches if b.name == "main"] == [commit])
check("file_exists", api.file_exists(repo, some[0], repo_type=kind) and not api.file_exists(repo, "missing", repo_type=kind))

where = hf.snapshot_download(repo, repo_type=kind)
check("snapshot_download", os.path.basename(where) == commit and hashed(where) == files, where)
where = hf.snapshot_download(repo, repo_type=kind, revision=commit, cache_dir=os.environ["HF_HOME"] + "/again", allow_patterns=["*.json"])
check("snapshot_download of *.json at a commit", hashed(where) == {p: s for p, s in files.items() if p.endswith(".json")})
where = hf.snapshot_download(repo, repo_type=kind, local_dir=os.environ["HF_HOME"] + "/local")
check("snapshot_download to a local_dir", {p: s for p, s in hashed(where).items() if not p.startswith(".cache")} == files)
for path in files:
    file = hf.hf_hub_download(repo, path, repo_type=kind, revision="main", cache_dir=os.environ["HF_HOME"] + "/single")
    with open(file, "rb") as f:
        if hashlib.sha256(f.read()).hexdigest() != files[path]:
            check(f"hf_hub_download {path}", False)
check("hf_hub_download of each file", True, len(files))
meta = hf.get_hf_file_metadata(hf.hf_hub_url(repo, some[0], repo_type=kind))
check("get_hf_file_metadata", meta.commit_hash == commit and meta.size is not None, meta.etag)
if hasattr(api, "verify_repo_checksums"):
    v = api.verify_repo_checksums(repo, repo_type=kind)
    check("verify_repo_checksums", v.checked_count == len(files) and not v.mismatches and not v.missing_paths and not v.extra_paths, v.checked_count)

refuses("a missing repository", RepositoryNotFoundError, lambda: api.repo_info("org/missing", repo_type=kind))
refuses("a missing revision", RevisionNotFoundError, lambda: api.repo_info(repo, repo_type=kind, revision="no-such"))
refuses("a missing file", EntryNotFoundError, lambda: hf.hf_hub_download(repo, "missing.bin", repo_type=kind))
