"""The page in a real Chromium: what a person does, and what they see."""

import contextlib
import os
import shutil
import time
import zipfile
from urllib.parse import urlsplit

import gradio_client
import numpy as np
import pytest
from PIL import Image
from ui_server import running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
NAME = "a photo.jpg"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        assert os.environ.get("ROBUSTSR_REQUIRE_SHARED") != "1", "there is no Chromium: apt-get install chromium"
        pytest.skip("there is no Chromium on this machine")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, browser):
    with running(tmp_path_factory.mktemp("home")) as (address, _):
        yield address


@pytest.fixture
def page(browser, server):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.outside, page.errors = [], []
    page.on("request", lambda r: page.outside.append(r.url) if urlsplit(r.url).netloc not in server else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(server)
    page.wait_for_selector("#upscale-run")
    yield page
    outside = [url for url in page.outside if url.startswith(("http", "ws"))]
    assert outside == [] and page.errors == []
    context.close()


@pytest.fixture
def photograph(tmp_path, photo):
    """A JPEG with EXIF."""
    exif = Image.Exif()
    exif[0x010F] = "Camera maker"
    Image.fromarray(photo(48, 64)).save(tmp_path / NAME, quality=90, exif=exif)
    return tmp_path / NAME


def choose(page, field, *paths):
    page.locator(f"#{field} input[type=file]").set_input_files([str(p) for p in paths])


def tab(page, name):
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(300)


def toast(page):
    page.wait_for_selector(".toast-body", timeout=60_000)
    return page.locator(".toast-body").first.inner_text()


def test_the_page_is_there_at_once(page, server):
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(server)
    page.wait_for_selector("#upscale-run")
    assert time.perf_counter() - start < 10  # measured: below 2 s on a free machine; here others compete
    assert page.locator("link[href*='fonts.g']").count() == 0


def test_upscale_compare_and_download(page, photograph, tmp_path):
    choose(page, "upscale-file", photograph)
    page.wait_for_selector("text=64 x 48 pixels, JPG, 8 bits; carries EXIF")
    page.wait_for_selector("#estimate >> text=1 picture, 0.0 megapixels out")
    page.click("#upscale-run")
    page.wait_for_selector("#upscale-about >> text=256 x 192 pixels", timeout=120_000)
    page.wait_for_selector("#slider img")
    assert page.locator("#slider img").count() == 2
    with page.expect_download() as coming:
        page.click("#upscale-download")
    assert coming.value.suggested_filename == "a photo_x4.jpg"
    made = Image.open(coming.value.path())
    assert made.size == (256, 192) and made.getexif()[0x010F] == "Camera maker"
    assert page.locator(".command textarea, .command input").first.input_value().startswith("robustsr upscale")

    page.wait_for_function("document.querySelectorAll('.loupe .pane img').length == 2")
    page.wait_for_timeout(500)
    styles = "[...document.querySelectorAll('.loupe .pane img')].map(i => i.style.transform + i.style.width)"
    before = page.evaluate(styles)
    page.locator(".loupe [data-zoom='4']").click()
    pane = page.locator(".loupe .pane").first
    pane.scroll_into_view_if_needed()
    box = pane.bounding_box()
    page.mouse.move(box["x"] + 90, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 40, steps=3)
    page.mouse.up()
    after = page.evaluate(styles)
    assert after[0] == after[1] != before[0]  # both panes moved and grew alike
    pane.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(styles)[0] != after[0]


def begin_what_takes_long(page, path, photo):
    Image.fromarray(photo(900, 1200)).save(path)
    choose(page, "upscale-file", path)
    page.wait_for_selector("text=1200 x 900 pixels", timeout=60_000)
    page.get_by_label("Samples").first.fill("60")
    page.click("#upscale-run")
    page.wait_for_selector("text=/step [1-9][0-9]*\\/[0-9]+, about .* left/", timeout=120_000)


def test_an_example_works_with_one_click(page):
    page.get_by_text("sign.png").first.click()
    page.wait_for_selector("text=160 x 120 pixels")
    page.get_by_label("off", exact=True).first.check()
    page.click("#upscale-run")
    page.wait_for_selector("#upscale-about >> text=not smoothed", timeout=120_000)


def test_cancel_stops_within_a_tile_and_the_next_run_works(page, tmp_path, photo):
    begin_what_takes_long(page, tmp_path / "large.png", photo)
    page.click("#upscale-stop")
    assert "Cancelled" in toast(page)
    page.wait_for_selector("#upscale-run:not([disabled])")
    page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    page.get_by_text("sign.png").first.click()
    page.wait_for_selector("text=160 x 120 pixels")
    page.get_by_label("Samples").first.fill("2")
    page.click("#upscale-run")
    page.wait_for_selector("#upscale-about >> text=640 x 480 pixels", timeout=120_000)


def test_samples_may_be_left_to_the_picture(page):
    page.get_by_text("sign.png").first.click()
    page.wait_for_selector("text=160 x 120 pixels")
    page.get_by_label("Samples").first.fill("auto")
    page.click("#upscale-run")
    page.wait_for_selector("#upscale-about >> text=as many draws as it needs", timeout=120_000)


def test_errors_can_be_read(page, tmp_path):
    page.click("#upscale-run")
    assert "Choose a picture first" in toast(page)
    page.reload()
    page.wait_for_selector("#upscale-run")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and nothing else")
    choose(page, "upscale-file", tmp_path / "broken.png")
    page.wait_for_selector("strong >> text=Cannot read broken.png")  # where the picture would be, and stays
    said = page.locator("body").inner_text()
    assert "Traceback" not in said and "/tmp" not in said


def test_a_batch_with_one_corrupt_file_survives_a_reload(page, photograph, tmp_path, photo):
    Image.fromarray(photo(20, 20, seed=2)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"nothing")
    tab(page, "Batch")
    choose(page, "batch-files", photograph, tmp_path / "b.png", tmp_path / "c.png")
    page.wait_for_function("document.querySelectorAll('#batch-files tr.file').length == 3")
    page.click("#batch-run")
    page.wait_for_selector("#batch-about >> text=/of 3 upscaled/")
    page.reload()  # while it runs, or just after
    page.wait_for_selector("#upscale-run")
    tab(page, "Batch")
    page.wait_for_selector("#batch-about >> text=Finished: 2 of 3 upscaled, 1 failed", timeout=120_000)
    assert "Cannot read c.png" in page.locator("#batch-table").inner_text()
    page.wait_for_selector("#batch-download:not([disabled])")
    with page.expect_download() as coming:
        page.click("#batch-download")
    with zipfile.ZipFile(coming.value.path()) as archive:
        assert sorted(archive.namelist()) == ["a photo_x4.jpg", "b_x4.png"]


def test_another_window_of_the_browser_sees_its_batch_and_cannot_lose_it(page, server, tmp_path, photo):
    Image.fromarray(photo(700, 900)).save(tmp_path / "large.png")
    other = page.context.new_page()
    other.goto(server)
    for window in (page, other):
        tab(window, "Batch")
        choose(window, "batch-files", tmp_path / "large.png")
        window.wait_for_selector("#batch-files >> text=large")
    page.get_by_role("tabpanel").get_by_label("Samples").locator("visible=true").fill("60")
    page.click("#batch-run")
    page.wait_for_selector("#batch-about >> text=0 of 1 upscaled")
    other.click("#batch-run")
    assert "A batch of this browser is at work" in toast(other)
    other.wait_for_selector("#batch-about >> text=0 of 1 upscaled")
    other.click("#batch-stop")
    for window in (page, other):
        window.wait_for_selector("#batch-about >> text=Cancelled: 0 of 1 upscaled", timeout=60_000)


def test_a_picture_that_is_removed_is_not_waited_for(page, tmp_path, photo):
    begin_what_takes_long(page, tmp_path / "large.png", photo)
    assert 0 <= page.locator("#slider").bounding_box()["y"] < 800  # what goes on is in sight of the button
    page.locator("#upscale-file").get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    assert "Cancelled" in toast(page)
    page.wait_for_selector("#upscale-run:not([disabled])")


def test_attack(page):
    tab(page, "Attack")
    page.get_by_label("Steps").fill("2")
    page.click("#attack-run")
    page.wait_for_selector("#attack-gallery img", timeout=180_000)
    page.wait_for_selector("#attack-table >> text=attacked")
    page.wait_for_selector("text=attacked: Linf 8/255")
    assert "adversarial" in page.locator(".file-preview").last.inner_text()
    assert page.locator(".loupe .pane").count() >= 5


def test_compare_with_a_truth(page, tmp_path, photo):
    Image.fromarray(photo(128, 128, seed=4)).save(tmp_path / "hr.png")
    tab(page, "Compare")
    panel = page.get_by_role("tabpanel").filter(has_text="Models and defences")
    from playwright.sync_api import TimeoutError as Late

    truth = panel.locator("input[type=file]").nth(1)
    for _ in range(10):  # a page that was opened a moment ago may not listen yet, and a click too many closes again
        if not truth.count():
            panel.get_by_text("Ground truth and place").click()
        with contextlib.suppress(Late):
            truth.set_input_files(str(tmp_path / "hr.png"), timeout=5_000)
            panel.get_by_text("hr.png").wait_for(timeout=5_000)
            break
    page.click("#compare-run")
    page.wait_for_selector(".loupe figcaption >> text=ground truth", timeout=120_000)
    assert "PSNR" in page.locator("#compare-table").inner_text()


def test_a_denoiser_of_ones_own_can_be_used_at_once(page, server, photograph, tmp_path):
    """In the page, and by a client of the API, which loads none."""
    from safetensors.torch import save_file

    from robustsr.torchvision_schema import import_torchvision

    import_torchvision()
    from spandrel.architectures.Compact import Compact

    save_file(Compact(num_feat=8, num_conv=1, upscale=1).state_dict(), tmp_path / "soft.safetensors")
    tab(page, "Models")
    page.locator("input[type=file][accept*='.onnx']").set_input_files(str(tmp_path / "soft.safetensors"))
    page.wait_for_selector("text=soft: x1, can be used now")
    tab(page, "Upscale")
    page.get_by_text("More", exact=True).first.click()
    page.get_by_label("Denoiser first").first.click()
    page.get_by_role("option", name="soft").wait_for()
    client = gradio_client.Client(server, verbose=False)
    made = client.predict(gradio_client.handle_file(str(photograph)), denoise="soft", smooth="off", api_name="/upscale")
    assert "soft" in made[1] and "**256 x 192 pixels**" in made[1]


def test_certify(page):
    tab(page, "Certify")
    page.get_by_label("eps (L2)").fill("0.02")
    page.get_by_label("Samples for the bounds").fill("100")
    page.get_by_label("Samples of the picture").fill("51")
    page.get_by_label("each value").check()
    page.click("#certify-run")
    page.wait_for_selector("#claim >> text=With probability at least", timeout=180_000)
    assert "landscape_certificate" in page.locator(".file-preview").last.inner_text()


def test_two_tabs_do_not_mix_up_their_results(browser, server, tmp_path, photo):
    pages = []
    for number, size in enumerate([(20, 30), (24, 40)]):
        Image.fromarray(photo(*size, seed=number)).save(tmp_path / f"{number}.png")
        page = browser.new_context().new_page()
        page.goto(server)
        choose(page, "upscale-file", tmp_path / f"{number}.png")
        page.wait_for_selector(f"text={size[1]} x {size[0]} pixels", timeout=30_000)
        pages.append(page)
    for page in pages:
        page.click("#upscale-run")
    for page, size in zip(pages, ("120 x 80", "160 x 96"), strict=True):
        page.wait_for_selector(f"#upscale-about >> text={size} pixels", timeout=120_000)
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_narrow_windows_in_both_themes(browser, server, scheme):
    page = browser.new_context(viewport={"width": 420, "height": 800}, color_scheme=scheme).new_page()
    page.goto(server)
    page.wait_for_selector("#upscale-run")
    page.wait_for_timeout(300)
    pixel = np.asarray(Image.open(_shot(page)).convert("L"))[2, 2]
    for name in ("Upscale", "Batch", "Compare", "Attack", "Certify", "Models"):
        page.set_viewport_size({"width": 1200, "height": 800})  # where no tab is in a menu
        tab(page, name)
        page.set_viewport_size({"width": 420, "height": 800})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 420, name
    assert (pixel > 200) == (scheme == "light")
    page.context.close()


def _shot(page):
    from io import BytesIO

    return BytesIO(page.screenshot())
