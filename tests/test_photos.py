"""Ten real photos of different sizes, modes and formats through the whole command."""

import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from mspd import images
from mspd.cli import main
from mspd.data import records

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x013B], tags[0x8298] = orientation, "A. Creator", "all rights reserved"
    return tags.tobytes()


def png(image: Image.Image, path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    image.save(path.with_suffix(".png"), exif=exif(), icc_profile=ICC, pnginfo=info, dpi=(300, 300))


def alpha_of(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.arange(image.width * image.height, dtype=np.uint8).reshape(image.height, image.width))


def with_alpha(image: Image.Image, path: Path) -> None:
    image.putalpha(alpha_of(image))
    image.save(path.with_suffix(".png"))


def grey_with_alpha(image: Image.Image, path: Path) -> None:
    grey = image.convert("L")
    grey.putalpha(alpha_of(image))
    grey.save(path.with_suffix(".png"))


FORMS: list[Callable[[Image.Image, Path], None]] = [
    png,
    lambda i, p: i.save(p.with_suffix(".jpg"), exif=exif(6), icc_profile=ICC, xmp=XMP, quality=92),
    lambda i, p: i.convert("L").save(p.with_suffix(".jpg"), quality=90),
    with_alpha,
    grey_with_alpha,
    lambda i, p: i.quantize(64).save(p.with_suffix(".png")),
    lambda i, p: i.save(p.with_suffix(".tif"), icc_profile=ICC),
    lambda i, p: i.save(p.with_suffix(".webp"), quality=80, exif=exif(3)),
    lambda i, p: i.crop((0, 0, 200, 40)).save(p.with_suffix(".bmp")),
    lambda i, p: i.resize((2000, 1500)).save(p.with_suffix(".JPEG"), quality=85),
]


def test_ten_photos_keep_what_is_promised(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for index, (_, content, _) in enumerate(islice(records(data / "imagenet-500", "test"), len(FORMS))):
        raw = tmp_path / "raw"
        raw.write_bytes(content)
        with Image.open(raw) as image:
            FORMS[index](image.convert("RGB"), source / f"{index}")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    monkeypatch.setattr(sys, "argv", ["mspd", "protect", str(source), "-o", str(tmp_path / "out"), "--seed", "3"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    rows = [json.loads(line) for line in (tmp_path / "out.report.jsonl").read_text().splitlines()]
    done = {row["id"]: row for row in rows if row.get("status") == "done"}
    assert set(done) == set(before)
    for name, row in done.items():
        old, new = images.read(source / name), images.read(Path(row["output"]))
        assert new.pixels.shape == old.pixels.shape, name
        assert 1 <= np.abs(new.pixels.astype(int) - old.pixels).max() <= 4, name
        assert (new.exif, new.icc, new.xmp) == (old.exif, old.icc, old.xmp), name
        assert (new.alpha is None) == (old.alpha is None), name
        assert old.alpha is None or np.array_equal(new.alpha, old.alpha), name
    assert images.read(source / "1.jpg").pixels.shape[0] > images.read(source / "1.jpg").pixels.shape[1]
    assert images.read(source / "2.jpg").pixels.shape[2] == 1
    assert images.read(Path(done["0.png"]["output"])).dpi == pytest.approx((300, 300), abs=0.1)
