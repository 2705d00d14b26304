"""Reading pictures: what is refused by name, and what comes back upright and in RGB."""

import contextlib
import errno
import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from facezoo.errors import ImageError, InputError
from facezoo.files import write_bytes
from facezoo.image import decode
from facezoo.image.decode import decode_image_rgb
from facezoo.image.files import (
    find_images,
    names_with_suffix,
    read_image_rgb,
    read_reduced_rgb,
    relative_names,
    write_image_rgb,
)
from facezoo.image.reading import reading
from facezoo.testing import tiny_scrfd
from PIL import Image, ImageOps, features


@pytest.fixture
def picture(rng):
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), (0, 0), 5)
    smooth[:10, :20] = (255, 0, 0)
    return smooth


def saved(tmp_path, picture, name, **options):
    path = tmp_path / name
    Image.fromarray(picture).save(path, **options)
    return path


def test_png_comes_back_as_it_was_in_rgb(tmp_path, picture):
    np.testing.assert_array_equal(read_image_rgb(saved(tmp_path, picture, "a.png")), picture)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp", ".ppm"])
def test_formats_are_read_in_rgb(tmp_path, picture, suffix):
    image = read_image_rgb(saved(tmp_path, picture, f"a{suffix}"))
    assert image.shape == picture.shape
    assert image[4, 8, 0] > 200 > 60 > image[4, 8, 2]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, picture, orientation, suffix):
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}
    turned = Image.fromarray(picture)
    for operation in undo.get(orientation, []):
        turned = turned.transpose(Image.Transpose(operation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    turned.save(path, exif=exif.tobytes(), quality=98)
    image = read_image_rgb(path)
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif", ".mpo", ".avif"])
def test_every_format_is_turned_upright(tmp_path, picture, suffix, orientation):
    if not features.check("avif") and suffix == ".avif":
        pytest.skip("this Pillow writes no AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, picture, f"a{suffix}", exif=exif, quality=98)
    with Image.open(path) as image:
        turned = image if suffix == ".tif" else ImageOps.exif_transpose(image)
        wanted = np.asarray(turned.convert("RGB")).astype(int)
    image = read_image_rgb(path)
    assert image.shape == (picture.shape if orientation < 5 else (60, 40, 3))
    assert np.abs(image - wanted).mean() < 2


def test_opencv_need_not_know_the_orientation_of_a_webp(tmp_path, picture, monkeypatch):
    """Before 4.13 it ignored that of WebP, and imdecode with this flag ignores it everywhere."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, picture, "a.webp", exif=exif, lossless=True)
    decode = cv2.imdecode
    monkeypatch.setattr(
        cv2, "imdecode", lambda data, flags: decode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    )
    np.testing.assert_array_equal(read_image_rgb(path), np.rot90(picture, -1))


ENTRY = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"  # Orientation, a short integer, 6
MOTOROLA = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (b"II*\0\x08\0\0\0\x01\0" + ENTRY, True),
        (b"Exif\0\0II*\0\x08\0\0\0\x01\0" + ENTRY, True),
        (MOTOROLA, True),
        (MOTOROLA.replace(b"\x06", b"\x09"), False),
        (b"II*\0\x08\0\0\0\xff\xff", False),
        (b"II*\0\xff\xff\xff\xff", False),
        (b"II", False),
        (b"", False),
    ],
)
def test_the_orientation_of_a_webp_is_read_from_any_writing_of_it(picture, exif, turned):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", exif=b"II*\0\x08\0\0\0\0\0")
    data = buffer.getvalue()
    head, _, _ = data.partition(b"EXIF")
    chunk = b"EXIF" + len(exif).to_bytes(4, "little") + exif + b"\0" * (len(exif) % 2)
    data = b"RIFF" + (len(head + chunk) - 8).to_bytes(4, "little") + head[8:] + chunk
    upright = decode_image_rgb(data, "a.webp").shape == picture.shape
    assert upright != turned


def test_grey_palette_16_bit_cmyk_and_alpha_become_rgb(tmp_path, picture):
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    cv2.imwrite(str(tmp_path / "grey16.png"), grey.astype(np.uint16) * 257)
    Image.fromarray(picture).quantize(64).save(tmp_path / "palette.png")
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.dstack([picture, grey])).save(tmp_path / "alpha.png")
    for path in find_images(tmp_path):
        image = read_image_rgb(path)
        assert image.shape == picture.shape, path
        assert image.dtype == np.uint8, path
    np.testing.assert_array_equal(read_image_rgb(tmp_path / "grey16.png")[..., 0], grey)
    np.testing.assert_array_equal(read_image_rgb(tmp_path / "alpha.png"), picture)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_have_the_pixels_that_opencv_gives(picture, mode, progressive):
    for subsampling, (height, width) in enumerate([(48, 61), (33, 64), (1, 17)]):
        buffer = io.BytesIO()
        image = Image.fromarray(picture).resize((width, height)).convert(mode)
        image.save(buffer, "JPEG", subsampling=subsampling, progressive=progressive, quality=70)
        data = buffer.getvalue()
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decode_image_rgb(data, "a.jpg"), bgr[..., ::-1])


def test_a_broken_note_in_a_jpeg_does_no_harm(tmp_path, picture):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01", quality=98)
    assert read_image_rgb(path).shape == picture.shape


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"not a picture at all", "is not a readable image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image_rgb(path)
    assert "bad.jpg" in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".ppm", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_picture_that_is_cut_short_is_refused(tmp_path, picture, suffix, share):
    path = saved(tmp_path, picture, f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError):
        read_image_rgb(path)


def test_a_cut_jpeg_with_a_whole_thumbnail_is_refused(tmp_path, picture):
    thumbnail = io.BytesIO()
    Image.fromarray(picture[:8, :8]).save(thumbnail, "JPEG")
    path = saved(tmp_path, picture, "a.jpg", comment=b"x")
    data = path.read_bytes()
    segment = b"\xff\xe2" + (len(thumbnail.getvalue()) + 2).to_bytes(2, "big")
    data = data[:2] + segment + thumbnail.getvalue() + data[2:]
    path.write_bytes(data)
    assert read_image_rgb(path).shape == picture.shape
    path.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(ImageError, match="truncated"):
        read_image_rgb(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path, picture):
    path = saved(tmp_path, picture, "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert read_image_rgb(path).shape == picture.shape


@pytest.mark.parametrize("width", [17_801, 17_900, 1_000_000])
def test_a_picture_of_over_178_megapixels_is_refused(tmp_path, width):
    path = tmp_path / "bomb.pgm"
    path.write_bytes(b"P5 %d 10000 255\n" % width)
    with pytest.raises(ImageError, match=r"bomb\.pgm' has more than 178 megapixels; reduce"):
        read_image_rgb(path)
    path.write_bytes(b"P5 17800 10000 255\n")
    with pytest.raises(ImageError, match="truncated"):
        read_image_rgb(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        read_image_rgb(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image_rgb(tmp_path)


def test_folders_are_searched_to_any_depth_in_one_order(tmp_path, picture):
    for name in ["b/2.JPG", "b/10.jpg", "a.png", "b/c/d.webp", "b/notes.txt", ".hidden/x.jpg"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
    found = relative_names(find_images(tmp_path), tmp_path)
    assert found == ("a.png", "b/10.jpg", "b/2.JPG", "b/c/d.webp")


def test_a_loop_of_links_ends(tmp_path, picture):
    saved(tmp_path, picture, "a.png")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_images(tmp_path)) == 1


def test_linked_folders_are_searched_once(tmp_path, picture, caplog):
    photos, outside = tmp_path / "photos", tmp_path / "outside"
    for folder in (photos / "anna", outside / "bert"):
        folder.mkdir(parents=True)
        saved(folder, picture, "1.png")
    (photos / "bert").symlink_to(outside / "bert", target_is_directory=True)
    (photos / "carl").symlink_to(outside / "bert", target_is_directory=True)
    (photos / "zoe").symlink_to(photos / "anna", target_is_directory=True)
    assert relative_names(find_images(photos), photos) == ("anna/1.png", "bert/1.png")
    assert [r.getMessage().split("'")[1::2] for r in caplog.records] == [
        [str(photos / "carl"), str(photos / "bert")],
        [str(photos / "zoe"), str(photos / "anna")],
    ]


def test_a_link_to_a_folder_around_it_is_refused_by_name(tmp_path, picture):
    saved(tmp_path, picture, "a.png")
    (tmp_path / "in").mkdir()
    saved(tmp_path / "in", picture, "a.png")
    (tmp_path / "in" / "up").symlink_to(tmp_path, target_is_directory=True)
    found = find_images(tmp_path / "in")
    assert relative_names(found, tmp_path / "in") == ("a.png", "up/*")
    with pytest.raises(ImageError, match=r"up/\*' cannot be read: it is a link to a folder that"):
        read_image_rgb(found[1])


def test_folders_hold_what_can_be_read(tmp_path, picture):
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".heic": "PNG", ".avif": "PNG", ".pbm": "PPM"}
    suffixes = [".jpg", ".png", ".tif", ".tiff", ".gif", ".jp2", ".mpo", ".bmp", ".dib", ".pnm"]
    for suffix in [*suffixes, *kinds]:
        kind = kinds.get(suffix)
        saved(tmp_path, picture, f"a{suffix}", format=kind)
    # What it is counts where the name does not tell.
    saved(tmp_path, picture, "photo", format="JPEG")
    saved(tmp_path, picture, "photo.jpg_large", format="JPEG")
    found = find_images(tmp_path)
    assert len(found) == len(suffixes) + len(kinds) + 2
    for path in found:
        image = read_image_rgb(path)
        assert image.shape == picture.shape, path
        assert image[4, 8, 0] > 200 > 60 > image[4, 8, 2], path


def test_what_is_passed_over_is_said_once_and_counted(tmp_path, picture, caplog):
    saved(tmp_path, picture, "a.png")
    for name in ("b.mp4", "c.MP4", "raw.dng", "notes", ".hidden"):
        (tmp_path / name).write_bytes(b"II*\0")
    with reading() as found:
        assert len(find_images(tmp_path)) == len(find_images(tmp_path)) == 1
    assert found.passed_over_count == 4
    said = (
        "4 files passed over: 2 .mp4 (video), 1 without a suffix (not an image format that is "
        "read), 1 .dng (raw photo of a camera)"
    )
    assert [r.getMessage() for r in caplog.records] == [f"{str(tmp_path)!r}: {said}"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"contains no image, at any depth; 4 files passed over"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\0\x18ftypmp42", "a video; expected an image: give the frames"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\x1aE\xdf\xa3matroska", "a video"),
        (b"%PDF-1.7", "a PDF document; expected an image: save its pages"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="">', "an SVG drawing"),
        (b"PK\x03\x04", "an archive"),
        (b"\xff\x0a\xff", "a JPEG XL image"),
        (b"\0\0\0\x18ftypheic" + bytes(16), "a photo in HEIF, which needs a plug-in here: pip"),
    ],
)
def test_what_is_no_image_is_named_for_what_it_is(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content + bytes(200))
    with pytest.raises(ImageError, match=rf"a\.jpg' is {reason}"):
        read_image_rgb(path)


@pytest.mark.parametrize("address", ["https://host/a.jpg", "s3://bucket/a.jpg"])
def test_an_address_is_named(address):
    scheme = address.split(":")[0]
    for read in (read_image_rgb, find_images):
        with pytest.raises(InputError, match=f"a.jpg' cannot be read: it is a {scheme} address"):
            read(Path(address))


def test_a_raw_photo_is_not_taken_for_its_preview(tmp_path, picture):
    path = saved(tmp_path, picture, "a.tif", tiffinfo={0x00FE: 1})
    with pytest.raises(ImageError, match="only a preview, as in raw photos"):
        read_image_rgb(path)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_first_image_of_several_is_read_and_that_is_said(tmp_path, picture, caplog, suffix):
    others = [Image.fromarray(255 - picture)] * 2
    path = saved(tmp_path, picture, f"a{suffix}", save_all=True, append_images=others)
    with reading():
        image = read_image_rgb(path)
        read_image_rgb(path)
    assert image[4, 8, 0] > 200 > 60 > image[4, 8, 2]
    assert image.shape == picture.shape
    assert [record.getMessage() for record in caplog.records] == [
        f"{str(path)!r} has several images; only the first is read"
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_that_cannot_be_opened_is_named(tmp_path, order):
    path = tmp_path / "a.tif"
    path.write_bytes((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 1 << 20))
    with pytest.raises(
        ImageError, match=r"a\.tif' is not a readable TIFF: it is damaged, or a raw"
    ):
        read_image_rgb(path)


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_deflate", "jpeg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_part_of_a_tiff_is_refused(tmp_path, rng, compression, mode, capfd):
    """Its decoder drops wrong check sums and what a JPEG decoder says."""
    if compression == "jpeg":
        pytest.importorskip("simplejpeg", reason="no wheel of simplejpeg")
    image = Image.fromarray(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "a.tif", compression=compression)
    read_image_rgb(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as opened:
        tags = opened.tag_v2
        places, sizes = tags[273], tags[279]
        assert len(places) > 1
    intact = (tmp_path / "a.tif").read_bytes()
    for place, size in zip(places, sizes):
        damaged = bytearray(intact)
        middle = place + size // 2
        damaged[middle : middle + 40] = rng.integers(0, 256, 40, dtype=np.uint8).tobytes()
        (tmp_path / "a.tif").write_bytes(damaged)
        with pytest.raises(
            ImageError, match=r"a\.tif' is damaged: .*; replace it by an intact copy"
        ):
            read_image_rgb(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


def tagged(number, kind, *values):
    """An entry of a TIFF's directory: SHORT is 3, LONG 4; values that fit into it, or one place."""
    return struct.pack("<HHI", number, kind, len(values)) + struct.pack(
        "<HH" if kind == 3 else "<I", *(values + (0,) if kind == 3 else values)
    )


def test_tiffs_that_only_libtiff_understands_are_read(tmp_path, rng):
    """Reversed bits, JPEG parts or tables without an end, JPEG of two channels."""
    pixels = np.kron(rng.integers(0, 256, (20, 20, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    path = saved(tmp_path, pixels, "a.tif", compression="tiff_deflate", tiffinfo={266: 1})
    content = bytearray(path.read_bytes())
    with Image.open(path) as opened:
        parts = list(zip(opened.tag_v2[273], opened.tag_v2[279]))
    place = content.index(tagged(266, 3, 1))
    content[place : place + 12] = tagged(266, 3, 2)
    for start, size in parts:
        bits = np.unpackbits(np.frombuffer(content[start : start + size], np.uint8))
        content[start : start + size] = np.packbits(bits.reshape(-1, 8)[:, ::-1]).tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image_rgb(path), pixels)

    path = saved(tmp_path, pixels, "b.tif", compression="jpeg")
    expected, content = read_image_rgb(path), bytearray(path.read_bytes())
    with Image.open(path) as opened:
        sizes, tables = opened.tag_v2[279], opened.tag_v2[347]
    assert tables.endswith(b"\xff\xd9")
    every = struct.pack(f"<{len(sizes)}I", *sizes)
    shorter = struct.pack(f"<{len(sizes)}I", *(size - 2 for size in sizes))
    path.write_bytes(content.replace(every, shorter))
    np.testing.assert_array_equal(read_image_rgb(path), expected)
    length = struct.pack("<HHI", 347, 7, len(tables))
    assert content.count(length) == 1
    path.write_bytes(content.replace(length, struct.pack("<HHI", 347, 7, len(tables) - 2)))
    np.testing.assert_array_equal(read_image_rgb(path), expected)

    Image.fromarray(pixels).convert("LA").save(path, compression="jpeg")
    assert read_image_rgb(path).shape == pixels.shape


def test_the_check_of_a_tiff_ends_whatever_its_tags_say(tmp_path, monkeypatch):
    """One part of zeros is named many times; it would be unpacked that often."""
    path = saved(tmp_path, np.zeros((160, 200, 3), np.uint8), "a.tif", compression="tiff_deflate")
    with Image.open(path) as opened:
        count = len(opened.tag_v2[273])
    bomb = zlib.compress(bytes(8 << 20))
    content = bytearray(path.read_bytes())
    places, sizes = (bytes(content).index(struct.pack("<HHI", tag, 4, count)) for tag in (273, 279))
    many = 400
    for place, value in ((places, len(content)), (sizes, len(bomb))):
        table = len(content) + len(bomb) + (0 if place == places else 4 * many)
        content[place + 4 : place + 12] = struct.pack("<II", many, table)
        assert value
    numbers = [len(content)] * many + [len(bomb)] * many
    path.write_bytes(bytes(content) + bomb + struct.pack(f"<{2 * many}I", *numbers))
    unpacked = []
    check = decode._check_deflated
    monkeypatch.setattr(
        decode,
        "_check_deflated",
        lambda part, most: unpacked.append(check(part, most)) or unpacked[-1],
    )
    with contextlib.suppress(ImageError):
        read_image_rgb(path)
    assert unpacked
    assert sum(unpacked) < 40 << 20


def test_photos_that_need_a_plug_in_are_named_and_counted(tmp_path, picture, monkeypatch):
    monkeypatch.setattr("facezoo.image.decode._plug_in", lambda kind: False)
    saved(tmp_path, picture, "a.png")
    for name in ("b.heic", "c.HEIC", "d"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    found = find_images(tmp_path)
    assert relative_names(found, tmp_path) == ("a.png", "b.heic", "c.HEIC", "d")
    for path in found[1:]:
        with pytest.raises(ImageError, match=r"a photo in HEIF, .*: pip install pillow-heif$"):
            read_image_rgb(path)


# Warnings of the decoders -------------------------------------------------------------------------


def test_no_warning_of_pillow_is_shown_whatever_threads_read(tmp_path, picture):
    """Contexts that silence warnings overlap in threads."""
    note = 0x8298  # Copyright, the last tag
    path = saved(tmp_path, picture, "a.tif", tiffinfo={note: "of somebody"})
    content = bytearray(path.read_bytes())
    entry = content.index(struct.pack("<HH", note, 2))
    content[entry + 8 : entry + 12] = struct.pack("<I", 1 << 28)  # It begins behind the file.
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as threads:
            images = list(threads.map(read_image_rgb, [path] * 200))
        assert warnings.filters == before
    assert said == []
    assert all(np.array_equal(image, picture) for image in images)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_a_png_with_an_odd_profile_is_read_as_without_and_in_silence(tmp_path, capfd, mode):
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    image = Image.fromarray(ramp if mode == "I;16" else (ramp >> 8).astype(np.uint8))
    image = image if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "plain.png")
    content = (tmp_path / "plain.png").read_bytes()
    odd = b""
    for body in (b"iCCPicc\0\0" + zlib.compress(b"no profile"), b"sRGB\x09", b"gAMA" + bytes(4)):
        odd += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "odd.png").write_bytes(content[:33] + odd + content[33:])
    plain, read = (read_image_rgb(tmp_path / name) for name in ("plain.png", "odd.png"))
    np.testing.assert_array_equal(read, plain)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".png", ".avif", ".bmp"])
def test_a_damaged_image_is_refused_in_one_line(tmp_path, picture, suffix):
    """The decoders print to the standard error, in a process of their own as in a command."""
    if not features.check("avif") and suffix == ".avif":
        pytest.skip("this Pillow writes no AVIF")
    path = saved(tmp_path, picture, f"a{suffix}")
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + (b"" if suffix == ".bmp" else bytes(20)) + content[-40:])
    words = [sys.executable, "-m", "facezoo", "predict", str(path), "--detector"]
    words += [str(tiny_scrfd(tmp_path / "net.onnx")), "--quiet", "-o", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert f"a{suffix}' is " in line


def test_a_lone_file_is_a_list_of_one(tmp_path, picture):
    path = saved(tmp_path, picture, "a.png")
    assert find_images(path) == [path]
    assert relative_names([path], path) == ("a.png",)


def test_no_folder_and_no_picture_are_errors(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(InputError, match="contains no image"):
        find_images(tmp_path)


def test_names_never_collide():
    names = ["e/a.jpg", "e/a.png", "e/b.jpg", "f/a.jpg", "e/c.x.jpg"]
    assert names_with_suffix(names, ".txt") == {
        "e/a.jpg": "e/a.jpg.txt",
        "e/a.png": "e/a.png.txt",
        "e/b.jpg": "e/b.txt",
        "f/a.jpg": "f/a.txt",
        "e/c.x.jpg": "e/c.x.txt",
    }


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_bytes(path, b"first")
    with pytest.raises(TypeError):
        write_bytes(path, b"the first piece is on the disk when the second fails", None)
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_a_written_picture_comes_back(tmp_path, picture):
    write_image_rgb(tmp_path / "x" / "a.png", picture)
    np.testing.assert_array_equal(read_image_rgb(tmp_path / "x" / "a.png"), picture)


@pytest.mark.shared
def test_the_odd_photos(shared):
    folder = shared / "assets" / "photos_odd"
    refused = {"zero.jpg", "not_an_image.jpg", "truncated.jpg"}
    for path in find_images(folder):
        if path.name in refused:
            with pytest.raises(ImageError, match=path.name):
                read_image_rgb(path)
        else:
            assert read_image_rgb(path).ndim == 3


# Damage -------------------------------------------------------------------------------------------


@pytest.fixture
def noise(rng):
    """A photo-like image that every format needs some thousands of bytes for."""
    coarse = rng.integers(0, 256, (30, 40, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC))


def zeroed(data, start, count):
    return data[:start] + bytes(count) + data[start + count :]


DAMAGES = {
    "zeros": lambda data: zeroed(data, len(data) // 3, 64),
    "a hole": lambda data: data[: len(data) // 3] + data[len(data) // 2 :],
    "a zeroed half": lambda data: zeroed(data, len(data) // 2, len(data) // 2 - 2),
    "a zeroed tail": lambda data: zeroed(data, len(data) * 3 // 4, len(data) // 4 - 2),
    "cut": lambda data: data[: len(data) // 2],
    "cut and closed": lambda data: data[: len(data) // 3] + data[-2:],
}
STRICT = {
    "jpg": {"quality": 90},
    "progressive.jpg": {"quality": 90, "progressive": True},
    "cmyk.jpg": {"quality": 90},
    "turned.jpg": {"quality": 90},
    "mpo": {"quality": 90},
    "png": {},
    "gif": {},
    "webp": {"quality": 90},
    "lossless.webp": {"lossless": True},
}


def encoded(noise, name, options):
    image = Image.fromarray(noise)
    if name == "turned.jpg":
        options = {**options, "exif": Image.Exif()}
        options["exif"][0x0112] = 6
    if name == "cmyk.jpg":
        image = image.convert("CMYK")
    buffer = io.BytesIO()
    suffix = f".{name.split('.')[-1]}"
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STRICT)
def test_a_damaged_image_is_refused(noise, name, damage):
    data = encoded(noise, name, STRICT[name])
    assert decode_image_rgb(data, name).size == noise.size
    with pytest.raises(ImageError, match=rf"{name}' is (damaged|truncated): "):
        decode_image_rgb(DAMAGES[damage](data), name)


@pytest.mark.parametrize("name", STRICT)
def test_bytes_after_the_end_do_no_harm(noise, name, caplog):
    data = encoded(noise, name, STRICT[name])
    for more in (bytes(100), b"\xff\xd9" * 3, b"text"):
        np.testing.assert_array_equal(
            decode_image_rgb(data + more, name), decode_image_rgb(data, name)
        )
    assert caplog.text == ""


def test_a_progressive_jpeg_without_its_last_scans_is_refused(noise):
    data = encoded(noise, "progressive.jpg", STRICT["progressive.jpg"])
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    # Up to the tables of the next scan.
    for last in starts[1:]:
        end = data.rindex(b"\xff\xc4", 0, last)
        with pytest.raises(ImageError, match="some of its scans are missing"):
            decode_image_rgb(data[:end] + b"\xff\xd9", "a.jpg")


def test_a_progressive_jpeg_without_a_scan_in_the_middle_is_refused(noise):
    data = encoded(noise, "progressive.jpg", STRICT["progressive.jpg"])
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    # A scan begins with its tables, if it has any.
    tables = sorted({data.rindex(b"\xff\xc4", 0, at) for at in starts})
    assert len(tables) > 5
    for first, last in zip(tables[1:], tables[2:]):
        with pytest.raises(ImageError, match=r"some of its scans are missing|is damaged"):
            decode_image_rgb(data[:first] + data[last:], "a.jpg")


def test_a_reduced_image_is_read_as_strictly(tmp_path, rng):
    path = tmp_path / "a.jpg"
    Image.effect_noise((1400, 1400), 60).convert("RGB").save(path)
    data = path.read_bytes()
    path.write_bytes(DAMAGES["a hole"](data))
    with pytest.raises(ImageError, match="is damaged"):
        read_reduced_rgb(path, (640, 640))


def test_a_damaged_image_is_read_and_marked_where_that_is_allowed(noise, caplog):
    data = encoded(noise, "jpg", STRICT["jpg"])
    bad = DAMAGES["a hole"](data)
    with reading(allow_damaged=True) as found:
        image = decode_image_rgb(bad, "a.jpg")
        decode_image_rgb(bad, "a.jpg")
        np.testing.assert_array_equal(
            decode_image_rgb(data, "b.jpg"), decode_image_rgb(data, "b.jpg")
        )
        # Nothing can be made of this one.
        with pytest.raises(ImageError, match=r"not even read in part"):
            decode_image_rgb(DAMAGES["cut"](encoded(noise, "gif", {})), "c.gif")
    assert image.shape == noise.shape
    assert list(found.damaged) == ["a.jpg"]
    assert "Corrupt JPEG data" in found.damaged["a.jpg"]
    assert caplog.text.count("damaged, but read: 'a.jpg'") == 1
    with pytest.raises(ImageError, match="is damaged"):
        decode_image_rgb(bad, "a.jpg")


def test_an_intact_webp_with_a_plain_area_is_not_taken_for_damaged(noise):
    for colour in (0, 255):
        image = np.full((600, 800, 3), colour, np.uint8)
        for corner in ((0, 0), (300, 400)):
            image[corner[0] : corner[0] + 240, corner[1] : corner[1] + 320] = noise
            for options in ({"quality": 30}, {"quality": 90}, {"lossless": True, "method": 0}):
                data = encoded(image, "webp", options)
                assert decode_image_rgb(data, "a.webp").shape == image.shape


# Reading at a part of the size --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fit_hw", "reduction"),
    [
        ((1280, 1280), (640, 640), 2),
        ((1279, 1279), (640, 640), 1),
        ((2560, 900), (640, 640), 4),
        ((6001, 4003), (640, 640), 8),
        ((900, 700), (112, 100), 8),
    ],
)
def test_a_large_jpeg_is_read_as_small_as_the_box_allows(tmp_path, size, fit_hw, reduction):
    width, height = size
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    whole = np.stack([np.broadcast_to(ramp, (height, width)), *np.full((2, height, width), 40)], 2)
    path = saved(tmp_path, whole.astype(np.uint8), "a.jpg", quality=95)
    image, image_hw = read_reduced_rgb(path, fit_hw)
    assert image_hw == (height, width)
    assert image.shape == (-(-height // reduction), -(-width // reduction), 3)
    middle = image[image.shape[0] // 2, :, 0].astype(int)
    assert np.abs(middle - np.linspace(0, 255, len(middle))).max() < 6
    assert image[..., 1:].max() < 60


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_jpeg_keeps_its_upright_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.new("RGB", (900, 401)).save(path, exif=exif)
    image, image_hw = read_reduced_rgb(path, (200, 200))
    assert image_hw == read_image_rgb(path).shape[:2]
    assert image.shape[:2] == ((101, 225) if image_hw == (401, 900) else (225, 101))


@pytest.mark.parametrize("name", ["a.png", "small.jpg"])
def test_other_pictures_are_read_in_full(tmp_path, name):
    size = (900, 700) if name == "a.png" else (90, 70)
    path = tmp_path / name
    Image.effect_noise(size, 50).convert("RGB").save(path)
    image, image_hw = read_reduced_rgb(path, (100, 100))
    np.testing.assert_array_equal(image, read_image_rgb(path))
    assert image_hw == image.shape[:2]


def test_what_cannot_be_read_in_full_cannot_be_read_in_part(tmp_path, picture):
    path = saved(tmp_path, picture, "a.jpg")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageError, match="truncated"):
        read_reduced_rgb(path, (10, 10))
    with pytest.raises(ImageError, match="cannot be read"):
        read_reduced_rgb(tmp_path / "none.jpg", (10, 10))


def test_a_full_disk_is_said_of_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(tmp_path / "a.txt", b"x")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
