"""Many files on one machine."""

from mspd.batch.local import Job, beside, plan, run

__all__ = ["Job", "beside", "plan", "run"]
