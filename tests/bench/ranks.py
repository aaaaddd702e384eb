"""Mean ranks over PSNR, SSIM and LPIPS under every attack, from what `robustsr evaluate` measured.

python -m tests.bench.ranks evaluation/ [adaptive/ ...] --smoothed certsr:.07 --smoothed certsr-photo:.07

Each model competes once: with the median of that sigma where --smoothed says so, else alone. Where a picture was
attacked in several ways, the worst one counts, metric by metric. Only attacks that all models met count, on pictures
that are in every folder; what is equal shares its ranks.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

from scipy.stats import rankdata

from robustsr.study import parse
from robustsr.threats import is_attack

WORSE = {"psnr": min, "ssim": min, "lpips": max}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--smoothed", action="append", default=[], metavar="MODEL:SIGMA")
    wanted = parser.parse_args()
    sigmas = {name: float(sigma) for name, sigma in (text.rsplit(":", 1) for text in wanted.smoothed)}
    found = defaultdict(lambda: defaultdict(list))  # of an attack and a model: by picture, records
    pictures = None
    for folder in wanted.folders:
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text("utf-8").splitlines()]
        for r in records:
            sigma = (r["defence"] or {}).get("sigma")
            attacked = is_attack(parse(r["perturbation"])) and r["variant"] != "random"
            if attacked and sigma == sigmas.get(r["model"]):
                found[r["perturbation"], r["model"]][r["picture"], r["pixels"]].append(r)
        here = {(r["picture"], r["pixels"]) for r in records if is_attack(parse(r["perturbation"]))}
        pictures = here if pictures is None else here & pictures
    models = sorted({model for _, model in found})
    attacks = sorted({attack for attack, _ in found if all((attack, model) in found for model in models)})
    ranks = defaultdict(list)
    for attack in attacks:
        for metric, worst in WORSE.items():
            value = {
                model: mean(worst(r[metric] for r in found[attack, model][picture]) for picture in pictures)
                for model in models
            }
            order = sorted(value, key=value.get, reverse=worst is min)
            places = rankdata([value[model] if worst is max else -value[model] for model in models])
            for model, place in zip(models, places, strict=True):
                ranks[model].append(float(place))
            print(f"{attack:24} {metric:6}" + ", ".join(f"{model} {value[model]:.4g}" for model in order))
    print(f"mean ranks on {len(pictures)} pictures:")
    for model in sorted(ranks, key=lambda name: mean(ranks[name])):
        print(f"  {model} {mean(ranks[model]):.2f}" + (f" (sigma {sigmas[model]:g})" if model in sigmas else ""))


if __name__ == "__main__":
    main()
