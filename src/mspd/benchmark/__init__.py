"""The benchmark: a grid of defences, backbones, targets, attacks and treatments, measured image by image."""

from mspd.benchmark.grid import Cell
from mspd.benchmark.purified import Purified
from mspd.benchmark.run import benchmark
from mspd.benchmark.summary import Score, Summary, markdown

__all__ = ["Cell", "Purified", "Score", "Summary", "benchmark", "markdown"]
