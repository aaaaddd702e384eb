"""The commands ``attack`` and ``compare``: what small changes of a picture do to models, and models side by side."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import console
from .types import RobustSRError

if TYPE_CHECKING:
    from .attack import Scene, Shown, Universal
    from .images import Picture
    from .models import Loaded
    from .plan import Smoothing
    from .report import Table
    from .threats import Threat, Variant

Option = partial(typer.Option, show_envvar=False)
ATTACK, MODELS, FILES, RUNNING = "Attack", "Models", "Files", "Running"
SAMPLE, SAMPLE_CROP = "landscape.png", "24,24,64,64"
MOST_PIXELS = 400_000_000
COMPARED = 256  # input pixels a side that are compared where no crop is given
UNIVERSAL = 96  # and of a crop that shares one perturbation with others

PictureArgument = Annotated[
    Path | None, typer.Argument(help="A picture. Default: a part of a bundled photograph.", show_default=False)
]
HrOption = Annotated[
    Path | None,
    Option("--hr", help="Ground truth; without a picture the input is made from it.", rich_help_panel=FILES),
]
CropOption = Annotated[str | None, Option("--crop", help="x,y,width,height in input pixels.", rich_help_panel=FILES)]
WholeOption = Annotated[
    bool, Option("--whole", help="Also a large picture whole, instead of its centre.", rich_help_panel=FILES)
]
OverwriteOption = Annotated[bool, Option("--overwrite", help="Replace what is there.", rich_help_panel=FILES)]
SmoothOption = Annotated[
    Literal["median", "mean"] | None,
    Option("--smooth", help="How the smoothed model is made.", rich_help_panel=MODELS),
]
SamplesOption = Annotated[
    int | None, Option("--samples", min=1, help="Its noisy copies. Default: the model's.", rich_help_panel=MODELS)
]
DeviceOption = Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUNNING)]


def attack(
    context: typer.Context,
    picture: PictureArgument = None,
    method: Annotated[
        str,
        Option("--method", help="fgsm, bim, pgd, pgd-l2, cw or random; also pgd:steps=20,...", rich_help_panel=ATTACK),
    ] = "pgd",
    eps: Annotated[
        str | None,
        Option("--eps", help="Budget: 8/255, 8px or .031. Default: 8/255, of L2 .5.", rich_help_panel=ATTACK),
    ] = None,
    norm: Annotated[
        Literal["linf", "l2"] | None, Option("--norm", help="Of the budget. Default: linf.", rich_help_panel=ATTACK)
    ] = None,
    steps: Annotated[int | None, Option("--steps", min=1, help="Default: 10, of cw 6.", rich_help_panel=ATTACK)] = None,
    step_size: Annotated[
        str | None, Option("--step-size", help="Of pgd. Default: eps/4.", rich_help_panel=ATTACK)
    ] = None,
    restarts: Annotated[
        int | None, Option("--restarts", min=1, help="Runs, of which the best counts.", rich_help_panel=ATTACK)
    ] = None,
    c: Annotated[
        float | None, Option("--c", help="Weight of cw's loss against the norm. Default: .01.", rich_help_panel=ATTACK)
    ] = None,
    lr: Annotated[float | None, Option("--lr", help="Of cw's Adam. Default: .01.", rich_help_panel=ATTACK)] = None,
    drop: Annotated[
        float | None, Option("--drop", help="cw seeks the smallest c that costs so many dB.", rich_help_panel=ATTACK)
    ] = None,
    loss: Annotated[
        str | None,
        Option("--loss", help="l1, mse, paper, perceptual, lpips-... Default: l1.", rich_help_panel=ATTACK),
    ] = None,
    on: Annotated[
        str,
        Option(
            "--on",
            help="base: the network; smoothed: the smoothed model, in three ways; worst: all four.",
            rich_help_panel=ATTACK,
        ),
    ] = "base",
    draws: Annotated[
        int | None,
        Option("--draws", min=1, help="Fresh noisy copies per step, for --on smoothed.", rich_help_panel=ATTACK),
    ] = None,
    target: Annotated[
        Path | None,
        Option("--target", help="Make the output look like this picture.", rich_help_panel=ATTACK),
    ] = None,
    mask: Annotated[
        str | None,
        Option("--mask", help="Change only x,y,width,height, or where this PNG is white.", rich_help_panel=ATTACK),
    ] = None,
    universal: Annotated[
        bool,
        Option("--universal", help="One perturbation for all pictures of a folder.", rich_help_panel=ATTACK),
    ] = False,
    seed: Annotated[int, Option("--seed", min=0, help="Of all that is random.", rich_help_panel=ATTACK)] = 0,
    model: Annotated[
        str | None, Option("-m", "--model", help="The attacked model: name or path.", rich_help_panel=MODELS)
    ] = None,
    compare: Annotated[
        list[str] | None,
        Option(
            "--compare",
            help="Measure the attack on this model too (transfer). Default: all that ship.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    smooth: SmoothOption = None,
    sigma: Annotated[
        str | None, Option("--sigma", help="Of its noise. Default: the model's.", rich_help_panel=MODELS)
    ] = None,
    samples: SamplesOption = None,
    hr: HrOption = None,
    crop: CropOption = None,
    whole: WholeOption = False,
    out: Annotated[
        Path | None, Option("-o", "--out", help="Folder. Default: attacked/NAME-METHOD.", rich_help_panel=FILES)
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Attack a picture, and show what is left of the models' outputs: `robustsr attack photo.jpg --eps 4/255`.

    Needs no ground truth: without --hr the reference is each model's own output for the clean picture. Writes the
    adversarial picture (adversarial.png), the difference, the outputs, a contact sheet and record.json.
    """
    name = _found(model)
    for other in compare or []:
        _found(other)
    _torch()
    from . import attack as work
    from . import losses, threats
    from .plan import smoothing_for

    with _usage():
        threat = threats.with_options(
            threats.parse(method),
            eps=None if eps is None else threats.number(eps),
            norm=norm,
            steps=steps,
            step_size=None if step_size is None else threats.number(step_size),
            restarts=restarts,
            c=c,
            lr=lr,
            drop=drop,
            loss=loss,
            draws=draws,
        )
        _idle(threat, {"--c": c, "--lr": lr, "--step-size": step_size, "--restarts": restarts, "--steps": steps})
        place = None if crop is None else work.box(crop)
        if sigma == "auto":
            raise RobustSRError("--sigma auto follows each picture, and so the attack itself: give a number")
        deviation = None if sigma is None else threats.number(sigma)
    losses.loss(threat.loss)
    folder = _folder(out, Path("attacked") / f"{_stem(picture, hr)}-{_method(threat, universal)}", overwrite)

    network = _load(name, device)
    with _usage():
        smoothing = smoothing_for(network, smooth or "median", deviation, samples)
        variants = threats.variants_for(on, smoothing)
    if universal:
        _universal(context, picture, hr, mask, target, place, folder, network, threat, variants, smoothing, seed)
        return
    others = _others(network, compare, device)
    scene = _scene(picture, hr, network.scale, place, None if whole else work.LARGEST, mask, target)
    how = f"{smoothing.reduce} of {smoothing.samples}, sigma {smoothing.sigma:g}"
    if smooth is None and variants != ["base"]:
        console.say("no --smooth: the model is attacked with the smoothing of its catalogue entry")
    seconds = work.forecast(scene.size, network, threat, variants, smoothing, 1)
    _announce(scene, network, threat, f"on {on}" + (f" ({how})" if variants != ["base"] else ""), seconds)
    with _interruptible(), _progress() as say, work.staged(folder) as part:
        file = work.reread(part, scene.bits)
        result = work.run(
            scene,
            network,
            threat,
            variants=variants,
            smoothing=smoothing,
            others=others,
            seed=seed,
            file=file,
            say=say,
        )
        say("writing")
        work.write(result, part, _about(context, network, smoothing, variants))
    for table in work.tables(result):
        _show(table)
    for attempt in result.attempts:
        if attempt.curve:
            _curve(f"{'minus ' * (target is not None)}loss ({threat.loss}), {work.HOW[attempt.name]}", attempt.curve)
    console.say(f"-> {folder}: adversarial.png, sheet.png, record.json and more", "green")


def compare(
    context: typer.Context,
    picture: PictureArgument = None,
    model: Annotated[
        list[str] | None,
        Option("-m", "--model", help="Name or path, as often as needed. Default: those that ship."),
    ] = None,
    smooth: SmoothOption = None,
    sigma: Annotated[
        list[str] | None,
        Option("--sigma", help="Of the noise, as often as needed. Default: the model's.", rich_help_panel=MODELS),
    ] = None,
    samples: SamplesOption = None,
    hr: HrOption = None,
    crop: CropOption = None,
    whole: WholeOption = False,
    out: Annotated[
        Path | None,
        Option("-o", "--out", help="A .png; the .html beside it. Default: NAME_compare.png.", rich_help_panel=FILES),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Option("--precision", help="auto: the fastest that stays true to fp32.", rich_help_panel=RUNNING),
    ] = "auto",
) -> None:
    """Show models and defences side by side on one crop: `robustsr compare photo.jpg -m psnr --smooth median`.

    Writes a labelled grid and an HTML page whose panels zoom together, and prints times, and figures where there is
    a ground truth.
    """
    from . import catalogue

    if smooth is None and (sigma or samples):
        raise typer.BadParameter("--sigma and --samples only matter with --smooth median or --smooth mean")
    names = list(dict.fromkeys(model or [n for n in catalogue.installed() if _ships(n)]))
    for name in names:
        _found(name)
    sheet = out or (picture or hr or Path(SAMPLE)).with_name(f"{_stem(picture, hr)}_compare.png")
    if picture is None and hr is None and out is None:
        sheet = Path(sheet.name)
    if sheet.suffix.lower() != ".png":
        raise RobustSRError(f"the grid is a .png, got {sheet}: JPEG would change what is compared")
    page = sheet.with_suffix(".html")
    if (there := [str(p) for p in (sheet, page) if p.exists()]) and not overwrite:
        raise RobustSRError(f"{' and '.join(there)} would be replaced: add --overwrite, or choose another -o")
    _torch()
    from . import attack as work
    from .files import atomic
    from .plan import smoothing_for
    from .report import Gallery, Report, to_html
    from .sheet import contact_sheet
    from .threats import number

    with _usage():
        place = None if crop is None else work.box(crop)
        deviations: list[float | Literal["auto"] | None] = [None]
        if sigma:
            deviations = ["auto" if text == "auto" else number(text) for text in sigma]
    networks = [_load(name, device, precision) for name in names if not name.startswith("bicubic")]
    scale = max((network.scale for network in networks), default=4)
    scene = _scene(picture, hr, scale, place, None if whole else COMPARED)
    shown = work.bicubic(scale, device)
    for network in networks:
        shown.append(work.Shown(network.name, network))
        with _usage():
            how = [smoothing_for(network, smooth, s, samples) for s in deviations] if smooth is not None else []
        shown += [work.smoothed(network, smoothing.settled(scene.x)) for smoothing in how]
    shown = _distinct(shown)
    console.say(f"{len(shown)} models on {scene.name}, {scene.place}")
    ruler = work.Ruler.best()
    with _interruptible(), _progress() as say:
        found = work.compare(scene, shown, ruler, say)
    table, rows = work.comparison_table(scene, found, ruler), work.comparison_rows(scene, found)
    title = f"{scene.name}, {scene.place}, x{scale}"
    gallery = Gallery("Outputs", rows, scene.place)
    weights = {network.name: f"{network.digest[:12]}, {network.precision}" for network in networks}
    protocol = {"input": scene.name, "bits": scene.bits, "device": shown[0].network.device, **weights}
    report = Report(f"Comparison: {title}", "", [gallery, table], protocol, _command(context))
    html = to_html(report)
    _make(sheet.parent)
    work.save_image(contact_sheet(rows, title=title, notes=table.notes), sheet)
    with atomic(page) as part:
        part.write_bytes(html.encode("utf-8", "replace"))
    _show(table)
    console.say(f"-> {sheet}, {page}", "green")


# --- universal ---


def _universal(
    context: typer.Context,
    picture: Path | None,
    hr: Path | None,
    mask: str | None,
    target: Path | None,
    crop: tuple[int, int, int, int] | None,
    folder: Path,
    network: Loaded,
    threat: Threat,
    variants: list[Variant],
    smoothing: Smoothing,
    seed: int,
) -> None:
    from . import attack as work
    from . import images

    if picture is None or not picture.is_dir():
        raise typer.BadParameter("--universal needs a folder of pictures")
    if hr is not None or mask is not None:
        raise typer.BadParameter("--universal goes without --hr and --mask: the reference is each clean output")
    if variants != ["base"] and "base" in variants:
        raise typer.BadParameter("--universal attacks one model: --on base or --on smoothed")
    paths = sorted(p for p in picture.iterdir() if p.suffix[1:].lower() in images.FORMATS)
    if not paths:
        raise RobustSRError(f"{picture} holds no pictures")
    infos = [images.inspect(p, max_pixels=MOST_PIXELS) for p in paths]
    smallest = min(UNIVERSAL, *(min(info.width, info.height) for info in infos))
    goal = None if target is None else images.read(target, max_pixels=MOST_PIXELS)
    stems = len({p.stem for p in paths}) == len(paths)
    scenes = []
    for path, info in zip(paths, infos, strict=True):
        part = crop or ((info.width - smallest) // 2, (info.height - smallest) // 2, smallest, smallest)
        read = images.read(path, max_pixels=MOST_PIXELS)
        name = path.stem if stems else path.name
        scenes.append(work.scene(read, None, network.scale, name=name, crop=part, target=goal))
    for scene in scenes:
        for note in scene.notes:
            console.say(f"note: {scene.name}: {note}", "yellow")
    depth, (h, w) = {scene.name: scene.bits for scene in scenes}, scenes[0].size
    ways: list[Variant] = ["base" if variants == ["base"] else "eot"]
    seconds = work.forecast((h, w), network, threat, ways, smoothing, len(scenes))
    _announce(scenes[0], network, threat, f"universal, {len(scenes)} pictures, {w}x{h} of each", seconds)
    with _interruptible(), _progress() as say, work.staged(folder) as staging:
        result: Universal = work.universal(
            scenes,
            network,
            threat,
            smoothing=smoothing,
            adaptive=ways == ["eot"],
            seed=seed,
            file=lambda name, x: work.reread(staging, depth[name])(f"adversarial-{name}", x),
            say=say,
        )
        work.write_universal(result, staging, _about(context, network, smoothing, ways))
    _show(work.universal_table(result))
    _curve(f"loss ({threat.loss})", result.curve)
    console.say(f"-> {folder}: universal.npy, universal.png, record.json, a picture each", "green")


# --- input ---


def _found(model: str | None) -> str:
    """The name of a model that is here: a wrong one is answered before torch comes in."""
    from . import catalogue

    name = model or catalogue.default_model()
    if not name.startswith("bicubic"):
        catalogue.find(name)
    return name


def _torch() -> None:
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def _load(name: str, device: str, precision: str = "fp32") -> Loaded:
    from .models import load

    return load(name, device=device, precision=precision)


def _ships(name: str) -> bool:
    from . import catalogue

    entry = catalogue.catalogue().get(name)
    return entry is not None and not entry.url


def _others(network: Loaded, names: list[str] | None, device: str) -> list[Shown]:
    """The models besides the attacked one, and bicubic."""
    from . import attack as work
    from . import catalogue

    made = []
    for name in names if names is not None else [n for n in catalogue.installed() if _ships(n)]:
        entry = catalogue.catalogue().get(name)
        if names is None and entry is not None and entry.scale != network.scale:
            continue
        if name.startswith("bicubic"):
            continue
        other = _load(name, device)
        if other.scale != network.scale:
            raise RobustSRError(f"--compare {name} is x{other.scale}, the attacked model x{network.scale}")
        if other.digest != network.digest:
            made.append(work.Shown(other.name, other))
    return [
        s
        for s in _distinct([work.Shown(network.name, network), *made, *work.bicubic(network.scale, device)])
        if s.network.digest != network.digest
    ]


def _distinct(shown: list[Shown]) -> list[Shown]:
    """Each once. RobustSRError: two that are different have one name."""
    made: dict[str, Shown] = {}
    for one in shown:
        if made.setdefault(one.label, one).network.digest != one.network.digest:
            raise RobustSRError(f"two different models are named {one.label!r}: rename one's file")
    return list(made.values())


def _stem(picture: Path | None, hr: Path | None) -> str:
    chosen = picture or hr or Path(SAMPLE)
    return chosen.resolve().name if chosen.is_dir() else chosen.stem


def _scene(
    picture: Path | None,
    hr: Path | None,
    scale: int,
    crop: tuple[int, int, int, int] | None,
    limit: int | None,
    mask: str | None = None,
    target: Path | None = None,
) -> Scene:
    """Everything that is read before the work begins, with its notes printed."""
    from importlib import resources

    from . import attack as work
    from . import images

    def read(path: Path) -> Picture:
        return images.read(path, max_pixels=MOST_PIXELS)

    if picture is not None and picture.is_dir():
        raise RobustSRError(f"{picture} is a folder: give one picture (or, to attack, --universal)")
    source, name = picture, (picture or hr or Path(SAMPLE)).name
    if picture is None and hr is None:
        source = Path(str(resources.files("robustsr_assets"))) / "samples" / SAMPLE
        crop = crop or work.box(SAMPLE_CROP)
    allowed: tuple[int, int, int, int] | Picture | None = None
    if mask is not None:
        allowed = read(Path(mask)) if Path(mask).is_file() or "," not in mask else work.box(mask)
    made = work.scene(
        None if source is None else read(source),
        None if hr is None else read(hr),
        scale,
        name=name,
        crop=crop,
        limit=limit,
        mask=allowed,
        target=None if target is None else read(target),
    )
    if made.mask is not None and not bool(made.mask.any()):
        raise RobustSRError(f"--mask {mask} leaves nothing to change in the part of the picture that is attacked")
    for note in made.notes:
        console.say(f"note: {note}", "yellow")
    return made


def _idle(threat: Threat, given: dict[str, object]) -> None:
    """RobustSRError: an option that this method has no use for."""
    uses = {
        "--c": ("cw",),
        "--lr": ("cw",),
        "--step-size": ("pgd",),
        "--restarts": ("fgsm", "bim", "pgd"),
        "--steps": ("bim", "pgd", "cw"),
    }
    if wrong := [flag for flag, value in given.items() if value is not None and threat.method not in uses[flag]]:
        raise RobustSRError(f"{', '.join(wrong)}: --method {threat.method} has no use for it")


# --- output ---


def _method(threat: Threat, universal: bool) -> str:
    name = "pgd-l2" if (threat.method, threat.norm) == ("pgd", "l2") else threat.method
    return f"universal-{name}" if universal else name


def _folder(out: Path | None, default: Path, overwrite: bool) -> Path:
    from .formats import FORMATS

    folder = out or default
    if folder.suffix.lower().lstrip(".") in FORMATS and not folder.is_dir():
        raise RobustSRError(
            f"{folder} is no folder: give one, adversarial.png goes into it (always a PNG: JPEG undoes an attack)"
        )
    if folder.is_file():
        raise RobustSRError(f"{folder} is a file: give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RobustSRError(f"{folder} is not empty: add --overwrite, or choose another -o")
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RobustSRError(f"cannot make the folder {folder}: {error.strerror}") from error


def _announce(scene: Scene, network: Loaded, threat: Threat, how: str, seconds: float) -> None:
    against = "the target" if scene.target is not None else "--hr" if scene.hr is not None else "the clean output"
    eps = threat.budget(scene.x)
    budget = f"eps {eps:.3g} (L2)" if threat.norm == "l2" else f"eps {eps * 255:.3g}/255 (Linf)"
    budget = f"c {threat.c:g}" if threat.method == "cw" else budget
    console.say(f"{network.name} x{network.scale} on {network.device}: {threat.spec}, {budget}, {how}")
    where = f"{scene.name}, {scene.place}" + (", masked" if scene.mask is not None else "")
    console.say(f"{where}; loss {threat.loss} against {against}; about {console.duration(seconds)}")


def _about(context: typer.Context, network: Loaded, smoothing: Smoothing, variants: list[Variant]) -> dict[str, Any]:
    return {
        "command": _command(context),
        "model": {"name": network.name, "scale": network.scale, "sha256": network.digest},
        "device": str(network.device),
        "smoothing": vars(smoothing),
        "variants": variants,
    }


def _command(context: typer.Context) -> str:
    """The command line as it was typed, for records."""
    words = ["robustsr", str(context.info_name)]
    for parameter in context.command.params:
        if getattr(context.get_parameter_source(parameter.name or ""), "name", "") != "COMMANDLINE":
            continue
        value = context.params[parameter.name or ""]
        flag = max(parameter.opts, key=len) if parameter.param_type_name == "option" else ""
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [w for w in (flag, "" if isinstance(one, bool) else str(one)) if w]
    return shlex.join(words)


def _show(table: Table) -> None:
    from .report import fit, to_rich

    for part in fit(table, console.out.width):
        console.out.print(to_rich(part))
        console.out.print()


def _curve(what: str, values: tuple[float, ...]) -> None:
    """A line of bars, from the clean input to the last step."""
    bars = "▁▂▃▄▅▆▇█" if console.out.encoding.lower().startswith("utf") else ".:-=+*#@"
    shown = [values[round(i * (len(values) - 1) / 59)] for i in range(60)] if len(values) > 60 else values
    low, high = min(shown), max(shown)
    line = "".join(bars[round((v - low) / ((high - low) or 1) * (len(bars) - 1))] for v in shown)
    text = f"{line}  {values[0]:.4g} to {max(values):.4g}  {what}"
    console.out.print(text, markup=False, soft_wrap=True)


@contextmanager
def _usage() -> Iterator[None]:
    """Flags that contradict each other are wrong usage, exit code 2."""
    try:
        yield
    except RobustSRError as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.say("interrupted: nothing was written", "yellow")
        raise typer.Exit(130) from None


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, on terminals."""
    if not console.err.is_terminal:
        yield lambda text: None
        return
    with console.err.status("") as status:
        yield status.update
