"""The training loop: one function, a generator of progress, resumable at every checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from robustsr.engine import buffers_kept, full_float32
from robustsr.files import atomic
from robustsr.models import load
from robustsr.types import RobustSRError
from robustsr.version import __version__

from .checkpoint import State
from .data import Batches, Pairs, load_pairs
from .discriminator import SMALLEST
from .log import Log, Progress
from .networks import export, own_scale
from .recipe import Recipe
from .step import Step
from .tables import written
from .validation import Measured, check, sheet, trained_on, validate

FIRST = 4  # steps after which a run says how fast it is


@dataclass(frozen=True)
class Session:
    """A recipe about to run, in one process or several: what `train` and `estimate` have in common."""

    recipe: Recipe
    crew: Accelerator
    pairs: Pairs
    batches: Batches
    state: State
    step: Step

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        device: str,
        checkpoint: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> Session:
        """At step 0, or where ``checkpoint`` is. RobustSRError: pictures, weights or checkpoint cannot be used.

        Pictures come last, for they take longest, which ``say`` is told: a mistake elsewhere is answered before.
        """
        full_float32()  # from the first step on, not from when validation loads its networks
        wait = InitProcessGroupKwargs(timeout=timedelta(days=1))  # for the first process, which validates
        crew = Accelerator(cpu=device == "cpu", kwargs_handlers=[wait])
        if recipe.data.batch % crew.num_processes:
            raise RobustSRError(
                f"data.batch {recipe.data.batch} cannot be shared by {crew.num_processes} processes evenly"
            )
        if recipe.loss.gan and recipe.data.batch < 2 * crew.num_processes:
            raise RobustSRError(
                f"data.batch {recipe.data.batch} gives {crew.num_processes} processes fewer than the 2 patches each "
                f"that loss.gan compares: set data.batch to {2 * crew.num_processes} or more"
            )
        for folder in filter(None, (recipe.data.hr, recipe.data.lr)):
            if not Path(folder).is_dir():  # before weights are asked for that are to be pulled
                raise RobustSRError(f"no folder {folder}")
        alone = crew.num_processes == 1 or device == "cpu"  # torchrun numbers CPUs too
        where = torch.device(device) if alone else crew.device
        scale = recipe.generator.scale
        resized = own_scale(recipe.generator) != scale
        state = State.resumed(checkpoint, recipe, where) if checkpoint else State.fresh(recipe, where)
        step = Step(recipe, state, where, crew)
        objective = recipe.denoiser.objective
        if objective in ("restore", "task"):  # the denoiser sees what f will see
            scale = (step.behind or load(recipe.denoiser.model, device="cpu")).scale
        side = recipe.data.patch * own_scale(recipe.generator) * (step.behind.scale if step.behind else 1)
        if recipe.loss.gan and side < SMALLEST:
            raise RobustSRError(
                f"loss.gan compares {SMALLEST} pixels a side or more, outputs have {side}: set data.patch to more"
            )
        with crew.main_process_first():
            pairs = load_pairs(recipe.data, scale, resized=resized, say=say)
        state.meet(pairs)
        batches = Batches(pairs, recipe.data, scale, recipe.seed, resized, restored=objective == "restore")
        return cls(recipe, crew, pairs, batches, state, step)

    def any(self, mine: bool) -> bool:
        """Whether it is so in any process: they go on or stop together."""
        if self.crew.num_processes == 1:
            return mine
        count = self.crew.reduce(torch.tensor(float(mine), device=self.crew.device), "sum")
        return bool(count > 0)

    def means(self, rows: list[dict[str, Tensor]]) -> dict[str, float]:
        """The mean losses of some steps, over all processes."""
        return {k: float(self.crew.reduce(torch.stack([row[k] for row in rows]).mean(), "mean")) for k in rows[0]}

    def end(self) -> None:
        """Waits until every process has come here, then ends the group of processes."""
        if self.crew.num_processes > 1:
            self.crew.wait_for_everyone()
            self.crew.end_training()


class Clock:
    """Steps per second since it was last read, without the first step of a run, which compiles and fills caches."""

    def __init__(self) -> None:
        self._start, self._last, self._steps, self._first = time.perf_counter(), 0.0, 0, True

    def tick(self) -> None:
        """A step is done."""
        self._last, self._steps = time.perf_counter() - self._start, self._steps + 1
        if self._first:
            self._start, self._steps, self._first = time.perf_counter(), 0, False

    @property
    def rate(self) -> float:
        """Steps per second up to the last tick; of the first step alone where there is no other."""
        return max(self._steps, 1) / self._last

    def restart(self) -> None:
        self._start, self._steps = time.perf_counter(), 0


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    every: int = 50,
    pulse: float = math.inf,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Progress]:
    """Runs a recipe and yields where it stands every ``every`` steps and after each validation.

    Writes ``out/recipe.toml``, which has all that decides it, and as it goes ``out/checkpoint.pt``, ``out/log.jsonl``
    and TensorBoard's events, at each validation, when it is stopped and at the end ``out/NAME.safetensors``, the
    averaged weights in float16, and where it validates ``out/samples``. What ``generator.init`` names is validated
    before the first step. ``pulse``: seconds after which it also yields between reports, which is not logged; so does
    the fourth step, to say how fast it goes. ``say`` is told before pictures are decoded, and of those that are left
    out. ``stop`` is asked after each step: when true, a checkpoint is written and the run ends; ``resume`` continues it
    as if it had never stopped, and exports and validates where a run failed after its last checkpoint. A loss, weight
    or moment that is not finite ends the run with the last good checkpoint kept.
    RobustSRError: a mistake in the recipe, a checkpoint that does not fit it or is damaged, a full disk.

    Under `torchrun` (or `accelerate launch --multi_gpu`; with --cpu that starts one process only) every process takes
    its share of each batch, see `Step`; only the first one yields and writes, the others wait for it, and all stop
    after the same step when any of them is to.
    """
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.exists():
        raise RobustSRError(f"nothing to resume: there is no {checkpoint}")
    if checkpoint.exists() and not resume:
        raise RobustSRError(f"{checkpoint} is there already: --resume continues it, another -o starts afresh")
    check(recipe)
    if seen := trained_on(recipe):
        few = ", ".join(map(str, seen[:2])) + ", ..." * (len(seen) > 2)
        say(f"note: pictures of the validation are trained on, too: {few}")
    session = Session.begin(recipe, device, checkpoint if resume else None, say)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if session.crew.is_main_process and not (resume and (out / "recipe.toml").exists()):
            _keep(recipe, out / "recipe.toml", say)
    except OSError as error:
        raise RobustSRError(f"cannot write to the folder {out}: {error.strerror}") from error
    with buffers_kept(), ExitStack() as stack:
        log = stack.enter_context(closing(Log(out, session.state.step))) if session.crew.is_main_process else None
        yield from _steps(session, out, log, stop, every, pulse)
    session.end()


def _steps(
    session: Session, out: Path, log: Log | None, stop: Callable[[], bool], every: int, pulse: float
) -> Iterator[Progress]:
    """The steps that are left; ``log``: of the first process, which alone writes and yields."""
    recipe, state = session.recipe, session.state
    steps, checkpoint = recipe.optimiser.steps, out / "checkpoint.pt"
    if log:
        how = "bfloat16" if session.step.bf16 else "float32"
        how += ", not compiled: there is no compiler here" if session.step.eager else ""
        first = recipe.generator.denoise
        alone = '(--set generator.denoise="" leaves it out)'
        before = [f"{first} goes before the network, and is trained with it {alone}"] * bool(first and not state.step)
        message = "\n".join([*session.pairs.skipped, *before, f"{len(session.pairs)} pictures, in {how}"])
        yield Progress(state.step, steps, {}, 0, message=message)
        if state.step == steps and not (log.last == steps and _weights(recipe, out).exists()):
            yield log.add(Progress(steps, steps, {}, 0, _validated(session, out, log)))
        if state.step == 0 and recipe.generator.init and recipe.validation.sets:  # what is to become better
            yield log.add(Progress(0, steps, {}, 0, _validated(session, out, log)))
    clock, kept = Clock(), list[dict[str, Tensor]]()
    seen, early = time.perf_counter(), state.step + FIRST
    for lr, hr, heavy in session.batches.stream(state.step, steps):
        kept.append(session.step(lr, hr, heavy))
        state.step += 1
        clock.tick()
        done, stopped = state.step == steps, session.any(stop())
        look = done or state.step % recipe.validation.every == 0
        save = look or stopped or state.step % recipe.checkpoint_every == 0
        if save or state.step % every == 0:
            means = session.means(kept)
            if session.any(not session.step.healthy(lr if save else None, means)):
                last = f"the last good state is {checkpoint}" if checkpoint.exists() else "no state was kept"
                terms = ", ".join(f"{name} {value:g}" for name, value in means.items())
                raise RobustSRError(f"the run diverged by step {state.step} ({terms}): lower {_rates(recipe)}; {last}")
            if log:
                if save:
                    state.save(checkpoint, recipe)
                if stopped:
                    _export(session, out)
                measured = _validated(session, out, log) if look else {}
                yield log.add(Progress(state.step, steps, means, clock.rate, measured))
                seen = time.perf_counter()
            kept = []
            clock.restart()
        elif log and (state.step == early or time.perf_counter() - seen > pulse):
            means = {k: float(torch.stack([row[k] for row in kept]).mean()) for k in kept[0]}
            yield Progress(state.step, steps, means, clock.rate)
            seen = time.perf_counter()
        if stopped:
            break


def _keep(recipe: Recipe, path: Path, say: Callable[[str], None]) -> None:
    """Writes the recipe that a run begins with, with all its keys, but not in place of one that a person wrote."""
    mark = "# All that decides this run, as robustsr wrote it.\n"
    if not path.exists() or path.read_text("utf-8", "replace").startswith(mark):
        try:
            text = (mark + written(recipe)).encode()
        except UnicodeEncodeError:
            say(f"note: a path of this recipe is not UTF-8, as TOML has to be, so there will be no {path}")
            return
        with atomic(path) as part:
            part.write_bytes(text)


def _rates(recipe: Recipe) -> str:
    judge = f" or discriminator.lr ({recipe.discriminator.lr:g})" if recipe.loss.gan else ""
    return f"optimiser.lr ({recipe.optimiser.lr:g}){judge}"


def _weights(recipe: Recipe, out: Path) -> Path:
    return out / f"{recipe.name}.safetensors"


def _export(session: Session, out: Path) -> Path:
    """Writes the averaged weights."""
    weights = _weights(session.recipe, out)
    recipe, state = session.recipe, session.state
    said = {"recipe": recipe.name, "steps": str(state.step), "seed": str(recipe.seed), **state.begun}
    export(state.ema, weights, said | {"pictures": str(state.pictures), "made with": f"robustsr {__version__}"})
    return weights


def _validated(session: Session, out: Path, log: Log) -> Measured:
    """Exports the averaged weights, measures them and keeps samples."""
    recipe, state, weights = session.recipe, session.state, _export(session, out)
    measured, samples = validate(recipe, weights, out / "validation", str(session.step.device))
    grid = sheet(samples, out / "validation", out / "samples" / f"{state.step:07d}.png")
    if grid:
        log.show(grid, state.step)
    return measured
