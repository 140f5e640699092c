"""The same job on Ray Data: actors that load the models once protect blocks of jobs with the pipeline of one machine.

The report stays with the calling process, which is the only one that reads and writes it. A block whose worker dies is
given to another one: it finds what is already there, computes it again and accepts it when the bytes are the same. The
sources and outputs must be where every worker reaches them: a shared folder, or addresses.
"""

import json
import logging
import os
import pickle
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mspd.batch import local
from mspd.batch.local import Known, Look, Options, Record
from mspd.batch.places import SCALE, Member
from mspd.batch.plan import Job
from mspd.batch.report import Row
from mspd.extras import library
from mspd.protector import Protector

#: pictures that one worker takes at a time; a shard is always one worker's
BLOCK = 64


class Worker:
    """An actor: the protector, which was unpickled once, on blocks of pickled jobs."""

    def __init__(self, protector: Protector, options: Options, threads: int) -> None:
        torch.set_num_threads(threads)
        self.protector, self.options = protector, options

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows: list[str] = []
        for block in batch["jobs"]:
            jobs: list[Job] = pickle.loads(block)  # our own, from the calling process
            found = local.protect(self.protector, jobs, lambda _: Known(started=True), _forget, self.options)
            rows += [json.dumps(row) for row in found]
        return {"row": np.array(rows, dtype=object)}


def _forget(row: Row) -> None:
    """The caller records the rows."""


def protect(
    protector: Protector, jobs: Iterable[Job], look: Look, record: Record, options: Options
) -> Generator[Row, None, None]:
    """The rows of the jobs as they are ready; as `local.protect`. UsageError when Ray is not installed."""
    ray, data = library("ray", SCALE), library("ray.data", SCALE)
    blocks: list[bytes] = []
    block: list[Job] = []
    for job in jobs:
        task = look(job)
        if task.row is not None:
            yield task.row
            continue
        row = local.refusal(job, task)
        if row is not None:
            record(row)
            yield row
            continue
        if block and (_shard(job) != _shard(block[-1]) or (len(block) >= BLOCK and _shard(job) is None)):
            blocks.append(pickle.dumps(block))
            block = []
        block.append(job)
    if block:
        blocks.append(pickle.dumps(block))
    if not blocks:
        return
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    threads = torch.get_num_threads()
    workers = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    found = data.from_items([{"jobs": b} for b in blocks], override_num_blocks=len(blocks)).map_batches(
        Worker,
        fn_constructor_args=(protector, replace(options, workers=None), threads),
        batch_size=1,
        compute=data.ActorPoolStrategy(size=min(workers, len(blocks))),
        num_cpus=threads,
        num_gpus=1 if protector.device.type == "cuda" else None,
    )
    for line in found.iter_rows():
        row = json.loads(line["row"])
        record(row)
        yield row
    local.sweep(jobs)  # what a killed worker left


def _shard(job: Job) -> object:
    return job.output.shard if isinstance(job.output, Member) else None
