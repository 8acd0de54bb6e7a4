"""Which file system a path lies on, where the system tells (Linux)."""

from __future__ import annotations

import re
from pathlib import Path

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs|9p|afs|ceph|lustre|gpfs|beegfs(_nodev)?|glusterfs|orangefs|pvfs2|ocfs2|panfs|wekafs|davfs"
    r"|fuse\.(sshfs|s3fs|rclone|ceph.*|glusterfs|beegfs|davfs2?|gcsfuse|juicefs|seaweedfs|nfs.*)"
)
_MOUNTS = Path("/proc/self/mounts")


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The kind of network file system that `path` lies on, or None; `mounts` is the system's table of mounts.

    >>> network_file_system(Path("/data/x"), "/dev/a / ext4 rw 0 0\\nhost:/d /data nfs4 rw 0 0")
    'nfs4'
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    here = path.resolve()
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # Blanks in a mount point are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1])
        inside = point == "/" or here == Path(point) or Path(point) in here.parents
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if _NETWORK.fullmatch(kind) else None
