import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from robustsr.certificate_files import SAMPLE_CROP
from robustsr.certify import Claim
from robustsr.cli_certify import certify
from robustsr.cli_common import number_of

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(certify)
FEW = ["--samples", "400", "--ship", "41", "--device", "cpu"]


@pytest.fixture
def run(go):
    """Runs `certify` with the tiny model; returns exit code, standard output, and the error's words."""
    return partial(go, "certify")


@pytest.fixture
def picture(tmp_path, photo):
    path = tmp_path / "in" / "bird.png"
    path.parent.mkdir()
    Image.fromarray(photo(10, 12)).save(path)
    return path


@pytest.fixture
def certified(run, picture, tmp_path):
    out = tmp_path / "out"
    code, stdout, words = run(picture, *FEW, "-o", out)
    assert code == 0, words
    return out, stdout


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_pictures_and_certificate(certified):
    out, stdout = certified
    names = ["bird_certificate.json", "bird_certified.png", "bird_lower.png", "bird_upper.png", "bird_width.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    low, mid, high = (pixels(out / f"bird_{name}.png") for name in ("lower", "certified", "upper"))
    assert low.shape == (40, 48, 3) and (low <= mid).all() and (mid <= high).all() and (low < high).any()
    record = json.loads((out / "bird_certificate.json").read_text())
    assert record["result"]["mean_width"] == pytest.approx((high - low).mean())
    assert record["noise"]["fresh"] and record["eps"] == record["sigma"] == 0.06
    assert record["input"]["name"] == "bird.png" and record["field"] == {"kind": "receptive", "radius": 3}
    for line in (*record["claim"], *record["not_claimed"]):
        assert line in stdout
    assert "10/255" in stdout and "1 - alpha - 2 beta" in stdout and "In plain words" in stdout
    heat = pixels(out / "bird_width.png")
    assert heat.shape[0] > 40 and heat.shape[1] >= 48


def test_it_verifies(run, certified, picture):
    out, _ = certified
    code, stdout, words = run("--verify", out / "bird_certificate.json", picture)
    assert code == 0 and "holds: recomputed, identical" in words and "lies between" in stdout
    code, stdout, _ = run("--verify", out / "bird_certificate.json", picture, "--json")
    assert code == 0 and json.loads(stdout)["holds"]


def test_verification_finds_the_picture_near_the_certificate(run, picture):
    certificate = picture.with_name("bird_certificate.json")
    assert run(picture, *FEW)[0] == 0 and Path("certified/bird_certified.png").is_file()
    assert run(picture, *FEW, "-o", picture.parent)[0] == 0 and run("--verify", certificate)[0] == 0
    picture.rename("elsewhere.png")
    code, _, words = run("--verify", certificate)
    assert code == 1 and "bird.png is not near the certificate: give the picture after it" in words


@pytest.mark.parametrize("key, value", [("eps", 0.08), ("alpha", 0.01), ("n", 500)])
def test_a_changed_number_fails(run, certified, picture, key, value):
    path = certified[0] / "bird_certificate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    code, _, words = run("--verify", path, picture)
    assert code == 1 and f"{key} {value}" in words and "does NOT hold" in words


def test_an_edited_bound_another_picture_and_other_weights_fail(run, certified, picture, photo, tmp_path):
    out, _ = certified
    certificate = out / "bird_certificate.json"
    other = tmp_path / "other.png"
    Image.fromarray(photo(10, 12, seed=1)).save(other)
    assert "this is not the picture" in run("--verify", certificate, other)[2]
    words = run("--verify", certificate, picture, "-m", "psnr", "--device", "cpu", model=False)[2]
    assert "these are not the weights" in words
    upper = pixels(out / "bird_upper.png")
    Image.fromarray((upper - (upper > 0)).astype(np.uint8)).save(out / "bird_upper.png")
    code, _, words = run("--verify", certificate, picture)
    assert code == 1 and "upper: the picture is not the one" in words


def test_what_verification_cannot_read(run, certified, picture, tmp_path):
    out, _ = certified
    assert "cannot read" in run("--verify", tmp_path / "none.json", picture)[2]
    broken = tmp_path / "broken.json"
    broken.write_text("[1]")
    assert "not a certificate" in run("--verify", broken, picture)[2]
    broken.write_text('{"title": "Evaluation"}')
    assert "not a certificate" in run("--verify", broken, picture)[2]
    broken.write_text('{"format": "x"}')
    assert "damaged" in run("--verify", broken, picture)[2]
    (out / "bird_lower.png").unlink()
    assert "bird_lower.png" in run("--verify", out / "bird_certificate.json", picture)[2]


def test_flags_that_verification_has_no_use_for(run, certified):
    code, _, words = run("--verify", certified[0] / "bird_certificate.json", "--eps", ".1")
    assert code == 2 and "--eps" in words


def test_existing_results_are_kept(run, certified, picture):
    out, _ = certified
    before = (out / "bird_certificate.json").read_bytes()
    code, _, words = run(picture, *FEW, "-o", out)
    assert code == 1 and "--overwrite" in words and (out / "bird_certificate.json").read_bytes() == before
    assert run(picture, *FEW, "-o", out, "--overwrite")[0] == 0
    assert (out / "bird_certificate.json").read_bytes() != before  # fresh draws


def test_too_few_draws_name_an_n_that_works(run, picture, tmp_path):
    out = tmp_path / "out"
    code, _, words = run(picture, "--samples", "30", "--ship", "41", "-o", out)
    assert code == 1 and not out.exists()
    needed = re.search(r"--samples (\d+)", words)[1]
    assert run(picture, "--samples", needed, "--ship", "41", "-o", out)[0] == 0


def test_sigma_auto_is_refused_with_the_reason(run, picture):
    code, _, words = run(picture, "--sigma", "auto")
    assert code == 2 and "would depend on the perturbed picture" in words and len(list(picture.parent.iterdir())) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--eps", "x"],
        ["--eps", "1/2/3"],
        ["--eps", "1/0"],
        ["--sigma", "2"],
        ["--alpha", "1"],
        ["--crop", "1,2"],
        ["--form", "simple"],
        ["--samples", "0"],
    ],
)
def test_wrong_usage(run, picture, flags):
    assert run(picture, *flags)[0] == 2
    assert len(list(picture.parent.iterdir())) == 1


def test_crop_and_ground_truth(run, picture, photo, tmp_path):
    hr = tmp_path / "hr.png"
    Image.fromarray(photo(40, 48)).save(hr)
    flags = [picture, "--crop", "2,1,8,6", "--hr", hr, "-o", tmp_path, *FEW]
    code, stdout, words = run(*flags, "--seed", "5")
    assert code == 0 and "certified at least" in stdout and "the seed was given" in words
    record = json.loads((tmp_path / "bird_certificate.json").read_text())
    truth = pixels(hr)[4:28, 8:40] / 255
    low, high = (pixels(tmp_path / f"bird_{name}.png") / 255 for name in ("lower", "upper"))
    worst = np.maximum((low - truth) ** 2, (high - truth) ** 2).mean()
    assert record["result"]["certified_psnr"] == pytest.approx(-10 * np.log10(worst), abs=1e-5)
    verify = ["--verify", tmp_path / "bird_certificate.json", picture]
    assert (
        run(*verify, "--hr", hr)[0] == 0
        and "except psnr and certified_psnr, which only --hr can check" in run(*verify)[2]
    )
    code, stdout, _ = run(picture, "--crop", "6", "--hr", hr, "-o", tmp_path / "centre", *FEW, "--json")
    assert code == 0 and json.loads(stdout)["input"]["crop"] == "3,2,6,6"
    assert run("--verify", tmp_path / "centre" / "bird_certificate.json", picture)[0] == 0
    Image.fromarray(photo(20, 24)).save(hr)
    assert "4 times the input" in run(picture, "--hr", hr, "-o", tmp_path / "n", *FEW)[2]
    assert "does not lie inside" in run(picture, "--crop", "8,8,8,8", "-o", tmp_path / "n", *FEW)[2]


def test_gray_and_alpha_are_noted(run, photo, tmp_path):
    gray = tmp_path / "gray.png"
    both = np.dstack([photo(6, 8)[..., 0], np.full((6, 8), 128, np.uint8)])
    Image.fromarray(both, "LA").save(gray)
    code, _, words = run(gray, *FEW, "-o", tmp_path / "out")
    assert code == 0 and "three equal channels" in words and "transparency is ignored" in words
    assert pixels(tmp_path / "out" / "gray_certified.png").shape == (24, 32, 3)


def test_means_and_json(run, picture, tmp_path):
    for form in ("cdf", "simple"):
        flags = ["--smooth", "mean", "--form", form, "--scope", "value", "--field", "image"]
        code, stdout, words = run(picture, *flags, *FEW, "-o", tmp_path / form, "--json")
        record = json.loads(stdout)
        assert code == 0 and record["form"] == form and record["field"]["kind"] == "image", words
        assert record["derived"]["margin"] > 0 and record["derived"]["ranks"] == []
        assert run("--verify", tmp_path / form / "bird_certificate.json", picture)[0] == 0


def test_the_sample_needs_no_picture(run, tmp_path):
    code, stdout, words = run("-o", tmp_path, "--crop", "0,0,8,8", *FEW)
    assert code == 0 and "sample:landscape.png" in stdout, words
    assert run("--verify", tmp_path / "landscape_certificate.json", "--device", "cpu")[0] == 0


def test_the_default_numbers_suffice_for_the_sample_and_for_100_megapixels():
    defaults = {p.name: p.default for p in typer.main.get_command(app).params}
    sigma = number_of(defaults["sigma"], "--sigma")
    side = SAMPLE_CROP[-1]
    for values in (3 * 16 * side**2, 3 * 10**8):
        claim = Claim(sigma, sigma, defaults["samples"], defaults["ship"], defaults["alpha"], defaults["beta"])
        replace(claim, values=values).refuse_too_few()


def test_no_torch_before_it_is_needed():
    code = "import sys, robustsr.cli_certify, robustsr.certify; print({'torch', 'scipy.stats'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_an_export_in_half_precision_is_no_certificate_in_float32(go, tiny, picture, tmp_path):
    for precision in ("fp16", "fp32"):
        model = tmp_path / f"{precision}.onnx"
        assert go("export", tiny, "--precision", precision, "-o", model, model=False)[0] == 0
        code, _, words = go("certify", picture, "-m", model, *FEW, "-o", tmp_path / precision, model=False)
        assert code == 0, words
        record = json.loads((tmp_path / precision / "bird_certificate.json").read_text())
        assert record["precision"] == precision


def test_a_folder_has_a_certificate_each_and_a_table(run, picture, photo, tmp_path):
    truths, out = tmp_path / "hr", tmp_path / "out"
    truths.mkdir()
    Image.fromarray(photo(12, 12, seed=3)).save(picture.with_name("cat.jpg"))
    for name, size in (("bird", (48, 40)), ("cat", (48, 48)), ("more", (48, 48))):
        Image.open(picture).convert("RGB").resize(size).save(truths / f"{name}.webp", lossless=True)
    command = [picture.parent, *FEW, "--hr", truths, "--crop", 8, "-o", out]
    code, stdout, words = run(*command)
    assert code == 0 and "2 certificates -> " in words, words
    records = {n: json.loads((out / f"{n}_certificate.json").read_text()) for n in ("bird", "cat")}
    rows = {cells[0]: cells[1:] for line in stdout.splitlines() if (cells := line.split()) and len(cells) == 5}
    keys = ("mean_width", "largest_width", "psnr", "certified_psnr")
    for name, record in (("bird.png", records["bird"]), ("cat.jpg", records["cat"])):
        assert rows[name] == [f"{record['result'][key]:.2f}" for key in keys]
    assert rows["mean"] == [f"{sum(r['result'][key] for r in records.values()) / 2:.2f}" for key in keys]
    assert (
        run("--verify", out / "cat_certificate.json", picture.with_name("cat.jpg"), "--hr", truths / "cat.webp")[0] == 0
    )

    again = run(*command)
    assert again[0] == 0 and again[1] == stdout and "draws, about" not in again[2]  # nothing is drawn again
    assert "2 certificates (2 were there already) -> " in again[2]
    for path in out.glob("bird_*"):
        path.unlink()
    code, _, words = run(*command)
    assert code == 0 and words.count("draws, about") == 1 and "2 certificates (1 was there already) -> " in words
    code, _, words = run(*command, "--eps", ".01")
    assert code == 1 and words.count("_certificate.json is of eps 0.06: give --overwrite") == 2
    assert run(*command, "--eps", ".01", "--overwrite")[0] == 0
    assert json.loads((out / "cat_certificate.json").read_text())["eps"] == 0.01


@pytest.fixture
def each(run, picture, photo, tmp_path):
    """A folder of two pictures certified with a given seed; the command, and the certificates' folder."""
    Image.fromarray(photo(6, 8, seed=3)).save(picture.with_name("cat.jpg"))
    command, out = [picture.parent, *FEW, "--smooth", "mean", "--ship", "900", "--seed", "5"], tmp_path / "each"
    code, _, words = run(*command, "-o", out)
    assert code == 0 and words.count("draws, about") == 2
    assert words.count("levels of the width make room") == 1 and "the seed was given" in words
    records = [json.loads(path.read_text()) for path in out.glob("*.json")]
    margin = max(record["derived"]["margin"] for record in records)
    assert f"note: up to {2 * margin * 255:.0f} levels" in words
    return command, out


def test_what_cannot_be_claimed_is_no_damage(run, picture, tmp_path):
    claim = ["--scope", "value", "--eps", ".01", "--samples", "40", "--ship", "5", "--alpha", ".3", "--beta", ".1"]
    command = [picture.parent, *claim, "-m", "unet-x2", "--device", "cpu", "-o", tmp_path / "out"]
    assert run(*command, model=False)[0] == 0
    code, _, words = run(*command, "--field", "receptive", model=False)
    assert code == 1 and "no receptive-field claim for unet-x2" in words and "damaged" not in words


def test_a_folder_keeps_what_is_whole_and_of_this_claim_only(run, each, tmp_path):
    command, out = each
    code, stdout, words = run(*command, "-o", out, "--json")
    assert code == 0 and "draws, about" not in words
    assert [json.loads(line)["input"]["name"] for line in stdout.splitlines()] == ["bird.png", "cat.jpg"]
    for change, other in (
        (["--seed", "6"], "another seed"),
        (["--samples", "401"], "samples 400"),
    ):
        assert run(*command, "-o", out, *change)[2].count(f"is of {other}") == 2
    Image.fromarray(pixels(out / "cat_lower.png").astype(np.uint8) // 2).save(out / "cat_lower.png")
    (out / "bird_upper.png").unlink()
    code, _, words = run(*command, "-o", out)
    assert code == 1 and "cat_certificate.json is not about the pictures beside it" in words
    assert "bird_certificate.json is damaged" in words
    path = out / "bird_certificate.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "result"}))
    assert "bird_certificate.json is damaged" in run(*command, "-o", out)[2]


@pytest.mark.parametrize(
    "change", [{"mean_width": 0.001}, {"largest_width": "wide"}, {"mean_width": None}, {"more": 1}]
)
def test_numbers_that_the_pictures_do_not_give_are_no_certificate_s(run, each, change):
    command, out = each
    path = out / "bird_certificate.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"result": record["result"] | change}))
    code, _, words = run(*command, "-o", out)
    assert code == 1 and "bird_certificate.json is damaged: give --overwrite" in words and ", 1 failed" in words
    path.write_text(json.dumps(record | {"model": {k: v for k, v in record["model"].items() if k != "name"}}))
    assert "bird_certificate.json is damaged: give --overwrite" in run(*command, "-o", out)[2]


def test_pictures_that_are_no_certificate_s_stay(run, picture, photo, tmp_path):
    mine = picture.with_name("bird_lower.png")
    Image.fromarray(photo(6, 8, seed=3)).save(mine)
    before = mine.read_bytes()
    for _ in range(2):
        code, _, words = run(picture.parent, *FEW, "-o", picture.parent)
        assert code == 1 and "failed: bird.png: " in words and "has bird_lower.png already: give --overwrite" in words
        assert mine.read_bytes() == before


def test_truths_that_come_later_are_measured_without_another_draw(run, each, picture, photo, tmp_path):
    command, out = each
    truths = tmp_path / "hr"
    truths.mkdir()
    for name in ("bird.png", "cat.jpg"):
        small = Image.open(picture.with_name(name))
        small.resize((small.width * 4, small.height * 4)).save(truths / f"{Path(name).stem}.png")
    code, stdout, words = run(*command, "-o", out, "--hr", truths)
    assert code == 0 and "draws, about" not in words and "PSNR" in stdout
    record = out / "cat_certificate.json"
    assert "psnr" in json.loads(record.read_text())["result"]
    assert run("--verify", record, picture.with_name("cat.jpg"), "--hr", truths / "cat.png")[0] == 0
    Image.fromarray(photo(6, 6)).save(picture.with_name("new.png"))  # and some have none
    code, stdout, words = run(*command, "-o", out)
    assert code == 0 and "3 certificates" in words and "PSNR" not in stdout


def test_certificates_among_the_pictures_are_no_pictures(run, each, picture):
    command, _ = each
    for _ in range(2):
        code, _, words = run(*command, "-o", picture.parent)
        assert code == 0 and "2 certificates" in words
    assert len(list(picture.parent.iterdir())) == 2 * 6
    code, _, words = run(*command, "-o", picture)
    assert code == 1 and f"{picture} is a file, and results need a folder" in words and "draws, about" not in words


def test_what_cannot_be_paired_or_read_in_a_folder_is_said(run, picture, tmp_path):
    (picture.parent / "broken.png").write_bytes(b"no picture")
    code, _, words = run(picture.parent, *FEW, "-o", tmp_path / "out")
    assert code == 1 and "failed: broken.png: cannot read" in words and "1 certificate, 1 failed" in words
    truths = tmp_path / "truths"
    truths.mkdir()
    for name in ("bird.png", "bird.jpg", "broken.png"):
        Image.open(picture).convert("RGB").save(truths / name)
    for hr, why in (
        (picture, "is no folder"),
        (truths, "bird.png have one name"),
        (tmp_path / "out", "has no picture for bird.png, broken.png"),
    ):
        code, _, words = run(picture.parent, *FEW, "--hr", hr, "-o", tmp_path / "other")
        assert code == 1 and why in words
    *_, words = run(picture.parent, *FEW, "--crop", "99", "-o", tmp_path / "all")
    assert "note: bird.png is smaller than --crop 99: " in words and "pixels are certified" in words
    (picture.parent / "bird.jpg").write_bytes(b"")
    code, _, words = run(picture.parent, *FEW, "-o", tmp_path / "other")
    assert code == 1 and "bird.png have one name" in words and not (tmp_path / "other").exists()


def test_a_certificate_of_an_own_model_asks_for_its_file(run, certified, picture, tiny):
    out, _ = certified
    path = out / "bird_certificate.json"
    record = json.loads(path.read_text())
    record["model"]["name"] = "mynet"
    path.write_text(json.dumps(record))
    code, _, words = run("--verify", path, picture, model=False)
    assert code == 1 and "the certificate's model 'mynet' is not installed: give -m and its file" in words
    assert run("--verify", path, picture, "-m", tiny, model=False)[0] == 0
