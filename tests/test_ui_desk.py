import os
import threading
import time

import gradio as gr
import pytest
from PIL import Image
from robustsr_ui.desk import Desk, Line, Token
from robustsr_ui.options import Options
from robustsr_ui.parts import literally, plain, readable
from robustsr_ui.scenes import side_by_side
from robustsr_ui.upscale import look, upscale

from robustsr.types import Cancelled, RobustSRError


def quiet(done, text):
    pass


def test_one_job_at_a_time_in_the_order_of_arrival():
    line, order, places, running = Line(), [], [], []

    def job(number):
        with line.turn(Token(), lambda done, text: places.append((number, text))):
            running.append(number)
            assert len(running) == 1
            order.append(number)
            time.sleep(0.05)
            running.remove(number)

    threads = [threading.Thread(target=job, args=(i,)) for i in range(4)]
    with line.turn(Token(), quiet):  # nobody passes while this one is at work
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3]
    assert (0, "waiting: 1 job before this one") in places and (3, "waiting: 4 jobs before this one") in places


def test_a_waiting_job_can_be_cancelled_and_leaves_the_line(tmp_path):
    desk, outcome = Desk(tmp_path), []

    def wait():
        try:
            with desk.job("b", quiet):
                outcome.append("ran")
        except Cancelled:
            outcome.append("cancelled")

    with desk.job("a", quiet):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        desk.cancel("b")
        thread.join(10)
    assert outcome == ["cancelled"]
    with desk.job("b", quiet) as token:  # the next job of the same tab is not
        token.check()


def test_cancelling_reaches_only_the_tab_that_asks(tmp_path):
    desk = Desk(tmp_path)
    with desk.job("a", quiet) as token:
        desk.cancel("b")
        token.check()
        desk.cancel("a")
        with pytest.raises(Cancelled):
            token.check()


def test_a_job_can_be_cancelled_before_it_comes_and_the_others_of_the_page_go_on(tmp_path):
    desk = Desk(tmp_path)
    desk.begin("page/upscale")
    with desk.job("page/certify", quiet) as other:
        desk.cancel("page/upscale")
        other.check()
    with pytest.raises(Cancelled), desk.job("page/upscale", quiet):
        pass
    assert desk._tokens == {}


def test_nothing_begins_after_the_end(tmp_path):
    desk = Desk(tmp_path)
    desk.close(0.1)
    with pytest.raises(Cancelled), desk.job("a", quiet):
        pass


def test_models_stay_loaded(tmp_path, home, tiny):
    desk = Desk(tmp_path, device="cpu")
    assert desk.model(str(tiny), "fp32") is desk.model(str(tiny), "fp32")


def test_old_files_go_and_new_ones_stay(tmp_path):
    desk = Desk(tmp_path, keep=100)
    old, new, held, upload = desk.folder(), desk.folder(), desk.folder(), tmp_path / "0123abcd"
    upload.mkdir()
    for folder in (old, new, held, upload):
        (folder / "picture.png").write_bytes(b"x")
    for folder in (old, held, upload):
        for path in (folder / "picture.png", folder):
            os.utime(path, (time.time() - 1000,) * 2)
    desk.held.add(held)  # a batch still waits for its turn
    desk.sweep()
    assert not old.exists() and not upload.exists() and (new / "picture.png").exists() and held.exists()
    for path in (held, *held.iterdir()):
        os.utime(path, (0, time.time() - 8 * 24 * 3600))
    desk.sweep()
    assert not held.exists()


def test_what_a_waiting_job_needs_stays(tmp_path):
    desk = Desk(tmp_path, keep=-1)
    upload = tmp_path / "0123abcd" / "picture.png"
    upload.parent.mkdir()
    upload.write_bytes(b"x")
    with desk.job("a", quiet, upload, None):
        desk.sweep()
        assert upload.exists()
    desk.sweep()
    assert not upload.exists()


def test_messages_are_in_the_words_of_the_form(tmp_path):
    desk = Desk(tmp_path)
    said = f"cannot read {tmp_path / 'work' / 'x1'}/a--b.png: --tile-pad 3 is too small (--sigma, --max-pixels)"
    limit = "the limit of pixels (--max-pixels of robustsr ui)"
    assert plain(desk, said) == f"Cannot read a--b.png: the tile's context 3 is too small (sigma, {limit})"


@pytest.mark.skipif(os.name == "nt", reason="no such names")
def test_names_of_files_are_shown_letter_by_letter(tmp_path, photo):
    path = tmp_path / "![x](y) <img src=z> *a*.png"
    Image.fromarray(photo(20, 20)).save(path)
    about = look(Desk(tmp_path / "desk"), path).about
    assert "<img" not in about and r"!\[x\](y)" in about and r"\*a\*" in about
    assert literally(Desk(tmp_path), "no file <b>\n\n`x`") == "No file &lt;b>\n\n\\`x\\`"
    with pytest.raises(gr.Error) as shown, readable(Desk(tmp_path)):
        raise RobustSRError("no file <video src=x>")
    assert shown.value.message == "No file &lt;video src=x&gt;"


def test_earlier_results_of_a_page_go_and_those_of_others_stay(tmp_path, photo, home, tiny):
    desk = Desk(tmp_path / "desk", device="cpu")
    Image.fromarray(photo(16, 16)).save(tmp_path / "a.png")
    made = []
    for name in ("one upscale", "other upscale", "one compare", "one upscale", "one upscale"):
        if name.endswith("compare"):
            shown = side_by_side(desk, name, tmp_path / "a.png", None, ["bicubic"], "", "", quiet)
            made.append(shown.loupe.folder)
        else:
            options = Options(str(tiny), smooth="off")
            made.append(upscale(desk, name, tmp_path / "a.png", options, "bicubic", quiet).folder)
    assert [folder.exists() for folder in made] == [False, True, True, True, True]
