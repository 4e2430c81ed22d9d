"""Downloads a repository through HF_ENDPOINT with the real client, as programs do, and
meets each of the Hub's refusals.

argv[1] is the request as JSON, as for online.py; argv[2] is a gated repository that the
token hf_friend may read and hf_stranger may not. Prints a line for each call and exits 1
at the first that did not do what it must.
"""
import hashlib, json, os, sys

import huggingface_hub as hf
from huggingface_hub.utils import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

ask = json.loads(sys.argv[1])
repo, kind, commit, files, gated = ask["repo"], ask["type"], ask["commit"], ask["files"], sys.argv[2]


def check(what, ok, got=""):
    print(f"{'ok ' if ok else 'BAD'} {what} {got}", flush=True)
    if not ok:
        sys.exit(1)


def refuses(what, error, call):
    try:
        got = call()
    except error as e:
        check(what, type(e) is error or error is EntryNotFoundError, type(e).__name__)
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


where = hf.snapshot_download(repo, repo_type=kind)
check("snapshot_download", os.path.basename(where) == commit and hashed(where) == files, where)
blobs = {os.path.basename(os.path.realpath(os.path.join(where, path))): path for path in files}
check("every blob has the name of its LFS or git object", all(len(name) == (64 if path.endswith((".safetensors", ".bin")) else 40) for name, path in blobs.items()), len(blobs))
refuses("a gated one without a token", GatedRepoError, lambda: hf.hf_hub_download(gated, "config.json", repo_type=kind, token=False))
refuses("a gated one with another token", GatedRepoError, lambda: hf.hf_hub_download(gated, "config.json", repo_type=kind, token="hf_stranger"))
# After that it would be read from the cache.
check("snapshot_download of a gated one", hashed(hf.snapshot_download(gated, repo_type=kind, token="hf_friend")) == files)
# Without a token that is a 401 without a code, which the client reads only over https.
refuses("a missing repository", RepositoryNotFoundError, lambda: hf.hf_hub_download("org/missing", "config.json", repo_type=kind, token="hf_stranger"))
refuses("a missing revision", RevisionNotFoundError, lambda: hf.hf_hub_download(repo, "config.json", repo_type=kind, revision="none"))
refuses("a missing file", EntryNotFoundError, lambda: hf.hf_hub_download(repo, "missing.bin", repo_type=kind))
