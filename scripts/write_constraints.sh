#!/usr/bin/env bash
# Write constraints.txt from what pip resolves in a clean environment. The comment at its head is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check)
torch=$(grep '^torch==' constraints.txt)
"${pip[@]}" install -q "$torch"
"${pip[@]}" install -q '.[dev,bench,dicom,serve]'
"${pip[@]}" check
{
  grep '^#' constraints.txt
  # A local version such as +cpu names one build; the pin is of the release.
  "${pip[@]}" freeze --all --exclude ctune --exclude pip | sed -E 's/\+[a-z0-9.]+$//' | tr 'A-Z_' 'a-z-' | LC_ALL=C sort
} >"$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
