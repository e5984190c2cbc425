"""Fetching a dataset's archive: checked by MD5, unpacked without leaving its folder."""

import tarfile
from pathlib import Path

from torchvision.datasets.utils import download_url

from segframe.errors import UserError


def fetch_archive(url: str, md5: str, root: Path) -> None:
    """Download a tar archive into root, unless it is there, and unpack it there; UserError says what to do by hand."""
    archive = root / url.rpartition("/")[2]
    try:
        root.mkdir(parents=True, exist_ok=True)
        download_url(url, str(root), archive.name, md5)
        with tarfile.open(archive) as tar:
            tar.extractall(root, filter="data")
    # torchvision reports a wrong checksum as RuntimeError.
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise UserError(
            f"cannot fetch {url} ({error}): download it by hand, put it at {archive} and run this again"
        ) from None
