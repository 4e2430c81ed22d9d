"""Writes fnmatch.json: what huggingface_hub's own filter says of patterns and paths.

Each pattern has a string with one digit a path: 1 if the pattern lets it through.
Run with huggingface_hub installed: python3 fnmatch.py > fnmatch.json
"""
import json
import random
import sys

import huggingface_hub
from huggingface_hub.utils import filter_repo_objects

paths = """a b ab abc A a.b .a a-b - a/b a/b/c a/b/c.json model.safetensors
model-00001-of-00002.safetensors sub/model.safetensors README.md .gitattributes
onnx/model.onnx onnx/model_quantized.onnx a[b]c [a] ] [ ! a!b ^ ^a a] [] -a a\\b
a\\b\\c ünï/cödé.txt 日本/語 ü a^ b/a/b/a aaaaaaaaaaaaaaaa a*b a?b ** * ? 0 5 9 z é""".split()

patterns = """* ** ? ?? *.* *.json *.safetensors model*.safetensors onnx/ onnx/* onnx */ a/ a/* a/*/c*
*/b */*/c* **/* **/*.json a**b [ab] [ab]* [!ab] [!ab]* [a-c] [a-c]b* [!a-c]* [c-a] [!c-a] [c-a]* []] []a] [!]]
[!]a] [a [ [] [!] [!a [] [[] [[]a] [-] [a-] [-a] [!-a] [!a-] [--0] [a-c-e] [a-a] [^a] [!^a] [^] a[b]c a[[]b[]]c
[0-9] [0-9a-c]* [a-cx-z]* *[0-9]* [ü] [à-ü]* ünï/* 日本/? ??/? .* [.]* a.b a?b a[?]b a[*]b a[.]b a\\b a\\* *\\b \\
[\\] [a\\]* [/-0]* ? a*a*a*a*a*a*b *a*a*a*a*a*a* README.md readme.md README.m README.mdx
[z-a]* [!z-a]* [b-ac-a]* [a-b-c]* [!a-b-c]* [a--]* [--a]* [a-!]* [!!]* [!!a]* []-a]* [!]-a]* [a-]-z]* *] *[ *[a""".split()

rng = random.Random(20240229)
while len(patterns) < 700:
    patterns.append("".join(rng.choice("ab*?[]!-^/\\.c") for _ in range(rng.randint(1, 9))))

table = {}
for p in dict.fromkeys(patterns):
    through = set(filter_repo_objects(paths, allow_patterns=[p]))
    table[p] = "".join("01"[path in through] for path in paths)
out = {"huggingface_hub": huggingface_hub.__version__, "python": sys.version.split()[0], "paths": paths, "patterns": table}
print(json.dumps(out, ensure_ascii=False, indent=0))
