"""The command ``attack``: what small changes of a picture do to models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import console
from .catalogue import shipped
from .cli_common import (
    Option,
    bring_torch,
    command_line,
    curve,
    found,
    interruptible,
    load,
    model_names,
    number_of,
    offer_weights,
    show,
    status,
    usage,
)
from .cli_scene import (
    FILES,
    MODELS,
    CropOption,
    DenoiseOption,
    DeviceOption,
    HrOption,
    OverwriteOption,
    PictureArgument,
    SamplesOption,
    SmoothOption,
    WholeOption,
    read_scene,
    stem_of,
)
from .types import RobustSRError

if TYPE_CHECKING:
    from .models import Loaded
    from .scene import Box, Scene
    from .settings import Smoothing
    from .threats import Threat, Variant
    from .universal import Universal

ATTACK = "Attack"
UNIVERSAL = 96  # input pixels a side, at most, of a crop that shares one perturbation with others


def _methods(begun: str) -> list[str]:
    return [name for name in ("fgsm", "bim", "pgd", "pgd-l2", "cw", "random") if name.startswith(begun)]


def attack(
    context: typer.Context,
    picture: PictureArgument = None,
    method: Annotated[
        str,
        Option(
            "--method",
            autocompletion=_methods,
            help="fgsm, bim, pgd, pgd-l2, cw or random; also pgd:steps=20,...",
            rich_help_panel=ATTACK,
        ),
    ] = "pgd",
    eps: Annotated[
        str | None,
        Option("--eps", help="Largest change: 8/255, 8px or .031. Default: 8/255, in L2 .5.", rich_help_panel=ATTACK),
    ] = None,
    norm: Annotated[
        Literal["linf", "l2"] | None,
        Option("--norm", help="Norm that --eps limits. Default: linf.", rich_help_panel=ATTACK),
    ] = None,
    steps: Annotated[
        int | None, Option("--steps", min=1, help="Steps. Default: 10, cw: 6.", rich_help_panel=ATTACK)
    ] = None,
    step_size: Annotated[
        str | None,
        Option("--step-size", help="Of pgd, default eps/4; of cw, Adam's, default .01.", rich_help_panel=ATTACK),
    ] = None,
    restarts: Annotated[
        int | None, Option("--restarts", min=1, help="Runs, of which the best counts.", rich_help_panel=ATTACK)
    ] = None,
    c: Annotated[
        float | None, Option("--c", help="Weight of cw's loss against the norm. Default: .01.", rich_help_panel=ATTACK)
    ] = None,
    drop: Annotated[
        float | None,
        Option(
            "--drop",
            help="cw: a change just so large that it costs so many dB of PSNR to --hr (without it, from 60 dB).",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        Option("--loss", help="l1, mse, paper, perceptual, lpips-... Default: l1.", rich_help_panel=ATTACK),
    ] = None,
    on: Annotated[
        str,
        Option(
            "--on",
            help="base: the network; smoothed: the smoothed model, adaptively; worst: all ways.",
            rich_help_panel=ATTACK,
        ),
    ] = "base",
    eot_iter: Annotated[
        int | None,
        Option(
            "--eot-iter",
            min=1,
            help="Noisy copies per step, for --on smoothed and worst. Default: 10.",
            rich_help_panel=ATTACK,
        ),
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
    seed: Annotated[
        int, Option("--seed", min=0, max=2**32, help="Seed of everything random.", rich_help_panel=ATTACK)
    ] = 0,
    model: Annotated[
        str | None,
        Option(
            "-m",
            "--model",
            autocompletion=model_names,
            help="The attacked model: name or path. Default: certsr.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        Option(
            "--compare",
            help="Measure the attack on this model too (transfer). Default: all that ship.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    denoise: DenoiseOption = None,
    smooth: SmoothOption = None,
    sigma: Annotated[
        str | None,
        Option(
            "--sigma",
            help="Standard deviation of the noise, like .03 or 8/255. Default: the model's.",
            rich_help_panel=MODELS,
        ),
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
    name = found(model)
    for other in (*(compare or []), *([denoise] if denoise else [])):
        found(other)
    bring_torch()
    from . import attack as work
    from . import attack_files, attack_report, losses, threats
    from . import scene as scenes
    from .craft import with_gradients
    from .files import staged
    from .scene import LARGEST, crop_of
    from .settings import smoothing_for

    with usage():
        threat = threats.with_options(
            threats.parse(method),
            eps=None if eps is None else number_of(eps, "--eps"),
            norm=norm,
            steps=steps,
            step_size=None if step_size is None else number_of(step_size, "--step-size"),
            restarts=restarts,
            c=c,
            drop=drop,
            loss=loss,
            eot_iter=eot_iter,
        )
        if threat.eps == 0 or threat.eps_rel == 0:
            raise RobustSRError("a budget of 0 changes nothing: give the size of the change, like --eps 8/255")
        place = None if crop is None else crop_of(crop)
        if sigma == "auto":
            raise RobustSRError("--sigma auto follows each picture, and so the attack itself: give a number")
        deviation = None if sigma is None else number_of(sigma, "--sigma")
    offer_weights(threat.loss)
    losses.loss(threat.loss)
    folder = _folder(out, Path("attacked") / f"{stem_of(picture, hr)}-{_method(threat, universal)}", overwrite)

    network = load(name, device, denoise=denoise)
    if threat.method != "random":
        with_gradients(network)
    with usage():
        smoothing = smoothing_for(network, smooth or "median", deviation, samples)
        variants = threats.variants_for(on, smoothing)
    if universal:
        if compare is not None or whole:
            raise typer.BadParameter("--universal goes without --compare and --whole: its table is of one model")
        _universal(context, picture, hr, mask, target, place, folder, network, threat, variants, smoothing, seed)
        return
    others = scenes.others(network, compare, device)
    scene = read_scene(picture, hr, network.scale, place, None if whole else LARGEST, mask, target)
    how = f"{smoothing.reduce} of {smoothing.samples}, sigma {smoothing.sigma:g}"
    if smooth is None and variants != ["base"]:
        console.say("no --smooth: the model is attacked with the smoothing of its catalogue entry")
    seconds = work.forecast(scene.size, network, threat, variants, smoothing, 1, len(compare or shipped()))
    _announce(scene, network, threat, f"on {on}" + (f" ({how})" if variants != ["base"] else ""), seconds)
    with interruptible("nothing was written"), status() as say, staged(folder) as part:
        file = attack_files.reread(part, scene.bits)
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
        attack_files.write(result, part, _about(context, network, smoothing, variants))
    for table in attack_report.tables(result):
        show(table)
    for attempt in result.attempts:
        if attempt.curve:
            sign = "minus " * (target is not None)
            curve(f"{sign}loss ({threat.loss}), {attack_report.HOW[attempt.name]}", attempt.curve)
    console.out.print(attack_report.verdict(result), markup=False, soft_wrap=True)
    console.say(f"-> {folder}: adversarial.png, sheet.png, record.json and more", "green")


# --- universal ---


def _universal(
    context: typer.Context,
    picture: Path | None,
    hr: Path | None,
    mask: str | None,
    target: Path | None,
    crop: Box | int | None,
    folder: Path,
    network: Loaded,
    threat: Threat,
    variants: list[Variant],
    smoothing: Smoothing,
    seed: int,
) -> None:
    from . import attack_files, attack_report, images, scene
    from . import universal as work
    from .attack import forecast
    from .files import staged
    from .pairs import pictures_in
    from .threats import variants_for

    if picture is None or not picture.is_dir():
        raise typer.BadParameter("--universal needs a folder of pictures")
    if hr is not None or mask is not None:
        raise typer.BadParameter("--universal goes without --hr and --mask: the reference is each clean output")
    if variants not in (["base"], ["eot"]) and variants != variants_for("smoothed", smoothing):
        raise typer.BadParameter("--universal attacks in one way: --on base or --on smoothed (through fresh draws)")
    paths = pictures_in(picture)
    sides = [min(info.width, info.height) for info in map(images.inspect, paths)]
    part = crop if isinstance(crop, tuple) else min(crop or UNIVERSAL, *sides)
    goal = None if target is None else images.read(target)
    stems = len({p.stem for p in paths}) == len(paths)
    scenes = []
    for path in paths:
        read = images.read(path)
        name = path.stem if stems else path.name
        scenes.append(scene.scene(read, None, network.scale, name=name, crop=part, target=goal))
    for one in scenes:
        for note in one.notes:
            console.say(f"note: {one.name}: {note}", "yellow")
    depth, (h, w) = {one.name: one.bits for one in scenes}, scenes[0].size
    ways: list[Variant] = ["base" if variants == ["base"] else "eot"]
    seconds = forecast((h, w), network, threat, ways, smoothing, len(scenes))
    _announce(scenes[0], network, threat, f"universal, {len(scenes)} pictures, {w}x{h} of each", seconds)
    with interruptible("nothing was written"), status() as say, staged(folder) as staging:
        result: Universal = work.universal(
            scenes,
            network,
            threat,
            smoothing=smoothing,
            adaptive=ways == ["eot"],
            seed=seed,
            file=lambda name, x: attack_files.reread(staging, depth[name])(f"adversarial-{name}", x),
            say=say,
        )
        attack_files.write_universal(result, staging, _about(context, network, smoothing, ways))
    show(attack_report.universal_table(result))
    curve(f"loss ({threat.loss})", result.curve)
    console.say(f"-> {folder}: universal.npy, universal.png, record.json, a picture each", "green")


# --- output ---


def _method(threat: Threat, universal: bool) -> str:
    name = "pgd-l2" if (threat.method, threat.norm) == ("pgd", "l2") else threat.method
    return f"universal-{name}" if universal else name


def _folder(out: Path | None, default: Path, overwrite: bool) -> Path:
    from .formats import FORMATS
    from .remote import check_folder

    folder = out or default
    if folder.suffix.lower().lstrip(".") in FORMATS and not folder.is_dir():
        raise RobustSRError(
            f"{folder} is no folder: give one, adversarial.png goes into it (always a PNG: JPEG undoes an attack)"
        )
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RobustSRError(f"{folder} is not empty: add --overwrite, or choose another -o")
    return folder


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
        "command": command_line(context),
        "model": {"name": network.name, "scale": network.scale, "sha256": network.digest},
        "device": str(network.device),
        "smoothing": vars(smoothing),
        "variants": variants,
    }
