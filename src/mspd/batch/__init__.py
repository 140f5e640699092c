"""Many files: on one machine, or the same job on Ray."""

from mspd.batch.local import run
from mspd.batch.plan import Job, Plan, beside, plan

__all__ = ["Job", "Plan", "beside", "plan", "run"]
