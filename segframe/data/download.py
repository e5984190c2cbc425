"""Download and unpacking of dataset archives."""

import os
import shutil
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
    unpacked = root / f"{archive.name}.unpacked"
    try:
        if not unpacked.exists():
            if (root / holds).exists():
                return
            root.mkdir(parents=True, exist_ok=True)
            if not archive.exists():
                _download(url, md5, archive)
            elif not check_integrity(str(archive), md5):
                raise UserError(f"{archive} does not have the MD5 {md5}: delete it and run this again")
            _extract(archive, unpacked)
        # The folder exists only once the archive is completely unpacked.
        _move_contents(unpacked, root)
    except OSError as error:
        raise UserError(f"cannot unpack {archive} in {root} ({error})") from None


def _download(url: str, md5: str, archive: Path) -> None:
    part = archive.with_name(f"{archive.name}.part")
    try:
        download_url(url, str(part.parent), part.name, md5)
    except (OSError, RuntimeError) as error:  # RuntimeError: wrong checksum
        raise UserError(
            f"cannot fetch {url} ({error}): download it by hand, put it at {archive} and run this again"
        ) from None
    os.replace(part, archive)


def _extract(archive: Path, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            needed, free = sum(member.size for member in tar), shutil.disk_usage(archive.parent).free
            if needed > free:
                raise UserError(
                    f"{archive} unpacks to {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in {archive.parent}: "
                    "point data.root at another disk"
                )
            tar.extractall(unfinished, filter="data")
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(f"cannot unpack {archive} ({error}): delete it and run this again") from None
    os.replace(unfinished, folder)


def _move_contents(source: Path, target: Path) -> None:
    """Move the contents of a folder into another, merging subfolders, and remove it."""
    for path in sorted(source.iterdir()):
        destination = target / path.name
        if path.is_dir() and not path.is_symlink() and destination.is_dir():
            _move_contents(path, destination)
        else:
            os.replace(path, destination)
    source.rmdir()
