"""The studies behind the tables and figures of the two works: which pictures, attacks and defences each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import layouts, legends
from .catalogue import BICUBIC
from .pairs import Pictures
from .report import Section
from .results import Results
from .settings import Smoothing
from .study import Study
from .types import RobustSRError

PAPER_GRID = (0.01, 0.03, 0.05, 0.06, 0.07)
THESIS_GRID = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1, 1.1, 1.2)
UNETS = {f: tuple(f"unet-x{f}{kind}" for kind in ("", "-noise", "-adv-l2")) for f in (2, 4)}  # the thesis', that ship
GRID = tuple(round(i * 0.0125, 4) for i in range(17))  # 0 to .2, as many


@dataclass(frozen=True)
class Choice:
    """What the person asks for; the protocol decides the rest. ``sigma``: the fixed one; ``sigmas``: the oracle's."""

    sets: dict[str, Pictures]
    models: tuple[str, ...]
    sigma: float = 0.06
    sigmas: tuple[float, ...] = ()
    on: str = "base"
    lpips: str | None = None
    gallery: int = 1
    loss: str = "paper"
    samples: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    denoise: str | None = None


@dataclass(frozen=True)
class Protocol:
    """A published table or figure: ``studies`` by the name of their pictures, and ``layout`` of their results.

    ``decides``: options of `evaluate` that it leaves no choice of.
    """

    title: str
    about: str
    studies: Callable[[Choice], dict[str, Study]]
    layout: Callable[[dict[str, Study], dict[str, Results]], list[Section]]
    models: tuple[str, ...] = ()  # where none are named; empty: the upscalers that ship
    decides: tuple[str, ...] = ("perturb", "smooth", "draws")


def _smoothings(choice: Choice, reduce: str, samples: int, grid: Sequence[float]) -> tuple[Smoothing | None, ...]:
    """None, the fixed sigma, and those of the grid: independent draws, as both works use."""
    sigmas = dict.fromkeys([choice.sigma, *(choice.sigmas or grid)])
    n = choice.samples or samples
    return (None, *(Smoothing(reduce, s, n, "independent", choice.seed) for s in sigmas if s > 0))  # type: ignore[arg-type]


def _study(choice: Choice, pictures: Pictures, **settings: Any) -> Study:  # noqa: ANN401
    shared = {k: getattr(choice, k) for k in ("on", "lpips", "gallery", "seed", "device", "precision", "denoise")}
    return Study(pictures, choice.models, **{"border": pictures.scale, **shared, **settings})


def _paper(perturbations: tuple[str, ...]) -> Callable[[Choice], dict[str, Study]]:
    def studies(choice: Choice) -> dict[str, Study]:
        specs = tuple(p.format(loss=choice.loss) for p in perturbations)
        defences = _smoothings(choice, "median", 21, PAPER_GRID)
        return {n: _study(choice, p, perturbations=specs, defences=defences) for n, p in choice.sets.items()}

    return studies


def _thesis(
    factor: int,
    eps: tuple[float, ...],
    samples: int = 50,
    grid: tuple[float, ...] = THESIS_GRID,
    on: str | None = None,
) -> Callable[[Choice], dict[str, Study]]:
    """The thesis' setting: 160 px, shrunk by ``factor`` and enlarged again, L2 budgets ``eps``, in its units."""

    def studies(choice: Choice) -> dict[str, Study]:
        for other, nets in UNETS.items():
            if other != factor and (wrong := set(nets).intersection(choice.models)):
                raise RobustSRError(
                    f"{min(wrong)} restores what was shrunk by {other}, these pictures are shrunk by {factor}: "
                    f"name networks for x{factor}, such as {UNETS[factor][0]}"
                )
        scaled = tuple(round(s * legends.UNIT, 6) for s in grid)
        defences = _smoothings(choice, "mean", samples, scaled)
        specs = tuple(legends.thesis_attack(e) for e in eps)
        common = {"perturbations": specs, "defences": defences, "quantised": False, "border": 0, "on": on or choice.on}
        sets = {
            n: replace(p, scale=1, resized=factor, crop=(p.crop or 160 // factor), lr=None)
            for n, p in choice.sets.items()
        }
        bicubic = next(name for name, scale in BICUBIC.items() if scale == factor)
        rows = replace(choice, models=tuple(dict.fromkeys([bicubic, *choice.models])))
        return {n: _study(rows, p, **common) for n, p in sets.items()}

    return studies


def tuning(choice: Choice, perturbations: tuple[str, ...], factor: int | None = None) -> dict[str, Study]:
    """Every sigma of the grid against every perturbation: the search of A.2, A.3 and A.3 to A.8.

    ``factor``: the thesis' setting (mean of 50, its attacks and grid) at x2 or x4; else the median of 21.
    """
    if factor:
        made: dict[str, Study] = _thesis(factor, layouts.TUNED_EPS)(replace(choice, sigma=0))  # the grid's alone
        return made
    defences = _smoothings(choice, "median", 21, GRID)
    return {n: _study(choice, p, perturbations=perturbations, defences=defences) for n, p in choice.sets.items()}


THESIS_DECIDES = (
    "perturb",
    "smooth",
    "draws",
    "loss",
    "lr",
)  # its attacks are on the MSE, its pictures made as it made them
ATTACKS = (
    "clean",  # for Figure 1 only
    "fgsm:eps=10/255,loss={loss}",
    "bim:eps=10/255,loss={loss}",
    "pgd:eps=10/255,loss={loss}",
    "cw:loss={loss}",
)


PROTOCOLS = {
    "paper-table1": Protocol(
        "CertSR, Table 1",
        "clean, noisy (std .03) and blurry (size 10, std .3, even) pictures, and Figure 3",
        _paper(("clean", "noise:sigma=0.03", "blur:size=10,sigma=0.3,align=even")),
        layouts.table("CertSR, Table 1", "paper-table1", ("Clean", "Noisy", "Blurry"), legends.PAPER),
    ),
    "paper-table2": Protocol(
        "CertSR, Table 2",
        "FGSM, BIM, PGD (eps 10/255) and CW (c .01, 6 steps) on the paper's loss, and Figures 1 and 4",
        _paper(ATTACKS),
        layouts.table("CertSR, Table 2", "paper-table2", ("FGSM", "BIM", "PGD", "CW"), legends.PAPER),
    ),
    "paper-table3": Protocol(
        "CertSR, Table 3",
        "paired real-world folders, NTIRE=DIR AIM=DIR, and Figure 5",
        _paper(("clean",)),
        layouts.paired,
    ),
    **{
        f"thesis-4.{k}": Protocol(
            f"Thesis, Table 4.{k}",
            f"x{factor}, L2 attacks of eps_rel {', '.join(f'{e:g}' for e in eps)}, mean of 50; a gallery",
            _thesis(factor, eps),
            layouts.table(
                f"Thesis, Table 4.{k}",
                f"thesis-4_{k}",
                tuple("Clean" if e == 0 else f"eps_rel {e:g}" for e in eps),
                legends.THESIS,
            ),
            UNETS[factor],
            THESIS_DECIDES,
        )
        for k, (factor, eps) in enumerate(
            [(2, (0, 0.01, 0.02)), (2, (0.05, 0.1, 0.2)), (4, (0, 0.01, 0.02)), (4, (0.05, 0.1, 0.2))], 1
        )
    },
    "thesis-a1": Protocol(
        "Thesis, Table A.1 and Figures A.1 and A.2",
        "norms of the perturbations, attack on the network against attack on the smoothed model, x2, k = 10",
        lambda choice: _thesis(2, layouts.TUNED_EPS, 10, (0.2, 0.5), on="base,eot")(
            replace(choice, sigma=round(0.2 * legends.UNIT, 6), sigmas=())
        ),
        layouts.norms,
        UNETS[2],
        (*THESIS_DECIDES, "on", "sigma", "sigma_grid"),
    ),
}


def protocol(name: str) -> Protocol:
    """A protocol by name. RobustSRError: there is none."""
    if name not in PROTOCOLS:
        raise RobustSRError(f"no protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
