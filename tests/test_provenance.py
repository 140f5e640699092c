"""Content credentials, history and place in what is published."""

import io
import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mspd import images
from mspd.cli import main
from mspd.errors import ImageError, UsageError
from mspd.provenance import sign, with_history, without_gps

CONFIG = """[req]
distinguished_name=dn
prompt=no
[dn]
CN=Test CA
O=Test
[ca]
basicConstraints=critical,CA:true
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
[leaf]
basicConstraints=critical,CA:false
keyUsage=critical,digitalSignature
extendedKeyUsage=critical,emailProtection
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
GPS_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,12N" exif:Flash="1">'
    "<exif:GPSLongitude>16,22E</exif:GPSLongitude><exif:GPSMapDatum/></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def picture(path: Path, **options: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def located(path: Path) -> Path:
    """A PNG that says in its EXIF and its XMP where it was taken."""
    tags = Image.Exif()
    tags[0x013B] = "A. Creator"
    tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 0.0)})
    tags[0x8825] = tags.get_ifd(0x8825)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", GPS_XMP)
    return picture(path, exif=tags.tobytes(), pnginfo=info)


def test_gps_goes_and_the_rest_stays(tmp_path: Path) -> None:
    before = images.read(located(tmp_path / "a.png"))
    assert before.exif is not None
    tags = Image.Exif()
    tags.load(before.exif)
    assert 2 in tags.get_ifd(0x8825), "the picture does say where"
    after = without_gps(before)
    left = Image.Exif()
    left.load(after.exif)
    assert left[0x013B] == "A. Creator"
    assert not left.get_ifd(0x8825)
    assert after.xmp is not None
    assert b"GPS" not in after.xmp
    assert b'exif:Flash="1"' in after.xmp
    ElementTree.fromstring(after.xmp)
    images.save(after, after.pixels, tmp_path / "b.png", eps=0.1)
    with Image.open(tmp_path / "b.png") as written:
        assert not written.getexif().get_ifd(0x8825)


def test_exif_that_cannot_be_read_goes_altogether(tmp_path: Path) -> None:
    before = replace(images.read(picture(tmp_path / "a.png")), exif=b"II*\0\xff\xff\xff\xff GPS")
    assert without_gps(before).exif is None


def test_a_place_behind_a_damaged_tag_goes(tmp_path: Path) -> None:
    before = images.read(located(tmp_path / "a.png"))
    assert before.exif is not None
    first = 10  # behind the header and the number of tags
    damaged = before.exif[: first + 8] + b"\xff\xff\xff\x7f" + before.exif[first + 12 :]
    assert b"\x02\x00\x05\x00" in damaged or b"\x00\x02\x00\x05" in damaged, "the latitude is there"
    after = without_gps(replace(before, exif=damaged)).exif or b""
    assert b"\x02\x00\x05\x00" not in after
    assert b"\x00\x02\x00\x05" not in after


OTHER_XMP = GPS_XMP.replace("rdf:", "r:").replace("xmlns:rdf", "xmlns:r")


@pytest.mark.parametrize("xmp", [None, *(GPS_XMP.encode(e) for e in ("utf-8", "utf-16")), OTHER_XMP.encode()])
def test_history_is_one_more_line(xmp: bytes | None, tmp_path: Path) -> None:
    start = replace(images.read(picture(tmp_path / "a.png")), xmp=xmp)
    once = with_history(start)
    twice = with_history(once)
    for found, lines in ((once, 1), (twice, 2)):
        assert found.xmp is not None
        root = ElementTree.fromstring(found.xmp)
        events = [
            e for e in root.iter("{http://ns.adobe.com/xap/1.0/sType/ResourceEvent#}action") if e.text == "edited"
        ]
        assert len(events) == lines
        assert xmp is None or b'exif:GPSLatitude="48,12N"' in found.xmp


BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">]><a xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSAltitude="&b;"/>'
DEEP_XMP = b"<a>" * 5000 + b"</a>" * 5000


LONG_XMP = GPS_XMP.replace("16,22E", " " * 1_000_000).encode()


@pytest.mark.parametrize("xmp", [b"no xmp at all", BOMB, b"<a/>", DEEP_XMP, LONG_XMP])
def test_xmp_that_is_none_gets_no_history_and_loses_nothing(xmp: bytes, tmp_path: Path) -> None:
    start = replace(images.read(picture(tmp_path / "a.png")), xmp=xmp)
    assert with_history(start) is start


@pytest.mark.parametrize("within", ["", "<mm:History/>", "<mm:History><rdf:Bag/></mm:History>"])
def test_history_is_the_pictures_own(within: str, tmp_path: Path) -> None:
    """Not that of an ingredient, described further in and before it; an empty one is filled, a second one not made."""
    mm = "http://ns.adobe.com/xap/1.0/mm/"
    other = "<mm:Pantry><rdf:Description><mm:History><rdf:Seq/></mm:History></rdf:Description></mm:Pantry>"
    xmp = GPS_XMP.replace("<exif:GPSLongitude>", f'<e xmlns:mm="{mm}">{other}</e>{within}<exif:GPSLongitude>')
    xmp = xmp.replace("<rdf:Description ", f'<rdf:Description xmlns:mm="{mm}" ')
    found = with_history(replace(images.read(picture(tmp_path / "a.png")), xmp=xmp.encode())).xmp
    assert found is not None
    root = ElementTree.fromstring(found)
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    own = [h for d in root.iter(f"{rdf}Description") for h in d.findall(f"{{{mm}}}History")]
    assert [len(list(h.iter(f"{rdf}li"))) for h in own] in ([0, 1], [1, 0])
    pantry = next(root.iter(f"{{{mm}}}Pantry"))
    assert not list(pantry.iter(f"{rdf}li"))


def test_a_prefix_called_gps_and_ends_of_nul(tmp_path: Path) -> None:
    xmp = b'<a xmlns:GPS="http://x/" GPS:Altitude="5" GPS:GPSx="1" b="2"/>'
    start = images.read(picture(tmp_path / "a.png"))
    for ending in (b"", b"\0", b"\0\0"):
        after = without_gps(replace(start, xmp=xmp + ending)).xmp
        assert after is not None
        assert ElementTree.fromstring(after).attrib == {"{http://x/}Altitude": "5", "b": "2"}
    ended = without_gps(replace(start, xmp=GPS_XMP.encode("utf-16-le") + b"\0\0\0")).xmp
    assert ended is not None
    assert b'exif:Flash="1"' in ended
    assert without_gps(replace(start, xmp=b"<GPSData/>")).xmp is None


@pytest.mark.parametrize("xmp", [GPS_XMP.encode("utf-16"), OTHER_XMP.encode()])
def test_gps_goes_from_xmp_in_other_encodings_and_prefixes(xmp: bytes, tmp_path: Path) -> None:
    after = without_gps(replace(images.read(picture(tmp_path / "a.png")), xmp=xmp)).xmp
    assert after is not None
    assert b"GPS" not in after
    assert b'exif:Flash="1"' in after


@pytest.mark.parametrize("xmp", [b"GPS, but no xmp", BOMB])
def test_xmp_that_cannot_be_read_goes_altogether(xmp: bytes, tmp_path: Path) -> None:
    assert without_gps(replace(images.read(picture(tmp_path / "a.png")), xmp=xmp)).xmp is None


@pytest.mark.parametrize(
    "filling",
    [
        " " * 300_000, "<exif:GPSx " * 30_000, "<exif:GPSx>" * 30_000, "<rdf:Seq>" * 30_000,
        "<a/>" * 50_000 + "<exif:GPSx/>" * 20_000,
    ],
)  # fmt: skip
def test_hostile_xmp_takes_no_longer_than_a_picture(filling: str, tmp_path: Path) -> None:
    xmp = GPS_XMP.replace("<exif:GPSMapDatum/>", filling + "<exif:GPSMapDatum/>").encode()
    start = replace(images.read(picture(tmp_path / "a.png")), xmp=xmp)
    began = time.perf_counter()
    without_gps(start)
    with_history(start)
    assert time.perf_counter() - began < 20


# ---------------------------------------------------------------- content credentials


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate signed by a test authority, and its key."""
    pytest.importorskip("c2pa", reason="needs the extra c2pa")
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "c.cnf").write_text(CONFIG)
    for command in (
        "ecparam -name prime256v1 -genkey -noout -out ca.key",
        "req -new -x509 -key ca.key -days 30 -config c.cnf -extensions ca -out ca.pem",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out leaf.key",
        "req -new -key leaf.key -config c.cnf -subj /CN=Tester/O=Test -out leaf.csr",
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -extfile c.cnf -extensions leaf "
        "-out leaf.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    (folder / "chain.pem").write_bytes((folder / "leaf.pem").read_bytes() + (folder / "ca.pem").read_bytes())
    return folder / "chain.pem", folder / "leaf.key"


def shot(path: Path, credentials: tuple[Path, Path], form: str = "JPEG") -> Path:
    """A photo as a camera with content credentials writes it: signed, a JPEG with a thumbnail."""
    import c2pa

    plain = picture(path.with_name("plain.jpg"), quality=95, format=form).read_bytes()
    certificates, key = (path.read_bytes() for path in credentials)
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES384, certificates, key, None)
    created = {
        "action": "c2pa.created",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
    }
    manifest = {
        "claim_generator_info": [{"name": "camera"}],
        "title": "photo",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
    out = io.BytesIO()
    c2pa.Builder(manifest).sign(c2pa.Signer.from_info(info), f"image/{form.lower()}", io.BytesIO(plain), out)
    path.write_bytes(out.getvalue())
    return path


def manifests(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    import c2pa

    kind = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}[path.suffix]
    reader = c2pa.Reader(kind, io.BytesIO(path.read_bytes()))
    store = json.loads(reader.json())
    return reader.get_validation_state(), store["manifests"], store["manifests"][store["active_manifest"]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_originals_credentials_become_the_parents(
    suffix: str, credentials: tuple[Path, Path], tmp_path: Path
) -> None:
    original = shot(tmp_path / "photo.jpg", credentials)
    read = images.read(original)
    assert read.credentials
    out = tmp_path / f"out{suffix}"
    images.save(read, read.pixels, out, eps=0.1)
    assert not images.read(out).credentials
    pixels = images.read(out).pixels
    sign(original, out, *credentials)
    state, every, active = manifests(out)
    assert state == "Valid"
    assert len(every) == 2
    (parent,) = active["ingredients"]
    assert parent["relationship"] == "parentOf"
    assert parent["active_manifest"] in every
    (actions,) = [a["data"]["actions"] for a in active["assertions"] if a["label"].startswith("c2pa.actions")]
    assert [a["action"] for a in actions][:2] == ["c2pa.opened", "c2pa.edited"]
    assert np.array_equal(images.read(out).pixels, pixels)
    assert not any(m.get("thumbnail") for m in every.values()), "a thumbnail is an unprotected copy"
    data = out.read_bytes()
    assert data.count(b"\xff\xd8\xff") == (1 if suffix == ".jpg" else 0)
    assert original.read_bytes().count(b"\xff\xd8\xff") == 2, "the camera's thumbnail was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["photo.jpg", "plain.jpg", out.name])


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.jfif", "JPEG"), ("a.mpo", "JPEG"), ("a.JPE", "JPEG"), ("a.gif", "GIF"), ("a.avif", "AVIF"), ("a.jpg", "PNG")],
)
def test_an_original_is_what_it_holds_whatever_its_name(
    name: str, form: str, credentials: tuple[Path, Path], tmp_path: Path
) -> None:
    original, out = shot(tmp_path / name, credentials, form), picture(tmp_path / "out.png")
    sign(original, out, *credentials)
    state, every, active = manifests(out)
    assert (state, len(every)) == ("Valid", 2)
    assert active["ingredients"][0]["active_manifest"] in every


def test_a_copy_of_a_bmp_is_signed(credentials: tuple[Path, Path], tmp_path: Path) -> None:
    original, out = picture(tmp_path / "a.bmp"), picture(tmp_path / "b.png")
    sign(original, out, *credentials)
    assert manifests(out)[0] == "Valid"


def test_a_picture_without_credentials_gets_some(credentials: tuple[Path, Path], tmp_path: Path) -> None:
    original, out = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    sign(original, out, *credentials)
    state, every, active = manifests(out)
    assert (state, len(every)) == ("Valid", 1)
    assert active["ingredients"][0]["relationship"] == "parentOf"


def test_the_original_itself_is_not_signed(credentials: tuple[Path, Path], tmp_path: Path) -> None:
    original = picture(tmp_path / "a.png")
    before = original.read_bytes()
    (tmp_path / "link.png").symlink_to(original)
    for name in ("a.png", "link.png"):
        with pytest.raises(UsageError, match="is the original itself"):
            sign(original, tmp_path / name, *credentials)
    with pytest.raises(UsageError, match=r"c\.png: cannot be read"):
        sign(original, tmp_path / "c.png", *credentials)
    assert original.read_bytes() == before
    copy = picture(tmp_path / "copy.png")
    copy.chmod(0o640)
    (tmp_path / "to.png").symlink_to(copy)
    sign(original, tmp_path / "to.png", *credentials)
    assert (tmp_path / "to.png").is_symlink()
    assert images.read(copy).credentials
    assert copy.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "link.png", "copy.png", "to.png"}


def test_what_cannot_be_signed_is_left_as_it_was(credentials: tuple[Path, Path], tmp_path: Path) -> None:
    original, out = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    before = out.read_bytes()
    _, key = credentials
    with pytest.raises(UsageError, match=r"leaf\.key and .*leaf\.key cannot sign b\.png: "):
        sign(original, out, key, key)
    with pytest.raises(UsageError, match=r"none\.pem: cannot be read \(No such file"):
        sign(original, out, tmp_path / "none.pem", key)
    for command in ("pkcs8 -topk8 -passout pass:x", "ec"):
        subprocess.run(
            ["openssl", *command.split(), "-in", key, "-out", tmp_path / "k"], check=True, capture_output=True
        )
        with pytest.raises(UsageError, match=r"k: is no private key in PKCS 8 without a password; see"):
            sign(original, out, credentials[0], tmp_path / "k")
    (tmp_path / "k").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"k\.png: not a readable"):
        sign(original, (tmp_path / "k").rename(tmp_path / "k.png"), *credentials)
    (tmp_path / "k.png").unlink()
    with pytest.raises(ImageError, match=r"\.bmp files carry no content credentials"):
        sign(original, picture(tmp_path / "c.bmp"), *credentials)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.bmp"]


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    path = picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"pip install 'mspd\[c2pa\]'"):
        sign(path, path, path, path)


# ---------------------------------------------------------------- the command line


def mspd(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["mspd", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_protect_then_sign(
    credentials: tuple[Path, Path],
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, out = shot(tmp_path / "photo.jpg", credentials), tmp_path / "out.png"
    assert mspd(monkeypatch, "protect", original, "-o", out, "--preset", tiny) == 0
    assert "photo.jpg: the original's content credentials are not in the copy: 'mspd sign' adds them" in (
        capsys.readouterr().err.replace("\n", " ")
    )
    assert mspd(monkeypatch, "protect", original, "-o", tmp_path / "out.bmp", "--preset", tiny) == 0
    assert "content credentials are not in the copy, whose format has none" in capsys.readouterr().err
    files = ("--certificates", credentials[0], "--key", credentials[1])
    assert mspd(monkeypatch, "sign", original, out, *files) == 0
    assert manifests(out)[0] == "Valid"
    assert mspd(monkeypatch, "sign", original, out, *files, "--strip", "names") == 2


def test_strip_and_history_at_the_command_line(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = located(tmp_path / "a.png")
    written = []
    for name in ("b.png", "c.png"):
        out = tmp_path / name
        assert mspd(monkeypatch, "protect", original, "-o", out, "--preset", tiny, "--strip", "gps", "--history") == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]
    picture = images.read(tmp_path / "b.png")
    assert picture.xmp is not None
    assert b"GPS" not in picture.xmp
    assert b"<stEvt:softwareAgent>mspd " in picture.xmp
    for secret in (b"seed", b"prn18", b"backbone"):
        assert secret not in written[0]
    assert mspd(monkeypatch, "protect", original, "-o", tmp_path / "d.png", "--strip", "names") == 2
    assert "only gps can be left out" in capsys.readouterr().err


def test_other_places_in_xmp_go_too() -> None:
    xmp = (
        b'<rdf:Description xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" xmlns:crs="http://ns.adobe.com/crs/1.0/"'
        b' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        b' xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"'
        b' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        b' drone-dji:GpsLatitude="+52.52" photoshop:City="Berlin" crs:Exposure="1"'
        b' Iptc4xmpCore:CountryCode="DEU"><drone-dji:GpsLongitude>13.40</drone-dji:GpsLongitude>'
        b"<Iptc4xmpCore:Location>Alexanderplatz</Iptc4xmpCore:Location><dc:title>cat</dc:title><Iptc4xmpExt:LocationShown>"
        b"<rdf:Bag><rdf:li Iptc4xmpExt:City='Berlin'/></rdf:Bag></Iptc4xmpExt:LocationShown></rdf:Description>"
    )
    pixels = np.zeros((4, 4, 3), np.uint8)
    after = without_gps(images.Picture(Path("x.png"), pixels, None, "PNG", None, None, xmp, None)).xmp
    assert after is not None
    assert b'crs:Exposure="1"' in after
    assert b"<dc:title>cat</dc:title>" in after
    for place in (b"52.52", b"13.40", b"Berlin", b"Alexanderplatz", b"DEU"):
        assert place not in after
