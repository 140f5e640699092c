"""Where the shared data sets are (tests that need them skip with a reason when they are absent), a preset of tiny
random networks for tests of all that is around the networks, the command line in this process, a server for tests of
the page, and what the tables of attacks and defences have in common."""

import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import FastAPI

from mspd.errors import InputError, UsageError
from mspd.models import build, card_of, save_model
from mspd.presets import PRESETS, Preset
from mspd.web.door import Connection

os.environ.pop("COLUMNS", None)  # rich would keep to it for good; pytest-xdist sets it

Call = Callable[..., tuple[int, str, str]]
DATA = Path(os.environ.get("MSPD_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no data sets in {DATA}; set MSPD_DATA to a folder with cifar10/ and tiny-imagenet-100/")
    return DATA


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """mspd ARGS in this process, in an empty folder: exit code, stdout, stderr."""
    from mspd.cli import main  # not before COLUMNS is gone

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mspd", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def one_line(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """Exit code `code` and one line on stderr that begins "mspd: " and contains the parts."""
    assert result[0] == code, result
    assert re.fullmatch(r"mspd: [^\n]+\n", result[2]), result[2]
    for part in parts:
        assert part in result[2]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three random networks of 10 classes, as weight files."""
    folder = tmp_path_factory.mktemp("weights")
    arguments = {"num_classes": 10, "depth": 10, "width": 1}
    files = {}
    for seed, name in enumerate(("classifier", "backbone", "target")):
        torch.manual_seed(seed)
        card = {"architecture": "wide_resnet", "arguments": arguments, "classes": card_of("resnext-cifar10")["classes"]}
        files[name] = folder / f"{name}.safetensors"
        save_model(build("wide_resnet", arguments), files[name], card)
    return files


@pytest.fixture(scope="module")
def tiny(tiny_weights: dict[str, Path]) -> Iterator[str]:
    """A quick preset for this process: 16-pixel view, budget 8/255, one noisy copy."""
    names = {name: str(path) for name, path in tiny_weights.items()}
    with pytest.MonkeyPatch.context() as patch:
        preset = Preset("tiny", names["classifier"], names["backbone"], (names["target"],), 16, 8 / 255, 1, 0)
        patch.setitem(PRESETS, "tiny", preset)
        yield "tiny"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What a caller's `torch.set_default_dtype` does."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_refusals(function: Callable[..., object], call: dict[str, Any], wrong: dict[str, tuple[Any, ...]]) -> None:
    """Each wrong value, in the place of the call's own, gets one line that begins with the argument's name."""
    for key, values in wrong.items():
        for value in values:
            with pytest.raises(UsageError if key not in ("model", "x", "y") else InputError) as caught:
                function(**{**call, key: value})
            assert re.match(rf"(unknown |the )?{key} ", str(caught.value))
            assert "\n" not in str(caught.value)


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The app at a free port of this computer, in a thread; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(app, http=Connection, log_level="critical", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
