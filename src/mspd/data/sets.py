"""Read a labelled image set into one uint8 tensor, or iterate over its encoded pictures."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mspd.data.classes import TABLE, class_folders, label_folders, read_table
from mspd.errors import ImageError, UsageError
from mspd.extras import library
from mspd.images import is_picture
from mspd.images.metadata import TURNS, find_exif, upright_exif

#: the validation part goes by several names
SPLITS = {"train": ("train",), "test": ("test", "valid", "validation", "val")}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class ImageSet:
    """`images` (N, 3, S, S) uint8, `labels` (N,) int64 and the class names, index = label; () if they are not known."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Images start..stop as float32 in [0, 1]."""
        return self.images[start:stop].float().div_(255)


def _find(root: Path, split: str) -> Path:
    names = SPLITS.get(split)
    if names is None:
        raise UsageError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    for name in names:
        for candidate in (root / f"{name}.parquet", root / name):
            if candidate.exists():
                return candidate
    if root.is_dir() and split == "train" and class_folders(root):
        return root
    raise UsageError(f"{root}: no {split} set here; expected {names[0]}.parquet, or a folder with a sub-folder a class")


def class_names(root: str | Path, split: str = "test", *, like: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the classes: those of classes.tsv, of a parquet file's own head, CIFAR-10's, or the sub-folders' (see
    `label_folders`)."""
    root = Path(root)
    source = _find(root, split)
    if source.is_dir():
        return label_folders(root, source, split, like)[0]
    named = tuple(name for _, name in read_table(root)) or _names_in(source)
    return named or (CIFAR10 if re.search(r"cifar-?10(?!0)", root.absolute().name.lower()) else ())


def _parquet(source: Path) -> Any:
    """The open file; UsageError when it is none, or without pyarrow."""
    parquet = library("pyarrow.parquet", "'mspd[train]'")
    try:
        return parquet.ParquetFile(source)
    except (OSError, ValueError) as error:
        raise UsageError(f"{source}: not a readable parquet file; get it again") from error


def _names_in(source: Path) -> tuple[str, ...]:
    """The names of the classes where the Hugging Face hub's tools wrote them into a parquet file."""
    try:
        head = json.loads((_parquet(source).schema_arrow.metadata or {})[b"huggingface"])
        names = head["info"]["features"]["label"]["names"]
    except (LookupError, TypeError, ValueError):
        return ()
    telling = isinstance(names, list) and not all(str(name).isdecimal() for name in names)
    return tuple(map(str, names)) if telling else ()


def records(root: str | Path, split: str = "test", *, like: Sequence[str] = ()) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, encoded bytes, label) of each picture, in the order of the file; of folders the first picture (by
    path) of each class, then the second of each, so that the first n are of all classes. Labels as in `label_folders`.
    """
    root = Path(root)
    source = _find(root, split)
    if source.is_dir():
        classes = []
        for folder, label in label_folders(root, source, split, like)[1].items():
            pictures = sorted(p for p in folder.rglob("*") if is_picture(p) and p.is_file())
            if not pictures:
                raise UsageError(f"{folder}: no pictures of this class; add some or remove the folder")
            classes.append([(path, label) for path in pictures])
        for path, label in filter(None, chain.from_iterable(zip_longest(*classes))):
            yield str(path.relative_to(source)), path.read_bytes(), label
        return
    table = _parquet(source)
    column = "img" if "img" in table.schema_arrow.names else "image"
    if not {column, "label"} <= set(table.schema_arrow.names):
        raise UsageError(f"{source}: the columns must be 'image' (or 'img') and 'label'")
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=[column, "label"]):
        for row in batch.to_pylist():
            entry = row[column] if isinstance(row[column], dict) else {"bytes": row[column]}
            found = _whole(row["label"])
            if found is None:
                line = f"{source}: row {number} has the label {row['label']!r}, which is no whole number"
                raise UsageError(f"{line}; mend the file or leave the row out")
            if not isinstance(entry.get("bytes"), bytes):
                raise UsageError(f"{source}: row {number} has no encoded picture; mend the file or leave the row out")
            yield entry.get("path") or f"row {number}", entry["bytes"], found
            number += 1


def _whole(label: Any) -> int | None:
    """A label as a number; None for what is none."""
    try:
        return int(label) if isinstance(label, str) or int(label) == label else None
    except (TypeError, ValueError, OverflowError):
        return None


def _square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size`, centre crop."""
    return image if image.size == (size, size) else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def load(
    root: str | Path,
    split: str = "test",
    *,
    size: int | None = None,
    limit: int | None = None,
    like: Sequence[str] = (),
) -> ImageSet:
    """Load a split as one tensor.

    `root` holds train.parquet and test.parquet (or valid.parquet), or train/ and test/ folders with a sub-folder a
    class. A classes.tsv beside them (columns label, wnid, name) names the classes; sub-folders then get the label of
    the row by whose wnid or name they are called. Without it, sub-folders called like the classes `like` are numbered
    like these, others in alphabetical order, numbers by their value (`mspd.data.classes`).

    Pictures are made square at `size` pixels (short side scaled, centre cropped); without `size` all of them must
    already share one square size. Raises UsageError when nothing is found, ImageError for a broken picture.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    for name, data, label in records(root, split, like=like):
        if limit is not None and len(labels) >= limit:
            break
        try:
            image: Image.Image = Image.open(io.BytesIO(data))
            if image.mode.startswith(("I", "F")):
                line = f"{root}: {name} has more than 8 bits a channel"
                raise ImageError(f"{line}; convert it to 8 bits, or remove it")
            turn = 1 if image.format == "TIFF" else upright_exif(find_exif(image.info))[0]  # Pillow turns a TIFF itself
            image = (image.transpose(TURNS[turn]) if turn != 1 else image).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(f"{root}: {name} cannot be read as a picture; remove it or get it again") from error
        side = size or image.size[0]
        array = torch.from_numpy(np.array(_square(image, side)))
        if images and array.shape[0] != images[0].shape[1]:
            raise UsageError(f"{root}: {name} is {image.size[0]} pixels wide, the first picture is not: give a size")
        images.append(array.permute(2, 0, 1))
        labels.append(label)
    if not images:
        raise UsageError(f"{root}: no pictures found")
    classes = class_names(root, split, like=like)
    stray = next((label for label in labels if not 0 <= label < len(classes)), None) if classes else None
    if stray is not None:
        raise UsageError(f"{root}: label {stray} is none of the {len(classes)} classes; mend {TABLE} or the labels")
    return ImageSet(torch.stack(images), torch.tensor(labels), classes)
