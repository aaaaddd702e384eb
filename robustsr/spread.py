"""A batch on many workers, through Ray Data: actors that load the model once; the files of killed ones are redone."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch

from .batch import Output, Task, carry_out
from .catalogue import BICUBIC, find
from .cluster import HERE, connected
from .jobs import Job, Result
from .manifest import Events, digest
from .models import load, seeded
from .onnx_network import outside
from .plan import make_plan
from .remote import Place, sweep
from .resume import announce, opened, sort_out
from .settings import Smoothing, Target
from .types import RobustSRError
from .version import __version__

Untyped: TypeAlias = Any  # what comes from ray
TRIES = 3  # a file that has killed so many workers is given up


@dataclass(frozen=True)
class Weights:
    """A model to be sent: its name, and its files, of which that has the name; none for one that needs no file."""

    name: str
    files: dict[str, bytes]

    @classmethod
    def of(cls, name_or_path: str) -> Weights:
        if name_or_path in BICUBIC:
            return cls(name_or_path, {})
        path, _ = find(name_or_path)
        names = [path.name, *(outside(path) if path.suffix.lower() == ".onnx" else ())]
        return cls(path.name, {name: (path.parent / name).read_bytes() for name in names})

    def unpacked(self, folder: str) -> str | Path:
        """What `models.load` takes."""
        for name, content in self.files.items():
            path = Path(folder) / name
            if not path.resolve().is_relative_to(Path(folder).resolve()):
                raise RobustSRError(f"{self.name} keeps weights outside of its folder, in {name}: put them beside it")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Path(folder) / self.name if self.files else self.name


@dataclass(frozen=True)
class Recipe:
    """What a worker makes its task of. ``device``: auto, cpu, cuda or mps, as it is called on each machine."""

    model: Weights
    denoiser: Weights | None
    device: str
    smoothing: Smoothing | None
    target: Target
    output: Output
    requested: dict[str, Any]

    @classmethod
    def of(cls, task: Task, model: str, denoise: str | None, device: str) -> Recipe:
        """That of a task whose network was loaded from ``model`` and ``denoise``."""
        denoiser = None if denoise is None else Weights.of(denoise)
        return cls(Weights.of(model), denoiser, device, task.smoothing, task.target, task.output, task.requested)

    def task(self) -> Task:
        """The task, with the model loaded here."""
        asked = self.requested
        with TemporaryDirectory(prefix="robustsr-", ignore_cleanup_errors=True) as folder:
            denoise = None if self.denoiser is None else self.denoiser.unpacked(folder)
            model = self.model.unpacked(folder)
            network = load(model, device=self.device, precision=asked["precision"], denoise=denoise)
        network = seeded(network, asked.get("seed", 0))
        plan = make_plan(network, self.smoothing, asked["tile"], asked["tile_pad"])
        return Task(network, self.smoothing, self.target, self.output, plan, asked)


@dataclass(frozen=True)
class Crew:
    """How many workers there are, with how many processors and GPUs each."""

    count: int
    cpus: int
    gpus: float = 0.0

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.count} worker{'s' * (self.count != 1)} of {self.cpus} processor{'s' * (self.cpus != 1)}{gpus}"


def crew(machines: Sequence[dict[str, float]], jobs: int, workers: int | None = None, device: str = "auto") -> Crew:
    """How many workers a cluster takes, from what Ray counts on its machines: one for each GPU; without any, or for
    ``device`` cpu, one for four processors, as each may need 2.5 GB. With ``workers``, or fewer ``jobs``, what is there
    is shared among so many. RobustSRError: there is not so much.
    """
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = [int(machine.get("GPU", 0)) * (device != "cpu") for machine in machines]
    if device == "cuda" and not any(gpus):
        raise RobustSRError("no machine of the Ray cluster has a GPU: leave out --device cuda")
    on_one = math.ceil(min(workers or 1, jobs) / sum(gpus)) if any(gpus) else 0  # workers on a GPU

    def room(threads: int) -> int:
        places = [n // threads for n in cpus]
        return sum(min(n, g * on_one) for n, g in zip(places, gpus, strict=True)) if on_one else sum(places)

    count = min(workers or (room(1) if on_one else next(filter(None, map(room, (4, 3, 2, 1))), 1)), jobs)
    threads = max((t for t in range(1, max(cpus, default=0) + 1) if room(t) >= count), default=0)
    if not threads:
        raise RobustSRError(f"--workers {count} is too many: the Ray cluster has {sum(cpus)} processors for them")
    return Crew(count, threads, 1 / on_one if on_one else 0.0)


def run(
    jobs: Sequence[Job],
    task: Task,
    recipe: Recipe,
    *,
    address: str = HERE,
    workers: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Result]:
    """`batch.run` on the workers of a Ray cluster: the same results, records and refusals, in the order they come.

    Only what is to be done goes there; inputs and outputs are read and written by the workers, which must see the same
    paths. Their events come home with each result, for the record has one writer. A worker that dies is started again,
    and its file is tried again, `TRIES` times in all. ``say`` hears what is waited for. RobustSRError, besides those of
    `batch.run`: no Ray, no cluster, too many workers, a model that cannot be loaded there.
    """
    with opened(jobs) as manifests:
        todo = yield from sort_out(jobs, manifests, digest(task.settings()), overwrite)
        if not todo:
            return
        announce(todo, manifests)
        sent = [Job(job.source.absolute(), job.target.absolute(), job.root.absolute()) for job in todo]
        plans = {root.absolute(): manifest.plans for root, manifest in manifests.items()}
        unfinished, at_work = dict[int, Job](), 0
        try:
            say("starting Ray" if address == HERE else f"asking for the Ray cluster at {address}")
            with connected(address) as ray:
                machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                hands = crew(machines, len(todo), workers, recipe.device)
                say(str(hands))
                unfinished, at_work = dict(enumerate(todo)), 3 * hands.count
                for number, made, events in _rows(ray, hands, (recipe, hands.cpus, sent, plans)):
                    job = unfinished.pop(number)
                    for event in events:
                        manifests[job.root].add(event)
                    yield _at_home(made, sent[number], job)
        finally:
            # Workers, each with two files at most, were stopped in the middle of them. In a cluster that goes on they
            # may live a moment longer: what they leave then is replaced when the file is done again.
            sweep(job.target for job in islice(unfinished.values(), at_work))


def _rows(ray: Untyped, hands: Crew, work: tuple[Any, ...]) -> Iterator[tuple[int, Result, list[dict[str, Any]]]]:
    """What the workers make of each job, as it comes."""
    count, tries = len(work[2]), ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries).remote()
    data = ray.data.from_items([{"number": n} for n in range(count)], override_num_blocks=count).map_batches(
        Worker,
        fn_constructor_args=(*work, tries),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=hands.count, max_tasks_in_flight_per_actor=2),
        num_cpus=hands.cpus,
        num_gpus=hands.gpus or None,
    )
    try:
        for row in data.iter_batches(batch_size=1, prefetch_batches=0):
            made, events = pickle.loads(row["made"][0])
            if isinstance(made, str):
                raise RobustSRError(made)
            yield int(row["number"][0]), made, events
    except ray.exceptions.RayActorError as error:
        need, reason = f"each machine needs robustsr {__version__} with Ray", str(error).strip().splitlines()[-1]
        raise RobustSRError(f"the workers cannot go on ({need}): {reason.strip()}") from error


class Tries:
    """An actor that counts how often each job was begun."""

    def __init__(self) -> None:
        self._counts = Counter[int]()

    def begin(self, number: int) -> int:
        self._counts[number] += 1
        return self._counts[number]


class Worker:
    """The inside of an actor: loads the model once, then turns numbers of jobs into what became of them."""

    def __init__(
        self, recipe: Recipe, threads: int, jobs: list[Job], plans: dict[Place, dict[str, Any]], tries: Untyped
    ) -> None:
        torch.set_num_threads(threads)
        self._jobs, self._plans, self._tries = jobs, plans, tries
        self._task: Task | str
        try:
            self._task = recipe.task()
        except RobustSRError as error:
            self._task = str(error)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        numbers = [int(number) for number in rows["number"]]
        return {"number": numbers, "made": [pickle.dumps(self._made(number)) for number in numbers]}

    def _made(self, number: int) -> tuple[Result | str, list[dict[str, Any]]]:
        """A result and the events of its record; or why nobody should go on."""
        import ray

        job = self._jobs[number]
        if isinstance(self._task, str):
            return self._task, []
        tried = ray.get(self._tries.begin.remote(number))
        if tried > TRIES:
            sweep([job.target])
            error = f"{job.source}: {TRIES} workers died at it, for lack of memory perhaps: try fewer --workers"
            return Result(job, "failed", error=error), []
        manifest = Events(job.root, plans=self._plans[job.root])
        try:
            result = carry_out(job, self._task, manifest)
        except RobustSRError as error:  # a full disk
            return str(error), []
        again = ("done again, for the worker that had it died",) if tried > 1 else ()
        return replace(result, notes=result.notes + again), manifest.events


def _at_home(result: Result, sent: Job, job: Job) -> Result:
    """The result with the paths as they were typed."""
    error = result.error.replace(str(sent.source), str(job.source)).replace(str(sent.target), str(job.target))
    return replace(result, job=job, error=error)
