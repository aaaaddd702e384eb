"""The loop: what a run learns, writes and measures, and that it resumes to the very same weights."""

import dataclasses
import json
import os
import shutil
import sys

import numpy as np
import pytest
import tiny_run
import torch
from robustsr_training import checkpoint, loop
from robustsr_training.checkpoint import State, read
from robustsr_training.log import Progress
from robustsr_training.loop import Session, train
from robustsr_training.networks import build, export
from robustsr_training.recipe import Generator, Recipe
from safetensors.torch import load_file, save_file
from torch import nn

from robustsr import backbones
from robustsr.checkpoints import origin
from robustsr.files import sha256
from robustsr.models import load
from robustsr.types import RobustSRError

GAN = [  # MRS fine-tuning with an adversary and an attack, 64 px
    'name="all"',
    "data.patch=16",
    "loss.gan=0.05",
    "loss.l1=1",
    "inputs.sigmas=[0.0, 0.03, 0.1]",
    "inputs.draws=[1, 2, 2]",
    'inputs.attack="pgd:eps=8/255,steps=2"',
    "inputs.attack_warmup=4",
]


@pytest.fixture
def folder(tmp_path, photo, home):
    return tiny_run.pictures(tmp_path, photo)


def after(count):
    """A ``stop`` that is true from the step ``count`` of a run on."""
    asked = iter([False] * (count - 1) + [True])
    return lambda: next(asked)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def deep(state):
    """A checkpoint as a flat dict of tensors."""
    if isinstance(state, torch.Tensor):
        return {"": state}
    if isinstance(state, dict):
        return {f"{k}.{sub}": v for k in state for sub, v in deep(state[k]).items()}
    return {}


@pytest.mark.parametrize("extra", [[], ['optimiser.method="muon"'], GAN], ids=["l1", "muon", "gan+mrs+attack"])
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(folder, extra):
    config = tiny_run.recipe(folder, *extra)
    list(train(config, folder / "whole", every=1))  # reports before the first checkpoint too
    list(train(config, folder / "parts", stop=after(7)))
    last = list(train(config, folder / "parts", resume=True))
    assert last[0].step == 7 and last[-1].step == 12 and last[-1].measured["val clean"]["psnr"] > 5
    log = [json.loads(line) for line in (folder / "parts" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == sorted({row["step"] for row in log})
    assert log[-1]["measured"] == last[-1].measured and log[-1]["losses"] == last[-1].losses
    assert same(*(load_file(folder / run / f"{config.name}.safetensors") for run in ("whole", "parts")))
    states = [deep(torch.load(folder / run / "checkpoint.pt", weights_only=True)) for run in ("whole", "parts")]
    assert any(key.endswith(".moment.") for key in states[0]) == ("muon" in str(extra))
    assert same(*states) and any(key.startswith("d_optimiser") for key in states[0]) == (extra is GAN)
    assert load(folder / "whole" / f"{config.name}.safetensors", device="cpu").scale == 4


def test_a_logged_loss_is_the_mean_of_the_steps_since_the_last(folder):
    config = tiny_run.recipe(folder, "checkpoint_every=5", "optimiser.steps=8")
    each = [at.losses["l1"] for at in train(config, folder / "each", every=1) if at.step]
    list(train(config, folder / "run", every=4))
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [4, 5, 6, 8]
    for row, start in zip(log, [0, 4, 5, 6], strict=True):
        assert row["losses"]["l1"] == pytest.approx(np.mean(each[start : row["step"]]), rel=1e-5)


def test_training_lowers_the_loss_below_nearest_neighbour(folder):
    more = ("optimiser.steps=150", "optimiser.lr=3e-3", "precision=fp32", "data.patch=16", "validation.every=150")
    progress = [at for at in train(tiny_run.recipe(folder, *more), folder / "run", every=25) if at.step % 25 == 0]
    assert progress[-1].losses["l1"] < 0.8 * progress[1].losses["l1"]
    skipped, small, count = progress[0].message.splitlines()
    assert "broken.png" in skipped and "small.png: 20x20 is smaller than a patch" in small
    assert count == "4 pictures, in float32"


def test_the_moving_average_follows_weights_and_buffers(folder):
    """With a decay of .5 it is (a + b) / 2; buffers are those of the network."""
    session = Session.begin(tiny_run.recipe(folder, "optimiser.ema=0.0"), "cpu")
    session.state.net.register_buffer("seen", torch.zeros(2))
    session.state.ema.register_buffer("seen", torch.zeros(2))
    session.state.net.seen.fill_(7)
    session.step(*session.batches[0])
    assert same(session.state.net.state_dict(), session.state.ema.state_dict())

    session = Session.begin(tiny_run.recipe(folder, "optimiser.ema=0.5"), "cpu")
    before = {k: v.clone() for k, v in session.state.ema.named_parameters()}
    session.state.step = 100  # no longer young
    session.step(*session.batches[0])
    for name, now in session.state.ema.named_parameters():
        torch.testing.assert_close(now, (before[name] + dict(session.state.net.named_parameters())[name]) / 2)


def test_validation_measures_every_perturbation_and_keeps_samples(folder):
    specs = ["clean", "noise:sigma=.1", "fgsm:eps=8/255"]
    config = tiny_run.recipe(folder, f"validation.perturbations={json.dumps(specs)}", "optimiser.steps=6")
    last = list(train(config, folder / "run"))[-1]
    assert len(last.measured) == 3 and "val clean" in last.measured
    clean, noisy, attacked = last.measured.values()
    wanted = {"psnr_y", "psnr", "ssim"} | ({"lpips"} if backbones.find("squeezenet") else set())
    assert all(row.keys() >= wanted for row in (clean, noisy, attacked))
    assert clean["psnr"] > max(noisy["psnr"], attacked["psnr"]) and clean["ssim"] > noisy["ssim"]
    assert (folder / "run" / "samples" / "0000006.png").stat().st_size > 1000


def test_what_a_run_begins_with_is_measured_before_its_first_step(folder, tiny):
    config = tiny_run.recipe(folder, "optimiser.steps=2", f"generator.init={str(tiny)!r}")
    first = next(at for at in train(config, folder / "run") if at.measured)
    assert first.step == 0 and first.measured["val clean"]["psnr"] > 0


def test_pictures_of_a_validation_that_cannot_be_read_are_said_before_anything_else(folder):
    for part in ("HR", "LR"):
        (folder / "val" / part / "zz.jpg").write_bytes(b"no picture")
    with pytest.raises(RobustSRError, match=r"zz\.jpg"):
        next(train(tiny_run.recipe(folder, "validation.limit=0"), folder / "run"))
    assert not (folder / "run").exists()


def test_two_runs_give_the_same_file(folder):
    config = tiny_run.recipe(folder, "optimiser.steps=2")
    for name in ("one", "two"):
        list(train(config, folder / name))
    files = [(folder / name / f"{config.name}.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1] and list(load_file(folder / "one" / f"{config.name}.safetensors"))
    export(nn.Conv2d(3, 3, 1), folder / "x.safetensors", {key: key for key in "fcaedb"})
    data = (folder / "x.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert "".join(header["__metadata__"]) == "abcdef" and len(load_file(folder / "x.safetensors")) == 2


def test_lpips_is_measured_where_its_weights_are(folder, shared, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(shared / "weights"))
    last = list(train(tiny_run.recipe(folder, "optimiser.steps=2"), folder / "run"))[-1]
    assert 0 < last.measured["val clean"]["lpips"] < 2


def test_tensorboard_shows_losses_measures_and_samples(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    list(train(tiny_run.recipe(folder), folder / "run"))
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    assert {"loss/l1", "steps per second", "psnr/val clean"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["samples"]
    assert [e.step for e in events.Scalars("psnr/val clean")] == [6, 12]


def test_progress_between_reports_is_not_logged(folder):
    steps = [at.step for at in train(tiny_run.recipe(folder, "checkpoint_every=9"), folder / "run", pulse=0)]
    assert steps == [0, *range(1, 13)]
    log = [json.loads(line)["step"] for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert log == [6, 9, 12]
    steps = [at.step for at in train(tiny_run.recipe(folder, "checkpoint_every=9"), folder / "other")]
    assert steps == [0, 4, 6, 9, 12]
    assert Progress(2, 12, {}, 4.0).seconds_left == 2.5


# --- mistakes and accidents ---


def test_a_run_is_not_overwritten_and_not_resumed_with_another_recipe(folder):
    list(train(tiny_run.recipe(folder), folder / "run"))
    with pytest.raises(RobustSRError, match="--resume continues it"):
        next(train(tiny_run.recipe(folder), folder / "run"))
    change = r"another recipe: data.batch was 2 and is 4, optimiser.lr was 0.001 and is 1.0: resume with what"
    with pytest.raises(RobustSRError, match=change):
        next(train(tiny_run.recipe(folder, "optimiser.lr=1", "data.batch=4"), folder / "run", resume=True))
    with pytest.raises(RobustSRError, match="nothing to resume"):
        next(train(tiny_run.recipe(folder), folder / "elsewhere", resume=True))
    (folder / "hr" / "3.png").unlink()
    with pytest.raises(RobustSRError, match="made with other pictures than these 3: names, sizes or pixels differ"):
        next(train(tiny_run.recipe(folder), folder / "run", resume=True))


@pytest.mark.parametrize(
    "change",
    ["seed=7", "inputs.sigmas=[0.1]", "inputs.draws=[2]", "loss.l1=0.5", "optimiser.ema=0.5", "data.jpeg=0.5"]
    + ["discriminator.features=8", "generator.fixed_norm=true"],
)
def test_whatever_decides_what_is_learnt_must_stay(folder, change):
    path, where = folder / "checkpoint.pt", torch.device("cpu")
    State.fresh(tiny_run.recipe(folder), where).save(path, tiny_run.recipe(folder))
    with pytest.raises(RobustSRError, match=f"another recipe: {change.partition('=')[0]} was"):
        State.resumed(path, tiny_run.recipe(folder, change), where)


def test_a_checkpoint_from_before_a_recipe_had_some_key_still_resumes(folder):
    config = tiny_run.recipe(folder)
    list(train(config, folder / "run", stop=after(3)))
    path = folder / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["recipe"]["inputs"]["attack_step"], state["recipe"]["denoiser"]
    state["recipe"]["inputs"]["attack"] = "cw:lr=.02"
    torch.save(state, path)
    renamed = tiny_run.recipe(folder, 'inputs.attack="cw:step_size=.02"')
    assert State.resumed(path, renamed, torch.device("cpu")).step == 3
    state["recipe"]["inputs"]["attack"] = ""
    torch.save(state, path)
    assert State.resumed(path, config, torch.device("cpu")).step == 3
    with pytest.raises(RobustSRError, match="inputs.attack_step was 0.25 and is 0.7"):
        State.resumed(path, tiny_run.recipe(folder, "inputs.attack_step=0.7"), torch.device("cpu"))
    last = list(train(config, folder / "run", resume=True))[-1]
    assert last.step == 12 and isinstance(read(path)["pictures"], str)
    state["pictures"] = "others"
    torch.save(state, path)
    with pytest.raises(RobustSRError, match="made with other pictures than these 4"):
        next(train(config, folder / "run", resume=True))


def test_a_run_goes_on_where_its_folders_and_what_it_began_with_lie_elsewhere(folder, tiny):
    """The generator's init is of another width than the recipe says, and no longer there."""
    began = folder / "began.safetensors"
    began.write_bytes(tiny.read_bytes())
    gan = ["data.patch=16", "loss.gan=0.05"]
    list(train(tiny_run.recipe(folder, *gan, 'name="first"'), folder / "first", stop=after(2)))
    whole = [*gan, f"generator.init={began}", f"discriminator.init={folder / 'first/checkpoint.pt'}"]
    list(train(tiny_run.recipe(folder, *whole), folder / "whole"))
    list(train(tiny_run.recipe(folder, *whole), folder / "parts", stop=after(5)))
    began.unlink()
    (folder / "first/checkpoint.pt").unlink()
    (folder / "hr").rename(folder / "moved")
    moved = [*gan, "generator.init=", "data.workers=1", f"data.hr={folder / 'moved'}"]
    assert list(train(tiny_run.recipe(folder, *moved), folder / "parts", resume=True, stop=after(2)))[0].step == 5
    list(train(tiny_run.recipe(folder, *moved), folder / "parts", resume=True))  # by a checkpoint that names no init
    assert same(*(deep(read(folder / run / "checkpoint.pt")) for run in ("whole", "parts")))


def test_a_denoiser_can_neither_come_nor_go_between_parts_of_a_run(folder, tiny, denoiser):
    both = [f"generator.init={tiny}", f"generator.denoise={denoiser}"]
    list(train(tiny_run.recipe(folder, *both), folder / "both", stop=after(2)))
    with pytest.raises(RobustSRError, match="generator.denoise was True and is False"):
        list(train(tiny_run.recipe(folder, both[0]), folder / "both", resume=True))
    elsewhere = ["generator.init=", "generator.denoise=not/here.safetensors"]
    for _ in range(2):
        list(train(tiny_run.recipe(folder, *elsewhere), folder / "both", resume=True, stop=after(2)))
    assert list(train(tiny_run.recipe(folder, *elsewhere), folder / "both", resume=True))[-1].step == 12


def test_a_run_does_not_go_on_from_another_start(folder, tiny, denoiser):
    other = folder / "other.safetensors"
    save_file({k: v * 2 for k, v in load_file(tiny).items()}, other)
    begun = [f"generator.init={tiny}", f"generator.denoise={denoiser}"]
    first, *_ = train(tiny_run.recipe(folder, *begun), folder / "run", stop=after(2))
    assert f"{denoiser} goes before the network, and is trained with it" in first.message
    with pytest.raises(
        RobustSRError, match=r"init was tiny [0-9a-f]{16} and is other [0-9a-f]{16}: .*, --set generator.init=gone\)"
    ):
        list(train(tiny_run.recipe(folder, begun[1], f"generator.init={other}"), folder / "run", resume=True))
    for init in ("gone", ""):  # its weights are in the checkpoint
        again = tiny_run.recipe(folder, begun[1], f"generator.init={init}")
        assert State.resumed(folder / "run" / "checkpoint.pt", again, torch.device("cpu")).step == 2
    other.write_bytes(tiny.read_bytes())  # called otherwise now
    again = tiny_run.recipe(folder, begun[1], f"generator.init={other}")
    assert list(train(again, folder / "run", resume=True))[-1].step == 12
    made = origin(folder / "run" / "psnr.safetensors")
    assert f"init tiny {sha256(tiny)[:16]}" in made and f"denoise {denoiser.stem} {sha256(denoiser)[:16]}" in made
    assert (
        "recipe psnr, seed 0, steps 12" in made and f"pictures {read(folder / 'run/checkpoint.pt')['pictures']}" in made
    )


def test_all_weights_that_are_others_are_told_at_once(folder, tiny, denoiser):
    begun, names = [], {"generator.init": tiny, "generator.denoise": denoiser, "loss.teacher": tiny}
    for key, path in names.items():
        begun.append(folder / f"{key}.safetensors")
        begun[-1].write_bytes(path.read_bytes())
    config = tiny_run.recipe(folder, *(f'{key}="{path}"' for key, path in zip(names, begun, strict=True)))
    list(train(config, folder / "run", stop=after(2)))
    before = (folder / "run" / "recipe.toml").read_bytes()
    for path in begun:
        save_file({k: v * 2 for k, v in load_file(path).items()}, path)
    with pytest.raises(RobustSRError) as raised:
        list(train(config, folder / "run", resume=True))
    said = str(raised.value)
    assert all(f"{key} was {key} " in said for key in names)
    assert "no more, --set generator.init=gone --set generator.denoise=gone)" in said
    begun[2].write_bytes(tiny.read_bytes())
    gone = tiny_run.recipe(folder, "generator.init=gone", "generator.denoise=gone", f'loss.teacher="{begun[2]}"')
    first, *_, last = train(gone, folder / "run", resume=True)
    assert last.step == 12 and "gone" not in first.message
    assert (folder / "run" / "recipe.toml").read_bytes() == before  # which begins the run again
    assert "teacher loss.teacher " in origin(folder / "run" / "psnr.safetensors")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are Linux'")
def test_pictures_in_a_folder_whose_name_is_not_utf_8_are_trained_on(folder):
    odd, said = folder / os.fsdecode(b"ph\xe9tos"), []
    (folder / "hr").rename(odd)
    config = tiny_run.recipe(folder)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, hr=str(odd)))
    *_, last = train(config, folder / "run", say=said.append)
    assert last.step == 12 and any("is not UTF-8" in line for line in said)
    assert not (folder / "run" / "recipe.toml").exists()


def test_the_whole_recipe_of_a_run_is_beside_its_weights(folder):
    config = tiny_run.recipe(folder, "optimiser.steps=1")
    list(train(config, folder / "run"))
    path = folder / "run" / "recipe.toml"
    assert Recipe.load(str(path), []) == config
    more = tiny_run.recipe(folder, "optimiser.steps=1", "validation.limit=2")
    list(train(more, folder / "run", resume=True))
    assert Recipe.load(str(path), []) == config != more
    path.write_text("# mine\n")
    list(train(config, folder / "run", resume=True))
    assert path.read_text() == "# mine\n"


def test_validation_on_what_it_learns_from_is_said(folder):
    said, held = [], folder / "hr" / "held"
    held.mkdir()
    shutil.copy(folder / "val" / "HR" / "v.png", held)
    list(
        train(
            tiny_run.recipe(folder, "optimiser.steps=1", f'validation.sets=["{held}"]'), folder / "run", say=said.append
        )
    )
    assert f"note: pictures of the validation are trained on, too: {held / 'v.png'}" in said
    said.clear()
    list(train(tiny_run.recipe(folder, "optimiser.steps=1"), folder / "other", say=said.append))
    assert "trained on" not in " ".join(said)


@pytest.mark.parametrize("harm", ["export", "validate", "deleted"])
def test_a_run_that_failed_after_its_last_checkpoint_gets_its_weights(folder, monkeypatch, harm):
    config = tiny_run.recipe(folder)
    weights, whole = folder / "run/psnr.safetensors", folder / "whole/psnr.safetensors"
    list(train(config, folder / "whole"))
    if harm == "deleted":
        list(train(config, folder / "run"))
        weights.unlink()
    else:
        real, calls = getattr(loop, harm), []

        def failing(*arguments):
            calls.append(1)
            if len(calls) == 2:  # at the end; step 6 leaves weights behind, which are not the last
                raise RobustSRError("the disk is full")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(loop, harm, failing)
            with pytest.raises(RobustSRError, match="the disk is full"):
                list(train(config, folder / "run"))
    last = list(train(config, folder / "run", resume=True))[-1]
    assert last.step == 12 and last.measured["val clean"]["psnr"] > 5
    assert same(load_file(weights), load_file(whole))
    assert len(list(train(config, folder / "run", resume=True))) == 1  # it is done: nothing is measured again


def test_what_is_done_again_after_a_kill_is_logged_once(folder):
    config = tiny_run.recipe(folder, "checkpoint_every=5")
    run = train(config, folder / "run", every=1)
    while next(run).step < 8:
        pass
    run.close()  # killed at step 8; the checkpoint is of step 5
    path = folder / "run" / "log.jsonl"
    path.write_text(path.read_text() + '{"step": 9, "lo')
    list(train(config, folder / "run", resume=True, every=1))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(1, 13))
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/l1")] == list(range(1, 13))


def test_a_run_that_diverges_keeps_only_states_that_can_go_on(folder):
    wild = tiny_run.recipe(folder, "optimiser.lr=1e30", "precision=fp32", "checkpoint_every=1")
    with pytest.raises(RobustSRError, match=r"diverged by step 1 .*lower optimiser.lr \(1e\+30\); no state was kept"):
        list(train(wild, folder / "run", every=1))
    assert not (folder / "run" / "checkpoint.pt").exists()

    list(train(tiny_run.recipe(folder), folder / "good", stop=after(4)))
    before = (folder / "good/checkpoint.pt").read_bytes()
    state = torch.load(folder / "good/checkpoint.pt", weights_only=True)
    state["optimiser"]["state"][0]["exp_avg"].fill_(float("nan"))
    torch.save(state, folder / "good/checkpoint.pt")
    poisoned = (folder / "good/checkpoint.pt").read_bytes()
    with pytest.raises(RobustSRError, match="the run diverged by step 6 .*the last good state is"):
        list(train(tiny_run.recipe(folder), folder / "good", resume=True))
    assert (folder / "good/checkpoint.pt").read_bytes() == poisoned != before


@pytest.mark.parametrize("part", ["net", "ema", "discriminator", "optimiser", "d_optimiser"])
def test_nothing_that_is_not_finite_replaces_a_good_checkpoint(folder, monkeypatch, part):
    """Spoilt after the last step before a checkpoint, where losses do not show it yet."""
    config = tiny_run.recipe(folder, "data.patch=16", "loss.gan=0.05", "checkpoint_every=2")
    list(train(config, folder / "run", stop=after(2)))
    good, step = (folder / "run/checkpoint.pt").read_bytes(), loop.Step.__call__

    def spoilt(self, *batch):
        losses, now = step(self, *batch), getattr(self.state, part)
        if self.state.step == 3:
            [*filter(torch.is_floating_point, checkpoint._tensors(now.state_dict()))][-1].view(-1)[-1] = float("nan")
        return losses

    monkeypatch.setattr(loop.Step, "__call__", spoilt)
    rates = r"lower optimiser.lr \(0.001\) or discriminator.lr \(0.0001\); the last good state"
    with pytest.raises(RobustSRError, match=rf"diverged by step 4 .*{rates}"):
        list(train(config, folder / "run", resume=True))
    assert (folder / "run/checkpoint.pt").read_bytes() == good


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("mib", [0, 1])
def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(folder, mib):
    import resource

    config = tiny_run.recipe(folder, f"checkpoint_mib={mib}")
    list(train(config, folder / "run", stop=after(2)))
    path = folder / "run/checkpoint.pt"
    state, before = State.resumed(path, config, torch.device("cpu")), deep(read(path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(RobustSRError, match="cannot write .*checkpoint"):
            state.save(path, config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(deep(read(path)), before) and not list((folder / "run").glob(".robustsr-*"))


def test_a_log_that_cannot_be_written_is_said(folder):
    (folder / "run").mkdir()
    run = train(tiny_run.recipe(folder), folder / "run")
    next(run)
    (folder / "run/log.jsonl").mkdir()
    with pytest.raises(RobustSRError, match="cannot write .*log.jsonl: .*--resume goes on from the last checkpoint"):
        list(run)


@pytest.mark.parametrize("harm", ["truncated", "empty", "text", "weights", "a list", "missing"])
def test_a_checkpoint_that_is_none_is_said(folder, harm):
    list(train(tiny_run.recipe(folder, "data.patch=16", "loss.gan=0.05"), folder / "run", stop=after(2)))
    path = folder / "run/checkpoint.pt"
    whole = path.read_bytes()
    made = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no checkpoint\n"}
    if harm in made:
        path.write_bytes(made[harm])
    elif harm == "missing":
        path.unlink()
    else:
        torch.save(build(Generator(), 0).state_dict() if harm == "weights" else [1], path)
    with pytest.raises(RobustSRError, match="checkpoint.pt (cannot be read as a|is no) checkpoint"):
        read(path)
    config = tiny_run.recipe(folder, "data.patch=16", "loss.gan=0.05", f"discriminator.init={path}")
    with pytest.raises(RobustSRError, match="checkpoint.pt (cannot be read as a|is no) checkpoint"):
        State.fresh(config, torch.device("cpu"))


def test_a_discriminator_of_another_width_and_none_at_all_are_said(folder):
    list(train(tiny_run.recipe(folder, "data.patch=16", "loss.gan=0.05"), folder / "gan", stop=after(1)))
    list(train(tiny_run.recipe(folder), folder / "none", stop=after(1)))
    for run, message in (
        ("gan", "has 4 features, the recipe's 8: --set discriminator.features=4"),
        ("none", "no discr"),
    ):
        more = ["loss.gan=1", "discriminator.features=8", f"discriminator.init={folder / run / 'checkpoint.pt'}"]
        with pytest.raises(RobustSRError, match=f"discriminator.init: .*{message}"):
            State.fresh(tiny_run.recipe(folder, *more), torch.device("cpu"))


def test_a_checkpoint_whose_parts_do_not_fit_its_recipe_is_said(folder):
    config = tiny_run.recipe(folder)
    list(train(config, folder / "run", stop=after(1)))
    path = folder / "run/checkpoint.pt"
    for change in (
        lambda s: s.pop("ema"),
        lambda s: s["net"].popitem(),
        lambda s: s["optimiser"]["param_groups"].pop(),
    ):
        state = read(path)
        change(state)
        torch.save(state, folder / "bad.pt")
        with pytest.raises(RobustSRError, match="bad.pt does not fit its own recipe"):
            State.resumed(folder / "bad.pt", config, torch.device("cpu"))


def test_the_initialisation_lets_the_gradient_through():
    net = build(Generator(), 0)
    x = torch.rand(1, 3, 12, 12)
    net(x).square().mean().backward()
    norms = [p.grad.norm() for n, p in net.named_parameters() if n.endswith("weight") and p.ndim == 4]
    assert norms[0] > 1e-3 * max(norms)


def test_a_fresh_rrdb_puts_out_what_a_picture_could_be():
    """ESRGAN's scheme: the std of outputs for x in [0, 1], 23 blocks deep, is below 1; the network is its seed's."""
    config = Generator(architecture="rrdb", features=16, blocks=23)
    nets = [build(config, seed) for seed in (0, 0, 1)]
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, again, other = (net(x) for net in nets)
    assert 0.01 < one.std() < 1 and torch.equal(one, again) and not torch.equal(one, other)
    dense = {n: p for n, p in nets[0].named_parameters() if "RDB" in n}
    assert len(dense) == 2 * 3 * 5 * 23
    for name, p in dense.items():
        fan = p[0].numel()
        wanted = 0.1 * (2 / fan) ** 0.5 if name.endswith("weight") else 0
        assert float(p.detach().std()) == pytest.approx(wanted, rel=0.1), name


# --- what a step trains ---


@pytest.mark.parametrize("attack", ["", 'inputs.attack="fgsm:eps=8/255"'], ids=["noise", "attack"])
@pytest.mark.parametrize("objective", ["mse", "restore", "stability", "task"])
def test_a_denoiser_learns_and_what_lies_behind_it_stays(folder, tiny, objective, attack):
    more = ["generator.scale=1", f"denoiser.objective={objective}", f'denoiser.model="{tiny}"']
    config = tiny_run.recipe(folder, *more, "inputs.sigmas=[0.1]", *filter(None, [attack]))
    session = Session.begin(config, "cpu")
    behind, net = session.step.behind, session.state.net
    assert (behind is None) == (objective in ("mse", "restore"))
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (net, *([behind.module] if behind else []))]
    lr, hr, heavy = session.batches[0]
    assert hr.shape[-1] == lr.shape[-1] * (4 if objective == "task" else 1)
    small, large = session.pairs[0]
    assert len(large) == len(small) * (4 if objective in ("restore", "task") else 1)  # what f will see
    losses = session.step(lr, hr, heavy)
    assert losses.keys() == {"l1"} and losses["l1"] > 0
    moved = [name for name, value in net.state_dict().items() if not torch.equal(value, before[0][name])]
    assert moved == list(before[0])
    if behind:
        assert same(behind.module.state_dict(), before[1])
        assert all(p.grad is None for p in behind.module.parameters())


def test_a_step_of_the_gan_moves_both_networks_and_an_attack_leaves_no_gradient(folder, monkeypatch):
    session = Session.begin(tiny_run.recipe(folder, *GAN), "cpu")
    from robustsr_training import step as module

    seen = []

    def spied(forward, *rest):
        net = session.state.net
        x = found(forward, *rest)
        seen.append((net.training, [p.grad for p in net.parameters()], x.requires_grad))
        return x

    found = module.attacked
    monkeypatch.setattr(module, "attacked", spied)
    parts = (session.state.net, session.state.discriminator)
    before = [{k: v.clone() for k, v in m.named_parameters()} for m in parts]
    losses = session.step(*session.batches[0])
    assert losses.keys() == {"l1", "gan", "discriminator"}
    assert seen[0][0] is False and not any(g is not None for g in seen[0][1]) and not seen[0][2]
    for part, old in zip(parts, before, strict=True):
        assert part.training and all(p.requires_grad for p in part.parameters())
        still = [name for name, p in part.named_parameters() if torch.equal(p, old[name])]
        assert set(still) <= {"head.3.bias"}  # the discriminator's last, which cancels in relative logits


def test_a_perceptual_recipe_trains(folder, shared, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(shared / "weights"))
    session = Session.begin(tiny_run.recipe(folder, "loss.perceptual=1.0", "loss.layer=conv2_2", "loss.l1=0"), "cpu")
    losses = [float(session.step(*session.batches[0])["perceptual"]) for _ in range(8)]
    assert losses[-1] < losses[0]


# --- a checkpoint in parts ---


def parts_of(folder):
    return sorted(p.name for p in folder.glob("checkpoint-*.part"))


def test_a_checkpoint_in_parts_is_the_same_state_in_small_files(folder):
    more = [*GAN, "discriminator.features=16"]  # 12 MB of state
    list(train(tiny_run.recipe(folder, *more), folder / "whole", stop=after(3)))
    config = tiny_run.recipe(folder, *more, "checkpoint_mib=2")
    list(train(config, folder / "parts", stop=after(3)))
    files = [p for p in (folder / "parts").iterdir() if p.name.startswith("checkpoint")]
    assert len(files) > 5 and all(p.stat().st_size <= 2 << 20 for p in files)
    assert same(*(deep(read(folder / run / "checkpoint.pt")) for run in ("whole", "parts")))

    first = parts_of(folder / "parts")
    assert list(train(config, folder / "parts", resume=True, stop=after(2)))[0].step == 3
    assert read(folder / "parts" / "checkpoint.pt")["step"] == 5
    assert not set(first) & set(parts_of(folder / "parts"))  # those of the state before are gone
    goes_on = tiny_run.recipe(folder, *more, "discriminator.init=" + str(folder / "parts" / "checkpoint.pt"))
    judge = State.fresh(goes_on, torch.device("cpu")).discriminator
    assert same(judge.state_dict(), read(folder / "parts" / "checkpoint.pt")["discriminator"])


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_kill_while_parts_are_written_leaves_the_checkpoint_before(folder, monkeypatch, written):
    config = tiny_run.recipe(folder, *GAN, "discriminator.features=8", "checkpoint_mib=1")
    list(train(config, folder / "run", stop=after(3)))
    path = folder / "run" / "checkpoint.pt"
    before = deep(read(path))
    state = State.fresh(config, torch.device("cpu"))
    left, whole = iter(range(written)), checkpoint.atomic

    def killed(*args, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            state.save(path, config)
    assert same(deep(read(path)), before)
    state = State.resumed(path, config, torch.device("cpu"))
    assert state.step == 3
    state.save(path, config)  # and what the kill left behind goes with the next one
    assert set(parts_of(folder / "run")) == set(torch.load(path, weights_only=True)["parts"])


def test_a_missing_and_a_damaged_part_are_named(folder):
    config = tiny_run.recipe(folder, *GAN, "discriminator.features=8", "checkpoint_mib=1")
    list(train(config, folder / "run", stop=after(3)))
    one, two, *_ = parts_of(folder / "run")
    (folder / "run" / one).unlink()
    with pytest.raises(RobustSRError, match=rf"{one} is missing: .*checkpoint.pt cannot be used"):
        next(train(config, folder / "run", resume=True))
    (folder / "run" / one).write_bytes(b"else")
    with pytest.raises(RobustSRError, match=rf"{one} is damaged"):
        next(train(config, folder / "run", resume=True))
