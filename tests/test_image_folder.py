"""Folders of images: what is read, and what is refused in one line."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from running import refusal

import iwae_tf
from iwae_tf import datasets
from iwae_tf.config import default_config
from iwae_tf.config.networks import build_networks
from iwae_tf.datasets import image_folder
from iwae_tf.serving.rows import read_rows

CYCLE = np.arange(256, dtype=np.uint8)


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def grey(value, shape=(6, 5)):
    """An image that is told from others by its grey level."""
    return np.full(shape, value, np.uint8)


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


def test_of_other_splits_no_more_than_headers_are_read(folder):
    test = datasets.load_arrays("images", split="test", data_dir=folder).images
    levels = set(np.rint(255 * test[:, 0, 0, 0]).astype(int))
    for path in folder.glob("*.png"):
        if int(path.stem) + 2 not in levels:
            path.write_bytes(path.read_bytes()[:45])  # up to the pixels
    again = datasets.load_arrays("images", split="test", data_dir=folder).images
    np.testing.assert_array_equal(again, test)
    text = refusal(datasets.load_arrays, "images", split="train", data_dir=folder)
    assert "of 32 images, 32 damaged (01.png: image file is truncated" in text


def test_what_does_not_fit_into_memory_is_refused(folder, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 99}.get)
    text = refusal(datasets.load_arrays, "images", split="test", data_dir=folder)
    assert "`data_dir` must fit into the memory of this machine" in text
    assert "resized by --config.image_size=64,64. Received: " in text
    config = default_config()
    words = refusal(build_networks, config, (4000, 3000, 6), None, None)
    assert words.startswith("`hidden_dims` must fit into the memory")
    assert "Received: x of 4000 x 3000 x 6 and these layers, which need" in words


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


def test_scores_of_a_folder_have_names_and_the_split_of_its_run(folder, tmp_path):
    config = iwae_tf.default_config()
    config.dataset, config.data_dir, config.image_size = "images", str(folder), "3,2"
    rows = read_rows(folder, config=config)
    assert rows.x.shape == (40, 3, 2, 1) and rows.x.dtype == np.float32
    levels = rows.stored[:, 0, 0, 0]
    np.testing.assert_allclose(levels, np.arange(2, 42) / 255, rtol=1e-6)
    assert rows.columns["file"] == [f"{value:02}.png" for value in range(40)]
    for split in datasets.SPLITS:
        arrays = datasets.load_arrays("images", split=split, data_dir=folder)
        names = [
            f"{round(255 * level) - 2:02}.png" for level in arrays.images[:, 0, 0, 0]
        ]
        found = zip(rows.columns["file"], rows.columns["split"])
        assert [name for name, theirs in found if theirs == split] == names
    other = tmp_path / "other"
    write(other / "cats" / "a.png", grey(3))
    assert read_rows(other, config=config).columns == {"file": ["cats/a.png"]}
    assert read_rows(other, image_size="4,4", color="rgb").x.shape == (1, 4, 4, 3)


def test_what_is_refused(folder, tmp_path):
    def load(path=folder):
        return refusal(datasets.load_arrays, "images", split="train", data_dir=path)

    assert load(None).startswith("`data_dir` must be a folder of .png, .jpg, .jpeg, .w")
    assert load(None).endswith("data_dir=None")  # not the images of the working folder
    assert load(tmp_path / "nowhere").endswith("nowhere, which does not exist")
    assert "or of folders of them" in load(tmp_path / "own" / "00.png")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert "or of folders of them" in load(tmp_path / "empty")
    text = refusal(read_rows, tmp_path / "empty")
    assert text.startswith("`input` must be a folder of .png")
    np.save(tmp_path / "x.npy", np.zeros([2, 6, 5, 1]))
    text = refusal(read_rows, tmp_path / "x.npy", image_size="3,2")
    assert text.startswith("`image_size` must be left out unless `input` is a folder")
    few = tmp_path / "few"
    write(few / "a.png", grey(9))
    assert load(few).endswith(f"Received: 1 images in {few}")


def test_all_that_does_not_fit_is_told_at_once(folder):
    shapes = {"z0": (5, 6), "z1": (9, 9), "z2": (9, 9), "z3": (8, 8)}
    for name, shape in shapes.items():
        write(folder / f"{name}.png", grey(9, shape))
    write(folder / "z4.png", np.zeros([6, 5, 4], np.uint8))
    write(folder / "z5.png", np.full([6, 5, 3], 7, np.uint8))
    write(folder / "z6.png", np.full([6, 5], 4000, np.uint16))
    (folder / "z7.png").write_text("no image")
    Image.new("CMYK", (5, 6)).save(folder / "z8.jpg")
    frames = [Image.fromarray(grey(level)) for level in (1, 200)]
    frames[0].save(folder / "z9.gif", save_all=True, append_images=frames[1:])
    text = refusal(datasets.load_arrays, "images", split="train", data_dir=folder)
    assert text.endswith(
        "without transparency; --config.image_size=HEIGHT,WIDTH resizes and "
        "--config.color=gray or rgb converts and an image editor saves those of "
        "another mode as RGB. Received: most of 50 images are 6 x 5 (height x width) "
        "grey, 4 of another size (z0.png 5 x 6, z1.png 9 x 9, z2.png "
        "9 x 9, ...), 1 transparent (z4.png), 1 in colour (z5.png), 1 of more than 8 "
        "bits (z6.png), 1 damaged (z7.png: no image), 1 of mode CMYK (z8.jpg), 1 "
        "animated (z9.gif)"
    )
    for name in ("z4.png", "z6.png", "z7.png", "z8.jpg", "z9.gif"):
        (folder / name).unlink()
    options = {"data_dir": folder, "image_size": "3,4", "color": "rgb"}
    loaded = datasets.load_arrays("images", split="train", **options)
    assert loaded.images.shape[1:] == (3, 4, 3)
    assert datasets.event_shape("images", **options) == (3, 4, 3)
    assert image_folder.describe(folder, "6,5", "gray") == (
        "45 images, 6 x 5 (height x width) grey, 4 of them resized, 1 of them "
        "converted; left out: 1 .txt"
    )


def test_sixteen_bits_a_colour_are_not_cut(tmp_path):
    """Pillow itself would read the upper eight."""
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes(range(12)))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )  # fmt: skip
    (tmp_path / "a.png").write_bytes(data)
    assert Image.open(tmp_path / "a.png").mode == "RGB"
    text = refusal(image_folder.read_images, [tmp_path / "a.png"])
    assert "1 of more than 8 bits (a.png)" in text


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    image = np.arange(30, dtype=np.uint8).reshape(6, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter clockwise shows it upright
    write(tmp_path / "turned.png", image, exif=exif)
    write(tmp_path / "upright.png", np.rot90(image, -1))
    read = image_folder.read_images(sorted(tmp_path.iterdir()))
    np.testing.assert_array_equal(read[0], np.rot90(image, -1))
    np.testing.assert_array_equal(read[1], read[0])


def test_a_photo_with_a_second_picture_is_the_first_one(tmp_path):
    photo, preview = Image.fromarray(grey(90)), Image.fromarray(grey(30, (3, 3)))
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    images = image_folder.read_images([tmp_path / "a.jpg"])
    np.testing.assert_array_equal(images, grey(90)[np.newaxis])


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for label in "ab":
        for value in range(6):
            write(tmp_path / label / f"{value}.png", grey(value))
        (tmp_path / label / "._1.png").write_text("of a Mac")
        (tmp_path / label / ".DS_Store").write_text("of a Mac")
        (tmp_path / label / "x.heic").write_text("of a phone")
    write(tmp_path / ".ipynb_checkpoints" / "0.png", grey(1, (2, 2)))
    write(tmp_path / "__MACOSX" / "0.png", grey(1, (2, 2)))
    files = image_folder.list_images(tmp_path)
    assert len(files.paths) == 12 and set(files.labels) == {0, 1}
    assert files.left_out == {".heic": 2, "hidden": 4}
    write(tmp_path / "a" / "more" / "0.png", grey(1, (2, 2)))
    line = image_folder.describe(tmp_path)
    assert line.endswith("2 .heic, 4 hidden, 1 in folders that are not read")
    write(tmp_path / "preview.PNG", grey(1))
    line = image_folder.describe(tmp_path)
    assert line.endswith("left out: 13 in folders that are not read")
    text = refusal(datasets.load_arrays, "images", split="train", data_dir=tmp_path)
    assert text.endswith(
        f"1 images in {tmp_path}; left out: 13 in folders that are not read"
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "only.tiff").write_text("")
    text = refusal(image_folder.list_images, tmp_path / "c")
    assert text.endswith(f"data_dir={tmp_path / 'c'}, which has 1 .tiff")


@pytest.mark.parametrize("suffix", ["webp", "bmp", "gif"])
def test_other_formats(tmp_path, suffix):
    image = np.repeat(CYCLE[:64], 4).reshape(16, 16)
    options = {"lossless": True} if suffix == "webp" else {}
    write(tmp_path / f"a.{suffix}", np.stack([image] * 3, -1), **options)
    read = image_folder.read_images(
        [tmp_path / f"a.{suffix}"], image_folder.ImageFormat(16, 16, "gray")
    )
    np.testing.assert_allclose(read[0].astype(int), image, atol=1)


def test_palettes_and_opaque_images_are_what_they_hold(tmp_path):
    shades = Image.fromarray(np.repeat(CYCLE[::4], 4).reshape(16, 16))
    shades.convert("P").save(tmp_path / "gray.png")
    colours = np.zeros([16, 16, 3], np.uint8)
    colours[:8] = (250, 3, 9)
    Image.fromarray(colours).quantize(4).save(tmp_path / "colour.png")
    opaque = np.dstack([colours, np.full([16, 16], 255, np.uint8)])
    write(tmp_path / "opaque.png", opaque)
    gray = image_folder.read_images([tmp_path / "gray.png"])
    np.testing.assert_array_equal(gray[0], np.asarray(shades))
    read = image_folder.read_images(
        [tmp_path / f"{n}.png" for n in ("colour", "opaque")]
    )
    np.testing.assert_array_equal(read, [colours, colours])


def test_resizing_is_a_mean_over_the_pixels_of_each_new_one(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("a", (64, 64)), ("b", (32, 96))):
        write(tmp_path / f"{name}.png", rng.integers(0, 2, shape).astype("uint8") * 255)
    wanted = image_folder.image_format(sorted(tmp_path.iterdir()), "4,4")
    read = image_folder.read_images(sorted(tmp_path.iterdir()), wanted)
    assert wanted == (4, 4, "gray") and read.shape == (2, 4, 4)
    assert np.abs(read.mean() - 127.5) < 8 and read.std() < 25  # noise of 128 averaged


@pytest.mark.parametrize("size", ["64", "64x64", "0,4", "4,-1", "", (4, 5, 6)])
def test_a_size_is_auto_or_two_numbers(tmp_path, size):
    write(tmp_path / "a.png", grey(1))
    text = refusal(image_folder.image_format, [tmp_path / "a.png"], size)
    assert text.startswith("`image_size` must be auto, or height,width in pixels.")


@pytest.mark.parametrize("size", ["auto", "4,4"])
def test_a_colour_is_auto_or_one_of_two(folder, size):
    options = {"data_dir": folder, "image_size": size, "color": "purple"}
    for function, arguments in (
        (datasets.event_shape, {}),
        (datasets.load_arrays, {"split": "train"}),
        (iwae_tf.load_dataset, {}),
    ):
        text = refusal(function, "images", **arguments, **options)
        assert text.startswith("`color` must be one of auto, gray, rgb. Received: ")
