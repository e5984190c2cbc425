"""Download and unpacking of dataset archives."""

import os
import tarfile
import zlib
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url

from segframe.errors import UserError


def fetch_archive(url: str, md5: str, root: Path, holds: str) -> None:
    """Download a tar archive to root and unpack it there, unless root/<holds>, a path in the archive, exists.

    An archive that already lies in root is used if its MD5 is right. A fetch that was killed is completed by the next.
    UserError if a step fails, with what to do by hand.
    """
    archive = root / url.rpartition("/")[2]
    unfinished = root / f"{archive.name}.unfinished"  # exists while the archive is unpacked
    if (root / holds).exists() and not unfinished.exists():
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            _download(url, md5, archive)
        elif not check_integrity(str(archive), md5):
            raise UserError(f"{archive} does not have the MD5 {md5}: delete it and run this again")
        unfinished.touch()
        with tarfile.open(archive) as tar:
            tar.extractall(root, filter="data")
        unfinished.unlink()
    except (OSError, tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(
            f"cannot unpack {archive} in {root} ({error}): delete it if it is damaged, or point data.root at another "
            "disk, and run this again"
        ) from None


def _download(url: str, md5: str, archive: Path) -> None:
    part = archive.with_name(f"{archive.name}.part")
    try:
        download_url(url, str(part.parent), part.name, md5)
    except (OSError, RuntimeError) as error:  # RuntimeError: wrong checksum
        raise UserError(
            f"cannot fetch {url} ({error}): download it by hand, put it at {archive} and run this again"
        ) from None
    os.replace(part, archive)
