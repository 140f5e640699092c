"""Names of classes: where two lists of them differ, and which label the pictures of a folder get."""

import csv
from collections.abc import Sequence
from pathlib import Path

from mspd.errors import UsageError

TABLE = "classes.tsv"


def plain(name: str) -> str:
    """A name as it is compared: the first of several between commas, no capitals, underscores as spaces."""
    return " ".join(name.partition(",")[0].replace("_", " ").split()).casefold()


def difference(theirs: Sequence[str], ours: Sequence[str], owner: str) -> str | None:
    """How the class names `theirs` differ from `ours`, those of `owner`; None where they do not.

    Two names agree where the words of one are among those of the other: "crane" and "crane bird".
    """
    said = [] if len(theirs) == len(ours) else [f"{len(theirs)} classes, {owner} has {len(ours)}"]
    for label, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        words, others = set(plain(their).split()), set(plain(our).split())
        if not (words <= others or others <= words):
            said.append(f"class {label} is {their!r}, {owner}'s is {our!r}")
            break
    return "; ".join(said) or None


def known_difference(theirs: Sequence[str], ours: Sequence[str], owner: str) -> str | None:
    """The same, but None where names of either are not known: none at all, or only numbers."""
    known = all(names and not all(name.isdecimal() for name in names) for names in (theirs, ours))
    return difference(theirs, ours, owner) if known else None


def check_classes(theirs: Sequence[str], ours: Sequence[str], owner: str) -> None:
    """UsageError where pictures are known to have other classes than a model, `owner`; and for folders of some numbers
    alone, from which others are missing."""
    if all(name.isdecimal() for name in theirs) and len(theirs) < len(ours):
        gap = next((label for label, name in enumerate(theirs) if int(name) != label), None)
        if gap is not None:
            line = f"{len(theirs)} folders called by numbers, none of them {gap}, and {owner} has {len(ours)} classes"
            raise UsageError(f"the pictures do not fit: {line}; call the folders like its classes")
    differ = known_difference(theirs, ours, owner)
    if differ is not None:
        raise UsageError(f"the pictures do not fit: {differ}; take pictures of its classes, numbered in its order")


def read_table(root: Path) -> list[tuple[str, str]]:
    """(wnid, name) of each class in the order of the labels, from classes.tsv in `root`; none where there is no such
    file. A table without wnids will do."""
    path = root / TABLE
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(int(row["label"]), row.get("wnid") or "", row["name"].partition(",")[0])
                    for row in csv.DictReader(file, delimiter="\t")]  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise UsageError(
            f"{path}: not a table of classes; write the columns label, wnid and name, with tabs between them"
        ) from error
    rows.sort()
    if not rows or [label for label, _, _ in rows] != list(range(len(rows))):
        raise UsageError(f"{path}: the labels must be 0, 1, 2 and so on, each in one row")
    return [(wnid, name) for _, wnid, name in rows]


def class_folders(source: Path) -> list[Path]:
    """The sub-folders of `source` that stand for classes, sorted by path."""
    return sorted(child for child in source.iterdir() if child.is_dir() and not child.name.startswith("."))


def label_folders(root: Path, source: Path, split: str, like: Sequence[str]) -> tuple[tuple[str, ...], dict[Path, int]]:
    """The names of the classes, and the label of each sub-folder of `source`, sorted by path.

    With a classes.tsv in `root` a folder called by a row's wnid or name has that row's label; any other folder is
    refused, and in the train part a row without a folder. Without one, folders that are called like the classes `like`
    are numbered like them: all of these in the train part, some in the test part. Others are numbered in alphabetical
    order, or in numerical order where they are numbers.
    """
    folders = class_folders(source)
    table = read_table(root)
    if table:
        return tuple(name for _, name in table), _by_table(folders, table, root / TABLE, source, split)
    labels = {folder: _called(folder, [{plain(name)} for name in like]) for folder in folders}
    found = {matches[0] for matches in labels.values() if len(matches) == 1}
    if len(found) == len(folders) and (split != "train" or len(found) == len(like)):
        return tuple(like), {folder: label for folder, (label,) in labels.items()}
    if all(folder.name.isdecimal() for folder in folders):
        folders.sort(key=lambda folder: int(folder.name))
    return tuple(folder.name for folder in folders), {folder: label for label, folder in enumerate(folders)}


def _by_table(
    folders: Sequence[Path], table: Sequence[tuple[str, str]], path: Path, source: Path, split: str
) -> dict[Path, int]:
    keys = [{plain(wnid), plain(name)} for wnid, name in table]
    owners: dict[int, Path] = {}
    for folder in folders:
        labels = _called(folder, keys)
        if len(labels) != 1:
            what = f"{len(labels)} classes" if labels else "no class"
            raise UsageError(f"{folder}: {what} of this name in {path}; call it by the wnid or the name of one row")
        if labels[0] in owners:
            other = owners[labels[0]].name
            raise UsageError(f"{folder}: the same class of {path} as {other}; make the two one folder")
        owners[labels[0]] = folder
    missing = next((name for label, (_, name) in enumerate(table) if label not in owners), None)
    if missing is not None and split == "train":
        raise UsageError(f"{source}: no folder of class {missing!r}, which is in {path}; add it, with pictures")
    return {folder: label for label, folder in owners.items()}


def _called(folder: Path, keys: Sequence[set[str]]) -> list[int]:
    """The classes that the folder is called like, of which `keys` are the names."""
    return [label for label, names in enumerate(keys) if plain(folder.name) in names]
