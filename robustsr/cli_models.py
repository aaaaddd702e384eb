"""The commands under `robustsr models`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import backbones, catalogue, console, progress
from .cli_common import load, model_names
from .files import sha256
from .types import RobustSRError

BASELINE = "The baseline: no network, Pillow's bicubic"
Json = Annotated[bool, typer.Option("--json", help="JSON, on standard output.")]
IN_WORDS: dict[str, Callable[[Any], str]] = {  # of what `_about` knows and is not shown as it is
    "size": "{:,} bytes".format,
    "kept as": lambda path: path or "`robustsr models pull` gets it",
    "quality": lambda values: "\n".join(f"{what}: {found}" for what, found in catalogue.measured(values).items()),
    **dict.fromkeys(
        ("calibration", "tuned here"),
        lambda pairs: ", ".join(f"sigma {sigma:g} for noise of {noise:g}" for noise, sigma in pairs),
    ),
}
app = typer.Typer(help="List, describe, verify, download, add and remove models.", no_args_is_help=True)


@app.command("list")
def models_list(json: Json = False) -> None:
    """Models that can be used now, and those that can be pulled."""
    here = catalogue.installed()
    rows: list[tuple[str, int | None, str, str]] = []
    for name, where in catalogue.listed().items():
        entry = catalogue.entry_of(name)
        rows.append((name, entry.scale if entry else None, where, entry.description if entry else str(here[name])))
    rows += [(name, scale, "built in", BASELINE) for name, scale in catalogue.BICUBIC.items()]
    for backbone in backbones.BACKBONES.values():
        path = backbones.find(backbone.name)
        where = "can be pulled" if path is None else "first layers" if backbones.partial(path) else "installed"
        rows.append((backbone.name, None, where, f"for {backbone.used_by}"))
    table = console.table("model", ">scale", "", "")
    table.columns[0].no_wrap = True
    for name, scale, where, what in rows:
        if json:
            console.emit({"name": name, "scale": scale, "where": where, "description": what})
        table.add_row(name, f"x{scale}" if scale else "", where, what)
    if not json:
        console.out.print(table)


@app.command("info")
def models_info(
    model: Annotated[str, typer.Argument(help="Name or path.", autocompletion=model_names)], json: Json = False
) -> None:
    """Everything known about a model."""
    about = _about(model)
    if json:
        console.emit({key.replace(" ", "_"): value for key, value in about.items()})
        return
    table = console.table("", "")
    table.show_header = False
    for key, value in about.items():
        table.add_row(key, IN_WORDS.get(key, str)(value))
    console.out.print(table)


def _about(model: str) -> dict[str, Any]:
    """What is known about a model or a network behind losses, in the order in which it is shown."""
    from . import checkpoints

    backbone, entry = backbones.BACKBONES.get(model), catalogue.entry_of(model)
    if backbone and model not in catalogue.installed():  # somebody's own model may have its name
        path = backbones.find(model)  # may hold the first layers alone
        known = {"for": backbone.used_by, "size": backbone.size, "sha256": backbone.sha256, "licence": backbone.licence}
        return {**known, "url": backbone.url + backbone.file, "kept as": path and str(path)}
    if model in catalogue.BICUBIC:
        return {"scale": catalogue.BICUBIC[model], "description": BASELINE}
    about: dict[str, Any] = {}
    if entry:
        idle = {"sigma", "samples", "draws"} if entry.use == "denoise" else set()  # it is not smoothed by itself
        about = {k: v for k, v in vars(entry).items() if v not in ("", [], {}) and k not in {*idle, "trained"}}
    if entry is None or model in catalogue.installed():
        network, path = load(model, "cpu"), catalogue.find(model)[0]
        about["path"] = str(path)
        reach = "receptive radius" if network.exact else "effective context"
        about["loads as"] = f"x{network.scale}, {reach} {network.context} input pixels"
        if network.fixed_size:
            about["takes"] = f"pieces of {network.fixed_size[1]}x{network.fixed_size[0]} only"
        elif network.multiple > 1:
            about["takes"] = f"sides that are multiples of {network.multiple}: others are grown"
        if entry is None:
            about["sha256"] = network.digest
            if said := checkpoints.origin(path):
                about["says of itself"] = said
        if tuned := catalogue.calibration_of(network.digest, None):
            about["tuned here"] = tuned
        if facts := network.facts:
            about["exported from"] = f"{facts.name}, sha256 {facts.sha256}"
            about |= {"precision": facts.precision, "licence": facts.licence}
            if facts.reduce:
                how = f"{facts.reduce} of {facts.samples} {facts.draws} draws, sigma {facts.sigma:g}"
                about["smooths by itself"] = how
    return about | ({"trained": entry.trained} if entry and entry.trained else {})  # the longest comes last


@app.command("add")
def models_add(
    path: Annotated[Path, typer.Argument(help="A .pth, .safetensors, .ckpt or .onnx file.")],
    name: Annotated[str | None, typer.Option("--name", help="Default: the file's name.")] = None,
) -> None:
    """Keep a checkpoint of your own among the models, so that it can be named."""
    if path.suffix.lower() not in catalogue.ENDINGS:
        raise RobustSRError(f"{path}: give the path of a {', '.join(catalogue.ENDINGS)} file")
    network = load(str(path), "cpu")
    if path.suffix.lower() == ".onnx":
        from .onnx_network import outside

        if beside := outside(path):
            raise RobustSRError(
                f"{path} keeps weights in {', '.join(beside)}: what is added is one file; use it by its path"
            )
    named, target = catalogue.add(path, name)
    console.say(f"{named}: x{network.scale}, kept as {target}", to=console.out)


@app.command("verify")
def models_verify() -> None:
    """Compare the checksum of every installed model with the catalogue."""
    table = console.table("model", "", "file")
    table.columns[0].no_wrap = True
    damaged = 0
    for name, path in catalogue.installed().items():
        entry = catalogue.catalogue().get(name)
        ok = entry is not None and sha256(path) == entry.sha256
        own = entry is None or not catalogue.is_ours(path)
        damaged += not ok and not own
        kind = "not the catalogue's" if entry else "not in the catalogue"
        table.add_row(name, "ok" if ok else kind if own else "DAMAGED: delete it", str(path))
    for name in backbones.BACKBONES:
        if (found := backbones.find(name)) is not None:
            table.add_row(name, "no checksum", str(found))
    console.out.print(table)
    if damaged:
        raise typer.Exit(1)


@app.command("pull")
def models_pull(
    names: Annotated[list[str], typer.Argument(help="Names from `robustsr models list`.")],
) -> None:
    """Download models; an interrupted download continues where it stopped."""
    for name in names:
        entry = catalogue.catalogue().get(name)
        if entry is None and name not in backbones.BACKBONES:
            known = ", ".join([*(n for n, e in catalogue.catalogue().items() if e.url), *backbones.BACKBONES])
            raise RobustSRError(f"no model {name!r} in the catalogue; can be pulled: {known}")
        size = entry.size if entry else backbones.BACKBONES[name].size
        if (catalogue.installed().get(name) if entry else backbones.whole(name)) is None:
            console.say(f"{name}: {size / 2**20:.0f} MB")
        with progress.bytes_bar(name) as update:
            path = catalogue.pull(entry, update) if entry else backbones.pull(name, update)
        console.say(f"{name}: {path}", to=console.out)


@app.command("remove")
def models_remove(
    names: Annotated[list[str], typer.Argument(help="Names from `robustsr models list`.")],
) -> None:
    """Delete models that were pulled or added; the bundled ones, and files in folders of yours, stay."""
    kept = {name: _kept(name) for name in names}
    for name, paths in kept.items():
        if paths:
            continue
        path = catalogue.installed().get(name)
        if path is None:
            raise RobustSRError(f"no model {name!r} is installed: `robustsr models list` shows all")
        bundled = path.parent == catalogue.package_weights()
        why = "it comes with robustsr" if bundled else f"{path} is a file of yours: delete it there"
        raise RobustSRError(f"{name} was neither pulled nor added: {why}")
    for name, paths in kept.items():
        for path in paths:
            size = path.lstat().st_size
            path.unlink()
            console.say(f"{name}: {path} deleted, {size / 2**20:.1f} MB", to=console.out)
        if still := catalogue.installed().get(name):
            console.say(f"note: {name} is now {still}", "yellow")


def _kept(name: str) -> list[Path]:
    """The files of a model, or of a network behind losses, that `pull` or `add` put where robustsr keeps them."""
    folder, entry = catalogue.home() / "models", catalogue.catalogue().get(name)
    found = [folder / entry.file] if entry else [folder / f"{name}{ending}" for ending in catalogue.ENDINGS]
    if name in backbones.BACKBONES:
        stem = backbones.BACKBONES[name].stem
        found += (catalogue.home() / "backbones").glob(f"{stem}-features*.safetensors")
    return [path for path in found if path.exists() or path.is_symlink()]
