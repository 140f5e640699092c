"""Make the pictures of the two pages with the example photo protected, and a broken file: docs/page-light.webp,
page-dark.webp and page-phone.webp of the served one, docs/browser.webp of the static one.

python docs/page_shots.py        # needs 'mspd[dev]', chromium, chromedriver and web/dist (web/build.sh)
"""

import functools
import http.server
import io
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[1]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def browser(profile: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def shoot(driver: webdriver.Chrome, name: str, width: int, height: int, scheme: str, top: str) -> None:
    """The page at that size and in that scheme, scrolled to `top`."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_feature]})
    driver.execute_script("document.querySelector(arguments[0]).scrollIntoView()", top)
    driver.execute_async_script("setTimeout(arguments[0], 500)")
    shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    shot.save(ROOT / "docs" / name, quality=85, method=6)


def served(driver: webdriver.Chrome, files: str) -> None:
    command = [sys.executable, "-m", "mspd", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        driver.get(server.stdout.readline().split()[0])
        wait = WebDriverWait(driver, 900)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "html[data-ready]"))
        driver.find_element(By.ID, "files").send_keys(files)
        wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, ".picture.done, .picture.failed")) == 2)
        driver.find_element(By.CSS_SELECTOR, ".done .check summary").click()
        driver.find_element(By.CSS_SELECTOR, ".done .start").click()
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, ".result:not([hidden]) .verdict"))
        shoot(driver, "page-light.webp", 1000, 1400, "light", "body")
        shoot(driver, "page-dark.webp", 1000, 1400, "dark", ".picture.done")
        shoot(driver, "page-phone.webp", 390, 844, "light", "#pictures")
        server.terminate()


def static(driver: webdriver.Chrome, files: str) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=ROOT / "web" / "dist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver.get(f"http://127.0.0.1:{server.server_address[1]}/?on=wasm")
        wait = WebDriverWait(driver, 900)
        wait.until(lambda d: d.execute_script("return document.body.dataset.ready"))
        driver.find_element(By.ID, "files").send_keys(files)
        wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "#pictures li[data-state]")) == 2)
        shoot(driver, "browser.webp", 900, 1480, "light", "body")
        server.shutdown()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, browser(folder + "/profile") as driver:
        broken = Path(folder) / "broken.jpg"
        broken.write_bytes(b"not a picture")
        files = f"{ROOT / 'examples' / 'bee.jpg'}\n{broken}"
        served(driver, files)
        static(driver, files)


if __name__ == "__main__":
    main()
