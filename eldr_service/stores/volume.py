"""Whether a folder is on a network volume."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # Linux
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs|afs|ceph|lustre|gpfs|beegfs\w*|orangefs|ocfs2|gfs2|9p|coda"
    r"|fuse\.(sshfs|glusterfs|ceph\S*|s3fs|gcsfuse|rclone|davfs2?|juicefs|goofys|lizardfs|moosefs)"
)


def network_volume(folder: Path, mounts: Path | None = None) -> str:
    """The type of the network volume that a folder lies on, such as nfs4; empty for a local one.

    Also empty if the system does not say.
    """
    try:
        lines = (mounts or MOUNTS).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    inside = str(folder.resolve())
    found = "", ""  # the deepest mount point, on ties the latest
    for line in lines:
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        is_there = point == "/" or inside == point or inside.startswith(f"{point}/")
        if is_there and len(point) >= len(found[0]):
            found = point, right.split(" ")[0]
    return found[1] if NETWORK.fullmatch(found[1]) else ""
