"""The README is true: its Python runs, its commands exist, its files are there."""

import re
from pathlib import Path

from conftest import Call

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_runs() -> None:
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_commands_and_options_exist(call: Call) -> None:
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ mspd ")]
    assert len(lines) >= 5
    calls = [line.split("#")[0].split() for line in lines]
    shown = {name: call(name, "--help") for name in {words[1] for words in calls}}
    assert all(code == 0 for code, _, _ in shown.values())
    for words in calls:
        for option in (word for word in words[2:] if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown[words[1]][1]), f"{words}: {option}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\$ make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
