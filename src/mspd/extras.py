"""Libraries that mspd does without until they are asked for."""

from importlib import import_module
from typing import Any

from mspd.errors import UsageError


def library(module: str, install: str) -> Any:
    """A module of another library; UsageError that says what to `install` where it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(f"this needs {package}: pip install {install} ({error})") from error
