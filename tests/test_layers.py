"""A room imports only from rooms above it."""

import ast
import re
from pathlib import Path

import mspd
from mspd import images

ROOT = Path(mspd.__file__).parent
#: from top to bottom; a name covers a module or a whole folder
ROOMS = (
    "errors", "extras", "locks", "atomic", "ball", "objectives", "guard", "smoothing", "metrics", "images", "data",
    "models", "defenses", "attacks", "purifiers", "adapters", "reversion", "evaluation", "presets", "protector",
    "verify", "provenance", "export", "benchmark", "training", "batch", "pipelines", "web", "cli",
)  # fmt: skip


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def names(path: Path) -> set[str]:
    """What a file imports, with all dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in names(path) if name.startswith("mspd.")}


def test_imports_point_upwards() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        own = room(path)
        if own.startswith("__"):
            continue
        assert own in ROOMS, f"{own} has no place in ROOMS"
        for other in imported(path):
            assert ROOMS.index(other) <= ROOMS.index(own), f"{path.name} imports {other}, which is below it"


def test_files_of_images_import_from_those_listed_above() -> None:
    files = re.findall(r"^(\w+)\.py ", images.__doc__ or "", flags=re.MULTILINE)
    assert sorted(["__init__", *files]) == sorted(path.stem for path in (ROOT / "images").glob("*.py"))
    for place, own in enumerate(files):
        for name in names(ROOT / "images" / f"{own}.py"):
            if f"{name}.".startswith("mspd.images."):
                assert name.split(".")[2:3] in [[other] for other in files[:place]], f"{own}.py imports {name}"


def test_all_names_exist() -> None:
    for module in (mspd, images):
        assert sorted(module.__all__) == sorted(set(module.__all__))
        assert all(hasattr(module, name) for name in module.__all__)
