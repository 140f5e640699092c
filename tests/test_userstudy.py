"""The user study: blinded, complete, scored by the key; nothing but answers is taken as answers."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Call, one_line
from mspd.benchmark import userstudy
from mspd.data.sets import CIFAR10
from mspd.errors import InputError, UsageError


@pytest.fixture(scope="module")
def study(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study of random pictures by tiny networks: its folder and the proxy."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for name in CIFAR10:
        (folder / "data" / "test" / name).mkdir(parents=True)
        for index in range(10):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / "test" / name / f"{index}.png")
    proxy = userstudy.make(folder / "data", folder / "out", preset=tiny, device="cpu")
    return folder / "out", proxy


def answers(folder: Path, path: Path, worse: set[str], participant: str = "a") -> Path:
    """A filled file, as the page saves it."""
    page = (folder / "study.html").read_text()
    name = re.search(r'study: "(\w+)"', page)
    assert name
    items = json.loads((folder / "key.json").read_text())["items"]
    votes = {item["id"]: "yes" if item["id"] in worse else "no" for item in items}
    path.write_text(json.dumps({"study": name[1], "participant": participant, "answers": votes}))
    return path


def test_page_is_complete_and_blinded(study: tuple[Path, str]) -> None:
    folder, proxy = study
    page, items = (folder / "study.html").read_text(), json.loads((folder / "key.json").read_text())["items"]
    assert [item["id"] for item in items] == [f"{i:03d}" for i in range(1, 201)]
    for method in userstudy.METHODS:
        for condition in userstudy.CONDITIONS:
            assert sum((i["method"], i["condition"]) == (method, condition) for i in items) == 20
    assert len({item["method"] for item in items[:20]}) == 2  # shuffled
    assert not any(word in page for word in ("MCGS", "PGD", "http"))
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 400
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (16, 16)
    raw = [n for n, item in enumerate(items) if item["condition"] == "raw"]
    for n in raw:
        a, b = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))).astype(int) for p in pictures[2 * n : 2 * n + 2]
        )
        assert 0 < np.abs(a - b).max() <= 8
    assert "| MCGS | SSIM |" in proxy
    assert (folder / "proxy.md").read_text().endswith(proxy)
    with pytest.raises(UsageError, match="holds a study already"):
        userstudy.make(folder.parent / "data", folder)
    (folder.parent / "half").mkdir()
    (folder.parent / "half" / "study.html").write_text("handed out")
    with pytest.raises(UsageError, match="holds a study already"):
        userstudy.make(folder.parent / "data", folder.parent / "half")
    with pytest.raises(UsageError, match="the pictures do not fit: 10 classes, classifier effnet-lite0-photo has 100"):
        userstudy.make(folder.parent / "data", folder.parent / "other", preset="photo")


def test_place_that_cannot_be_written(
    call: Call, study: tuple[Path, str], tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before the pictures are attacked."""
    folder, _ = study
    monkeypatch.setattr(userstudy, "pgd", None)
    command = ("userstudy", "make", "--data", folder.parent / "data", "--preset", tiny, "-o", folder / "key.json")
    one_line(call(*command), 1, "key.json: File exists")


def test_score(study: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = study
    items = json.loads((folder / "key.json").read_text())["items"]
    pgd = {i["id"] for i in items if (i["method"], i["condition"]) == ("PGD", "sharpened")}
    one = next(i["id"] for i in items if i["method"] == "MCGS")
    files = [answers(folder, tmp_path / f"{n}.json", worse, str(n)) for n, worse in enumerate((pgd, pgd, {one}))]
    table = userstudy.score(folder / "key.json", files)
    assert table.startswith("3 participants.")
    assert "| PGD | 0/20 [0.0%, 16.1%] | 20/20 [83.9%, 100.0%] |" in table
    assert "| 20/100 [13.3%, 28.9%] | 13.3% [8.1%, 18.6%] | 3, 6, 4, 4, 3; 20/100 |" in table
    assert "| 0/100 [0.0%, 3.7%] | 0.3% [0.0%, 1.0%] | 1, 2, 1, 1, 1; 6/100 |" in table


def test_files_that_are_no_answers(call: Call, study: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = study
    key, good = folder / "key.json", answers(folder, tmp_path / "good.json", set())
    content = json.loads(good.read_text())
    for change, line in (
        ({"study": "other"}, "answers to another study"),
        ({"answers": {"001": "yes"}}, "the answers are not complete"),
        ({"answers": {**content["answers"], "001": "maybe"}}, "the answers are not complete"),
        ({"answers": 3}, "not a file of answers"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=line):
            userstudy.score(key, [tmp_path / "bad.json"])
    with pytest.raises(InputError, match="a second file of participant 'a'"):
        userstudy.score(key, [good, good])
    with pytest.raises(UsageError, match=r"not a study's key\.json"):
        userstudy.score(good, [good])
    items = [{**item, "method": "PGD"} for item in json.loads(key.read_text())["items"]]
    (tmp_path / "one.json").write_text(json.dumps({"items": items}))
    with pytest.raises(UsageError, match=r"one\.json: not a study's key\.json"):
        userstudy.score(tmp_path / "one.json", [good])
    code, out, _ = call("userstudy", "score", good, "--key", key)
    assert code == 0
    assert "1 participants." in out
