"""Checkpoint files: found or downloaded once, checked, read as nothing but tensors, and loaded strictly."""

import argparse
import hashlib
import os
import pickle
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mspd.errors import WeightsError
from mspd.models.common import Stats
from mspd.models.files import load_state, refuse_web_page

SUFFIXES = (".safetensors", ".pt", ".pth", ".pth.tar", ".bin")
#: where training code puts the state dict in what it saves, the first that is there counts
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema", "ema")
#: what wrappers put before every name
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "1.")
#: names of a normalisation that was saved along, and which of the two statistics it is
NORMALISERS = {"mean": 0, "mu": 0, "std": 1, "sigma": 1}
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NORMALISING = tuple(f"{part}{name}" for part in ("", "normalize.", "normalization.", "0.") for name in NORMALISERS)


def folder() -> Path:
    """Where checkpoints are looked for and downloads go: `MSPD_CHECKPOINTS`, or `mspd` in the user's cache."""
    own = os.environ.get("MSPD_CHECKPOINTS")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mspd")


def obtain(name: str, stems: Sequence[str], url: str, sha256: str = "") -> Path:
    """The file of a model: one that lies in the folder under one of the `stems` (with any of `SUFFIXES`), else what
    is at `url`, downloaded there; WeightsError with the way out when neither works. `sha256`: its leading digits."""
    path = lying(*stems)
    if path is None:
        path = _download(name, url, folder() / f"{stems[0]}{_suffix(url)}")
    if not checksum(path).startswith(sha256):
        raise WeightsError(f"{path}: its sha256 does not begin with {sha256}, as published; remove it and get it again")
    return path


def lying(*stems: str) -> Path | None:
    """The file in the folder that has one of the names, with any of `SUFFIXES`; WeightsError if it is a web page."""
    path = next((p for stem in stems for suffix in SUFFIXES if (p := folder() / (stem + suffix)).is_file()), None)
    if path is not None:
        try:
            with path.open("rb") as file:
                refuse_web_page(path, file.read(512))
        except OSError as error:
            raise WeightsError(
                f"{path}: cannot be read ({error.strerror or error}); check its access rights"
            ) from error
    return path


def _suffix(url: str) -> str:
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if url.endswith(suffix)), ".pt")


def _download(name: str, url: str, path: Path) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    hand = f"get it by hand and put it there as {path} (or set MSPD_CHECKPOINTS to the folder where it is)"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(part), progress=sys.stderr.isatty())
        with part.open("rb") as file:
            refuse_web_page(path, file.read(512), f"{url} gives a web page instead of the file; {hand}")
        os.replace(part, path)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise WeightsError(f"{name}: {url} cannot be downloaded ({reason}); {hand}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path


_CHECKSUMS: dict[tuple[str, int, int], str] = {}


def checksum(path: Path) -> str:
    """sha256 of a file, computed once for as long as the file stays the same."""
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _CHECKSUMS:
        with path.open("rb") as file:
            _CHECKSUMS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _CHECKSUMS[key]


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, out of its container, without the prefixes of wrappers. Pickles are read
    with `weights_only`: nothing in a file is run. WeightsError for anything that is not a state dict."""
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            # argparse.Namespace: plain data that training scripts save beside the weights
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: holds more than tensors, and such a file can run code; save its state dict alone, as safetensors"
        ) from error
    except Exception as error:  # reading a damaged file can fail in any way
        raise WeightsError(f"{path}: not a checkpoint, or damaged; get the file again") from error
    return _unwrap(path, content)


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    state = content if isinstance(content, Mapping) else {}
    for _ in CONTAINERS:  # one in the other, but a hostile one may hold itself
        state = next((state[key] for key in CONTAINERS if isinstance(state.get(key), Mapping)), state)
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise WeightsError(f"{path}: no state dict in it; save model.state_dict() alone")
    return _bare(state)


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes that all of them have; a normalisation beside the wrapped network may lack it."""
    names = [key for key in state if key not in NORMALISING]
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return _bare({key.removeprefix(prefix): value for key, value in state.items()})
    return dict(state)


def normalised_as(stats: Stats | None, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict without a saved normalisation, which must be the one that is known (WeightsError)."""
    for key in NORMALISING:
        if key in state:
            known = (stats or UNCHANGED)[NORMALISERS[key.rpartition(".")[2]]]
            saved = state[key].flatten().float()
            if saved.shape != (3,) or not torch.allclose(saved, torch.tensor(known), atol=2e-4):
                raise WeightsError(f"{path}: normalises its images by {key} = {saved.tolist()}, not {list(known)}")
    return {key: value for key, value in state.items() if key not in NORMALISING}


def load(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load in place: every name and shape must be there; WeightsError names the first that is not."""
    try:
        load_state(network, state)
    except (RuntimeError, ValueError) as error:
        raise misfit(path, error) from error


def misfit(path: Path, reason: object) -> WeightsError:
    """The error for the weights of another network; of a message of many lines the one that tells most is kept."""
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()] or [type(reason).__name__]
    telling = next((line for line in lines if "mismatch" in line or "key(s)" in line), lines[0])
    return WeightsError(f"{path}: the weights of another network ({telling[:200]})")
