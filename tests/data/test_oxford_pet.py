"""Oxford-IIIT Pet: layouts, tasks, odd images, download."""

import numpy as np
import pytest
from dataset_files import check_error, make, names, put_image, put_lines, put_mask
from PIL import Image

from segframe.data import OxfordPet


def oxford_pet(home, count=30):
    for k in range(1, count + 1):
        put_image(home / f"images/Abyssinian_{k}.jpg")
        put_mask(home / f"annotations/trimaps/Abyssinian_{k}.png", [1, 2, 2, 3] * 4)
        (home / f"annotations/trimaps/._Abyssinian_{k}.png").write_bytes(b"\0\5\x16\7")
        (home / f"images/Abyssinian_{k}.mat").touch()
    lines = [f"Abyssinian_{k} 1 1 1" for k in range(1, count + 1)]
    put_lines(home / "annotations/list.txt", "#Image CLASS-ID SPECIES BREED ID", *lines)
    put_lines(home / "annotations/trainval.txt", *lines[2:])
    put_lines(home / "annotations/test.txt", *lines[:2])


@pytest.mark.parametrize("home", [".", "oxford-iiit-pet"])
def test_oxford_pet(tmp_path, home):
    oxford_pet(tmp_path / home)
    parts = {split: names(OxfordPet(tmp_path, split)) for split in OxfordPet.splits}
    assert parts["test"] == ["Abyssinian_1", "Abyssinian_2"]
    assert len(parts["trainval"]) == 28
    assert sorted(parts["train"] + parts["val"]) == sorted(parts["trainval"])
    assert 1 < len(parts["val"]) < 12
    assert OxfordPet.looks_like(tmp_path)


@pytest.mark.parametrize(
    ("words", "classes", "row"),
    [
        ([], ("background", "pet"), [1, 0, 0, 255]),
        (["data.dataset.border=ignore"], ("background", "pet"), [1, 0, 0, 255]),
        (["data.dataset.border=pet"], ("background", "pet"), [1, 0, 0, 1]),
        (["data.dataset.border=background"], ("background", "pet"), [1, 0, 0, 0]),
        (["data.dataset.task=trimap"], ("pet", "background", "border"), [0, 1, 1, 2]),
    ],
)
def test_tasks_of_oxford_pet(tmp_path, words, classes, row):
    oxford_pet(tmp_path, 4)
    dataset = make("oxford_pet", tmp_path, *words)("test")
    assert dataset.classes == classes
    assert dataset[0]["mask"][0].tolist() == row * 4


def test_odd_images_of_oxford_pet(tmp_path):
    """PNG and GIF pictures called .jpg, with transparency, and CMYK are read as RGB."""
    oxford_pet(tmp_path, 6)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 4), np.uint8)
    path = tmp_path / "images/Abyssinian_{}.jpg"
    Image.fromarray(pixels).save(str(path).format(3), "PNG")
    palette = Image.fromarray(pixels[..., 0] // 16).convert("L").quantize(16)
    palette.save(str(path).format(4), "PNG", transparency=bytes(range(16)))
    palette.save(str(path).format(5), "GIF", transparency=3)
    Image.fromarray(pixels).convert("CMYK").save(str(path).format(6), "JPEG")
    dataset = OxfordPet(tmp_path, "trainval")
    images = [item["image"].permute(1, 2, 0).numpy() for item in dataset]
    assert all(image.shape == (12, 16, 3) for image in images)
    assert np.array_equal(images[0], pixels[..., :3])
    assert np.array_equal(images[1], palette.convert("RGB"))
    assert np.array_equal(images[2], palette.convert("RGB"))


def test_oxford_pet_mistakes(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr("segframe.data.datasets.oxford_pet.fetch_archive", lambda *given: fetched.append(given))
    check_error(lambda: OxfordPet(tmp_path, "test"), f"no annotations/trimaps under {tmp_path}", "data.download=true")
    OxfordPet.download(tmp_path)
    (tmp_path / "oxford-iiit-pet").mkdir()
    OxfordPet.download(tmp_path)
    assert [root for _, _, root, _ in fetched] == [tmp_path] * 2 + [tmp_path / "oxford-iiit-pet"] * 2
    assert [url.rpartition("/")[2] for url, *_ in fetched[:2]] == ["images.tar.gz", "annotations.tar.gz"]
    oxford_pet(tmp_path, 4)
    check_error(lambda: OxfordPet(tmp_path, "test", task="both"), "data.dataset.task=both", "binary or trimap")
    check_error(lambda: OxfordPet(tmp_path, "test", border="cat"), "data.dataset.border=cat", "ignore, pet")
    check_error(lambda: OxfordPet(tmp_path, "test", task="trimap", border="pet"), "border=pet", "leave it out")
    put_lines(tmp_path / "annotations/test.txt", "Abyssinian_9 1 1 1")
    check_error(lambda: OxfordPet(tmp_path, "test"), "'Abyssinian_9' has no image")


def test_torchvision_fetches_the_same_archives_of_oxford_pet():
    torchvision = pytest.importorskip("torchvision.datasets.oxford_iiit_pet")
    from segframe.data.datasets.oxford_pet import ARCHIVES, URL

    ours = {(f"{URL}/{name}", md5) for name, (md5, _) in ARCHIVES.items()}
    assert ours == set(torchvision.OxfordIIITPet._RESOURCES)
