#!/usr/bin/env bash
# Write constraints.txt: what pip resolves today for ctune and all its extras together, with torch at its pinned release.
# The comment at the head of the file is kept. Run it where pip finds a CPU build of torch, or CUDA packages are listed too.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -q -U pip
"${pip[@]}" install -q --dry-run --ignore-installed --report "$work/report.json" \
  "$(grep '^torch==' constraints.txt)" '.[dev,bench,bench-mlflow,dicom,nrrd,onnx,serve,review,postgres,text,ray,s3,scale-test]'
grep '^#' constraints.txt >"$work/constraints.txt"
python3 - "$work/report.json" >>"$work/constraints.txt" <<'PYTHON'
import json
import re
import sys

installs = [item["metadata"] for item in json.load(open(sys.argv[1], encoding="utf-8"))["install"]]
for name, version in sorted((re.sub(r"[-_.]+", "-", m["name"]).lower(), m["version"]) for m in installs):
    if name != "ctune":
        # A local version such as +cpu names one build; the pin is of the release.
        print(f"{name}=={version.partition('+')[0]}")
PYTHON
mv "$work/constraints.txt" constraints.txt
