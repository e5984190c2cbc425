"""Annotation files as tools write them, for the tests of this folder."""

import base64
import io
import json

import numpy as np
from dataset_files import put_image
from PIL import Image

SIZE = (40, 60)
SQUARE = [5, 5, 30.5, 5, 30.5, 20.25, 5, 20.25]
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def put_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def annotation(image=1, category=3, segmentation=(SQUARE,), **more):
    content = {"segmentation": segmentation, "iscrowd": 0, "area": 1.0, "bbox": [0, 0, 1, 1], "id": 1}
    return {**content, "image_id": image, "category_id": category, **more}


def put_coco(path, names, annotations, categories=CATEGORIES, size=SIZE, images=None):
    """A COCO file of the images `names` with the ids 1, 2, ..., and the images in a folder (beside it)."""
    for name in names:
        put_image((images or path.parent) / name, size)
    listed = [{"id": k, "file_name": name, "height": size[0], "width": size[1]} for k, name in enumerate(names, 1)]
    content = {"info": {}, "licenses": [], "categories": categories, "images": listed, "annotations": annotations}
    put_json(path, content)


def put_roboflow(root, splits=("train", "valid", "test")):
    """Roboflow's export: a category 0 named as the project, of which the others are, and no annotation of it."""
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    for k, split in enumerate(splits):
        names = [f"{k}{j}_jpg.rf.0a1b.jpg" for j in range(2)]
        found = [annotation(j, 1 + j % 2) for j in (1, 2)]
        put_coco(root / split / "_annotations.coco.json", names, found, categories)


def shape(label="cat", points=((5, 5), (30.5, 5), (30.5, 20.25), (5, 20.25)), kind="polygon", **more):
    content = {"label": label, "points": [[*point] for point in points], "group_id": None, "shape_type": kind}
    return {**content, "flags": {}, **more}


def put_labelme(path, shapes, size=SIZE, **more):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    put_json(path, {**content, "imageHeight": size[0], "imageWidth": size[1], **more})


def encode_png(mask):
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask, bool)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
