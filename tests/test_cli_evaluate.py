"""`robustsr evaluate` and `tune`: published layouts, reports, resuming, refusals."""

import json
import re
from datetime import date

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from robustsr import protocols
from robustsr.catalogue import catalogue
from robustsr.cli_evaluate import evaluate, tune
from robustsr.legends import published
from robustsr.pairs import Pictures
from robustsr.protocols import PROTOCOLS, Choice
from robustsr.types import RobustSRError

app = typer.Typer()
app.command()(evaluate)
app.command()(tune)


def invoke(*args):
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "160"}, catch_exceptions=False)


@pytest.fixture
def folder(tmp_path, photo, home):
    place = tmp_path / "truth"
    place.mkdir()
    for i in range(2):
        Image.fromarray(photo(96, 96, seed=i)).save(place / f"p{i}.png")
    return place


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if n != "paper-table3"])
def test_every_protocol_prints_its_table_beside_the_published_one(folder, tiny, tmp_path, name):
    out = tmp_path / "out"
    args = [folder, "-p", name, "-m", tiny, "--crop", 16, "--limit", 1, "--samples", 2, "-o", out]
    free = name == "paper-table2"
    args += ["--loss", "l1"] * free + ["--sigma-grid", 0.1] * (name != "thesis-a1")
    done = invoke("evaluate", *args)
    assert done.exit_code == 0, done.output
    assert free or invoke("evaluate", *args, "--loss", "l1").exit_code == 2  # there are none, or they are on the MSE
    assert {"report.html", "report.md", "report.json", "records.jsonl"} <= {p.name for p in out.iterdir()}
    text = (out / "report.md").read_text()
    assert "tiny" in text and "Published" in text
    table = next(s for s in json.loads((out / "report.json").read_text())["sections"] if "columns" in s)
    theirs = published(name.replace(".", "_"))
    rows = [r for r in table["rows"] if r["published"]]
    assert len(rows) == len([k for k in theirs if k not in ("source", "note")])
    for row in rows:
        values = [c["value"] for c in row["cells"]]
        assert values[: len(theirs[row["label"]])] == theirs[row["label"]]
    ours = [r for r in table["rows"] if not r["published"] and "noise" not in r["label"]]
    wanted = [j for j, c in enumerate(table["columns"]) if c["name"] != "LPIPS"]
    assert ours and all(r["cells"][j]["value"] is not None for r in ours for j in wanted)


def test_table_three_takes_named_sets_and_averages_them(tmp_path, photo, tiny, home):
    for name in ("a", "b"):
        for part, side in (("HR", 80), ("LR", 20)):
            (tmp_path / name / part).mkdir(parents=True)
            Image.fromarray(photo(side, side)).save(tmp_path / name / part / "1.png")
    sets = [f"NTIRE={tmp_path / 'a'}", f"AIM={tmp_path / 'b'}"]
    done = invoke(
        *("evaluate", *sets, "-p", "paper-table3", "-m", tiny, "--samples", 2, "-o", tmp_path / "o"),
        *("--sigma", 0.06, "--sigma-grid", 0.03),
    )
    assert done.exit_code == 0, done.output
    table = json.loads((tmp_path / "o" / "report.json").read_text())["sections"][0]
    assert [c["name"] for c in table["columns"][:3]] == ["NTIRE", "AIM", "mean"]
    by_label = {r["label"]: [c["value"] for c in r["cells"]] for r in table["rows"]}
    assert by_label["ESRGAN"][:3] == [21.94, 21.95, pytest.approx(21.945)]
    plain = by_label["tiny"]
    assert plain[2] == pytest.approx((plain[0] + plain[1]) / 2)
    grid = ["-p", "paper-table3", "-m", tiny, "--samples", 2, "--sigma-grid", 0.1, "--limit", 1]
    for others in ([*sets], [f"other={tmp_path / 'a'}", sets[0]]):  # only some sets have such a row, or none has
        done = invoke("evaluate", *others, *grid, "-o", tmp_path / "p")
        assert done.exit_code == 0, done.output
    assert "for sets named NTIRE and AIM" in done.stdout
    for others, theirs in (([*reversed(sets)], [21.95, 21.94, pytest.approx(21.945)]), ([sets[1]], [21.95])):
        assert invoke("evaluate", *others, *grid, "-o", tmp_path / "p").exit_code == 0
        rows = json.loads((tmp_path / "p/report.json").read_text())["sections"][0]["rows"]
        esrgan = next(row["cells"] for row in rows if row["label"] == "ESRGAN")
        assert [c["value"] for c in esrgan[: len(theirs)]] == theirs
    theirs, fixed = by_label["median of 2, CertSR's sigmas"], by_label["median of 2, sigma 0.06"]
    assert theirs[1] == fixed[1] and theirs[0] > fixed[0]  # .06 for AIM, .03 for NTIRE


def test_the_papers_own_sigmas_have_a_row_where_all_were_measured(folder, tiny, tmp_path):
    args = ["evaluate", folder, "-p", "paper-table2", "-m", tiny, "--crop", 16, "--limit", 1, "--samples", 2]
    args += ["--loss", "l1", "--lpips", "off", "--sigma", 0.03]
    rows = {}
    for grid in ((0.06, 0.07), (0.06,)):
        out = tmp_path / str(len(grid))
        assert invoke(*args, *(a for s in grid for a in ("--sigma-grid", s)), "-o", out).exit_code == 0
        table = json.loads((out / "report.json").read_text())["sections"][0]
        rows[len(grid)] = {r["label"]: [c["value"] for c in r["cells"]] for r in table["rows"]}
    assert "median of 2, CertSR's sigmas" not in rows[1]
    theirs, fixed = rows[2]["median of 2, CertSR's sigmas"], rows[2]["median of 2, sigma 0.03"]
    assert theirs[-3:] == fixed[-3:] and theirs[:9] != fixed[:9]  # .03 for CW, more for the others


def test_every_way_of_attacking_a_smoothed_model_has_a_row(folder, tiny, tmp_path):
    args = [
        "evaluate",
        folder,
        "-m",
        tiny,
        "--perturb",
        "clean",
        "--perturb",
        "pgd:steps=2",
        "--crop",
        16,
        "--limit",
        1,
    ]
    args += ["--smooth", "median", "--sigma", 0.05, "--samples", 3, "--on", "worst", "-o", tmp_path / "out"]
    done = invoke(*args)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "attack base: the network without its smoothing; attack eot: the smoothed model, fresh draws" in said
    assert "attack seed: the smoothed model with the very draws it ships with" in said and "; seed: 0" in said
    table = json.loads((tmp_path / "out" / "report.json").read_text())["sections"][0]
    rows = {r["label"]: [c["value"] for c in r["cells"]] for r in table["rows"]}
    worst = rows["median of 3, sigma 0.05"]
    each = [rows[f"the same, attack {way}"] for way in ("base", "eot", "mean", "losses", "seed")]
    psnr = next(i for i, c in enumerate(table["columns"]) if (c["group"], c["name"]) == ("pgd:steps=2", "PSNR"))
    assert worst[psnr] == min(row[psnr] for row in each) and len({row[psnr] for row in each}) > 1
    assert all(row[:2] == worst[:2] for row in each)  # clean pictures are not attacked


def test_attacks_that_name_no_loss_have_that_of_the_option(folder, tiny, tmp_path):
    specs = ["--perturb", "fgsm:eps=8/255", "--perturb", "pgd:steps=2,loss=l1", "--perturb", "random:eps=8/255"]
    args = ["evaluate", folder, "-m", tiny, "--crop", 16, "--limit", 1, "-o", tmp_path / "out"]
    done = invoke(*args, *specs, "--loss", "mse")
    assert done.exit_code == 0, done.output
    kept = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert {r["perturbation"] for r in kept} == {"fgsm:eps=8/255,loss=mse", "pgd:steps=2", "random:eps=8/255"}


def test_any_perturbation_and_defence_and_a_second_run_is_the_same(folder, tiny, tmp_path):
    out = tmp_path / "out"
    args = ["evaluate", folder, "-m", tiny, "--perturb", "clean", "--perturb", "jpeg:quality=30", "--perturb", "fgsm"]
    args += ["--perturb", "clean", "--smooth", "median", "--sigma", "12.75/255", "--samples", 2, "-o", out]
    first, second = invoke(*args), invoke(*args)
    assert first.exit_code == 0 and "median of 2, sigma 0.05" in first.stdout
    assert first.stdout == second.stdout
    assert "LPIPS is n/a" in first.output and "robustsr models pull squeezenet" in first.output


def test_tune_prints_the_best_sigma_and_calibrates_auto(folder, tiny, tmp_path, home, photo):
    out = tmp_path / "out"
    for i in (2, 3):
        Image.fromarray(photo(96, 96, seed=i)).save(folder / f"p{i}.png")
    specs = ["clean", "noise:sigma=0.02", "noise:sigma=0.05", "noise:sigma=0.1"]
    args = [a for s in specs for a in ("--perturb", s)] + ["--sigma-grid", 0.05, "--sigma-grid", 0.1]
    args += ["--samples", 2, "--metric", "psnr", "-o", out]
    assert (
        invoke("tune", folder, "-m", tiny, *args, "--no-save").exit_code == 0 and not (home / "calibrations").exists()
    )
    done = invoke("tune", folder, "-m", tiny, *args)
    assert done.exit_code == 0, done.output
    (kept,) = (home / "calibrations").iterdir()
    assert all(0 <= sigma <= 0.1 for _, sigma in json.loads(kept.read_text()))
    sections = json.loads((out / "report.json").read_text())["sections"]
    assert [s["title"] for s in sections if "columns" in s] == [
        "Choosing sigma by the picture's noise: tiny",
        "Best sigma: truth",
    ]
    for row in sections[0]["rows"]:
        none, fixed, auto, oracle = (c["value"] for c in row["cells"])
        assert oracle >= max(none, fixed) - 1e-9 and auto is not None
    assert [r["label"] for r in sections[1]["rows"]] == specs
    assert [c["name"] for c in sections[1]["columns"]] == ["tiny"]
    assert "0.03" in sections[0]["columns"][1]["name"]
    assert any("series" in s for s in sections)


def test_one_picture_leaves_nothing_to_calibrate_with(folder, tiny, tmp_path, home):
    args = ["--limit", 1, "--perturb", "clean", "--sigma-grid", 0.1, "--samples", 2, "--metric", "psnr"]
    done = invoke("tune", folder, "-m", tiny, *args, "-o", tmp_path / "o")
    assert done.exit_code == 0 and "n/a" in done.stdout and "no second picture" in done.stdout
    assert "calibration (noise estimate: sigma) none: it takes 4 pictures" in done.stdout
    assert "is not calibrated: that takes 4 pictures" in done.output and not (home / "calibrations").exists()
    assert invoke("tune", folder, "-m", "bicubic", "-o", tmp_path / "o").exit_code == 2


def test_labels_tell_perturbations_apart_and_the_oracle_is_not_ranked(folder, tiny, tmp_path):
    args = ["--perturb", "noise:sigma=0.01", "--perturb", "noise:sigma=0.1", "--perturb", "pgd-l2:eps_rel=0.05,steps=1"]
    args += ["--smooth", "median", "--sigma-grid", 0.1, "--samples", 2, "-o", tmp_path / "o"]
    assert invoke("evaluate", folder, "-m", tiny, *args).exit_code == 0
    table = json.loads((tmp_path / "o" / "report.json").read_text())["sections"][0]
    heads = list(dict.fromkeys(c["group"] for c in table["columns"]))
    assert heads == ["noise:sigma=0.01", "noise:sigma=0.1", "pgd-l2:eps_rel=0.05,steps=1"]
    oracle = next(r for r in table["rows"] if "oracle" in r["label"])
    assert all(c["best"] == 0 for c in oracle["cells"])
    noise = next(r for r in table["rows"] if r["label"] == "random noise of equal norm" and r["section"] == "tiny")
    assert noise["cells"][0]["value"] is None and noise["cells"][10]["value"] is not None


def test_flags_a_protocol_decides_are_refused(folder, tmp_path):
    for flags in (["--perturb", "clean"], ["--smooth", "mean"], ["--sigma", "5"]):
        assert invoke("evaluate", folder, "-p", "paper-table1", *flags, "-o", tmp_path / "o").exit_code == 2


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (["evaluate", "-p", "thesis-4.1"], ["--loss", "l1"]),
        (["evaluate", "-p", "thesis-4.1"], ["--lr", "."]),
        (["evaluate", "-p", "thesis-a1"], ["--on", "worst"]),
        (["evaluate", "-p", "thesis-a1"], ["--sigma", "0.1"]),
        (["evaluate", "-p", "thesis-a1"], ["--sigma-grid", "0.1"]),
        (["tune", "--thesis", "2"], ["--sigma", "0.1"]),
        (["tune", "--thesis", "2"], ["--perturb", "clean"]),
        (["tune", "--thesis", "2"], ["--lr", "."]),
    ],
)
def test_what_the_thesis_decides_is_refused(folder, tmp_path, command, flags):
    done = invoke(command[0], folder, *command[1:], *flags, "-o", tmp_path / "o")
    assert done.exit_code == 2 and f"{flags[0]}: " in done.output and "decides that itself" in done.output
    assert not (tmp_path / "o").exists()


def test_cw_says_how_large_its_changes_are(folder, tiny, tmp_path):
    """It has no budget: models are compared under changes of different sizes."""
    args = ["-m", tiny, "--perturb", "cw", "--perturb", "fgsm", "--crop", 16, "--limit", 1, "-o", tmp_path / "o"]
    done = invoke("evaluate", folder, *args)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (tmp_path / "o/records.jsonl").read_text().splitlines()]
    sizes = {r["model"]: r["l2"] for r in records if r["perturbation"] == "cw" and r["variant"] == "base"}
    assert sizes.keys() == {"bicubic", "tiny"} and sizes["bicubic"] > 0
    said = " ".join(done.stdout.split())
    shown = ", ".join(f"{name} {size:.2f}" for name, size in zip(("bicubic", "tiny"), sizes.values(), strict=True))
    assert f"cw has no budget; mean L2 of its changes: {shown}" in said and f"{shown}," not in said


def test_the_thesis_search_shows_its_tables(folder, tiny, tmp_path):
    done = invoke(
        "tune",
        folder,
        "-m",
        tiny,
        "--thesis",
        2,
        "--crop",
        16,
        "--limit",
        1,
        "--samples",
        2,
        "--sigma-grid",
        0.1,
        "-o",
        tmp_path / "o",
    )
    assert done.exit_code == 0, done.output
    assert "sigma_f .05" in done.stdout and "eps_rel 0.035" in done.stdout
    assert "what upscales, bicubic too, gets the pictures shrunk once more" in done.stdout


def test_the_thesis_search_is_of_its_networks_of_that_factor(folder, tmp_path):
    args = ["--crop", 16, "--limit", 1, "--samples", 2, "--sigma-grid", 0.1, "--lpips", "off", "-o", tmp_path / "o"]
    done = invoke("tune", folder, "--thesis", 2, *args)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (tmp_path / "o/records.jsonl").read_text().splitlines()]
    assert {r["model"] for r in records} - {"bicubic-x2"} == {"unet-x2", "unet-x2-noise", "unet-x2-adv-l2"}


@pytest.mark.parametrize("command", [("evaluate", "-p", "thesis-4.1"), ("tune", "--thesis", 2)])
def test_a_network_of_the_thesis_other_factor_is_refused(folder, tmp_path, command):
    with pytest.raises(RobustSRError, match="unet-x4 restores what was shrunk by 4.* shrunk by 2.*unet-x2"):
        invoke(command[0], folder, *command[1:], "-m", "unet-x4", "-o", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_protocols_are_listed_and_unknown_ones_refused(folder, tmp_path):
    listed = invoke("evaluate", "--list")
    assert listed.exit_code == 0 and all(name in listed.stdout for name in PROTOCOLS)
    idle = (["--sigma", 0.1], ["--samples", 3], ["--loss", "l1"], ["--craft-on", "psnr", "--perturb", "clean"])
    idle += (["--on", "worst", "--perturb", "clean"], ["--on", "worst", "--perturb", "fgsm"])
    for flags in (["-p", "paper"], ["--perturb", "jepg"], *idle):
        assert invoke("evaluate", folder, *flags, "-o", tmp_path / "o").exit_code == 2


def test_the_thesis_tables_are_of_its_networks_unless_others_are_named(folder, tmp_path):
    args = ["--crop", 16, "--limit", 1, "--sigma-grid", 0.1, "--samples", 2, "--lpips", "off", "-o", tmp_path / "o"]
    done = invoke("evaluate", folder, "-p", "thesis-4.3", *args)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (tmp_path / "o/records.jsonl").read_text().splitlines()]
    assert {r["model"] for r in records} == {"bicubic", "unet-x4", "unet-x4-noise", "unet-x4-adv-l2"}
    assert set(PROTOCOLS["thesis-a1"].models) == {"unet-x2", "unet-x2-noise", "unet-x2-adv-l2"}
    for protocol in PROTOCOLS.values():
        assert all(catalogue()[name].use == "restore" for name in protocol.models)


def test_wrong_folders_are_named_at_once(folder, tmp_path):
    with pytest.raises(RobustSRError, match="no folder"):
        invoke("evaluate", tmp_path / "gone", "-o", tmp_path / "o")
    assert invoke("evaluate", folder, folder, "-o", tmp_path / "o").exit_code == 2
    assert not (tmp_path / "o").exists()


def test_the_thesis_studies_use_its_units_and_protocol(folder):
    choice = Choice({"t": Pictures(folder, 4)}, ("psnr",))
    (study,) = PROTOCOLS["thesis-4.2"].studies(choice).values()
    assert study.perturbations == tuple(f"pgd-l2:eps_rel={e * 0.273:.6g},loss=mse" for e in (0.05, 0.1, 0.2))
    assert study.pictures.resized == 2 and study.pictures.crop == 80 and not study.quantised and study.border == 0
    sigmas = [d.sigma for d in study.defences if d]
    assert all(d.samples == 50 and d.reduce == "mean" and d.draws == "independent" for d in study.defences if d)
    assert sigmas[1:] == [
        pytest.approx(s * 0.273, abs=1e-6)
        for s in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1, 1.1, 1.2)
    ]
    (study,) = protocols.tuning(choice, (), 2).values()
    assert [d.sigma / 0.273 for d in study.defences if d] == pytest.approx(protocols.THESIS_GRID[1:], abs=1e-5)
    assert study.models == ("bicubic-x2", "psnr")
    (study,) = PROTOCOLS["paper-table2"].studies(choice).values()
    assert study.perturbations[1] == "fgsm:eps=10/255,loss=paper" and all(d.samples == 21 for d in study.defences if d)


def test_budgets_are_said_as_asked_and_as_they_came_out(folder, tiny, tmp_path):
    """Rounded to 8 bits inside its ball, .01 is two levels; and what is left to a default is said, too."""
    specs = ("fgsm:eps=.01", "pgd:steps=1", "pgd-l2:steps=1,eps_rel=.001", "noise")
    flags = [word for spec in specs for word in ("--perturb", spec)]
    done = invoke("evaluate", folder, "-m", tiny, *flags, "--crop", 16, "--limit", 1, "-o", tmp_path / "o")
    said = " ".join(done.stdout.split())
    assert "fgsm:eps=.01: Linf up to 0.01, came out as 2/255; pgd:steps=1: Linf up to 8/255, came out as 8/255" in said
    assert re.search(r"eps_rel=.001: L2 / sqrt\(3hw\) up to 0.001, came out as 0.00\d+", said)
    assert "noise:sigma=0.03" in said


def test_equal_perturbations_are_measured_once(folder, tiny, tmp_path):
    same = ["fgsm:eps=8/255", "clean", "FGSM:eps=8px", "fgsm:loss=l1,eps=8/255", "noise", "noise:sigma=.03"]
    flags = [word for spec in same for word in ("--perturb", spec)]
    done = invoke("evaluate", folder, "-m", tiny, *flags, "--crop", 16, "--limit", 1, "-o", tmp_path / "o")
    titles = re.findall("─ ([^─]+) ─", done.stdout)
    assert titles == ["fgsm:eps=8/255", "Clean", "noise"]


def test_the_draws_that_ship_can_be_measured(folder, tiny, tmp_path):
    args = ["evaluate", folder, "-m", tiny, "--crop", 16, "--limit", 1, "-o", tmp_path / "o", "--smooth", "median"]
    done = invoke(*args, "--samples", 4, "--draws", "antithetic")
    assert "median of 4 antithetic, sigma 0.03" in done.stdout and "draws: antithetic" in " ".join(done.stdout.split())
    assert "draws: independent" in " ".join(invoke(*args, "--samples", 4).stdout.split())
    refused = invoke("evaluate", folder, "-m", tiny, "--draws", "antithetic", "-o", tmp_path / "p")
    assert refused.exit_code == 2 and "--draws: only with --smooth" in refused.output


def test_a_report_says_what_its_records_were_made_with(folder, tiny, tmp_path):
    args = ["evaluate", folder, "-m", tiny, "--crop", 16, "-o", tmp_path / "o"]
    invoke(*args)
    path = tmp_path / "o" / "records.jsonl"
    first, *rest = (json.loads(line) for line in path.read_text().splitlines())
    first["made"] = {"with": "robustsr 0.0.1, torch 1.0", "device": "cuda:0", "on": "2020-02-03"}
    path.write_text("\n".join(map(json.dumps, [first, *rest])) + "\n")
    invoke(*args)
    protocol = json.loads((tmp_path / "o" / "report.json").read_text())["protocol"]
    assert "robustsr 0.0.1, torch 1.0, cuda:0; robustsr" in protocol["made with"]
    assert protocol["measured on"] == f"2020-02-03 to {date.today().isoformat()}"
