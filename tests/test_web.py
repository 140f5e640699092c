"""The HTTP API: the protector's bytes, who may come in, limits, hostile files and requests, cancellation."""

import gc
import http.client
import importlib
import io
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from conftest import Call, one_line, serving
from mspd import Protector, Verifier, images
from mspd.attacks import pgd
from mspd.errors import UsageError
from mspd.presets import get_preset
from mspd.web import Limits, create_app, serve
from mspd.web.app import PAGE
from mspd.web.door import Connection

pytestmark = pytest.mark.usefixtures("tiny")
HERE = "http://127.0.0.1:8000"
ROOT = str(Path(__file__).parents[1])
VERIFY = importlib.import_module("mspd.verify")  # mspd.verify is the function


@pytest.fixture(scope="module")
def client(tiny: str) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch, TestClient(create_app(), base_url=HERE) as client:
        patch.setattr(VERIFY, "pgd", partial(pgd, steps=2))
        yield client


def photo(
    seed: int = 0, size: tuple[int, int] = (40, 36), form: str = "PNG", mode: str = "RGB", **options: object
) -> bytes:
    small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def protect(client: httpx.Client, data: bytes, name: str = "cat.png", **fields: object) -> httpx.Response:
    files = {"picture": (name, data)}
    return client.post("/api/protect", files=files, data={"preset": "tiny", **{k: str(v) for k, v in fields.items()}})


def refused(answer: httpx.Response, status: int, *parts: str) -> None:
    """One line of JSON that contains the parts and no path of this machine."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    line = answer.json()["error"]
    assert line
    assert "\n" not in line
    assert not re.search(r"/(tmp|home|root|work|usr)/|Traceback|site-packages", line)
    assert ROOT not in line
    for part in parts:
        assert part in line


# ---------------------------------------------------------------- the calls

TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # orientation 6


def test_protect_gives_the_protectors_bytes(client: TestClient) -> None:
    data = photo()
    answer = protect(client, data, "a/cat.png", seed=7)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'attachment; filename="cat.protected.png"'
    other = protect(client, data, "dé jà.png").headers["content-disposition"]
    assert other == "attachment; filename*=UTF-8''d%C3%A9%20j%C3%A0.protected.png"
    report = json.loads(answer.headers["mspd-report"])
    copy, expected = Protector("tiny").protect_picture(images.decode(data, "cat.png"), "cat.protected.png", seed=7)
    assert answer.content == copy
    assert {**report, "seconds": 0} == {**expected.row(), "seconds": 0}


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("JPEG", "RGB", {"exif": TURNED}),
        ("JPEG", "L", {}),
        ("WEBP", "RGBA", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
    ],
)
def test_a_file_of_each_kind_stays_within_the_budget(
    client: TestClient, form: str, mode: str, options: dict[str, Any]
) -> None:
    data = photo(form=form, mode=mode, **options)
    answer = protect(client, data, f"x.{form.lower()}", eps="2/255")
    assert answer.status_code == 200, answer.text
    before, after = images.decode(data, "x").pixels, images.decode(answer.content, "y").pixels
    moved = np.abs(before.astype(int) - after)
    assert 0 < moved.max() <= 2
    assert json.loads(answer.headers["mspd-report"])["linf"] == moved.max()


def test_verify_gives_the_verifiers_findings(client: TestClient) -> None:
    before = photo()
    after = protect(client, before).content
    files = {"original": ("a.png", before), "protected": ("b.png", after)}
    answer = client.post("/api/verify", files=files, data={"preset": "tiny", "seed": "3"})
    assert answer.status_code == 200, answer.text
    expected = Verifier(get_preset("tiny")).compare(
        images.decode(before, "a.png"), images.decode(after, "b.png"), seed=3
    )
    assert answer.json() == expected.row()


def test_verify_of_two_different_pictures(client: TestClient) -> None:
    files = {"original": ("a.png", photo()), "protected": ("b.png", photo(size=(20, 20)))}
    refused(client.post("/api/verify", files=files, data={"preset": "tiny"}), 422, "a.png and b.png differ in size")


def test_the_rest_of_the_api(client: TestClient) -> None:
    assert {preset["name"] for preset in client.get("/api/presets").json()} == {"photo", "cifar10", "tiny"}
    health = client.get("/api/health").json()
    assert health["status"] == "ok"
    assert health["limits"]["pixels"] == Limits().pixels
    for path in ("/", "/api/health"):  # as load balancers ask
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    protect(client, photo())
    protect(client, b"")
    metrics = client.get("/api/metrics").text
    assert re.search(r'mspd_answers_total\{call="/api/protect",status="200"\} [1-9]', metrics)
    assert re.search(r'mspd_answers_total\{call="/api/protect",status="422"\} [1-9]', metrics)
    assert "mspd_waiting 0.0" in metrics
    assert set(client.get("/openapi.json").json()["paths"]) == {
        "/api/protect",
        "/api/verify",
        "/api/jobs/{job}",
        "/api/presets",
        "/api/health",
        "/api/metrics",
    }
    refused(client.get("/api/jobs/none-of-these"), 404)
    refused(client.get("/nowhere"), 404)
    refused(client.get("/api/protect"), 405)
    refused(client.get("/page/%2e%2e/app.py"), 404)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"preset": "none"}, "unknown preset 'none'"),
        ({"seed": -1}, "seed: "),
        ({"seed": "x"}, "seed: "),
        ({"seed": 2**63}, "seed: "),
        ({"eps": "much"}, "8/255"),
        ({"eps": "0"}, "eps is 0"),
        ({"eps": "nan"}, "eps is nan"),
        ({"eps": "4"}, "did you mean 4/255"),
        ({"eps": "1e-9"}, "at least 1/255"),
        ({"job": "../../etc"}, "job: "),
    ],
)
def test_wrong_fields(client: TestClient, fields: dict[str, object], part: str) -> None:
    refused(protect(client, photo(), **fields), 422, part)


def test_no_field_is_left_out_silently(client: TestClient) -> None:
    refused(
        protect(client, photo(), epsilon="8/255"), 422, "unknown field 'epsilon': the fields are picture, preset, eps"
    )
    twice = [("picture", ("a.png", photo())), ("picture", ("b.png", photo(1)))]
    refused(client.post("/api/protect", files=twice, data={"preset": "tiny"}), 422, "picture was sent 2 times")
    files = {"picture": photo(), "protected": photo()}
    refused(client.post("/api/verify", files=files), 422, "unknown field 'picture': the fields are original, protected")


def test_no_form_and_no_picture(client: TestClient) -> None:
    refused(client.post("/api/protect"), 422, "picture: ")
    refused(client.post("/api/protect", json={"picture": "x"}), 422)
    refused(client.post("/api/protect", data={"picture": "not a file"}), 422)
    headers = {"content-type": "multipart/form-data; boundary=b"}
    refused(client.post("/api/protect", content=b"--strange\r\n", headers=headers), 400)
    refused(client.post("/api/protect", content=b"x", headers={"content-type": "multipart/form-data"}), 400)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "C:\\Users\\me\\x.png", "", ".", "a\nb.png", "é日本.png", "x" * 500]
)
def test_names_of_uploads(client: TestClient, name: str) -> None:
    answer = protect(client, photo(), name)
    if answer.status_code == 200:  # without a name it is no file to the form
        output = json.loads(answer.headers["mspd-report"])["output"]
        assert output.endswith(".protected.png")
        assert not set("/\\\n") & set(output)
        assert len(output) < 130
    else:
        refused(answer, 422)


# ---------------------------------------------------------------- who may come in


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "192.168.1.7:8000", "0.0.0.0"]
)
def test_hosts_that_may(client: TestClient, host: str) -> None:
    assert client.get("/api/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[",
        "a@b:c",
        "2130706433",
    ],
)
def test_strange_hosts(client: TestClient, host: str) -> None:
    for path in ("/", "/api/health", "/page/page.js"):
        refused(client.get(path, headers={"host": host}), 403, "unknown Host")


def test_the_name_it_was_bound_to() -> None:
    with TestClient(create_app(host="studio.lan"), base_url="http://studio.lan:8000") as client:
        assert client.get("/api/health").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": HERE, "sec-fetch-site": "cross-site"},
    ],
)
def test_posts_from_elsewhere(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/api/protect", files={"picture": photo()}, data={"preset": "tiny"}, headers=headers)
    refused(answer, 403, "another site's page")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"origin": HERE}, {"origin": HERE, "sec-fetch-site": "same-origin"}])
def test_posts_from_here(client: TestClient, headers: dict[str, str]) -> None:
    files = {"picture": photo()}
    assert client.post("/api/protect", files=files, data={"preset": "tiny"}, headers=headers).status_code == 200


def test_every_answer_is_locked_down(client: TestClient) -> None:
    for answer in (client.get("/"), client.get("/nowhere"), client.get("/", headers={"host": "x.y"}), client.post("/")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_the_pages_files_name_no_other_host_and_hold_nothing_inline(client: TestClient) -> None:
    assert client.get("/").text == (PAGE / "index.html").read_text(encoding="utf-8")
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), file
        assert client.get(f"/page/{file.name}").text == text
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


# ---------------------------------------------------------------- limits


@pytest.fixture
def small(tiny: str) -> Iterator[TestClient]:
    limits = Limits(bytes=20_000, pixels=5_000, waiting=2, upload_seconds=0.5, seconds=0.0)
    with TestClient(create_app(limits=limits), base_url=HERE) as client:
        yield client


def test_too_many_bytes(small: TestClient) -> None:
    refused(protect(small, b"x" * 20_000), 413, "limit of 0.02 MB")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    pieces = (b"x" * 1000 for _ in range(100))
    refused(small.post("/api/protect", content=pieces, headers=headers), 413, "limit of 0.02 MB")


def test_too_many_pixels_and_too_much_time(small: TestClient) -> None:
    refused(protect(small, photo(size=(100, 100))), 422, "took longer than 0 seconds")
    with TestClient(create_app(limits=Limits(pixels=5_000)), base_url=HERE) as client:
        refused(protect(client, photo(size=(100, 100))), 422, "more pixels than the limit")
        assert protect(client, photo(size=(70, 70))).status_code == 200


def test_a_time_limit_stops_between_network_calls(client: TestClient) -> None:
    with TestClient(create_app(limits=Limits(seconds=0.3)), base_url=HERE) as quick:
        assert protect(quick, photo()).status_code in (200, 422)  # loads the models
        files = {"original": photo(), "protected": photo()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VERIFY, "smallest_eps", slowly(VERIFY.smallest_eps))
            refused(
                quick.post("/api/verify", files=files, data={"preset": "tiny"}), 422, "took longer than 0.3 seconds"
            )


def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return function(*args, **kwargs)

    return slow


def test_a_memory_error_is_one_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object, **__: object) -> None:
        torch.empty(1 << 55)  # PyTorch raises a RuntimeError

    monkeypatch.setattr(Protector, "defend", hungry)
    refused(protect(client, photo()), 413, "too large for the memory")


# ---------------------------------------------------------------- a real server: slow, crowded, gone


class Gate:
    """Lets the defence through only when opened, and counts its network calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.passed = 0
        defend = Protector.defend

        def gated(protector: Protector, *args: Any) -> Any:
            self.entered.set()
            assert self.open.wait(30)
            result = defend(protector, *args)
            self.passed += 1
            return result

        monkeypatch.setattr(Protector, "defend", gated)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def body(data: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = b'--b\r\nContent-Disposition: form-data; name="picture"; filename="x.png"\r\n\r\n'
    content = b"".join([*parts, head, data, b"\r\n--b--\r\n"])
    return content, {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(len(content))}


Send = Callable[..., http.client.HTTPConnection]


@pytest.fixture
def send() -> Iterator[Send]:
    """Makes a protect call whose answer is not waited for."""
    with ExitStack() as stack:

        def send(address: str, **fields: str) -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
            stack.callback(connection.close)
            connection.request("POST", "/api/protect", *body(photo(), preset="tiny", **fields))
            return connection

        yield send


def answer_of(connection: http.client.HTTPConnection) -> tuple[int, http.client.HTTPMessage, bytes]:
    with connection.getresponse() as answer:
        return answer.status, answer.headers, answer.read()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waiting(address: str) -> int:
    return int(float(re.findall(r"mspd_waiting ([\d.]+)", httpx.get(f"{address}/api/metrics").text)[0]))


def test_a_client_that_hangs_up_stops_the_work_and_leaves_the_queue(gate: Gate, send: Send) -> None:
    with serving(create_app(limits=Limits(waiting=3))) as address:
        first = send(address, job="first-job")
        assert gate.entered.wait(30)
        assert httpx.get(f"{address}/api/jobs/first-job").json()["stage"] == "protecting"
        second = send(address, job="second-job")
        until(lambda: waiting(address) == 2)
        assert httpx.get(f"{address}/api/jobs/second-job").json() == {"stage": "waiting", "done": 0, "of": 0}
        status, _, content = answer_of(send(address, job="second-job"))
        assert status == 409
        assert "second-job is under way" in json.loads(content)["error"]
        second.close()
        until(lambda: waiting(address) == 1)  # gone from the queue though the first is still at work
        first.close()
        time.sleep(0.2)
        gate.open.set()
        until(lambda: waiting(address) == 0)
        assert gate.passed == 0  # stopped at the next network call
        assert httpx.get(f"{address}/api/jobs/first-job").status_code == 404
        assert answer_of(send(address))[0] == 200
        assert gate.passed == 1


def test_a_crowd_is_told_to_come_back(gate: Gate, send: Send) -> None:
    with serving(create_app(limits=Limits(waiting=2))) as address:
        two = [send(address), send(address)]
        until(lambda: waiting(address) == 2)
        status, headers, content = answer_of(send(address))
        assert status == 429
        assert headers["retry-after"] == "5"
        assert "try again later" in json.loads(content)["error"]
        gate.open.set()
        assert [answer_of(connection)[0] for connection in two] == [200, 200]


def test_a_server_that_is_stopped_says_so(gate: Gate, send: Send) -> None:
    with serving(create_app()) as address:
        calls = [send(address), send(address)]
        until(lambda: waiting(address) == 2)
        assert gate.entered.wait(30)
    gate.open.set()
    for call in calls:
        status, headers, content = answer_of(call)
        assert (status, headers["x-content-type-options"]) == (503, "nosniff")
        assert json.loads(content) == {"error": "the server has been stopped; try again later"}


def raw(address: str, request: bytes) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.settimeout(10)
        answer = b""
        while part := connection.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer:
                break
    return answer


def test_slow_and_crooked_connections() -> None:
    with serving(create_app(limits=Limits(upload_seconds=0.3))) as address:
        head = b"POST /api/protect HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        slow = raw(address, head + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9\r\n\r\n--b")
        assert slow.startswith(b"HTTP/1.1 413")
        assert raw(address, head + b"Content-Length: 999999999999\r\n\r\n").startswith(b"HTTP/1.1 413")
        for crooked in (
            head + b"Content-Length: -5\r\n\r\n",
            head + b"Content-Length: x\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        ):
            assert re.match(rb"HTTP/1.1 4\d\d ", raw(address, crooked)), crooked[:60]
        assert httpx.get(f"{address}/api/health").status_code == 200


def test_a_client_that_never_reads_is_cut_off(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"\x89" * 20_000_000  # more than the system holds for a client
    report = Protector("tiny").protect_picture(images.decode(photo(), "x.png"), "x.png")[1]
    monkeypatch.setattr(Protector, "protect_picture", lambda *_, **__: (answer, report))
    monkeypatch.setattr(Connection, "seconds", 3.0)
    with serving(create_app(limits=Limits(waiting=1))) as address:
        deaf = send(address)
        until(lambda: 'status="200"} 1.0' in httpx.get(f"{address}/api/metrics").text)
        assert answer_of(send(address))[0] == 429  # the unread answer has the only place
        until(lambda: answer_of(send(address))[2] == answer)
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer_of(deaf)


def test_a_client_that_reads_slowly_gets_all(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"\x89" * 20_000_000
    report = Protector("tiny").protect_picture(images.decode(photo(), "x.png"), "x.png")[1]
    monkeypatch.setattr(Protector, "protect_picture", lambda *_, **__: (answer, report))
    monkeypatch.setattr(Connection, "seconds", 2.0)
    with serving(create_app()) as address, send(address).getresponse() as slow:
        read = 0
        while part := slow.read(4_000_000):
            read += len(part)
            time.sleep(0.7)  # 3.5 seconds in all
    assert read == len(answer)


# ---------------------------------------------------------------- hostile files


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claims(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says it is that large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + data
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


HOSTILE = {
    "empty": b"",
    "one byte": b"\0",
    "text": b"<script>alert(1)</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "html as png": b"\x89PNG\r\n\x1a\n<html>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage",
    "pdf": b"%PDF-1.4\n1 0 obj\n",
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "bomb by its header": claims(60_000, 60_000),
    "bomb just inside Pillow's limit": claims(13_000, 13_000),
    "no pixels": claims(0, 7),
    "bomb of text": claims(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 80_000_000, 9))),
    "bomb of a profile": claims(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 80_000_000, 9))),
    "no end": photo()[:-30],
    "16 bits": photo(mode="I;16"),
    "CMYK": photo(form="JPEG", mode="CMYK"),
    "animation": animation(),
    **{
        f"half a {form}": photo(form=form)[: len(photo(form=form)) // 2]
        for form in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF")
    },
}
POLYGLOTS = {
    "PNG and zip": photo() + b"PK\x03\x04" + b"\0" * 100,
    "PNG and script": photo() + b"<script>alert(1)</script>",
    "JPEG and PHP": photo(form="JPEG") + b"<?php system($_GET[0]); ?>",
    "GIF and JavaScript": photo(form="GIF", mode="P") + b"*/=alert(1);//",
}


class Writes:
    """Names of files that this process opens for writing. An audit hook cannot be removed, so it has a switch."""

    def __init__(self) -> None:
        self.on = False
        self.names: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on or event not in ("open", "os.mkdir", "os.link", "os.symlink", "os.rename", "tempfile.mkstemp"):
            return
        flags = args[2] if event == "open" and isinstance(args[2], int) else os.O_CREAT
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.names.append(f"{event} {args[0]}")


WRITES = Writes()


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails when anything is opened for writing, or left in the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    WRITES.names.clear()
    WRITES.on = True
    yield
    WRITES.on = False
    assert WRITES.names == []
    assert list(tmp_path.iterdir()) == []


def test_a_write_would_be_noticed(tmp_path: Path) -> None:
    WRITES.on = True
    tempfile.TemporaryFile(dir=tmp_path).close()
    WRITES.on = False
    assert WRITES.names


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(client: TestClient, kind: str) -> None:
    refused(protect(client, HOSTILE[kind], "x.png"), 422, "x.png: ")
    files = {"original": ("a.png", photo()), "protected": ("b.png", HOSTILE[kind])}
    refused(client.post("/api/verify", files=files, data={"preset": "tiny"}), 422, "b.png: ")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("kind", POLYGLOTS)
def test_of_a_polyglot_only_the_picture_comes_back(client: TestClient, kind: str) -> None:
    answer = protect(client, POLYGLOTS[kind])
    assert answer.status_code == 200
    for other in (b"PK\x03\x04", b"script", b"system", b"alert"):
        assert other not in answer.content


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_nothing_is_written_for_a_large_upload(client: TestClient, form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, form, **({"compression": "tiff_lzw"} if form == "TIFF" else {}))
    assert len(buffer.getvalue()) > 2_000_000  # the form parser's own limit is one megabyte
    assert protect(client, buffer.getvalue()).status_code == 200


# ---------------------------------------------------------------- hostile requests, from the description


class Stranger:
    """Makes requests that the API's own description allows or nearly allows."""

    def __init__(self, description: dict[str, Any], seed: int) -> None:
        self.description = description
        self.random = random.Random(seed)
        self.files = [photo(), photo(1), photo(form="JPEG"), photo(form="WEBP"), *HOSTILE.values(), *POLYGLOTS.values()]

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").rpartition("/")[2]
        return self.description["components"]["schemas"][name] if name else schema

    def text(self) -> str:
        pick = self.random.choice
        odd = [
            "/etc/passwd",
            "",
            "0",
            "-1",
            "null",
            "true",
            "NaN",
            "1e999",
            "9" * 400,
            "4/0",
            "8/255",
            "tiny",
            "photo'--",
            "../../../etc/passwd",
            "%00",
            "\0",
            "é\u202e日",
            "{}",
            "[]",
            "$" + "{jndi:x}",
            "a" * 5000,
            " ",
            "\r\nX: y",
        ]
        return pick(
            [pick(odd), "".join(chr(self.random.randrange(32, 0x2FF)) for _ in range(self.random.randrange(20)))]
        )

    def file(self) -> bytes:
        data = bytearray(self.random.choice(self.files))
        change = self.random.randrange(4)
        for _ in range(self.random.randrange(1, 9) if change < 2 and data else 0):
            data[self.random.randrange(len(data))] = self.random.randrange(256)
        if change == 2:
            del data[self.random.randrange(len(data) + 1) :]
        return bytes(data)

    def value(self, schema: dict[str, Any]) -> Any:
        schema = self.random.choice(schema.get("anyOf", [schema]))
        if schema.get("contentMediaType") or schema.get("format") == "binary":
            return (self.text()[:100], self.file()) if self.random.random() < 0.9 else self.text()
        if self.random.random() < 0.4:
            return self.text()
        if schema.get("type") == "integer":
            return str(self.random.choice([0, 1, 2**63 - 1, 2**63, -1, self.random.getrandbits(70)]))
        return self.random.choice(["tiny", "4/255", "0.03", "a-good-job-name", schema.get("default") or "tiny"])

    def request(self) -> dict[str, Any]:
        path, calls = self.random.choice(list(self.description["paths"].items()))
        method, call = self.random.choice(list(calls.items()))
        request: dict[str, Any] = {"method": method.upper(), "url": path, "headers": {}}
        if self.random.random() < 0.05:
            request["method"] = self.random.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "ODD"])
        if "{job}" in path:
            request["url"] = path.replace("{job}", httpx.QueryParams({"": self.text()}).__str__()[1:] or "x")
        if self.random.random() < 0.1:
            name = self.random.choice(["host", "origin", "sec-fetch-site", "content-type", "accept", "range", "expect"])
            text = self.random.choice(
                [self.text(), "application/json", "multipart/form-data; boundary=", "bytes=0-", "null"]
            )
            request["headers"][name] = text.encode("latin-1", "ignore").replace(b"\r", b"").replace(b"\n", b"")
        if "requestBody" not in call:
            return request
        (content,) = call["requestBody"]["content"].values()
        fields = self.resolve(content["schema"])["properties"]
        chosen = {name: self.value(field) for name, field in fields.items() if self.random.random() < 0.85}
        if "preset" not in chosen or self.random.random() < 0.7:
            chosen["preset"] = "tiny"  # the others are slow, and no different
        request["files"] = {
            name: value if isinstance(value, tuple) else (None, value) for name, value in chosen.items()
        }
        kind = self.random.random()
        if kind < 0.1:
            request["data"] = {name: str(value) for name, value in chosen.items()}
            del request["files"]
        elif kind < 0.3:
            form = {"content-type": "multipart/form-data; boundary=b0f2c1d3"}
            built = httpx.Request("POST", HERE, files=request.pop("files"), headers=form)
            damaged = bytearray(built.read())
            for _ in range(self.random.randrange(1, 6)):
                at = self.random.randrange(len(damaged))
                damaged[at] = self.random.randrange(256)
                if self.random.random() < 0.2:
                    del damaged[at : at + self.random.randrange(200)]
            request["content"] = bytes(damaged)
            request["headers"].setdefault("content-type", built.headers["content-type"])
        return request


def besiege(client: TestClient, count: int, seed: int) -> dict[int, int]:
    """Send that many; how many answers had which status."""
    stranger = Stranger(client.get("/openapi.json").json(), seed)
    statuses: dict[int, int] = {}
    for _ in range(count):
        request = stranger.request()
        answer = client.request(**request)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, request
        if answer.status_code >= 400 and request["method"] != "HEAD":
            refused(answer, answer.status_code)
    assert "mspd_waiting 0.0" in client.get("/api/metrics").text
    gc.collect()
    return statuses


# of a form that ends within a file the parser leaves that file, which is in memory, to the garbage collector
in_memory = pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning")


@in_memory
@pytest.mark.usefixtures("untouched")
def test_hostile_requests(client: TestClient) -> None:
    statuses = besiege(client, 150, seed=0)
    assert statuses.keys() >= {200, 400, 403, 404, 422}


@in_memory
@pytest.mark.science
@pytest.mark.usefixtures("untouched")
def test_ten_thousand_hostile_requests(client: TestClient) -> None:
    besiege(client, 500, seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    statuses = besiege(client, 9500, seed=2)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"\nanswers {dict(sorted(statuses.items()))}; memory grew by {grown / 1024:.0f} MB after the first 500")
    assert grown < 200_000


# ---------------------------------------------------------------- the command


def test_serve_and_its_end() -> None:
    command = [sys.executable, "-m", "mspd", "serve", "--port", "0"]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)  # where a line below fails
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        assert httpx.get(f"{address}/api/health").json()["status"] == "ok"
        port = address.rpartition(":")[2]
        line = rf"^127\.0\.0\.1:{port} cannot be used \([^(]*\); choose another --host or --port$"
        with pytest.raises(UsageError, match=line):
            serve("127.0.0.1", int(port), device="cpu", ready=print)
        assert raw(address, b"no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400")
        with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as under_way:
            head = b"POST /api/protect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            under_way.sendall(head + b"Content-Length: 9\r\n\r\n--b")
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            assert under_way.recv(65536).startswith(b"HTTP/1.1 503")
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def test_no_host_is_not_every_address(call: Call) -> None:
    one_line(call("serve", "--host", "", "--port", "0"), 2, "--host is empty: name an address")


def test_serve_where_the_shell_closed_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(KeyboardInterrupt):
        serve("127.0.0.1", 0, device="cpu", ready=stop)


def test_without_the_extra(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mspd.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    one_line(call("serve"), 2, "the page needs fastapi: pip install 'mspd[web]'")
