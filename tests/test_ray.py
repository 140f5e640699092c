"""Ray Data gives the bytes and rows of one machine, whatever the number of workers, and whichever of them dies."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import mspd.batch.ray as engine
from mspd import Protector
from mspd.batch import Plan, plan, run
from test_scale import SAMPLES, files, folder_of, tar

ray = pytest.importorskip("ray", reason="needs pip install 'mspd[scale]'")
pytestmark = [
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker to kill in /proc"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def rows_of(protector: Protector, jobs: Plan, report: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows without what differs: where the outputs are, and the time."""
    rows = list(run(protector, jobs, report=report, seed=0, **options))
    kept = [{key: value for key, value in row.items() if key not in ("output", "seconds")} for row in rows]
    return sorted(kept, key=lambda row: row["id"])


def workers() -> list[int]:
    """Processes under this one that are actors of Ray Data."""
    parents, found = {}, []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if b"MapWorker" in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid in found if ours(pid)]


def test_same_bytes_and_rows(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None) -> None:
    protector = Protector(tiny)
    monkeypatch.setattr(engine, "BLOCK", 3)
    several = {"a.png": SAMPLES["k/0.png"], "b.png": b"", "b.gif": b""}
    sources = [folder_of(tmp_path / "in", 10), tar(tmp_path / "s.tar", SAMPLES), tar(tmp_path / "t.tar", several)]
    (tmp_path / "u.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:1100])
    sources.append(tmp_path / "u.tar")
    (tmp_path / "in" / "05.png").write_bytes(b"broken")
    expected = rows_of(protector, plan(sources, tmp_path / "local"), tmp_path / "local.jsonl")
    (tmp_path / "ray2").mkdir()
    (tmp_path / "ray2" / "01.png.png").write_bytes(b"a stranger's")
    for count in (1, 2):
        out, report = tmp_path / f"ray{count}", tmp_path / f"ray{count}.jsonl"
        rows = rows_of(protector, plan(sources, out), report, engine="ray", workers=count)
        if count == 2:
            refused = rows.pop(1)
            assert "01.png.png: already exists" in refused["error"]
            assert (out / "01.png.png").read_bytes() == b"a stranger's"
            assert rows == [row for row in expected if row["id"] != refused["id"]]
            (out / "01.png.png").unlink()
            again = rows_of(protector, plan(sources, out), report, engine="ray", workers=count)
            assert [row["status"] for row in again].count("done") == 1
        else:
            assert rows == expected
        assert files(out) == files(tmp_path / "local")


def test_output_whose_name_is_too_long_is_a_row(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ("x" * 249 + ".png")).write_bytes(SAMPLES["k/0.png"])
    (tmp_path / "out").mkdir()
    (row,) = run(Protector(tiny), plan([tmp_path / "in"], tmp_path / "out"), report=None, seed=0, engine="ray")
    assert row["error"].endswith("x.png.png: the name is too long; choose a shorter one")


def test_a_killed_worker_loses_nothing(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> None:
    protector = Protector(tiny)
    monkeypatch.setattr(engine, "BLOCK", 2)
    root, out = folder_of(tmp_path / "in", 40), tmp_path / "ray"
    expected = rows_of(protector, plan([root], tmp_path / "local"), tmp_path / "local.jsonl")
    killed: list[int] = []

    def kill() -> None:
        while not out.exists() or len(list(out.iterdir())) < 5:
            time.sleep(0.01)
        killed.extend(workers()[:1])
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    killer = Thread(target=kill, daemon=True)
    killer.start()
    rows = rows_of(protector, plan([root], out), tmp_path / "ray.jsonl", engine="ray", workers=2)
    killer.join(10)
    assert len(killed) == 1
    assert rows == expected
    assert files(out) == files(tmp_path / "local")
