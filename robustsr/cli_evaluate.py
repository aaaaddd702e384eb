"""The commands `evaluate` and `tune`: tables, plots and reports of how models fare under perturbations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import catalogue, console, progress
from .cli_common import (
    DENOISE,
    bring_torch,
    command_line,
    deviation,
    found,
    interruptible,
    model_names,
    show,
    typed,
    usage,
)
from .remote import check_folder
from .types import RobustSRError

if TYPE_CHECKING:
    from .protocols import Choice
    from .report import Section
    from .results import Results
    from .study import Study

Option = typer.Option
SIGMA: dict[str, Any] = {"parser": deviation, "metavar": "FLOAT"}
PICTURES, ATTACKS, DEFENCE = "Pictures", "Perturbations", "Defences"
Sets = Annotated[
    list[str],
    typer.Argument(help="Folders of ground truth (or with HR/ and LR/), as DIR or NAME=DIR.", show_default=False),
]
Models = Annotated[
    list[str] | None,
    Option(
        "-m",
        "--model",
        autocompletion=model_names,
        help="Models, as often as needed. Default: those that ship; for the thesis, its U-Nets. Bicubic is added.",
    ),
]
Out = Annotated[Path, Option("-o", "--out", help="Folder of the records and the report; run again to go on.")]
Limit = Annotated[int | None, Option(min=1, help="Only the first N pictures, by name.", rich_help_panel=PICTURES)]
Crop = Annotated[
    int | None, Option(min=16, help="Only a central square of so many LR pixels a side.", rich_help_panel=PICTURES)
]
Lr = Annotated[
    Path | None, Option(help="Folder of the LR pictures. Default: made by bicubic.", rich_help_panel=PICTURES)
]
Lpips = Annotated[
    Literal["auto", "alex", "squeeze", "vgg", "off"], Option(help="Backbone of LPIPS; auto: the best that is here.")
]
Denoise = Annotated[str | None, Option(help=DENOISE, rich_help_panel=DEFENCE)]
Sigmas = Annotated[
    list[float] | None,
    Option(
        "--sigma-grid",
        help="One more sigma; repeatable. The oracle takes the best for each model and perturbation.",
        rich_help_panel=DEFENCE,
        **SIGMA,
    ),
]
Samples = Annotated[
    int | None, Option(min=1, help="Number of noisy copies. Default: the protocol's, else 21.", rich_help_panel=DEFENCE)
]
Device = Annotated[str, Option(help="auto, cpu, cuda, ...")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "auto"], Option(help="Number format of what is measured; attacks use fp32.")
]


def evaluate(
    context: typer.Context,
    sets: Sets,
    model: Models = None,
    protocol: Annotated[str | None, Option("--protocol", "-p", help="A published table; see --list.")] = None,
    perturb: Annotated[
        list[str] | None,
        Option(
            "--perturb",
            help="clean, noise:sigma=0.05, jpeg:quality=30, pgd:eps=8/255, ... as often as needed.",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    on: Annotated[
        str,
        Option(
            help="What of smoothed models is attacked: base (the network), smoothed (adaptively) or worst (all ways).",
            rich_help_panel=ATTACKS,
        ),
    ] = "base",
    craft_on: Annotated[
        str | None, Option(help="Craft attacks on this model (transfer).", rich_help_panel=ATTACKS)
    ] = None,
    loss: Annotated[
        str | None,
        Option(
            help="Loss of attacks that name none. Default: l1; of protocols the paper's, which needs VGG19.",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    denoise: Denoise = None,
    smooth: Annotated[
        Literal["off", "median", "mean"],
        Option(help="Also measure the models smoothed (a --protocol decides this itself).", rich_help_panel=DEFENCE),
    ] = "off",
    sigma: Annotated[float, Option(help="Sigma of all smoothed rows.", rich_help_panel=DEFENCE, **SIGMA)] = 0.03,
    sigma_grid: Sigmas = None,
    samples: Samples = None,
    draws: Annotated[
        Literal["independent", "antithetic"],
        Option(help="Independent noise, as both works use, or pairs of opposite noise.", rich_help_panel=DEFENCE),
    ] = "independent",
    lr: Lr = None,
    limit: Limit = None,
    crop: Crop = None,
    lpips: Lpips = "auto",
    gallery: Annotated[int, Option(min=0, help="Number of pictures shown in the report.")] = 1,
    out: Out = Path("evaluation"),
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    list_: Annotated[
        bool, Option("--list", help="Print the protocols and stop.", is_eager=True, callback=lambda v: _list(v))
    ] = False,
) -> None:
    """Measure models under noise, corruptions and attacks; tables, plots and an HTML report."""
    check_folder(out)
    bring_torch()
    from . import layouts, protocols
    from .settings import Smoothing
    from .study import Study, parse
    from .threats import is_attack, with_loss

    specs = tuple(perturb or ["clean"])
    with usage():
        chosen = protocols.protocol(protocol) if protocol is not None else None
        attacks = [spec for spec in specs if is_attack(parse(spec))]
        different: dict[object, str] = {}
        for spec in specs:
            different.setdefault(parse(with_loss(spec, loss)), with_loss(spec, loss))
        specs = tuple(different.values())
    if chosen is not None and (given := typed(context).intersection(chosen.decides)):
        raise typer.BadParameter(f"{_options(given)}: {protocol} decides that itself")
    idle = typed(context) & {"sigma", "sigma_grid", "samples", "draws"}
    if chosen is None and smooth == "off" and idle:
        raise typer.BadParameter(f"{_options(idle)}: only with --smooth median, --smooth mean or --protocol")
    peaceful = not attacks and protocol in (None, "paper-table1", "paper-table3")
    if peaceful and typed(context) & {"loss", "craft_on", "on"}:
        raise typer.BadParameter("--on, --loss and --craft-on are about attacks, and there are none")
    if chosen is None and smooth == "off" and on != "base":
        raise typer.BadParameter(f"--on {on} attacks a smoothed model: add --smooth median or --smooth mean")
    loss = loss or _default_loss(protocol)
    model = model or (list(chosen.models) if chosen else None)
    choice = _choice(sets, model, lr, limit, crop, lpips, sigma, sigma_grid, samples, gallery, seed, device, precision)
    choice = replace(choice, on=on, loss=loss, denoise=denoise and found(denoise))
    if chosen is not None:
        studies = chosen.studies(choice)
        if craft_on:
            studies = {n: replace(s, source=craft_on) for n, s in studies.items()}
        results = _measure(studies, out)
        _report(chosen.title, chosen.about, chosen.layout(studies, results), studies, results, out, context)
        return
    defences: tuple[Smoothing | None, ...] = (None,)
    if smooth != "off":
        sigmas = dict.fromkeys([sigma, *choice.sigmas])
        defences += tuple(Smoothing(smooth, s, samples or 21, draws, seed) for s in sigmas)
    studies = {
        n: Study(
            p,
            choice.models,
            specs,
            defences,
            on,
            craft_on,
            choice.denoise,
            border=p.scale,
            lpips=choice.lpips,
            gallery=gallery,
            seed=seed,
            device=device,
            precision=precision,
        )
        for n, p in choice.sets.items()
    }
    results = _measure(studies, out)
    sections = [s for n in studies for s in layouts.generic(studies[n], results[n], n)]
    _report("Evaluation", "Models under perturbations.", sections, studies, results, out, context)


def tune(
    context: typer.Context,
    sets: Sets,
    model: Models = None,
    metric: Annotated[
        Literal["auto", "ssim", "lpips", "psnr"],
        Option(help="Metric that chooses sigma; auto: LPIPS where it can be measured."),
    ] = "auto",
    perturb: Annotated[
        list[str] | None,
        Option(help="As for evaluate. Default: clean, noise, JPEG and PGD.", rich_help_panel=ATTACKS),
    ] = None,
    thesis: Annotated[
        int | None, Option(help="2 or 4: the thesis' search, Tables A.2/A.3 and Figures A.3 to A.8.")
    ] = None,
    denoise: Denoise = None,
    sigma: Annotated[
        float, Option(help="The fixed sigma auto is compared with.", rich_help_panel=DEFENCE, **SIGMA)
    ] = 0.03,
    sigma_grid: Sigmas = None,
    samples: Samples = None,
    lr: Lr = None,
    limit: Limit = None,
    crop: Crop = None,
    lpips: Lpips = "auto",
    save: Annotated[bool, Option(help="Calibrate --sigma auto with what is found.")] = True,
    out: Out = Path("tuning"),
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Find the best sigma per model and perturbation, and calibrate `--sigma auto` with it."""
    check_folder(out)
    bring_torch()
    from . import catalogue, protocols, searches
    from .models import load

    if thesis not in (None, 2, 4):
        raise typer.BadParameter("--thesis is 2 or 4: the factors of its tables")
    if thesis and (given := typed(context) & {"perturb", "sigma", "lr"}):
        raise typer.BadParameter(f"{_options(given)}: --thesis decides that itself")
    model = model or (list(protocols.UNETS[thesis]) if thesis else None)
    choice = _choice(sets, model, lr, limit, crop, lpips, sigma, sigma_grid, samples, 0, seed, device, precision)
    models = tuple(m for m in choice.models if m not in catalogue.BICUBIC)
    choice = replace(choice, models=models, denoise=denoise and found(denoise))
    if not choice.models:
        raise typer.BadParameter("bicubic is linear, smoothing does not change it: give a model with -m")
    if metric == "lpips" and choice.lpips is None:
        if lpips == "off":
            raise typer.BadParameter("--metric lpips needs LPIPS: leave out --lpips off")
        raise RobustSRError("LPIPS cannot be measured here: `robustsr models pull squeezenet`, or take --metric ssim")
    chosen: Any = metric if metric != "auto" else "ssim" if thesis or choice.lpips is None else "lpips"
    specs = perturb or [
        "clean",
        *(f"noise:sigma={s}" for s in (0.01, 0.02, 0.03, 0.05, 0.1)),
        "jpeg:quality=60",
        "pgd:eps=4/255",
        "pgd:eps=10/255",
    ]
    studies = protocols.tuning(choice, tuple(specs), thesis)
    results = _measure(studies, out)
    sections: list[Section] = searches.tuned(studies, results, chosen, thesis)
    kept: list[Path] = []
    if not thesis:
        for m in choice.models:
            calibration, table = searches.calibrated(studies, results, m, chosen)
            sections.insert(len(kept), table)
            if calibration and save:
                network = load(m, device="cpu", precision="fp32", denoise=denoise)
                kept.append(catalogue.save_calibration(network.digest, calibration))
            elif save:
                console.say(f"note: {m} is not calibrated: that takes 4 pictures and 4 perturbations or more", "yellow")
    _report(
        "Tuning sigma", "The best standard deviation of the smoothing noise.", sections, studies, results, out, context
    )
    for path in kept:
        console.say(f"--sigma auto uses {path}; delete it to go back to what ships")


def _options(names: set[str]) -> str:
    return " and ".join(f"--{name.replace('_', '-')}" for name in sorted(names))


def _list(wanted: bool) -> None:
    if wanted:
        from .protocols import PROTOCOLS

        table = console.table("protocol", "", "what it measures")
        for name, p in PROTOCOLS.items():
            table.add_row(name, p.title, p.about)
        for factor in (2, 4):
            what = f"x{factor}, the best sigma for each attack, and curves as Figures A.3 to A.8"
            table.add_row(f"tune --thesis {factor}", f"Thesis, Table A.{factor // 2 + 1}", what)
        console.out.print(table)
        sources = "CertSR: Chaouai and Tamaazousti 2024, arXiv 2405.14934. Thesis: Patsatzi 2023, TU Munich."
        console.out.print(sources, style="dim", soft_wrap=True)
        raise typer.Exit


def _default_loss(protocol: str | None) -> str:
    """The paper's loss where its network is here."""
    from . import backbones

    if backbones.find("vgg19") is not None:
        return "paper"
    if protocol and protocol.startswith("paper-table2"):
        console.say(f"note: attacks use the l1 loss: {backbones.how_to_get('vgg19')}", "yellow")
    return "l1"


def _choice(
    sets: list[str],
    model: list[str] | None,
    lr: Path | None,
    limit: int | None,
    crop: int | None,
    lpips: str,
    sigma: float,
    grid: list[float] | None,
    samples: int | None,
    gallery: int,
    seed: int,
    device: str,
    precision: str,
) -> Choice:
    from . import backbones, losses
    from .catalogue import BICUBIC
    from .models import load
    from .pairs import Pictures
    from .protocols import Choice

    for text in sets:
        place = Path(text) if Path(text).exists() else Path(text.partition("=")[2] or text)
        if not place.is_dir():
            raise RobustSRError(f"{place} is a file: give its folder" if place.is_file() else f"no folder {place}")
    if lr is not None and len(sets) > 1:
        raise typer.BadParameter("--lr belongs to one folder: for several, put HR/ and LR/ into each")
    names = model or catalogue.shipped()
    scale = load(names[0], device="cpu", precision="fp32").scale
    bicubic = next((n for n, factor in BICUBIC.items() if factor == scale), None)
    models = dict.fromkeys([*([bicubic] if bicubic else []), *names])
    net = losses.best_lpips() if lpips == "auto" else None if lpips == "off" else lpips
    if lpips == "auto" and net is None:
        console.say(f"note: LPIPS is n/a: {backbones.how_to_get('squeezenet')}", "yellow")
    folders = {}
    for text in sets:
        name, equals, path = text.partition("=")
        named = bool(equals) and not Path(text).is_dir()
        folder = Path(path if named else text)
        folders[name if named else folder.resolve().name] = Pictures(folder, scale, lr, crop, limit)
    if len(folders) < len(sets):
        raise typer.BadParameter("two folders have the same name: write NAME=DIR")
    for pictures in folders.values():
        _ = pictures.files  # says at once what is missing
    return Choice(
        folders,
        tuple(models),
        sigma,
        tuple(grid or ()),
        lpips=net,
        samples=samples,
        gallery=gallery,
        seed=seed,
        device=device,
        precision=precision,
    )


def _measure(studies: dict[str, Study], out: Path) -> dict[str, Results]:
    from .evaluate import run
    from .manifest import locked
    from .results import Results

    results = {}
    with interruptible("the same command goes on from here"), locked(out), progress.work_bar() as update:
        for name, study in studies.items():
            found = []
            for at in run(study, out):
                r = at.record
                found.append(r)
                update(at.done, at.total, f"{name}  {r['picture']}  {r['model']}  {r['perturbation'].split(':')[0]}")
            results[name] = Results(found, out)
    return results


def _report(
    title: str,
    lead: str,
    sections: list[Section],
    studies: dict[str, Study],
    results: dict[str, Results],
    out: Path,
    context: typer.Context,
) -> None:
    from . import render, report

    protocol: dict[str, object] = {}
    for name, study in studies.items():
        mark = f"{name}: " if len(studies) > 1 else ""
        protocol |= {mark + k: v for k, v in study.protocol(results[name].records).items()}
    protocol |= _origin(results)
    whole = report.Report(title, lead[:1].upper() + lead[1:], sections, protocol, command_line(context))
    before = out / "report.json"
    if before.exists() and json.dumps(whole.command) not in before.read_text("utf-8", "replace"):
        console.say(f"note: the report in {out} was another command's and is replaced; its records stay", "yellow")
    paths = render.save(whole, out)
    for section in sections:
        if isinstance(section, report.Table):
            show(section)
    html = next(p for p in paths if p.suffix == ".html")
    console.say(f"report: {html}, beside it Markdown, CSV and JSON, and records.jsonl of each picture")


def _origin(results: dict[str, Results]) -> dict[str, object]:
    """What the figures were made with, whenever that was: weights, versions, days."""
    weights = {r["model"]: r["weights"] for found in results.values() for r in found.records}
    made: dict[str, object] = {
        f"weights of {model}": f"sha256 {digest}" for model, digest in weights.items() if len(digest) == 64
    }
    of_records = [r["made"] for found in results.values() for r in found.records]
    days = sorted({made["on"] for made in of_records})
    return made | {
        "made with": "; ".join(sorted({f"{made['with']}, {made['device']}" for made in of_records})),
        "measured on": " to ".join(dict.fromkeys([days[0], days[-1]])),
    }
