"""The static page of `web/`: its picture code against `mspd.models.view` in Node, and the whole page in real Chromium
with the network cut off."""

import base64
import functools
import http.server
import io
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mspd import Protector, images
from mspd.export import defence
from mspd.models.view import LONGEST, add, native_size, view

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "web" / "page"

HARNESS = """
import { readFileSync } from "node:fs";
const asked = JSON.parse(readFileSync(0, "utf-8"));
const [{ noise }, page, { pngWriter }] = await Promise.all(
  ["noise", "view", "png"].map((name) => import(`${asked.page}/${name}.js`)),
);
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const floats = (text) => new Float32Array(bytes(text).buffer);
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const tasks = {
  noise: ({ seed, length }) => text(noise(seed, length)),
  sizes: ({ shapes, size, longest }) => shapes.map(([h, w]) => page.nativeSize(h, w, size, longest)),
  view: ({ height, width, pixels, size }) => text(page.shrink(bytes(pixels), height, width, size)),
  add({ height, width, pixels, before, after, size, levels }) {
    const rows = bytes(pixels);
    const moved = page.perturbation(floats(before), floats(after), size, height, width);
    const add = page.adder(moved, height, width, levels);
    const rest = rows.subarray(5 * width * 3);
    add(rows, 0, 5);
    add(rest, 5, height - 5);
    return text(rows);
  },
  async png({ height, width, pixels }) {
    const rows = bytes(pixels);
    const writer = pngWriter(height, width);
    await writer.write(rows.slice(0, 5 * width * 3), 5);
    await writer.write(rows.slice(5 * width * 3), height - 5);
    return text(new Uint8Array(await (await writer.close()).arrayBuffer()));
  },
};
console.log(JSON.stringify(await tasks[asked.task](asked)));
"""


def node(task: str, **arguments: Any) -> Any:
    """The page's own JavaScript, run by Node."""
    if shutil.which("node") is None:
        pytest.skip("needs Node: install nodejs")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", HARNESS],
        input=json.dumps({"page": PAGE.as_uri(), "task": task, **arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def packed(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def picture(height: int, width: int) -> NDArray[np.uint8]:
    small = np.random.default_rng(height).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def noise(seed: int, length: int) -> NDArray[np.float32]:
    """The page's noise, as docs/browser.md states it."""

    def mix(h: NDArray[np.uint32]) -> NDArray[np.uint32]:
        h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
        return h ^ (h >> 16)

    low, high = (mix(np.array([half], np.uint32)) for half in (seed % 2**32, seed // 2**32 ^ 0x9E3779B9))
    counted = mix(mix(np.arange(length, dtype=np.uint32) ^ low) ^ high)
    return (counted >> 8).astype(np.float32) / np.float32(2**24)


# ---------------------------------------------------------------- the page's code in Node


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**53 - 1])
def test_noise(seed: int) -> None:
    ours = noise(seed, 20_000)
    assert packed(ours) == node("noise", seed=seed, length=20_000)
    assert abs(ours.mean() - 0.5) < 0.01
    assert abs(ours.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(ours[:-1], ours[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(ours, noise(seed ^ 1, 20_000))[0, 1]) < 0.03


def test_native_size() -> None:
    shapes = [(h, w) for h in (1, 15, 64, 127, 128, 500) for w in (1, 64, 129, 193, 4000)]
    expected = [list(native_size(h, w, 64)) for h, w in shapes]
    assert node("sizes", shapes=shapes, size=64, longest=LONGEST) == expected


SHAPES = [(64, 64), (300, 201), (130, 777), (1000, 90), (37, 50), (20, 90)]


@pytest.mark.parametrize("shape", SHAPES)
def test_view(shape: tuple[int, int]) -> None:
    pixels, size = picture(*shape), native_size(*shape, 64)
    expected = images.to_pixels(view(pixels, size)).reshape(-1).astype(int)
    found = node("view", height=shape[0], width=shape[1], pixels=packed(pixels), size=size)
    moved = np.abs(np.frombuffer(base64.b64decode(found), np.uint8) - expected)
    assert moved.max() <= (0 if int(PIL.__version__.split(".")[0]) == 13 else 1)  # others may round in another order
    assert (moved > 0).mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_add(shape: tuple[int, int]) -> None:
    pixels, size = picture(*shape), native_size(*shape, 64)
    x = view(pixels, size)
    after = (x + (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 0.5) * 10 / 255).clamp(0, 1)
    expected = add(pixels, after - x, 4)
    found = node(
        "add", height=shape[0], width=shape[1], pixels=packed(pixels), before=packed(x.numpy()),
        after=packed(after.numpy()), size=size, levels=4,
    )  # fmt: skip
    theirs = np.frombuffer(base64.b64decode(found), np.uint8).reshape(pixels.shape)
    assert 0 < np.abs(theirs.astype(int) - pixels).max() <= 4
    assert (theirs != expected).any(2).mean() <= 1e-3  # a value halfway between two grey levels


@pytest.mark.parametrize("shape", [(6, 1), (40, 31)])
def test_png(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    data = base64.b64decode(node("png", height=shape[0], width=shape[1], pixels=packed(pixels)))
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.format == "PNG"
        assert np.array_equal(np.array(decoded), pixels)


# ---------------------------------------------------------------- the page in Chromium


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[http.server.ThreadingHTTPServer]:
    """web/dist on a loopback port."""
    dist = ROOT / "web" / "dist"
    built = all((dist / path.name).is_file() for path in PAGE.iterdir()) and (dist / "model" / "defense.onnx").is_file()
    if not built:
        pytest.skip("no page in web/dist: run web/build.sh (needs npm and the extra 'onnx')")
    old = [path.name for path in PAGE.iterdir() if path.read_bytes() != (dist / path.name).read_bytes()]
    assert not old, f"web/dist is older than web/page ({', '.join(old)}): run web/build.sh again"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=dist))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


#: where the networks run, and the flags that Chromium needs for it: SwiftShader is a graphics processor in software
PLACES = {
    "wasm": ("disable-gpu",),
    "webgpu": ("enable-unsafe-webgpu", "use-webgpu-adapter=swiftshader", "enable-features=Vulkan"),
}


@pytest.fixture
def browser(place: str, tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium with an empty profile; it saves downloads to tmp_path/saved."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless", "no-sandbox", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path / 'profile'}", *PLACES[place],
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "saved")})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chrome.set_script_timeout(60)
    yield chrome
    chrome.quit()


def until(condition: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page does not get on"
        time.sleep(0.2)
    return found


@pytest.mark.parametrize("place", ["wasm"])
def test_page_opened_as_a_file(browser: Any) -> None:
    browser.get((PAGE / "index.html").as_uri())
    state = until(lambda: browser.find_element("id", "state").text, 30)
    assert state.startswith("This does not work here: it was opened as a file; serve its folder by http or https")
    assert not browser.find_element("id", "drop").is_displayed()


@pytest.mark.science
@pytest.mark.parametrize("place", PLACES)
def test_page(site: http.server.ThreadingHTTPServer, browser: Any, place: str, tmp_path: Path) -> None:
    """Offline after load, the page protects photos of several shapes; its PNGs equal PyTorch's at equal noise."""
    with Image.open(ROOT / "examples" / "bee.jpg") as example:
        bee = example.convert("RGB").resize((451, 300))
    tall = bee.crop((0, 0, bee.width * 2 // 5, bee.height)).resize((333, 1111))
    pictures = {"wide": bee, "tall": tall, "small": bee.resize((50, 40)), "large": bee.resize((2400, 1700))}
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "wide.png").read_bytes()[:5000])
    bee.convert("RGBA").rotate(45).save(tmp_path / "clear.png")

    started = time.monotonic()
    browser.get(f"http://127.0.0.1:{site.server_address[1]}/?on={place}")
    ready = until(lambda: browser.execute_script("return document.body.dataset.ready"), 300)
    assert ready == place
    print(f"\n{place}: loaded in {time.monotonic() - started:.1f} s")
    site.shutdown()
    site.server_close()
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    asked = (
        "fetch(location.href, {cache: 'no-store'}).then(() => arguments[0]('online'), () => arguments[0]('offline'))"
    )
    assert browser.execute_async_script(asked) == "offline"

    by_id = functools.partial(browser.find_element, "id")
    browser.find_element("css selector", "#settings summary").click()
    by_id("seed").send_keys("123456789012")
    names = [*pictures, "broken", "clear"]
    by_id("files").send_keys("\n".join(str(tmp_path / f"{name}.png") for name in names))
    items = browser.find_elements("css selector", "#pictures li")
    assert len(items) == len(names)
    until(lambda: all(item.get_attribute("data-state") for item in items), 600)
    lines = {name: item.find_element("class name", "line").text for name, item in zip(names, items, strict=True)}
    assert lines["broken"] == "Failed: not a picture that this browser can read; convert it to PNG or JPEG."
    assert "transparent parts" in lines["clear"]

    torch.set_num_threads(1)
    protector = Protector("photo", device="cpu")
    protect = defence(protector)
    for (name, picture), item in zip(pictures.items(), items, strict=False):
        assert item.get_attribute("data-state") == "done", lines[name]
        item.find_element("class name", "download").click()
        saved = tmp_path / "saved" / f"{name}.protected.png"
        until(saved.exists, 30)
        pixels = np.array(picture)
        with Image.open(saved) as decoded:
            theirs = np.array(decoded)
        size = native_size(*pixels.shape[:2], protector.settings.size)
        x = view(pixels, size)
        drawn = noise(123456789012, 2 * protector.settings.n_samples * 3 * size[0] * size[1])
        offsets = torch.from_numpy(drawn).view(2, protector.settings.n_samples, 3, *size)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            x_def, label, _ = protect(x, offsets, torch.tensor(protector.settings.eps))
            seconds.append(time.perf_counter() - began)
        ours = add(pixels, x_def - x, 4)
        differing = (ours != theirs).any(2).mean()
        milliseconds, eager = float(item.get_attribute("data-defended")), 1000 * min(seconds)
        print(
            f"{name}, {picture.width} x {picture.height}: {differing:.3%} of the pixels differ; defence "
            f"{milliseconds:.0f} ms, {milliseconds / eager:.2f} of eager PyTorch's {eager:.0f} ms; all of it "
            f"{float(item.get_attribute('data-took')):.0f} ms"
        )
        assert item.get_attribute("data-label") == protector.classes[int(label)]
        moved = np.abs(theirs.astype(int) - pixels)
        assert 0 < moved.max() <= 4
        assert int(item.get_attribute("data-most")) == moved.max()
        assert differing <= 0.002
