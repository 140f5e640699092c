"""The HTTP API: the same bytes as the protector's, who may come in, limits, hostile files, cancellation."""

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mspd import Protector, images
from mspd.web import create_app

pytestmark = pytest.mark.usefixtures("tiny")
HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(tiny: str) -> Iterator[TestClient]:
    with TestClient(create_app(), base_url=HERE) as client:
        yield client


def png(
    seed: int = 0, size: tuple[int, int] = (40, 36), form: str = "PNG", mode: str = "RGB", **options: object
) -> bytes:
    small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def test_protect_gives_the_protectors_bytes(client: TestClient) -> None:
    data = png()
    answer = client.post("/api/protect", files={"picture": ("a/cat.png", data)}, data={"preset": "tiny", "seed": 7})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    report = json.loads(answer.headers["mspd-report"])
    copy, expected = Protector("tiny").protect_picture(images.decode(data, "cat.png"), "cat.protected.png", seed=7)
    assert answer.content == copy
    assert {**report, "seconds": 0} == {**expected.row(), "seconds": 0}
