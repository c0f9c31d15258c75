"""Folders of images: what is read, and what is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from iwae_tf import datasets
from iwae_tf.datasets import image_folder
from iwae_tf.errors import InvalidInputError
from iwae_tf.serving import score_files

CYCLE = np.arange(256, dtype=np.uint8)


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def grey(value, shape=(6, 5)):
    """An image that is told from others by its grey level."""
    return np.full(shape, value, np.uint8)


def message(function, *arguments, **options):
    with pytest.raises(InvalidInputError) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path):
    for value in range(40):
        write(tmp_path / "own" / f"{value:02}.png", grey(value + 2))
    (tmp_path / "own" / "notes.txt").write_text("no image")
    return tmp_path / "own"


def test_splits_are_80_10_10_and_share_no_image(folder):
    splits = {
        split: datasets.load_arrays("images", split=split, data_dir=folder)
        for split in datasets.SPLITS
    }
    sizes = {split: arrays.images.shape for split, arrays in splits.items()}
    assert sizes == {
        "train": (32, 6, 5, 1),
        "validation": (4, 6, 5, 1),
        "test": (4, 6, 5, 1),
    }
    levels = np.concatenate([each.images[:, 0, 0, 0] for each in splits.values()])
    np.testing.assert_allclose(np.sort(levels), np.arange(2, 42) / 255, rtol=1e-6)
    assert all(each.labels is None for each in splits.values())
    again = datasets.load_arrays("images", split="test", data_dir=folder)
    np.testing.assert_array_equal(again.images, splits["test"].images)
    assert datasets.event_shape("images", data_dir=folder) == (6, 5, 1)


def test_only_the_split_asked_for_is_read(folder):
    test = datasets.load_arrays("images", split="test", data_dir=folder).images
    levels = set(np.rint(255 * test[:, 0, 0, 0]).astype(int))
    for path in folder.glob("*.png"):
        if int(path.stem) + 2 not in levels and path.stem != "00":  # for the shape
            path.write_bytes(b"damaged")
    again = datasets.load_arrays("images", split="test", data_dir=folder).images
    np.testing.assert_array_equal(again, test)


def test_sub_folders_are_classes(tmp_path):
    for label, name in enumerate(("cats", "dogs", "eels")):
        for value in range(4):
            write(tmp_path / name / f"{value}.PNG", grey(10 * label + value + 2))
    (tmp_path / "empty").mkdir()
    for split in datasets.SPLITS:
        images, labels = datasets.load_arrays("images", split=split, data_dir=tmp_path)
        levels = np.rint(255 * images[:, 0, 0, 0]).astype(int) - 2
        np.testing.assert_array_equal(labels, levels // 10)


def test_colour_palettes_and_bits(tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, [7, 8, 3], np.uint8)
    write(tmp_path / "a.png", colour)
    Image.fromarray(colour).quantize(256).save(tmp_path / "b.png")
    read = image_folder.read_images([tmp_path / "a.png", tmp_path / "b.png"])
    assert read.shape == (2, 7, 8, 3) and read.dtype == np.uint8
    np.testing.assert_array_equal(read[0], colour)
    assert np.abs(read[1].astype(int) - colour).mean() < 20  # what 56 of 256 cost
    Image.fromarray(grey(255)).convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(image_folder.read_images([tmp_path / "bits.png"]))) == {255}
    smooth = np.broadcast_to(CYCLE[::8, np.newaxis], (32, 32))
    write(tmp_path / "c.jpg", smooth, quality=95)
    jpeg = image_folder.read_images([tmp_path / "c.jpg"])[0]
    np.testing.assert_allclose(jpeg.astype(int), smooth, atol=4)


def test_a_folder_is_scored_in_the_order_of_the_names(folder):
    images = score_files.read_images(folder)
    assert images.shape == (40, 6, 5, 1) and images.dtype == np.float32
    np.testing.assert_allclose(images[:, 0, 0, 0], np.arange(2, 42) / 255, rtol=1e-6)


def test_what_is_refused(folder, tmp_path):
    def load(path=folder):
        return message(datasets.load_arrays, "images", split="train", data_dir=path)

    assert load(None).startswith("`data_dir` must be a folder of .png, .jpg, .jpeg")
    assert load(None).endswith("data_dir=None")  # not the images of the working folder
    assert load(tmp_path / "nowhere").endswith(f"data_dir={tmp_path / 'nowhere'}")
    assert "or of folders of them" in load(tmp_path / "own" / "00.png")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert "or of folders of them" in load(tmp_path / "empty")
    few = tmp_path / "few"
    write(few / "a.png", grey(9))
    assert load(few).endswith(f"Received: data_dir={few}, with 1")

    write(folder / "z0.png", grey(9, (5, 6)))
    text = message(image_folder.read_images, [folder / "00.png", folder / "z0.png"])
    assert text.endswith(
        f"{folder / '00.png'}, 5 x 6 grey, and {folder / 'z0.png'}, 6 x 5 grey"
    )
    write(folder / "z1.png", np.zeros([6, 5, 4], np.uint8))
    text = message(image_folder.read_images, [folder / "z1.png"])
    assert text.endswith(f"{folder / 'z1.png'}, of mode RGBA")
    (folder / "z2.png").write_bytes((folder / "00.png").read_bytes()[:40])
    text = message(image_folder.read_images, [folder / "z2.png"])
    assert text.startswith("`data_dir` must hold readable PNG or JPEG files. Received")


def test_scoring_names_its_own_argument(tmp_path):
    (tmp_path / "empty").mkdir()
    text = message(score_files.read_images, tmp_path / "empty")
    assert text.startswith("`input` must be a folder of .png")
