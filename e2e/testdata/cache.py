"""Fills a cache with the real client: argv[1] is the repository, argv[2] its type, the
rest revisions ("main" or commits). HF_HUB_CACHE says where. Prints each snapshot's folder.
"""
import sys

import huggingface_hub as hf

for revision in sys.argv[3:]:
    print(hf.snapshot_download(sys.argv[1], repo_type=sys.argv[2], revision=revision), flush=True)
