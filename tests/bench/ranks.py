"""Mean ranks over PSNR, SSIM and LPIPS under every attack, from what `robustsr evaluate` measured.

python -m tests.bench.ranks evaluation/ [adaptive/ ...] --smoothed certsr:.07 --smoothed certsr-photo:.07

Each model competes once: with the median of that sigma where --smoothed says so, else alone. Where a picture was
attacked in several ways, the worst one counts, metric by metric; only pictures that are in every folder count.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

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
            if r["perturbation"] != "clean" and r["variant"] != "random" and sigma == sigmas.get(r["model"]):
                found[r["perturbation"], r["model"]][r["picture"]].append(r)
        pictures = {r["picture"] for r in records} & (pictures or {r["picture"] for r in records})
    attacks, models = (sorted({key[i] for key in found}) for i in (0, 1))
    ranks = defaultdict(list)
    for attack in attacks:
        for metric, worst in WORSE.items():
            value = {
                model: mean(worst(r[metric] for r in found[attack, model][picture]) for picture in pictures)
                for model in models
                if (attack, model) in found
            }
            order = sorted(value, key=value.get, reverse=worst is min)
            for place, model in enumerate(order, 1):
                ranks[model].append(place)
            print(f"{attack:24} {metric:6}" + ", ".join(f"{model} {value[model]:.4g}" for model in order))
    print(f"mean ranks on {len(pictures)} pictures:")
    for model in sorted(ranks, key=lambda name: mean(ranks[name])):
        print(f"  {model} {mean(ranks[model]):.2f}" + (f" (sigma {sigmas[model]:g})" if model in sigmas else ""))


if __name__ == "__main__":
    main()
