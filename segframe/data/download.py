"""Fetching a dataset's archive: compared with its published checksum, then unpacked as a whole or not at all."""

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from torchvision.datasets.utils import download_url

from segframe.errors import UserError


class Member(NamedTuple):
    """What an archive says of one of its files."""

    name: str
    size: int
    """In bytes, unpacked."""
    kind: str
    """File, folder, link, or what the archive makes of others."""
    target: str
    """Where a link points, else empty."""
    unpack: Callable[[Path], object]
    """Writes it below a folder, and no more bytes than its size."""


def fetch_archive(url: str, md5: str, root: Path, holds: str) -> None:
    """Bring what a tar or zip archive holds under root, unless root/<holds>, a path of the archive, is there.

    The archive is downloaded beside it, unless somebody has put it there. UserError says what to do by hand.
    """
    archive = root / url.rpartition("/")[2]
    unpacked = root / f"{archive.name}.unpacked"
    try:
        if not unpacked.exists():
            if (root / holds).exists():
                return
            root.mkdir(parents=True, exist_ok=True)
            if archive.exists():
                _compare(archive, md5)
            else:
                _download(url, md5, archive)
            _unpack(archive, unpacked)
        # Moved only once all of it is there, and what a killed run has not moved is moved by the next.
        _move(unpacked, root)
    except OSError as error:
        raise UserError(f"cannot unpack {archive} in {root} ({error})") from None


def _download(url: str, md5: str, archive: Path) -> None:
    part = archive.with_name(f"{archive.name}.part")
    try:
        download_url(url, str(part.parent), part.name, md5)
    # torchvision reports a wrong checksum as RuntimeError.
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot fetch {url} ({error}): download it by hand, put it at {archive} and run this again"
        ) from None
    os.replace(part, archive)


def _compare(archive: Path, md5: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(
            f"{archive} has the MD5 {found} and not {md5}: it is damaged or another file, delete it and run this again"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Make the folder with what the archive holds, under another name until it is complete."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with _opened(archive) as members:
        for member in members:
            _check_member(archive, member)
        needed, free = sum(member.size for member in members), shutil.disk_usage(archive.parent).free
        if needed > free:
            raise UserError(
                f"{archive} unpacks to {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in {archive.parent}: "
                "point data.root at another disk"
            )
        unfinished.mkdir()
        try:
            for member in members:
                member.unpack(unfinished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    os.replace(unfinished, folder)


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """Open a tar or zip archive, whatever its name; UserError where it is neither, or is damaged."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield [_of_zip(file, info) for info in file.infolist()]
        else:
            with tarfile.open(archive) as tar:
                yield [_of_tar(tar, info) for info in tar]
    # RuntimeError: zip's encrypted members, and compressions that this Python does not know.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"cannot unpack {archive} ({error}): delete it and run this again") from None


def _of_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    # Zip keeps the target of a link as a file's text, and its kind only where it was made on Unix.
    mode = stat.S_IFMT(info.external_attr >> 16)
    kind = "folder" if info.is_dir() else "file" if mode in (0, stat.S_IFREG) else "link or device"
    # zipfile ends at the size that the archive states, where it compares the checksum.
    return Member(info.filename, info.file_size, kind, "", lambda folder: archive.extract(info, folder))


def _of_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    kind = "file" if info.isfile() else "folder" if info.isdir() else "device"
    if info.issym() or info.islnk():
        kind = "link"
    target = info.linkname if kind == "link" else ""
    # A tar's member has as many bytes as it states, by its format.
    return Member(info.name, info.size, kind, target, lambda folder: archive.extract(info, folder, filter="data"))


def _check_member(archive: Path, member: Member) -> None:
    if member.kind not in ("file", "folder", "link"):
        raise UserError(f"{archive} holds {member.name!r}, a {member.kind}, so nothing of it is unpacked")
    for path in (member.name, member.target):
        # As Windows reads it: with both slashes, and drives.
        parts = PureWindowsPath(path)
        # A link that only points down leads nowhere else, whatever other links it meets.
        if parts.anchor or ".." in parts.parts:
            where = f"{member.name!r} -> {path!r}" if path == member.target else f"{path!r}"
            raise UserError(f"{archive} holds {where}, which leads out of its folder, so nothing of it is unpacked")


def _move(source: Path, target: Path) -> None:
    """Move what a folder holds into another one, into folders that are there already, and remove it."""
    for path in sorted(source.iterdir()):
        there = target / path.name
        if path.is_dir() and not path.is_symlink() and there.is_dir():
            _move(path, there)
        else:
            os.replace(path, there)
    source.rmdir()
