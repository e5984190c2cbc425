"""Annotations of tools, read as masks: COCO's JSON file of many images, labelme's JSON file of each image.

Where regions overlap, that of fewer pixels is on top; of two of the same number the one that is listed later.
"""

from pathlib import Path

from segframe.data.annotations.coco import Coco
from segframe.data.annotations.find import find_annotations
from segframe.data.annotations.labelme import Labelme
from segframe.data.layouts import SPLIT, log_once, split_name
from segframe.data.mask_sources import FolderFiles, MaskFolders, MaskSource
from segframe.errors import UserError

__all__ = ["open_masks"]


def open_masks(root: Path, split: str, given: FolderFiles) -> MaskSource:
    """Return where the masks of a Folder's split come from: image files, or annotations.

    Without `given.annotations` those are read that are the only ones below root, if there are no masks. UserError if
    settings contradict each other.
    """
    folders = MaskFolders(root, split, given)
    path = given.annotations
    others = {name: getattr(given, name) for name in ("masks", "image_suffix", "mask_suffix", "binary")}
    typed = [f"data.dataset.{name}={value}" for name, value in others.items() if value not in (None, "")]
    if path is None:
        if typed or given.is_listed or folders.exist():
            return folders
        paths = find_annotations(root)
        patterns = list(dict.fromkeys(each for each in map(split_name, paths) if SPLIT in each))
        found = patterns if given.by_split else paths
        if not paths:
            return folders
        if len(found) != 1:
            settings = patterns or [f"{each} data.dataset.val_ratio=0.2" for each in paths]
            cure = " or ".join(f"data.dataset.annotations={each}" for each in settings[:4])
            raise UserError(f"data.root={root}: there are annotations below it, and no folder of masks; type {cure}")
        (path,) = found
        log_once(f"data.dataset.annotations={path} (found below {root})")
    elif typed:
        raise UserError(f"data.dataset.annotations={path} and {typed[0]}: annotations have no masks; take one out")
    kind = Coco if path.endswith(".json") else Labelme
    return kind(root, split, path, given.images, given.by_split)
