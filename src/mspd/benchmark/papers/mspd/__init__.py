"""Every table and figure of the paper (MSPD / MCGS), one file each.

A file has a TITLE, the paper's numbers (PAPER on CIFAR-10, IMAGENET where there are such), `runs(tier)`: the cells that
it needs, `report(found, tier)`: the table beside the paper's numbers and what should hold, and, where wanted,
`extras(study)`: what no grid can say, and `plot(study, path)`.
"""

from mspd.benchmark.papers.mspd.leaderboard import leaderboard
from mspd.benchmark.papers.mspd.reproduce import ITEMS, reproduce, title_of
from mspd.benchmark.papers.mspd.tier import TIERS, Tier, get_tier

__all__ = ["ITEMS", "TIERS", "Tier", "get_tier", "leaderboard", "reproduce", "title_of"]
