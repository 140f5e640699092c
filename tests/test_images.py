import errno
import io
import math
import os
import pickle
import random
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from mspd import images
from mspd.errors import ImageError, InputError, UsageError
from mspd.images import checking, is_picture, quantise, read, refusals, save, saving, to_pixels, to_tensor
from mspd.images.refusals import one_line
from mspd.metrics import ssim

EPS = 8 / 255
LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
LOSSY = (".jpg", ".jpeg", ".webp")
XMP = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:title>caf\xc3\xa9</dc:title></x:xmpmeta>'
ICC = b"\0\0\1\0lcms\2\x10\0\0mntrRGB XYZ " + bytes(range(256)) * 3  # never interpreted here


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int = 40, width: int = 56, channels: int = 3) -> np.ndarray:
    """A picture that a lossy format keeps well."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / (7 + c)) * np.cos(y / (9 - c)) for c in range(channels)]
    return (127.5 + 100 * np.stack(planes, -1)).astype(np.uint8)


def nudge(pixels: np.ndarray, levels: int = 8, seed: int = 1) -> np.ndarray:
    step = np.random.default_rng(seed).choice([-levels, levels], pixels.shape)
    return np.clip(pixels.astype(int) + step, 0, 255).astype(np.uint8)


def exif_bytes(orientation: int | None = None, order: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "Acme"
    exif[0x0132] = "2024:05:06 07:08:09"
    if orientation is not None:
        exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x829A] = TiffImagePlugin.IFDRational(1, 250)
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes().removeprefix(b"Exif\0\0")


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels).save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")))


def pillow(source: Path | bytes, mode: str | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as im:
        return np.array(im.convert(mode) if mode else im)


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def encoded(pixels: np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def refusal(path: Path) -> str:
    """The refusal of `read`, without the file's name."""
    with pytest.raises(ImageError) as error:
        read(path)
    line = str(error.value)
    assert line.startswith(str(path)), line
    assert len(line.splitlines()) == 1
    assert "; " in line, "no remedy"
    return line.removeprefix(str(path) + ": ")


def only(folder: Path, *names: str) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


@pytest.fixture
def picture(tmp_path: Path) -> images.Picture:
    """A colour picture with everything beside it."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    source = tmp_path / "in" / "photo.png"
    source.parent.mkdir()
    return read(write(source, smooth(), exif=exif_bytes(1), icc_profile=ICC, pnginfo=info, dpi=(300, 150)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


# ---------------------------------------------------------------- the grid


def test_tensor_and_pixels_are_each_others_inverse():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pixels[..., 1] = pixels[::-1, ..., 1]
    x = to_tensor(pixels)
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    assert np.array_equal(to_pixels(x), pixels)
    assert np.array_equal(to_pixels(to_tensor(pixels[::-1, ::-1])), pixels[::-1, ::-1])


def test_read_only_pixels_become_a_tensor_without_a_warning():
    pixels = smooth()
    pixels.flags.writeable = False
    assert to_tensor(pixels).shape == (1, 3, 40, 56)


def test_to_pixels_rounds_halves_up_and_never_truncates():
    levels = torch.tensor([0.49, 0.51, 1.49, 1.51, 254.49, 254.51, 0.5])
    x = (levels / 255).view(1, 1, 1, -1)
    assert to_pixels(x).ravel().tolist() == [0, 1, 1, 2, 254, 255, 1]
    assert to_pixels(torch.tensor([[[[-0.1, 1.1]]]])).ravel().tolist() == [0, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_to_pixels_refuses_nan(bad):
    with pytest.raises(InputError):
        to_pixels(torch.full((1, 3, 2, 2), bad))
    with pytest.raises(InputError):
        to_pixels(torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(("eps", "levels"), [(8 / 255, 8), (0.031, 7), (1 / 255, 1), (0.0, 0), (0.5 / 255, 0)])
def test_quantise_stays_on_the_grid_and_in_the_ball(eps, levels):
    reference = to_tensor(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2))
    g = torch.Generator().manual_seed(0)
    x = (reference + (torch.rand(reference.shape, generator=g) * 2 - 1) * 12 / 255).clamp(0, 1)
    q = quantise(x, reference, eps)
    assert torch.equal(to_tensor(to_pixels(q)), q), "not exactly on the grid"
    moved = (q - reference).mul(255).round().abs()
    assert moved.max() == levels
    inside = (x - reference).abs() <= (levels - 0.5) / 255
    assert ((q - x).abs()[inside] <= 0.5 / 255 + 1e-6).all(), "not the nearest grid point"
    assert torch.equal(quantise(q, reference, eps), q)


def test_quantise_of_a_reference_off_the_grid_stays_in_the_ball():
    g = torch.Generator().manual_seed(0)
    reference = torch.rand(2, 3, 16, 16, generator=g)
    x = (reference + (torch.rand(reference.shape, generator=g) * 2 - 1) * EPS).clamp(0, 1)
    q = quantise(x, reference, EPS)
    assert (q - reference).abs().max() <= EPS + 1e-6
    assert torch.equal((q * 255).round() / 255, q)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "b.jpeg", "c.webp", "e.TIFF", "f.bmp", "a.b.png", "h.HEIC"])
def test_is_picture(name):
    assert is_picture(Path("somewhere") / name)


@pytest.mark.parametrize("name", ["a.txt", "png", "a.png.gz", "a.mp4", "a", ".png"])
def test_is_not_picture(name):
    assert not is_picture(name)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_in_as_they_are(tmp_path, suffix, channels):
    pixels = noise(13, 9, channels)
    got = read(write(tmp_path / f"a.{suffix}", pixels, **({"lossless": True} if suffix == "webp" else {})))
    assert (got.pixels == pixels).all()  # a grey WebP comes back with three equal channels
    assert got.pixels.shape[2] == (3 if suffix == "webp" else channels)
    assert got.pixels.dtype == np.uint8
    assert got.alpha is None
    assert (got.exif, got.icc, got.xmp) == (None, None, None)
    assert got.format == {"tif": "TIFF"}.get(suffix, suffix.upper())


@pytest.mark.parametrize(("suffix", "form"), [("png", "PNG"), ("tif", "TIFF"), ("webp", "WEBP")])
def test_alpha_comes_in_beside_the_pixels(tmp_path, suffix, form):
    rgba = noise(13, 9, 4)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    got = read(write(tmp_path / f"a.{suffix}", rgba, **options))
    assert np.array_equal(got.pixels, rgba[..., :3])
    assert np.array_equal(got.alpha, rgba[..., 3])
    assert got.format == form
    if suffix != "webp":
        grey = read(write(tmp_path / f"la.{suffix}", rgba[..., :2]))
        assert np.array_equal(grey.pixels, rgba[..., :1])
        assert np.array_equal(grey.alpha, rgba[..., 1])


def test_jpeg_gif_and_avif_come_in(tmp_path):
    colour = smooth()
    for name in ("a.jpg", "a.avif"):
        got = read(write(tmp_path / name, colour, quality=95))
        assert np.array_equal(got.pixels, pillow(tmp_path / name))
    grey = read(write(tmp_path / "g.jpg", colour[..., :1]))
    assert grey.pixels.shape == (40, 56, 1)
    Image.fromarray(colour).quantize(64).save(tmp_path / "a.gif")
    assert np.array_equal(read(tmp_path / "a.gif").pixels, pillow(tmp_path / "a.gif", "RGB"))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_palettes_become_colour(tmp_path, suffix):
    palette = Image.fromarray(smooth()).quantize(32)
    palette.save(tmp_path / f"a.{suffix}")
    got = read(tmp_path / f"a.{suffix}")
    assert np.array_equal(got.pixels, np.array(palette.convert("RGB")))
    assert got.alpha is None


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 8))])
def test_transparent_palettes_become_colour_and_alpha(tmp_path, transparency):
    palette = Image.fromarray(smooth()).quantize(32)
    index = np.array(palette)
    palette.save(tmp_path / "a.png", transparency=transparency)
    got = read(tmp_path / "a.png")
    table = np.full(256, 255, np.uint8)
    if isinstance(transparency, int):
        table[transparency] = 0
    else:
        table[: len(transparency)] = list(transparency)
    assert np.array_equal(got.pixels, np.array(palette.convert("RGB")))
    assert np.array_equal(got.alpha, table[index])


def test_a_transparent_colour_becomes_alpha(tmp_path):
    grey, colour = noise(6, 7, 1) // 64 * 64, noise(6, 7, 3) // 128 * 128
    got = read(write(tmp_path / "g.png", grey, transparency=64))
    assert np.array_equal(got.pixels, grey)
    assert np.array_equal(got.alpha, np.where(grey[..., 0] == 64, 0, 255))
    got = read(write(tmp_path / "c.png", colour, transparency=(128, 0, 128)))
    assert np.array_equal(got.pixels, colour)
    assert np.array_equal(got.alpha, np.where((colour == (128, 0, 128)).all(-1), 0, 255))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey_are_spread_over_eight(tmp_path, depth):
    levels = np.array([[0, 1, 0, 1], [1, 1, 0, 0]]) * (2**depth - 1)
    levels[0, 2] = min(1, 2**depth - 1)
    rows = b"".join(b"\0" + bytes(np.packbits([int(b) for v in row for b in f"{v:0{depth}b}"])) for row in levels)
    expected = (levels * 255 // (2**depth - 1)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(4, 2, depth, 0, rows))
    got = read(tmp_path / "a.png")
    assert np.array_equal(got.pixels[..., 0], expected)
    assert got.alpha is None
    (tmp_path / "t.png").write_bytes(png(4, 2, depth, 0, rows, chunk(b"tRNS", struct.pack(">H", 1))))
    got = read(tmp_path / "t.png")
    assert np.array_equal(got.pixels[..., 0], expected)
    assert np.array_equal(got.alpha, np.where(levels == 1, 0, 255))


@pytest.mark.parametrize("mode", ["1", "YCbCr", "LA", "PA"])
def test_other_tiff_modes(tmp_path, mode):
    im = Image.fromarray(smooth()).convert("LA" if mode == "PA" else mode)
    im = im.convert("PA") if mode == "PA" else im
    im.save(tmp_path / "a.tif")
    try:
        pillow(tmp_path / "a.tif")
    except OSError:
        pytest.skip("Pillow does not read what it wrote")  # 11.3 with YCbCr
    got = read(tmp_path / "a.tif")
    wanted = {"1": "L", "YCbCr": "RGB", "LA": "LA", "PA": "RGBA"}[mode]
    array = np.array(im.convert(wanted)).reshape(40, 56, -1)
    assert np.array_equal(got.pixels, array[..., :-1] if "A" in wanted else array)
    assert (got.alpha is not None) == ("A" in wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_applied_once(tmp_path, out, orientation, suffix, order):
    source, exif = tmp_path / f"a.{suffix}", exif_bytes(orientation, order)
    lossless = {"lossless": True} if suffix == "webp" else {}
    write(source, smooth(12, 20), exif=b"Exif\0\0" + exif, dpi=(300, 150), **lossless)
    with Image.open(source) as im:
        expected = np.array(ImageOps.exif_transpose(im))
    got = read(source)
    assert np.array_equal(got.pixels, expected)
    assert got.pixels.shape[:2] == ((20, 12) if orientation >= 5 else (12, 20))
    if suffix != "tif":
        assert got.exif == exif_bytes(1, order)
    if suffix in ("jpg", "tif"):
        assert got.dpi == ((150, 300) if orientation >= 5 else (300, 150))
    save(got, got.pixels, out / "b.png", eps=0)
    again = read(out / "b.png")
    assert np.array_equal(again.pixels, expected)
    with Image.open(out / "b.png") as im:
        assert im.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_compressed_tiffs_are_turned_once_too(tmp_path, compression):
    tags = Image.Exif()
    tags[0x0112] = 6
    write(tmp_path / "a.tif", smooth(12, 20), compression=compression, tiffinfo=tags)
    assert np.array_equal(read(tmp_path / "a.tif").pixels, np.rot90(smooth(12, 20), -1))


def test_alpha_turns_with_the_pixels(tmp_path):
    rgba = noise(5, 7, 4)
    got = read(write(tmp_path / "a.png", rgba, exif=exif_bytes(6)))
    assert np.array_equal(got.pixels, np.rot90(rgba[..., :3], -1))
    assert np.array_equal(got.alpha, np.rot90(rgba[..., 3], -1))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_an_orientation_in_xmp_follows_the_one_in_exif(tmp_path, suffix):
    told = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:t="http://ns.adobe.com/tiff/1.0/"><x:D t:Orientation="6"/>'
        b"<t:Orientation>6</t:Orientation><t:Make>6</t:Make></x:xmpmeta>"
    )
    tags = Image.Exif()
    tags[700] = told

    def make(name: str, orientation: int | None) -> images.Picture:
        if orientation is not None:
            tags[0x0112] = orientation
        options = (
            {"tiffinfo": tags} if suffix == "tif" else {"xmp": told, "exif": b"Exif\0\0" + exif_bytes(orientation)}
        )
        return read(write(tmp_path / f"{name}.{suffix}", smooth(12, 20), **options))

    alone = make("alone", None)  # most viewers do not turn such a picture
    assert alone.pixels.shape[:2] == (12, 20)
    assert alone.xmp == told
    both = make("both", 6)
    assert both.pixels.shape[:2] == (20, 12)
    assert both.xmp == told.replace(b'"6"', b'"1"').replace(b":Orientation>6<", b":Orientation>1<")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_preview_inside_xmp_is_left_out(tmp_path, encoding):
    told = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:p="http://ns.adobe.com/xap/1.0/"><p:Rating>5</p:Rating>'
        '<t:Orientation xmlns:t="http://ns.adobe.com/tiff/1.0/">6</t:Orientation>'
        "<p:Thumbnails><p:image>AAAA</p:image></p:Thumbnails></x:xmpmeta>"
    )
    kept = read(write(tmp_path / "a.jpg", smooth(12, 20), xmp=told.encode(encoding))).xmp
    assert b"<p:Rating>5</p:Rating>" in kept
    assert b">6</t:Orientation>" in kept, "not turned: the orientation is not touched"
    assert b"AAAA" not in kept


def described(properties: str) -> str:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:xmpGImg="http://ns.adobe.com/xap/1.0/g/img/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
        ' xmlns:I="http://ns.google.com/photos/1.0/image/" xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/"'
        ' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"'
        ' xmlns:C="http://ns.google.com/photos/1.0/container/"><rdf:RDF><rdf:Description GCamera:BurstID="7" '
        f"{properties}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


VIDEO = ("the video of the original, a motion photo, is not in the copy",)


@pytest.mark.parametrize(
    ("properties", "lost"),
    [
        ('I:Mime="image/jpeg" I:Data="AAAA">', ()),
        ("><I:Data>AAAA</I:Data>", ()),
        ('GDepth:Near="AAAA" GDepth:Data="AAAA">', ()),
        ("><rdf:Seq><rdf:li><xmpGImg:image>AAAA</xmpGImg:image></rdf:li></rdf:Seq>", ()),
        ('GCamera:MotionPhoto="1" GCamera:MotionPhotoPresentationTimestampUs="AAAA">', VIDEO),
        ("><GCamera:MicroVideo>1</GCamera:MicroVideo><GCamera:MicroVideoOffset>AAAA</GCamera:MicroVideoOffset>", VIDEO),
        ('GCamera:MotionPhoto="0" GCamera:MotionPhotoVersion="1" >', ()),
        ("><C:Directory><rdf:Seq><rdf:li>AAAA</rdf:li></rdf:Seq></C:Directory>", ()),
        ('xmpNote:HasExtendedXMP="AAAA">', ("the second part of the original's XMP is not in the copy",)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_pictures_inside_xmp_and_words_on_what_is_not_kept_are_left_out(tmp_path, properties, lost, encoding):
    told = described(properties + "<dc xmlns='d'>cat</dc>")
    got = read(write(tmp_path / "a.jpg", smooth(12, 20), xmp=told.encode(encoding)))
    assert got.lost == lost
    assert b'GCamera:BurstID="7"' in got.xmp
    assert b'<dc xmlns="d">cat</dc>' in got.xmp
    for word in (b"AAAA", b":MotionPhoto", b":MicroVideo", b"HasExtendedXMP", b"Mime", b"Directory"):
        assert word not in got.xmp
    save(got, got.pixels, tmp_path / "b.png", eps=EPS)
    assert (read(tmp_path / "b.png").xmp, read(tmp_path / "b.png").lost) == (got.xmp, ())


def test_xmp_with_none_of_these_stays_as_it_is(tmp_path):
    told = described(">").encode()
    got = read(write(tmp_path / "a.jpg", smooth(12, 20), xmp=told))
    assert (got.xmp, got.lost) == (told, ())


def test_xmp_that_cannot_be_read_and_may_hold_a_preview_is_left_out(tmp_path):
    told = described('I:Data="AAAA">').replace("</x:xmpmeta>", "").encode()
    got = read(write(tmp_path / "a.jpg", smooth(12, 20), xmp=told))
    assert got.xmp is None
    assert got.lost == ("the original's XMP cannot be read, may hold an unprotected preview, and is left out",)


def test_metadata_behind_the_pixels_is_found(tmp_path):
    data = png(2, 2, 8, 2, bytes(14))
    behind = chunk(b"eXIf", exif_bytes(6)) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    (tmp_path / "a.png").write_bytes(data[:-12] + behind + data[-12:])
    got = read(tmp_path / "a.png")
    assert (got.exif, got.xmp) == (exif_bytes(1), XMP)


def test_exif_as_old_png_text_is_found(tmp_path):
    exif = b"Exif\0\0" + exif_bytes(1)
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    assert read(write(tmp_path / "a.png", smooth(), pnginfo=info)).exif == exif_bytes(1)


@pytest.mark.parametrize(
    "broken", [b"junk", b"II*\0\xff\xff\xff\xff", exif_bytes(6)[:30], b"MM\0*\0\0\0\x08\xff\xff" + b"\1\x12\0\3" * 3]
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_malformed_exif_does_not_fail_the_picture(tmp_path, out, broken, suffix):
    pixels = smooth(12, 20)
    lossless = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    got = read(write(tmp_path / f"a.{suffix}", pixels, exif=b"Exif\0\0" + broken, **lossless))
    assert got.exif is not None
    assert len(got.exif) == len(broken)
    for name in ("b.png", "b.jpg", "b.webp", "b.tif"):
        save(got, got.pixels, out / name, eps=EPS)


def test_text_that_poses_as_metadata_is_ignored(tmp_path):
    info = PngImagePlugin.PngInfo()
    for key in ("dpi", "icc_profile", "xmp", "gamma"):
        info.add_text(key, "nonsense")
        info.add_itxt(key, "nonsense")
    info.add_itxt("exif", "nonsense")
    got = read(write(tmp_path / "a.png", smooth(), pnginfo=info))
    assert (got.dpi, got.icc, got.xmp, got.exif) == (None, None, None, None)


def mpo(kind: int) -> bytes:
    """Two JPEGs in one file; `kind` is the type the index gives to the second."""
    first, second = encoded(smooth(), "JPEG"), encoded(smooth(8, 8), "JPEG")
    size = 2 + 4 + 82
    index = b"MPF\0MM\0*\0\0\0\x08" + struct.pack(">H", 3)
    index += struct.pack(">HHI4s", 0xB000, 7, 4, b"0100") + struct.pack(">HHII", 0xB001, 4, 1, 2)
    index += struct.pack(">HHII", 0xB002, 7, 32, 50) + struct.pack(">I", 0)
    where = len(first) + size - (2 + 4 + 4)  # counted from the byte-order mark
    index += struct.pack(">IIIHH", 0x030000, len(first) + size - 2, 0, 0, 0)
    index += struct.pack(">IIIHH", kind, len(second), where, 0, 0)
    return first[:2] + segment(0xE2, index) + first[2:] + second


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_preview_inside_exif_is_blanked(tmp_path, order):
    """A small copy of the unprotected picture must not travel along; all else in the EXIF stays as it is."""
    preview = encoded(smooth(20, 28), "JPEG")
    plain = exif_bytes(order=order)
    (start,) = struct.unpack_from(order + "I", plain, 4)
    (count,) = struct.unpack_from(order + "H", plain, start)
    link, second = start + 2 + 12 * count, len(plain)
    place = second + 2 + 24 + 4
    ifd = struct.pack(order + "HHHIIHHIII", 2, 0x0201, 4, 1, place, 0x0202, 4, 1, len(preview), 0)
    full = plain[:link] + struct.pack(order + "I", second) + plain[link + 4 :] + ifd + preview
    path = write(tmp_path / "a.jpg", smooth(), exif=b"Exif\0\0" + full)
    assert preview in path.read_bytes()
    kept = images.read(path).exif
    assert len(kept) == len(full)
    assert kept[:link] == plain[:link]
    assert kept[link + 4 : second] == plain[link + 4 :]
    assert kept[place:] == bytes(len(preview))
    images.save(images.read(path), nudge(images.read(path).pixels, 2), tmp_path / "b.png", eps=8 / 255)
    assert preview[:200] not in (tmp_path / "b.png").read_bytes()
    assert images.read(tmp_path / "b.png").exif == kept


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_preview_of_plain_pixels_inside_exif_is_blanked(tmp_path, order):
    plain, strips = exif_bytes(order=order), [b"first strip", b"the second"]
    (start,) = struct.unpack_from(order + "I", plain, 4)
    (count,) = struct.unpack_from(order + "H", plain, start)
    link, second = start + 2 + 12 * count, len(plain)
    arrays = second + 2 + 24 + 4
    place = arrays + 8 + 4
    ifd = struct.pack(order + "HHHIIHHIII", 2, 0x0111, 4, 2, arrays, 0x0117, 3, 2, 0, 0)
    ifd = ifd[:-8] + struct.pack(order + "HH", *map(len, strips)) + ifd[-4:]
    ifd += struct.pack(order + "II", place, place + len(strips[0])) + bytes(4)
    full = plain[:link] + struct.pack(order + "I", second) + plain[link + 4 :] + ifd + b"".join(strips)
    kept = images.read(write(tmp_path / "a.jpg", smooth(), exif=b"Exif\0\0" + full)).exif
    assert len(kept) == len(full)
    assert kept[place:] == bytes(len(full) - place)


def with_note(note: bytes, order: str = "<") -> bytes:
    """EXIF with a maker's note."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "Acme"
    exif.get_ifd(0x8769).update({0x927C: note, 0xA430: "A. Owner"})
    return exif.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_preview_inside_the_makers_note_is_blanked_with_the_note(tmp_path, order, suffix):
    preview = encoded(smooth(20, 28), "JPEG")
    exif = with_note(b"Acme\0" + preview + b"serial number", order)
    path = write(tmp_path / f"a.{suffix}", smooth(), exif=exif)
    assert preview in path.read_bytes()
    got = images.read(path)
    assert b"A. Owner" in got.exif
    assert b"Acme" in got.exif
    assert b"serial number" not in got.exif
    for name in ("b.png", "b.jpg", "b.webp", "b.tif"):
        save(got, nudge(got.pixels, 2), tmp_path / name, eps=EPS)
        assert preview[:200] not in (tmp_path / name).read_bytes()
        assert images.read(tmp_path / name).exif is not None


def test_a_makers_note_without_a_preview_is_kept(tmp_path):
    exif = with_note(b"Acme\0" + bytes(range(256)) + b"\xff\xd8")
    assert images.read(write(tmp_path / "a.jpg", smooth(), exif=exif)).exif == exif.removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("lead", [b"", b"junk"])
def test_a_preview_that_no_tag_of_exif_names_is_blanked(tmp_path, lead):
    preview, plain = encoded(smooth(20, 28), "JPEG"), with_note(b"no preview")
    kept = images.read(write(tmp_path / "a.jpg", smooth(), exif=plain + lead + preview)).exif
    assert kept == (plain + lead + bytes(len(preview))).removeprefix(b"Exif\0\0")


def test_exif_headers_without_end_take_no_time(tmp_path):
    (tmp_path / "a.png").write_bytes(png(2, 2, 8, 2, bytes(14), chunk(b"eXIf", b"Exif\0\0" * 800_000)))
    began = time.perf_counter()
    assert read(tmp_path / "a.png").exif is None
    assert time.perf_counter() - began < 20


def test_a_camera_preview_behind_a_jpeg_is_left_out(tmp_path):
    (tmp_path / "a.jpg").write_bytes(mpo(0x010002))
    got = read(tmp_path / "a.jpg")
    assert got.format == "JPEG"
    assert np.array_equal(got.pixels, pillow(encoded(smooth(), "JPEG")))


# ---------------------------------------------------------------- refusing


def test_what_is_not_a_file_is_refused(tmp_path):
    assert refusal(tmp_path / "none.png").startswith("no such file")
    assert refusal(tmp_path).startswith("is a folder")
    (tmp_path / "empty.png").touch()
    assert refusal(tmp_path / "empty.png").startswith("empty file")
    assert refusal(tmp_path / "empty.png" / "a.png").startswith("its folder is not a folder")
    assert refusal(tmp_path / ("x" * 300)).startswith("the name is too long")
    with pytest.raises(ImageError, match=r"a\\x00b: not a valid file name"):
        read("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal(tmp_path / "pipe.png").startswith("not a regular file")


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", smooth())

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert refusal(path).startswith("no permission")


@pytest.mark.parametrize(
    "content", [b"hello\n", b"%PDF-1.7", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"]
)
def test_what_is_not_a_picture_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path / "a.png").startswith(("not a readable", "damaged"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "gif", "avif"])
def test_a_cut_file_is_refused(tmp_path, suffix):
    data = write(tmp_path / f"a.{suffix}", noise(40, 40, 3)).read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(data[: len(data) * 2 // 3])
    assert refusal(tmp_path / f"a.{suffix}").startswith(("damaged", "not a readable"))


def test_a_name_with_a_line_break_still_gives_one_line(tmp_path):
    with pytest.raises(ImageError) as error:
        read(tmp_path / "a\nb\udcff.png")
    assert len(str(error.value).splitlines()) == 1
    assert r"a\nb\udcff.png" in str(error.value)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_is_refused(tmp_path, colour, channels):
    (tmp_path / "a.png").write_bytes(png(3, 2, 16, colour, (b"\0" + bytes(3 * 2 * channels)) * 2))
    assert refusal(tmp_path / "a.png") == "more than 8 bits per channel; convert it to 8 bits"


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_tiff_is_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    assert refusal(tmp_path / "a.tif") == "more than 8 bits per channel; convert it to 8 bits"


def test_deep_colour_tiff_is_refused(tmp_path):
    values = {256: (3, 2), 257: (3, 2), 259: (3, 1), 262: (3, 2), 277: (3, 3), 278: (3, 2), 284: (3, 1)}
    entries = {tag: struct.pack("<HHII", tag, kind, 1, v) for tag, (kind, v) in values.items()}
    after = 8 + 2 + 12 * 10 + 4
    entries[258] = struct.pack("<HHII", 258, 3, 3, after)
    entries[273] = struct.pack("<HHII", 273, 4, 1, after + 6)
    entries[279] = struct.pack("<HHII", 279, 4, 1, 24)
    directory = struct.pack("<H", 10) + b"".join(entries[t] for t in sorted(entries)) + bytes(4)
    data = b"II*\0\x08\0\0\0" + directory + struct.pack("<HHH", 16, 16, 16) + bytes(24)
    (tmp_path / "a.tif").write_bytes(data)
    assert refusal(tmp_path / "a.tif") == "more than 8 bits per channel; convert it to 8 bits"


def test_deep_or_hdr_avif_is_refused(tmp_path):
    path = write(tmp_path / "a.avif", smooth())
    data = path.read_bytes()
    at = data.index(b"av1C") + 6
    deep = data[:at] + bytes([data[at] | 0x40]) + data[at + 1 :]
    path.write_bytes(deep.replace(b"pixi\0\0\0\0\3\x08\x08\x08", b"pixi\0\0\0\0\3\x0a\x0a\x0a"))
    assert refusal(path) == "more than 8 bits per channel; convert it to 8 bits"
    at = data.index(b"colrnclx") + 8
    for colours, line in (((9, 16), "an HDR picture"), ((9, 18), "an HDR picture"), ((12, 13), "wide-gamut")):
        path.write_bytes(data[:at] + struct.pack(">HH", *colours) + data[at + 4 :])
        assert refusal(path).startswith(line)


@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "CMYK"), ("tif", "CMYK"), ("tif", "LAB")])
def test_other_colours_are_refused(tmp_path, suffix, mode):
    Image.new(mode, (8, 8)).save(tmp_path / f"a.{suffix}")
    assert refusal(tmp_path / f"a.{suffix}") == f"{mode} colours; convert it to RGB"


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_several_frames_are_refused(tmp_path, suffix):
    first, second = Image.fromarray(noise(8, 8, 3)), Image.fromarray(noise(8, 8, 3, seed=1))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    assert refusal(tmp_path / f"a.{suffix}").startswith("several frames or pages")


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"crx "])
def test_heic_and_raw_photos_are_refused(tmp_path, brand):
    (tmp_path / "a.heic").write_bytes(struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, b"heic") + bytes(400))
    assert refusal(tmp_path / "a.heic").endswith("picture; convert it to PNG or JPEG")


def test_the_preview_of_a_raw_photo_is_not_taken_for_the_photo(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.nef", "TIFF", tiffinfo={254: 1})
    assert refusal(tmp_path / "a.nef").startswith("a raw photo, of which only the preview")
    Image.fromarray(smooth()).save(tmp_path / "a.tif", tiffinfo={254: 0})
    assert np.array_equal(read(tmp_path / "a.tif").pixels, smooth())


@pytest.mark.parametrize("kind", [0x000000, 0x020002])
def test_several_pictures_in_a_jpeg_are_refused(tmp_path, kind):
    (tmp_path / "a.jpg").write_bytes(mpo(kind))
    assert refusal(tmp_path / "a.jpg").startswith("several pictures in one file (MPO")


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"/>'),
        (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x xmlns:HDRGainMap="http://ns.apple.com/HDRGainMap/1.0/"/>'),
        (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"),
    ],
)
def test_gain_maps_are_refused(tmp_path, marker, content):
    data = encoded(smooth(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment(marker, content) + data[2:])
    assert refusal(tmp_path / "a.jpg").startswith("an HDR picture")


def reads_or_refuses(path, chunks, line):
    """A small PNG with these chunks: refused with the line, or read where that is None."""
    path.write_bytes(png(2, 2, 8, 2, bytes(14), chunks))
    if line is None:
        assert read(path).pixels.shape == (2, 2, 3)
    else:
        assert refusal(path).startswith(line)


@pytest.mark.parametrize(
    ("cicp", "line"),
    [((9, 16), "an HDR picture"), ((9, 18), "an HDR picture"), ((12, 13), "wide-gamut"), ((1, 13), None)],
)
def test_png_colours_in_cicp(tmp_path, cicp, line):
    reads_or_refuses(tmp_path / "a.png", chunk(b"cICP", bytes((*cicp, 0, 1))), line)


@pytest.mark.parametrize(
    ("gamma", "more", "line"),
    [(100_000, b"", "a gamma of 1 without"), (45_455, b"", None), (45_000, b"", None), (0, b"", None),
     (100_000, chunk(b"sRGB", b"\0"), None)],
)  # fmt: skip
def test_png_gamma(tmp_path, gamma, more, line):
    chunks = more + chunk(b"gAMA", gamma.to_bytes(4, "big"))
    reads_or_refuses(tmp_path / "a.png", chunks, line)


@pytest.mark.parametrize(
    ("points", "more", "line"),
    [((31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), b"", "wide-gamut colours"),
     ((31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), b"", None),
     ((31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), chunk(b"sRGB", b"\0"), None)],
)  # fmt: skip
def test_png_colours_in_chrm(tmp_path, points, more, line):
    chunks = more + chunk(b"cHRM", b"".join(v.to_bytes(4, "big") for v in points))
    reads_or_refuses(tmp_path / "a.png", chunks, line)


def test_too_many_pixels_are_refused_from_the_header(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(png(30_000, 30_000, 8, 2, b""))
    assert refusal(path) == "more pixels than the limit of 179 million; scale it down"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert refusal(path) == "more pixels than the limit of 200 million; scale it down"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # 40 x 56 is in Pillow's warning range
    assert read(write(path, smooth())).pixels.shape == (40, 56, 3)


def test_no_pixels_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0, 2, 8, 2, b""))
    assert refusal(tmp_path / "a.png")
    (tmp_path / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 0, 4, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    assert refusal(tmp_path / "a.bmp").startswith(("has no pixels", "damaged", "not a readable"))


FUZZED = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"]


@pytest.mark.parametrize("form", FUZZED)
def test_malformed_files_give_a_picture_or_one_line(tmp_path, form):
    r = random.Random(form)
    options: dict[str, object] = {"exif": b"Exif\0\0" + exif_bytes(6)} if form not in ("BMP", "GIF") else {}
    if form in ("JPEG", "WEBP", "AVIF"):
        options |= {"icc_profile": ICC[:60], "xmp": XMP}
    data = encoded(noise(9, 7, 3), form, **options)
    path = tmp_path / "a"
    outcomes, lines = {True: 0, False: 0}, set()
    for _ in range(300):
        bad = bytearray(data)
        for _ in range(r.choice((1, 1, 2, 8))):
            if not bad:
                break
            at = r.randrange(r.choice((len(bad), min(len(bad), 80))))
            change = r.random()
            if change < 0.7:
                bad[at] = r.choice((0, 1, 127, 128, 255, r.randrange(256)))
            elif change < 0.8:
                del bad[at : at + r.randrange(1, 9)]
            elif change < 0.9:
                bad[at:at] = r.randbytes(r.randrange(1, 9))
            else:
                del bad[max(at, 1) :]
        # A changed chunk with a stale checksum stops at the door; let half of the PNGs through.
        bad = repaired(bad) if form == "PNG" and r.random() < 0.5 else bad
        path.write_bytes(bad)
        try:
            got = read(path)
        except ImageError as error:
            lines |= {len(str(error).splitlines())}
            outcomes[False] += 1
        else:
            assert got.pixels.dtype == np.uint8
            assert got.pixels.shape[2] in (1, 3)
            outcomes[True] += 1
    assert lines == {1}
    assert min(outcomes.values()) > 0, "the mutations test one side only"


def repaired(data: bytearray) -> bytearray:
    """A PNG with the checksums of its chunks set right, as far as it still has chunks."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_keep_every_pixel(tmp_path, out, suffix, channels):
    source = read(write(tmp_path / "a.png", smooth(channels=channels)))
    protected = nudge(source.pixels)
    check = save(source, protected, out / f"b{suffix}", eps=EPS)
    only(out, f"b{suffix}")
    assert np.array_equal(read(out / f"b{suffix}").pixels, protected)
    moved = protected.astype(int) - source.pixels
    assert check.linf == abs(moved).max() == 8
    assert check.psnr == pytest.approx(-10 * math.log10((moved**2).mean() / 255**2))
    assert 0 < check.ssim < 1
    assert check.lossy is False


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_stay_within_the_budget_on_average(tmp_path, out, suffix, channels):
    source = read(write(tmp_path / "a.png", smooth(channels=channels)))
    check = save(source, nudge(source.pixels, 4), out / f"b{suffix}", eps=EPS)
    only(out, f"b{suffix}")
    assert check.lossy is True
    assert check.psnr >= -20 * math.log10(EPS)
    assert check.linf > 0
    decoded = read(out / f"b{suffix}").pixels
    assert np.abs(decoded.astype(int) - source.pixels).mean() < 8


def test_jpeg_keeps_colour_at_full_resolution_and_listens_to_quality(picture, out):
    for name, quality in (("low.jpg", 60), ("high.jpg", 95)):
        save(picture, picture.pixels, out / name, eps=EPS, quality=quality)
        with Image.open(out / name) as im:
            assert [layer[1:3] for layer in im.layer] == [(1, 1)] * 3
    assert (out / "low.jpg").stat().st_size < (out / "high.jpg").stat().st_size


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_metadata_comes_back_byte_for_byte(picture, out, suffix):
    save(picture, nudge(picture.pixels, 2), out / f"b{suffix}", eps=EPS)
    got = read(out / f"b{suffix}")
    assert (got.icc, got.xmp) == (ICC, XMP)
    with Image.open(out / f"b{suffix}") as im:
        exif = im.getexif()
        assert exif[0x010F] == "Acme"
        assert exif[0x0132] == "2024:05:06 07:08:09"
        assert exif.get_ifd(0x8769)[0x829A] == pytest.approx(1 / 250)
        assert exif.get_ifd(0x8825)[1] == "N"
    if suffix != ".tif":
        assert got.exif == exif_bytes(1)
    if suffix != ".webp":
        assert got.dpi == pytest.approx((300, 150), abs=0.05)


def test_tiff_tags_survive_every_further_hop(picture, out):
    save(picture, picture.pixels, out / "a.tif", eps=0)
    first = read(out / "a.tif")
    save(first, first.pixels, out / "b.tif", eps=0)
    save(first, first.pixels, out / "c.png", eps=0)
    second, third = read(out / "b.tif"), read(out / "c.png")
    assert first.exif == second.exif == third.exif
    assert first.xmp == second.xmp == third.xmp == XMP
    assert first.dpi == second.dpi == pytest.approx((300, 150), abs=0.05)


def test_bmp_keeps_the_resolution(tmp_path, out):
    source = read(write(tmp_path / "a.png", smooth(), dpi=(300, 300)))
    save(source, source.pixels, out / "b.bmp", eps=0)
    assert read(out / "b.bmp").dpi == pytest.approx((300, 300), abs=0.1)


def test_a_tiff_that_states_no_resolution_has_none(tmp_path: Path) -> None:
    """Pillow says 1 dpi of it, which a layout program would believe."""
    got = read(write(tmp_path / "a.tif", smooth()))
    with Image.open(tmp_path / "a.tif") as source:
        assert 0x011A not in source.tag_v2
    assert got.dpi is None
    save(got, got.pixels, tmp_path / "b.png", eps=0.1)
    with Image.open(tmp_path / "b.png") as copy:
        assert "dpi" not in copy.info


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_comes_back_exactly(tmp_path, out, channels, suffix):
    pixels = smooth(channels=4)[..., -channels:]
    pixels[:5, :5, -1] = 0
    source = read(write(tmp_path / "a.png", pixels))
    save(source, nudge(source.pixels, 3), out / f"b{suffix}", eps=EPS)
    assert np.array_equal(read(out / f"b{suffix}").alpha, pixels[..., -1])


def test_an_opaque_alpha_may_be_left_out(tmp_path, out):
    source = read(write(tmp_path / "a.png", np.dstack((smooth(), np.full((40, 56), 255, np.uint8)))))
    save(source, source.pixels, out / "b.webp", eps=EPS)
    assert read(out / "b.webp").pixels.shape == (40, 56, 3)


def test_what_a_format_cannot_hold_is_refused(tmp_path, picture, out):
    clear = read(write(tmp_path / "clear.png", noise(8, 8, 4)))
    grey = read(write(tmp_path / "grey.png", noise(8, 8, 1), icc_profile=ICC.replace(b"RGB ", b"GRAY")))
    long = read(write(tmp_path / "long.png", smooth(), exif=exif_bytes(1) + bytes(70_000)))
    cases = [
        (clear, "b.jpg", "JPEG has no transparency"),
        (clear, "b.bmp", "BMP has no transparency"),
        (picture, "b.bmp", "BMP has no colour profile"),
        (grey, "b.webp", "WebP is always colour"),
        (long, "b.jpg", "too large for JPEG"),
    ]
    for source, name, line in cases:
        with pytest.raises(ImageError, match=line) as error:
            save(source, source.pixels, out / name, eps=EPS)
        assert str(error.value).startswith(str(out / name))
        assert "use .png" in str(error.value)
    only(out)
    save(long, long.pixels, out / "b.png", eps=0)
    assert read(out / "b.png").exif == long.exif


@pytest.mark.parametrize("name", ["b.gif", "b", "b.txt", "b.png.bak"])
def test_an_unknown_suffix_is_a_wrong_call(picture, out, name):
    with pytest.raises(UsageError, match=r"use one of \.png"):
        save(picture, picture.pixels, out / name, eps=EPS)
    only(out)


@pytest.mark.parametrize("wrong", [{"eps": -0.1}, {"eps": 8}, {"eps": float("nan")}, {"quality": 0}, {"quality": 101}])
def test_a_wrong_budget_or_quality_is_a_wrong_call(picture, out, wrong):
    with pytest.raises(UsageError):
        save(picture, picture.pixels, out / "b.png", **{"eps": EPS, **wrong})
    only(out)


def test_pixels_of_another_shape_or_type_are_refused(picture, out):
    for pixels in (picture.pixels[:-1], picture.pixels[..., :1], picture.pixels.astype(np.float32)):
        with pytest.raises(InputError):
            save(picture, pixels, out / "b.png", eps=EPS)
    only(out)


@pytest.mark.parametrize(("eps", "levels"), [(8 / 255, 8), (0.031, 7), (0, 0)])
def test_a_broken_budget_leaves_no_file(picture, out, eps, levels):
    pixels = picture.pixels.copy()
    assert pixels[3, 4, 1] < 240
    pixels[3, 4, 1] += levels
    save(picture, pixels, out / "inside.png", eps=eps)
    pixels[3, 4, 1] += 1
    with pytest.raises(
        ImageError, match=f"differs from the original by {levels + 1} grey levels, the budget is {levels};"
    ):
        save(picture, pixels, out / "outside.png", eps=eps)
    only(out, "inside.png")


@pytest.mark.parametrize("suffix", LOSSY)
def test_a_broken_budget_of_a_lossy_format_leaves_no_file(picture, out, suffix):
    with pytest.raises(ImageError, match=r"grey levels \(RMS\), the limit is 2\.5; raise the quality or use \.png"):
        save(
            picture, np.clip(picture.pixels.astype(int) + 12, 0, 255).astype(np.uint8), out / f"b{suffix}", eps=2 / 255
        )
    only(out)


@pytest.mark.parametrize("name", ["pixels", "alpha", "exif", "icc", "xmp"])
def test_a_writer_that_loses_something_is_found_out(tmp_path, out, monkeypatch, name):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    source = read(write(tmp_path / "a.png", noise(8, 8, 4), exif=exif_bytes(1), icc_profile=ICC, pnginfo=info))
    original = saving.to_bytes

    def careless(picture: images.Picture, pixels: np.ndarray, *rest: object) -> bytes:
        fields = dict(vars(picture))
        if name == "pixels":
            pixels = pixels ^ 1
        else:
            fields[name] = None
        return original(images.Picture(**fields), pixels, *rest)

    monkeypatch.setattr(saving, "to_bytes", careless)
    with pytest.raises(ImageError):
        save(source, source.pixels, out / "b.png", eps=EPS)
    only(out)


def test_an_existing_file_is_never_touched(picture, out):
    (out / "b.png").write_bytes(b"precious")
    (out / "dangling.png").symlink_to(out / "nowhere")
    (out / "folder.png").mkdir()
    for name in ("b.png", "dangling.png", "folder.png"):
        with pytest.raises(ImageError, match="already exists; "):
            save(picture, picture.pixels, out / name, eps=EPS)
    assert (out / "b.png").read_bytes() == b"precious"
    only(out, "b.png", "dangling.png", "folder.png")


def test_the_original_is_named_as_such(picture, out):
    before = picture.path.read_bytes()
    (out / "link.png").symlink_to(picture.path)
    for name in (picture.path, out / "link.png"):
        with pytest.raises(ImageError, match="is the original itself; "):
            save(picture, picture.pixels, name, eps=EPS)
    assert picture.path.read_bytes() == before


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(picture, out, monkeypatch, links):
    original = saving.check_written

    def slow(*args: object) -> images.Check:
        (out / "b.png").write_bytes(b"precious")
        return original(*args)

    monkeypatch.setattr(saving, "check_written", slow)
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    with pytest.raises(ImageError, match="already exists; "):
        save(picture, picture.pixels, out / "b.png", eps=EPS)
    assert (out / "b.png").read_bytes() == b"precious"
    only(out, "b.png")


def failing(code: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_system_without_hard_links_works_too(picture, out, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    save(picture, picture.pixels, out / "b.png", eps=0)
    only(out, "b.png")
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    with pytest.raises(ImageError):
        save(picture, picture.pixels, out / "c.png", eps=0)
    only(out, "b.png")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_failing_disk_gives_one_line_and_leaves_nothing(picture, out, monkeypatch, code, line, call):
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(ImageError, match=f"^[^\n]*b.png: {line}[^\n]*; [^\n]*$"):
        save(picture, picture.pixels, out / "b.png", eps=EPS)
    monkeypatch.undo()
    only(out)


def test_a_write_that_stops_half_way_leaves_nothing(picture, out):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(ImageError, match="too large for this file system; "):
            save(picture, picture.pixels, out / "b.png", eps=EPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    only(out)


def test_threads_that_read_leave_the_warnings_of_the_process_as_they_were(tmp_path):
    """Two threads in `one_line` at once, the first in being the first out: nothing of this may stay."""
    inside, out = threading.Event(), threading.Event()

    def first():
        with one_line(tmp_path):
            inside.set()
            out.wait(10)
            warnings.warn("of Pillow", stacklevel=1)

    thread = threading.Thread(target=first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread.start()
        inside.wait(10)
        with pytest.warns(UserWarning, match="of another thread"):
            warnings.warn("of another thread", stacklevel=1)
        with one_line(tmp_path):
            out.set()
            thread.join()
            warnings.warn("of Pillow, too", stacklevel=1)
        warnings.warn("afterwards", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["afterwards"]
    assert pickle.loads(pickle.dumps(refusals._FILTER)) == refusals._FILTER


@pytest.mark.parametrize("step", ["write_new", "check_written", "publish"])
def test_an_interruption_leaves_nothing(picture, out, monkeypatch, step):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(picture, picture.pixels, out / "b.png", eps=EPS)
    only(out)


def test_a_missing_folder_and_a_bad_name_are_one_line(picture, out):
    for name, line in (
        (out / "none" / "b.png", "no such file or folder"),
        (picture.path / "b.png", "its folder is not a folder"),
        (out / ("x" * 300 + ".png"), "the name is too long"),
        (out / "a\0b.png", "not a valid file name"),
    ):
        with pytest.raises(ImageError, match=line) as error:
            save(picture, picture.pixels, name, eps=EPS)
        assert len(str(error.value).splitlines()) == 1
    only(out)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_the_new_file_has_ordinary_permissions(picture, out):
    mask = os.umask(0o027)
    try:
        save(picture, picture.pixels, out / "b.png", eps=EPS)
    finally:
        os.umask(mask)
    assert (out / "b.png").stat().st_mode & 0o777 == 0o640


def test_the_picture_and_the_pixels_are_left_as_found(picture, out):
    pixels = nudge(picture.pixels, 2)
    before = pixels.copy(), picture.pixels.copy()
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        save(picture, pixels, out / f"b{suffix}", eps=EPS)
    assert np.array_equal(pixels, before[0])
    assert np.array_equal(picture.pixels, before[1])


# ---------------------------------------------------------------- the numbers of the check


def test_differences_are_exact_over_several_strips(monkeypatch):
    a = noise(50, 30, 3)
    b = nudge(a, 5)
    b[49, 29, 2] = a[49, 29, 2] ^ 255
    whole = checking._differences(a, b)
    d = a.astype(int) - b
    assert whole[:2] == (abs(d).max(), pytest.approx((d**2).mean() / 255**2, rel=1e-12))
    monkeypatch.setattr(checking, "_STRIP", 100)
    assert checking._differences(a, b)[:2] == whole[:2]
    assert checking._differences(a, a) == (0, 0, 1)


@pytest.mark.parametrize("shape", [(200, 300, 3), (30, 2000, 1), (2000, 20, 3), (129, 500, 1)])
def test_ssim_over_tiles_is_near_the_exact_one(monkeypatch, shape):
    a = smooth(*shape)
    b = nudge(a)
    exact = checking._ssim(a, b)
    monkeypatch.setattr(checking, "_EXACT", 20_000)
    monkeypatch.setattr(checking, "_SAMPLED", 10_000)
    monkeypatch.setattr(checking, "_TILE", 32)
    seen = []
    monkeypatch.setattr(checking.metrics, "ssim", lambda x, r: (seen.append(x.shape[2:].numel()), ssim(x, r))[1])
    assert checking._ssim(a, b) == pytest.approx(exact, abs=0.03)
    assert 4_000 < sum(seen) <= 10_000
    assert checking._ssim(a, a) == 1
