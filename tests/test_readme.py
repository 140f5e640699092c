"""The README is true: its Python runs, its commands exist, its files are there."""

import re
import sys
from pathlib import Path

import pytest

from mspd.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_runs() -> None:
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_commands_and_options_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def help_of(command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mspd", command, "--help"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        return capsys.readouterr().out

    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ mspd ")]
    assert len(lines) >= 5
    calls = [line.split("#")[0].split() for line in lines]
    helps = {name: help_of(name) for name in {words[1] for words in calls}}
    for words in calls:
        for option in (word for word in words[2:] if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", helps[words[1]]), f"{words}: {option}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\$ make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
