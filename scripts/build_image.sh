#!/usr/bin/env bash
# Build the image of the Dockerfile from nothing, without a container daemon, and run it: the smallest demo, then a service of
# its model that is asked for one CT. RUN_DEMO=0 leaves both out.
#
# Needs root, debootstrap and buildah (`apt-get install buildah debootstrap`). The base is a minimal Debian bookworm, whose
# Python is 3.11. pip's configuration of this machine reaches the build as a secret, and the folders it names as
# read-only volumes; neither enters a layer.
#   IMAGE=ctune  BASE_IMAGE=ctune-base  MIRROR=...  WORK=/var/tmp/ctune-image  scripts/build_image.sh
set -euo pipefail
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-ctune}
BASE_IMAGE=${BASE_IMAGE:-ctune-base}
WORK=${WORK:-/var/tmp/ctune-image}
for tool in debootstrap buildah python3; do
  command -v "$tool" >/dev/null || { echo "error: expected $tool on the path; apt-get install buildah debootstrap" >&2; exit 1; }
done
mkdir -p "$WORK"
build=(buildah --storage-driver vfs --root "$WORK/storage" --runroot "$WORK/run")

if ! "${build[@]}" inspect --type image "$BASE_IMAGE" >/dev/null 2>&1; then
  rm -rf "$WORK/rootfs"
  debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    bookworm "$WORK/rootfs" ${MIRROR:+"$MIRROR"}
  rm -rf "$WORK"/rootfs/var/cache/apt/archives/*.deb "$WORK"/rootfs/var/lib/apt/lists/*
  container=$("${build[@]}" from scratch)
  "${build[@]}" add -q "$container" "$WORK/rootfs" /
  "${build[@]}" commit -q --rm "$container" "$BASE_IMAGE"
  rm -rf "$WORK/rootfs"
fi

secret=$(mktemp)
trap 'rm -f "$secret"' EXIT
python3 scripts/pip_settings.py "$secret" >"$WORK/volumes"
mapfile -t volumes <"$WORK/volumes"
# Docker's format: the other one has no health check.
"${build[@]}" bud --format docker --isolation chroot --build-arg "BASE=localhost/$BASE_IMAGE" \
  --secret "id=pip_conf,src=$secret" ${volumes[@]+"${volumes[@]}"} -t "$IMAGE" .

container=$("${build[@]}" from "localhost/$IMAGE")
trap 'rm -f "$secret"; "${build[@]}" rm "$container" >/dev/null' EXIT
"${build[@]}" run --isolation chroot "$container" -- ctune --version
"${build[@]}" run --isolation chroot "$container" -- python3 -c \
  'import os, torch; assert os.getuid() == 1000, os.getuid(); assert torch.version.cuda is None, torch.version.cuda'
"${build[@]}" inspect --type image "localhost/$IMAGE" | python3 -c 'import json, sys
found = json.load(sys.stdin)["Docker"]["config"]
assert found["Entrypoint"] == ["ctune"] and found["User"] == "ctune" and "readyz" in str(found["Healthcheck"]), found'
if [ "${RUN_DEMO:-1}" = 1 ]; then
  "${build[@]}" run --isolation chroot "$container" -- ctune demo --size tiny
  "${build[@]}" run --isolation chroot "$container" -- python3 - <scripts/ask_image.py
fi
"${build[@]}" images "localhost/$IMAGE"
