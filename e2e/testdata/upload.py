"""Makes a repository on HF_ENDPOINT with the real client: argv[1] is its name,
argv[2] its type, argv[3] the folder with its files. Prints the commit."""
import sys

from huggingface_hub import HfApi

api = HfApi(token="hf_any")
api.create_repo(sys.argv[1], repo_type=sys.argv[2], exist_ok=True)
api.upload_folder(repo_id=sys.argv[1], repo_type=sys.argv[2], folder_path=sys.argv[3], commit_message="files")
print(api.repo_info(sys.argv[1], repo_type=sys.argv[2]).sha)
