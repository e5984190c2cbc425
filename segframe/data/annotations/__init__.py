"""Annotations of tools, read as masks: COCO's JSON file of many images, labelme's JSON file of each image.

Where regions overlap, that of fewer pixels is on top; of two of the same number the one that is listed later.
"""

from pathlib import Path

from segframe.data.annotations.coco import Coco
from segframe.data.annotations.find import find_annotations
from segframe.data.annotations.labelme import Labelme
from segframe.data.layouts import SPLIT, log_once, split_name
from segframe.data.mask_sources import MaskFolders, MaskSource
from segframe.errors import UserError

__all__ = ["open_masks"]


def open_masks(
    root: Path,
    split: str,
    *,
    images: str | None,
    masks: str | None,
    annotations: str | None,
    image_suffix: str,
    mask_suffix: str,
    binary: bool | None,
    by_split: bool,
    is_listed: bool,
) -> MaskSource:
    """Return the source of a Folder's masks, of which these are the settings.

    `by_split`: each split has files of its own; `is_listed`: text files list the samples. Without `annotations` those
    are read that are the only ones below root, if there are no masks. UserError if settings contradict each other.
    """
    folders = MaskFolders(
        root,
        split,
        images=images,
        masks=masks,
        image_suffix=image_suffix,
        mask_suffix=mask_suffix,
        binary=binary,
        by_split=by_split,
        is_listed=is_listed,
    )
    others = {"masks": masks, "image_suffix": image_suffix, "mask_suffix": mask_suffix, "binary": binary}
    given = [f"data.dataset.{name}={value}" for name, value in others.items() if value not in (None, "")]
    if annotations is None:
        if given or is_listed or folders.exist():
            return folders
        paths = find_annotations(root)
        patterns = list(dict.fromkeys(path for path in map(split_name, paths) if SPLIT in path))
        found = patterns if by_split else paths
        if not paths:
            return folders
        if len(found) != 1:
            settings = patterns or [f"{path} data.dataset.val_ratio=0.2" for path in paths]
            cure = " or ".join(f"data.dataset.annotations={each}" for each in settings[:4])
            raise UserError(f"data.root={root}: there are annotations below it, and no folder of masks; type {cure}")
        (annotations,) = found
        log_once(f"data.dataset.annotations={annotations} (found below {root})")
    elif given:
        raise UserError(
            f"data.dataset.annotations={annotations} and {given[0]}: annotations have no masks; take one out"
        )
    kind = Coco if annotations.endswith(".json") else Labelme
    return kind(root, split, annotations, images, by_split)
