"""The README's pictures of the browser interface, taken in a real Chromium.

python -m tests.bench.screenshots
"""

import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from ui_server import running  # noqa: E402

ASSETS = Path(__file__).parents[2] / "assets"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def keep(page, name, height):
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    picture = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.crop((0, 0, picture.width, min(height, picture.height))).save(ASSETS / name, quality=88)


def main():
    with tempfile.TemporaryDirectory() as home, running(home) as (address, _), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto(address)
        page.get_by_text("still-life.jpg").first.click()
        page.wait_for_selector("text=120 x 160 pixels")
        page.click("#upscale-run")
        page.wait_for_selector("#slider img", timeout=120_000)
        keep(page, "ui-upscale.webp", 1300)
        page.get_by_role("tab", name="Attack").click()
        page.click("#attack-run")
        page.wait_for_selector("#attack-gallery img", timeout=300_000)
        keep(page, "ui-attack.webp", 1250)
        browser.close()


if __name__ == "__main__":
    main()
