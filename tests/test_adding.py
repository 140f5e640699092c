"""docs/adding.md is true: its files are written, its commands and its Python run, in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mspd.cli as cli
from mspd.models import card_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
#: what stands for the other libraries: the page shows how an attack is made of them, tests/test_benchmark.py runs it
FAKES = {
    "torchattacks.py": "class PGD:\n    def __init__(self, model, eps, alpha, steps): ...\n",
    "foolbox/__init__.py": "from foolbox import attacks\n",
    "foolbox/attacks.py": "class LinfPGD:\n    def __init__(self, rel_stepsize, steps): ...\n",
    "art/__init__.py": "",
    "art/attacks/__init__.py": "",
    "art/attacks/evasion.py": "def ProjectedGradientDescent(estimator, eps_step, max_iter, verbose): ...\n",
}


def blocks() -> Iterator[tuple[str, str, str]]:
    """(language, mark, content) of each block of the page: the mark is "file=..." or "append=...", or empty."""
    yield from re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its tests; the weights are linked."""
    here = tmp_path / "mspd"
    shutil.copytree(ROOT / "src", here / "src", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    weights = Path("src", "mspd", "models", "weights")
    (here / weights).symlink_to(ROOT / weights, target_is_directory=True)
    shutil.copytree(ROOT / "tests", here / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", here)
    return here


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stranger's folder, with pictures; modules in it and the fakes can be imported."""
    here, fakes = tmp_path / "away", tmp_path / "fakes"
    for index, name in enumerate(card_of("resnext-cifar10")["classes"]):
        folder = here / "pictures" / "test" / f"{index} {name}"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
    for name, text in FAKES.items():
        (fakes / name).parent.mkdir(parents=True, exist_ok=True)
        (fakes / name).write_text(text)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", ["", str(fakes), *sys.path])
    known = set(sys.modules)
    yield here
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or Path(file).resolve().is_relative_to(tmp_path.resolve()):
            del sys.modules[name]


def test_a_stranger_follows_the_page(
    away: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []
    for language, mark, content in blocks():
        verb, _, place = mark.partition("=")
        if verb == "file":
            (away / place).write_text(content, encoding="utf-8")
        elif verb == "append":
            with (copy / place).open("a", encoding="utf-8") as file:
                file.write("\n\n" + content)
        elif language == "python":
            exec(compile(content, "adding.md", "exec"), {})
        else:
            commands.append([shlex.split(line.removeprefix("$ ")) for line in content.splitlines()])
            for program, *arguments in commands[-1]:
                if program == "mspd":
                    monkeypatch.setattr(sys, "argv", ["mspd", *arguments])
                    with pytest.raises(SystemExit) as stop:
                        cli.main()
                    assert stop.value.code == 0, capsys.readouterr().err
                    table = (away / "results" / "summary.md").read_text(encoding="utf-8")
                    assert "| lean:lean | prn18-cifar10 | none | wrn16-2-cifar10 | momentum:momentum |" in table
                else:
                    tested = moved_and_tested(away, copy, [program, *arguments])
    assert [line[0] for lines in commands for line in lines] == ["mspd", "pytest"]
    passed = re.search(r"(\d+) passed", tested)
    assert passed is not None
    assert int(passed[1]) >= 10


def moved_and_tested(away: Path, copy: Path, command: list[str]) -> str:
    """The last section: move the two files, then run the tests in the copy."""
    for place in re.findall(r"`(src/mspd/\w+/(?!__init__)\w+\.py)`", PAGE):
        (away / Path(place).name).rename(copy / place)
    done = subprocess.run(
        [sys.executable, "-m", *command, "-p", "no:cacheprovider"],
        cwd=copy, env={**os.environ, "PYTHONPATH": str(copy / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
