"""What a published picture says of its origin: content credentials (C2PA), an XMP history line, the place (GPS).

Nothing that helps to take a protection back is written: not the seed, not the backbone, not the label. Thumbnails are
small unprotected copies, so none is added and those of the original's credentials are redacted.
"""

import io
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mspd import atomic, images
from mspd.errors import ImageError, UsageError
from mspd.extras import library
from mspd.images import Picture
from mspd.images.refusals import no_warnings
from mspd.images.xmp import with_event, without_places

_GPS = 0x8825
#: labels of assertions that may hold a place
_PLACES = ("stds.exif", "stds.iptc", "c2pa.metadata", "cawg.metadata")


def without_gps(picture: Picture) -> Picture:
    """The picture without the place in its EXIF and XMP. What cannot be parsed goes, too: the EXIF is written again
    from what was read of it."""
    exif, xmp = picture.exif, picture.xmp
    if exif is not None:
        try:
            with no_warnings():
                tags = Image.Exif()
                tags.load(exif)
                if _GPS in tags:
                    for ifd in list(tags.get_ifd(_GPS)):
                        del tags.get_ifd(_GPS)[ifd]
                    del tags[_GPS]
                exif = tags.tobytes().removeprefix(b"Exif\0\0") if len(tags) else None
        except Exception:  # Pillow raises anything on malformed tags
            exif = None
    return replace(picture, exif=exif, xmp=None if xmp is None else without_places(xmp))


def with_history(picture: Picture) -> Picture:
    """The picture with a line in its XMP history: edited, by mspd. No time, so that the same call gives the same bytes.
    A picture with XMP that cannot be parsed stays as it is."""
    xmp = with_event(picture.xmp, f"mspd {version('mspd')}")
    return picture if xmp is None else replace(picture, xmp=xmp)


def carries_credentials(copy: str | Path) -> bool:
    """Whether a copy of that name can be signed: every format that is written, but for BMP."""
    return images.FORMATS.get(Path(copy).suffix.lower()) not in (None, "BMP")


def sign(
    original: str | Path, written: str | Path, certificates: str | Path, key: str | Path, *, strip_gps: bool = False
) -> None:
    """Give the file `written`, made from `original`, a signed manifest: opened the original, edited it by mspd.

    certificates: file with the signer's certificate and its issuers (PEM, the signer's own first)
    key:          file with its private key (PEM, PKCS 8, without a password)

    The original's own manifest, if any, becomes the parent's. Thumbnails in it are redacted (with `strip_gps` also the
    metadata that may hold a place), which its signature allows for. The pixels stay as they are, which is checked.
    UsageError without the extra, for files that cannot be read or are one, and for credentials that cannot sign;
    ImageError for a format that cannot carry a manifest. Where it raises, `written` is as before.
    """
    c2pa = library("c2pa", "'mspd[c2pa]'")
    original, written = Path(original), Path(written).resolve()
    if not carries_credentials(written):
        raise ImageError(f"{written}: {written.suffix} files carry no content credentials; use .png, .jpg or .webp")
    chain, secret = _read(Path(certificates)), _read(Path(key))
    if b"-----BEGIN PRIVATE KEY-----" not in secret:
        raise UsageError(f"{key}: is no private key in PKCS 8 without a password; see openssl pkcs8 -topk8 -nocrypt")
    source, plain = _read(original), _read(written)
    if original.samefile(written):
        raise UsageError(f"{original}: is the original itself; name the protected copy of it")
    picture, copy = images.decode(source, original), images.decode(plain, written)
    kind = _media_type(picture.format)
    redactions = _redactions(c2pa, source, kind, strip_gps) if picture.credentials else []
    edited = {"action": "c2pa.edited", "softwareAgent": {"name": "mspd", "version": version("mspd")}}
    removed = [{"action": "c2pa.redacted", "reason": "c2pa.PII.present", "parameters": {"redacted": uri}}
               for uri in redactions]  # fmt: skip
    manifest = {
        "claim_generator_info": [{"name": "mspd", "version": version("mspd")}],
        "title": written.name,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [edited, *removed]}}],
        "redactions": redactions,
    }
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    reason: Exception | None = None
    for algorithm in ("ES256", "ES384", "ES512", "PS256", "ED25519"):
        try:
            signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg[algorithm], chain, secret, None))
            builder = c2pa.Builder(manifest, context)
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            builder.add_ingredient({"title": original.name, "relationship": "parentOf"}, kind, io.BytesIO(source))
            signed = io.BytesIO()
            builder.sign(signer, _media_type(copy.format), io.BytesIO(plain), signed)
        except c2pa.C2paError as error:
            reason = error
            if "invalid signing credentials" in str(error):
                continue  # a key of another kind
            break
        _replace(written, copy, signed.getvalue())
        return
    line = " ".join(str(reason).split())[:200]
    raise UsageError(f"{certificates} and {key} cannot sign {written.name}: {line}")


def _media_type(form: str) -> str:
    return f"image/{form.lower()}"


def _redactions(c2pa: Any, source: bytes, kind: str, strip_gps: bool) -> list[str]:
    """Addresses of what the original's manifests show of the unprotected picture (and of the place)."""
    try:
        store = json.loads(c2pa.Reader(kind, io.BytesIO(source)).json())
    except c2pa.C2paError as error:
        raise ImageError(
            f"the original's content credentials cannot be read ({' '.join(str(error).split())[:120]})"
        ) from error
    found = []
    for label, manifest in store.get("manifests", {}).items():
        thumbnails = [manifest.get("thumbnail"), *(part.get("thumbnail") for part in manifest.get("ingredients", []))]
        found += [thumbnail["identifier"] for thumbnail in thumbnails if thumbnail]
        if strip_gps:
            found += [
                f"self#jumbf=/c2pa/{label}/c2pa.assertions/{assertion['label']}"
                for assertion in manifest.get("assertions", [])
                if str(assertion.get("label", "")).startswith(_PLACES)
            ]
    return sorted(set(found))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error


def _replace(path: Path, before: Picture, data: bytes) -> None:
    """Put `data` in the place of the file, if it decodes to the same picture as before."""
    after = images.decode(data, path)
    alike = before.alpha is None or (after.alpha is not None and np.array_equal(before.alpha, after.alpha))
    if not (alike and np.array_equal(before.pixels, after.pixels)):
        raise ImageError(f"{path}: signing changed the picture; the file is left unsigned")
    try:
        atomic.write(path, data)
    except OSError as error:
        raise ImageError(f"{path}: cannot be signed ({error.strerror or error}); it is left unsigned") from error
