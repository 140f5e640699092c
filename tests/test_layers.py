"""A room imports only from rooms above it."""

import ast
from pathlib import Path

import mspd

ROOT = Path(mspd.__file__).parent
#: from top to bottom; a name covers a module or a whole folder
ROOMS = (
    "errors", "locks", "ball", "objectives", "guard", "metrics", "images", "smoothing", "data", "models",
    "defenses", "attacks", "purifiers", "reversion", "adapters", "evaluation", "presets", "protector", "verify",
    "provenance", "export", "benchmark", "training", "batch", "pipelines", "web", "cli",
)  # fmt: skip


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mspd":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mspd.")}
    return found


def test_imports_point_upwards() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        own = room(path)
        if own.startswith("__"):
            continue
        assert own in ROOMS, f"{own} has no place in ROOMS"
        for other in imported(path):
            assert ROOMS.index(other) <= ROOMS.index(own), f"{path.name} imports {other}, which is below it"


def test_all_names_exist() -> None:
    assert sorted(mspd.__all__) == sorted(set(mspd.__all__))
    assert all(hasattr(mspd, name) for name in mspd.__all__)
