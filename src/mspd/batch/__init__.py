"""Many files: on one machine, or the same job on Ray."""

from mspd.batch.plan import Job, Plan, beside, plan
from mspd.batch.runner import run

__all__ = ["Job", "Plan", "beside", "plan", "run"]
