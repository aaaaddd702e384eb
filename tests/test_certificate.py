import json
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from conftest import Convs
from fakes import Plain

from robustsr import certificate, record
from robustsr.bounds import to_levels
from robustsr.certificate import certify, find_field, window_size
from robustsr.certify import Claim
from robustsr.models import load
from robustsr.noise import gaussian
from robustsr.types import RobustSRError


@dataclass(frozen=True)
class Net(Plain):
    """Three convolutions in float64 around the nearest-neighbour picture: x2, radius 3, outputs mostly in [0, 1]."""

    scale: int = 2
    context: int = 3
    name: str = "convs"
    precision: str = "fp32"
    convs: Convs = field(default_factory=Convs)

    def __call__(self, x, *, origin=None):
        x = x.double()
        return super().__call__(x) * 0.7 + 0.15 + self.convs(x)


@pytest.fixture(scope="module")
def net():
    return Net()


def photo(h=12, w=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear").mul(255).round() / 255


CLAIM = Claim(0.1, 0.05, n=400, shipped=41)


@pytest.fixture(scope="module")
def made(net):
    return certify(photo(), net, CLAIM, seed=7)


# --- the run ---


def test_draws_are_independent_disjoint_and_of_the_stated_seed(net):
    """The shipped picture and the bounds equal those computed directly from their own draws."""
    x, claim = photo(6, 6), replace(CLAIM, n=300, shipped=21)
    made = certify(x, net, claim, seed=2**63 + 5)
    noise = gaussian(2**63 + 5, range(321), 3, 6, 6, torch.zeros(1, 2, dtype=torch.int64))[:, 0]
    levels = to_levels(net(x + claim.sigma * noise))
    assert torch.equal(made.shipped, levels[:21].sort(0).values[10])
    low, high = made.claim.ranks()
    ordered = levels[21:].sort(0).values
    assert torch.equal(made.bounds.lower, ordered[low - 1]) and torch.equal(made.bounds.upper, ordered[high - 1])
    assert made.claim.values == 3 * 12 * 12 and not made.fresh


def test_fresh_entropy_unless_a_seed_is_given(net):
    x, claim = photo(4, 4), Claim(0.1, 0.01, n=200, shipped=11)
    one, two = (certify(x, net, claim) for _ in range(2))
    assert one.fresh and two.fresh and one.seed != two.seed
    assert not torch.equal(one.shipped, two.shipped)
    assert torch.equal(certify(x, net, claim, seed=one.seed).bounds.lower, one.bounds.lower)
    with pytest.raises(RobustSRError, match="--seed"):
        certify(x, net, claim, seed=2**64)


@pytest.mark.parametrize("reduce", ["median", "mean"])
def test_windows_equal_the_whole(net, reduce, monkeypatch):
    x, claim = photo(20, 26), Claim(0.1, 0.02, n=150, shipped=41, alpha=0.4, reduce=reduce)
    whole = certify(x, net, claim, seed=3)
    monkeypatch.setattr(certificate, "COUNTS", 3 * 4 * 512 * 9**2)
    monkeypatch.setattr(certificate, "PASS", 600)
    tiled = certify(x, net, claim, seed=3)
    assert whole.window == (20, 26) and max(tiled.window) < 20
    assert torch.equal(whole.shipped, tiled.shipped)
    assert torch.equal(whole.bounds.lower, tiled.bounds.lower) and torch.equal(whole.bounds.upper, tiled.bounds.upper)
    assert (whole.bounds.lower <= whole.shipped).all() and (whole.shipped <= whole.bounds.upper).all()


def test_windows_begin_where_the_network_wants_them(monkeypatch):
    starts, real = [], certificate.windows

    def seen(*where, **how):
        row = real(*where, **how)
        starts.extend(window.start for window in row)
        return row

    monkeypatch.setattr(certificate, "windows", seen)
    monkeypatch.setattr(certificate, "COUNTS", 3 * 4 * 512 * 40**2)
    net = Plain(scale=2, context=32, exact=False, precision="fp32")
    made = certify(photo(100, 250), net, Claim(0.1, 0.02, n=150, shipped=41, alpha=0.4), seed=3)
    assert len(set(starts)) > 2 and not any(start % net.align for start in starts)
    assert made.shipped.shape == (3, 200, 500)


def test_one_pixel_less_context_shows(net, monkeypatch):
    x, claim = photo(20, 26), Claim(0.1, 0.02, n=150, shipped=41, alpha=0.4)
    whole = certify(x, net, claim, seed=3)
    monkeypatch.setattr(certificate, "COUNTS", 3 * 4 * 512 * 9**2)
    tiled = certify(x, replace(net, context=2), claim, seed=3)
    assert not torch.equal(whole.bounds.upper, tiled.bounds.upper)


def test_counts_stay_within_their_budget():
    net = Plain(context=18)
    for n, limit in ((10_000, 1.3), (40_000, 1.5)):
        claim = Claim(0.1, 0.1, n=n)
        size = window_size(net, claim, 500, 700)
        each = 3 * 16 * 256 * (2 if n < 2**15 else 4)
        assert (size[0] - 18) * (size[1] - 18) * each <= limit * certificate.COUNTS
    assert window_size(net, Claim(0.1, 0.1, n=10_000), 128, 128) == (128, 128)
    fixed = replace(net, fixed_size=(64, 64))
    assert window_size(fixed, CLAIM, 300, 300) == (64, 64)
    with pytest.raises(RobustSRError, match="--crop"):
        window_size(replace(net, fixed_size=(512, 512)), CLAIM, 600, 600)


def test_progress_counts_draws_and_may_stop(net, monkeypatch):
    monkeypatch.setattr(certificate, "PASS", 400)
    seen = []
    certify(photo(), net, CLAIM, seed=1, on_draws=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (441, 441) and [d for d, _ in seen] == sorted(d for d, _ in seen) and len(seen) > 5

    def stop(done, total):
        if done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certify(photo(), net, CLAIM, on_draws=stop)


def test_too_few_draws_are_refused_before_any_is_made():
    class Unused(Net):
        def __call__(self, x, *, origin=None):
            raise AssertionError("the network ran")

    with pytest.raises(RobustSRError, match=r"--samples \d+"):
        certify(photo(), Unused(), Claim(0.1, 0.2, n=30))


def test_a_network_that_gives_no_numbers():
    with pytest.raises(RobustSRError, match="not numbers"):
        certify(photo(4, 4), Plain(broken=("fp32",)), Claim(0.1, 0.01, n=300))


def test_more_draws_may_make_the_picture_than_bound_it():
    class Still(Plain):
        def __call__(self, x, *, origin=None):
            return torch.full_like(x, 0.5)

    made = certify(photo(1, 1), Still(scale=1, context=0), Claim(0.1, 0.01, n=400, shipped=33_000), seed=1)
    assert made.shipped.unique().tolist() == [128]


def test_out_of_memory_says_what_to_do():
    with pytest.raises(RobustSRError, match="--crop"):
        certify(photo(4, 4), Plain(memory=1), Claim(0.1, 0.01, n=300))


def test_float32_whatever_precision_it_came_in():
    assert certify(photo(4, 4), Plain(precision="bf16", broken=("bf16",)), Claim(0.1, 0.01, n=300)).claim.n == 300


# --- the field ---


def test_fields(net):
    assert find_field(net, "auto", 12, 16).radius == 3 and find_field(net, "image", 12, 16).radius is None
    assert find_field(net, "auto", 12, 16).values == 147 and find_field(net, "image", 12, 16).values == 576
    assert find_field(net, "receptive", 5, 16).sides == (5, 7)
    assert find_field(Padded(min_size=12, multiple=4), "auto", 12, 16).kind == "receptive"


@dataclass(frozen=True)
class Padded(Net):
    multiple: int = 1
    min_size: int = 1
    square: bool = False


@pytest.mark.parametrize("how", [{"exact": False}, {"multiple": 8}, {"min_size": 13}, {"square": True}], ids=str)
def test_the_receptive_field_is_refused_where_it_is_not_exact(how):
    network = Padded(**how)
    with pytest.raises(RobustSRError, match="--field image"):
        find_field(network, "receptive", 12, 16)
    assert find_field(network, "auto", 12, 16).kind == "image"
    with pytest.raises(RobustSRError, match="--field image"):
        certify(photo(), network, CLAIM, field="receptive")


# --- attacks ---


def medians(network, x, sigma, n=4000, seed=99):
    """The median of each output value at x, from draws that nothing else uses."""
    parts = []
    for start in range(0, n, 1000):
        noise = gaussian(seed, range(start, start + 1000), 3, *x.shape[-2:], torch.zeros(1, 2, dtype=torch.int64))
        parts.append(to_levels(network(x + sigma * noise[:, 0])))
    return torch.cat(parts).median(0).values


def pgd_l2(network, x, sigma, loss, eps, steps=12, draws=12):
    """delta, ||delta|| < eps, that maximises loss(mean output) over fresh noise at each step."""
    delta = torch.zeros_like(x)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        delta.requires_grad_(True)
        noise = torch.randn(draws, *x.shape[1:], generator=generator)
        (gradient,) = torch.autograd.grad(loss(network(x + delta + sigma * noise).clamp(0, 1).mean(0)), delta)
        delta = delta.detach() + eps / 3 * gradient / gradient.norm()
        delta = delta * min(1, 0.999 * eps / delta.norm().item())
    return delta


@pytest.fixture(scope="module")
def small(net):
    x, claim = photo(6, 6, seed=4), Claim(0.1, 0.15, n=3000, shipped=201)
    return x, claim, certify(x, net, claim, field="image", seed=11)


TARGETS = {
    "one value up": lambda y: y[0, 5, 6],
    "one value down": lambda y: -y[2, 3, 8],
    "all up": lambda y: y.sum(),
    "all down": lambda y: -y.sum(),
    "a region apart": lambda y: y[:, :6].sum() - y[:, 6:].sum(),
}


@pytest.mark.parametrize("target", TARGETS)
def test_no_attack_inside_eps_moves_the_median_out_of_the_bounds(net, small, target):
    x, claim, made = small
    delta = pgd_l2(net, x, claim.sigma, TARGETS[target], claim.eps)
    assert delta.norm() < claim.eps
    moved, clean = medians(net, x + delta, claim.sigma), medians(net, x, claim.sigma)
    assert (made.bounds.lower <= moved).all() and (moved <= made.bounds.upper).all()
    if target.startswith("one value"):  # the attack is no straw man
        at = (0, 5, 6) if target.endswith("up") else (2, 3, 8)
        room = (made.bounds.upper if target.endswith("up") else made.bounds.lower)[at].int() - clean[at].int()
        assert (moved[at].int() - clean[at].int()) / room > 0.35


def test_the_shipped_picture_stays_in_the_bounds_under_attack(net, small):
    x, claim, made = small
    for target in ("one value up", "all down"):
        delta = pgd_l2(net, x, claim.sigma, TARGETS[target], claim.eps)
        for seed in range(5):
            again = certify(x + delta, net, replace(claim, n=400, eps=1e-3, shipped=201), field="image", seed=seed)
            assert (made.bounds.lower <= again.shipped).all() and (again.shipped <= made.bounds.upper).all()


def test_the_receptive_claim_holds_for_norms_far_beyond_eps(net):
    """eps in every 7x7 field at once is several times eps over the picture."""
    x, claim = photo(14, 14, seed=4), Claim(0.1, 0.1, n=2500, shipped=201)
    made = certify(x, net, claim, seed=5)
    assert made.field.radius == 3
    for sign in (-1, 1):
        delta = sign * pgd_l2(net, x, claim.sigma, lambda y: y.sum(), 1.0).sign() * claim.eps * 0.999 / math.sqrt(147)
        fields = torch.nn.functional.avg_pool2d(delta.square().sum(1), 7, 1, 3, divisor_override=1).sqrt()
        assert fields.max() < claim.eps and delta.norm() > 1.9 * claim.eps
        moved = medians(net, x + delta, claim.sigma, 2000)
        assert (made.bounds.lower <= moved).all() and (moved <= made.bounds.upper).all()


def test_the_mean_under_attack(net):
    x, claim = photo(6, 6, seed=4), Claim(0.1, 0.1, n=2000, shipped=400, reduce="mean")
    made = certify(x, net, claim, field="image", seed=5)
    delta = pgd_l2(net, x, claim.sigma, lambda y: y.sum(), claim.eps)
    noise = gaussian(3, range(4000), 3, 6, 6, torch.zeros(1, 2, dtype=torch.int64))[:, 0]
    moved = to_levels(net(x + delta + claim.sigma * noise).clamp(0, 1).mean(0))
    assert (made.bounds.lower <= moved).all() and (moved <= made.bounds.upper).all()


# --- the record ---


def test_the_record_has_the_fields_of_the_method(net, made):
    told = record.describe(made, photo(), net)
    for key in ("n", "shipped", "sigma", "eps", "alpha", "beta", "scope", "field", "clamp", "precision", "versions"):
        assert key in told
    assert told["noise"]["algorithm"].startswith("philox") and int(told["noise"]["seed"], 16) == 7
    assert told["model"]["sha256"] == net.digest and len(told["input"]["sha256"]) == 64
    assert told["derived"]["ranks"] == list(made.claim.ranks())
    assert "certified_psnr" not in told["result"]
    hr = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    result = record.describe(made, photo(), net, hr)["result"]
    assert result["certified_psnr"] < result["psnr"]
    alone = replace(made, claim=replace(made.claim, scope="value"))
    assert "certified_psnr" not in record.describe(alone, photo(), net, hr)["result"]


def test_the_words_say_what_the_numbers_say(net, made):
    sure, ours, plain = record.claimed(made.claim, made.field)
    for part in ("0.95", "n = 400", "sigma 0.1", "eps = 0.05", "7x7", "2,304 values at once"):
        assert part in sure
    assert "0.9 " in ours and "beta 0.025" in ours and "41 new draws" in ours and "without knowledge" in ours
    assert "12.8 of 255 levels" in plain and "147 values" in plain
    larger = record.not_claimed(made.claim, made.field)[0]
    assert "10/255" in larger and f"{10 / 255 * math.sqrt(147):.3g}" in larger
    image = find_field(Plain(), "image", 120, 120)
    assert "8.15" in record.not_claimed(Claim(0.06, 0.06), image)[0]
    assert "r = 136" in record.not_claimed(Claim(0.06, 0.06), image)[0]
    alone = replace(made.claim, scope="value", beta=0)
    assert "each of 2,304 values by itself" in record.claimed(alone, image)[0]
    assert (
        "nothing is claimed" in record.claimed(alone, image)[1] and "whole 120x120" in record.claimed(alone, image)[0]
    )


@pytest.fixture
def told(net, made):
    hr = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    return record.describe(made, photo(), net, hr), {k: v.clone() for k, v in record.pictures(made).items()}, hr


def test_a_certificate_holds(net, told):
    written, stored, hr = told
    verdict = record.verify(written, photo(), net, stored, hr)
    assert not verdict.problems and verdict.moved == 0 and verdict.unchecked == ()
    assert "nobody can check that the seed was fresh" in verdict.notes[0]
    assert record.verify(written, photo(), net, stored).unchecked == ("psnr", "certified_psnr")


def test_what_no_certificate_says_is_refused_and_so_are_pictures_of_another_size(net, told):
    written, stored, hr = told
    verdict = record.verify({**written, "certified_psnr": 99}, photo(), net, stored, hr)
    assert verdict.problems == ["certified_psnr: no certificate has such an entry"]
    sections = {"derived": {"certified_linf": 0.04}, "noise": {"sequential": True}, "versions": {"certified": "Linf"}}
    for section, entry in sections.items():
        verdict = record.verify({**written, section: {**written[section], **entry}}, photo(), net, stored, hr)
        assert verdict.problems == [f"{section}.{next(iter(entry))}: no certificate has such an entry"]
    for entry in ({"result.certified_linf": 0.04}, {"input.name": "x"}, {"extra": {}}):  # nor beside the sections
        verdict = record.verify({**written, **entry}, photo(), net, stored, hr)
        assert verdict.problems == [f"{next(iter(entry))}: no certificate has such an entry"]
    smaller = {name: levels[..., :4] for name, levels in stored.items()}
    assert "not 32x24 pixels" in record.verify(written, photo(), net, smaller, hr).problems[0]


def test_infinite_figures_are_valid_json_and_verified(net):
    x = torch.zeros(1, 3, 6, 6)
    black = replace(net, convs=lambda x: -2.0)
    made = certify(x, black, CLAIM, seed=1)
    hr = torch.zeros(3, 12, 12)
    written = json.loads(json.dumps(record.describe(made, x, black, hr), allow_nan=False))
    assert written["result"]["psnr"] == written["result"]["certified_psnr"] == "inf"
    assert not record.verify(written, x, black, record.pictures(made), hr).problems


@pytest.mark.parametrize(
    "path, value, named",
    [
        ("eps", 0.06, "eps 0.06"),
        ("sigma", 0.09, "sigma 0.09"),
        ("n", 401, "n 401"),
        ("shipped", 51, "shipped 51"),
        ("alpha", 0.001, "alpha 0.001"),
        ("beta", 0.0, "beta 0.0"),
        ("scope", "value", "scope value"),
        ("reduce", "mean", "reduce mean"),
        ("eps", 5.0, "eps 5"),
        ("clamp", None, "clamp"),
        ("precision", "bf16", "precision"),
        ("noise.algorithm", "other", "noise.algorithm"),
        ("noise.draws", "antithetic", "noise.draws"),
        ("derived.ranks", [200, 201], "ranks"),
        ("field.kind", "image", "field.radius"),
        ("field.radius", 1, "field.radius"),
        ("window.context", 0, "window.context"),
        ("input.sha256", "0" * 64, "input.sha256"),
        ("model.sha256", "0" * 64, "model.sha256"),
        ("claim", ["Nothing moves."], "claim"),
        ("result.psnr", 99.0, "result.psnr"),
        ("result.certified_psnr", 99.0, "result.certified_psnr"),
        ("result.mean_width", 1.0, "result.mean_width"),
        ("result.other", 1.0, "result.other"),
        ("noise.seed", "0x8", "seed 0x8"),
    ],
)
def test_a_field_that_was_changed_is_named(net, told, path, value, named):
    written, stored, hr = told
    *groups, key = path.split(".")
    part = written
    for group in groups:
        part = part[group]
    part[key] = value
    problems = record.verify(written, photo(), net, stored, hr).problems
    assert problems and named in " ".join(problems)


def test_a_consistent_forgery_fails_on_the_bounds(net, made, told):
    """Every derived number fits the larger eps, or the other n: only computing the bounds again tells."""
    _, stored, _ = told
    for claim in (replace(made.claim, eps=0.06), replace(made.claim, alpha=1e-4), replace(made.claim, n=450)):
        forged = record.describe(replace(made, claim=claim), photo(), net)
        problems = record.verify(forged, photo(), net, stored).problems
        assert problems and all(("lower" in p or "upper" in p) and f"eps {claim.eps:g}" in p for p in problems)


def test_edited_pictures_fail(net, made, told):
    written, stored, hr = told
    stored["upper"][0, 3, 3] -= 1
    problems = record.verify(written, photo(), net, stored, hr).problems
    assert len(problems) == 1 and problems[0].startswith("upper: the picture is not the one")
    narrow = replace(made, bounds=replace(made.bounds, upper=made.bounds.upper - 2))
    problems = record.verify(record.describe(narrow, photo(), net), photo(), net, record.pictures(narrow)).problems
    assert len(problems) == 1 and problems[0].startswith("upper: 100.0%")


def test_another_picture_and_other_weights_fail(net, told):
    written, stored, hr = told
    assert "input.sha256" in record.verify(written, photo(seed=1), net, stored, hr).problems[0]
    assert "model.sha256" in record.verify(written, photo(), replace(net, digest="1"), stored, hr).problems[0]
    assert (
        "cannot be what it says"
        in record.verify(
            {**written, "field": {"kind": "receptive", "radius": 3}}, photo(), replace(net, exact=False), stored, hr
        ).problems[0]
    )


def test_another_device_may_move_a_level_of_few_values(net, made):
    upper = made.bounds.upper.clone()
    upper.view(-1)[:5] += 1
    near = replace(made, bounds=replace(made.bounds, upper=upper))
    verdict = record.verify(record.describe(near, photo(), net), photo(), net, record.pictures(near))
    assert not verdict.problems and 0 < verdict.moved < 0.005
    upper.view(-1)[0] += 1
    assert record.verify(record.describe(near, photo(), net), photo(), net, record.pictures(near)).problems
    many = made.bounds.upper.clone()
    many.view(-1)[:50] -= 1  # 2% of the values
    moved = replace(made, bounds=replace(made.bounds, upper=many))
    assert record.verify(record.describe(moved, photo(), net), photo(), net, record.pictures(moved)).problems


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"eps": "a"}, {"n": 400.0}, {"noise": {}}, {"eps": -1}, {"result": 3}]
    + [{"noise": {"seed": seed, "fresh": True}} for seed in ("0x" + "f" * 5000, "-0x1", "0x10000000000000000")],
)
def test_a_damaged_certificate(net, told, change):
    written, stored, hr = told
    with pytest.raises(RobustSRError):
        record.verify({**written, **change}, photo(), net, stored, hr)


def test_a_record_names_no_weights_that_are_not_those_of_the_file(tiny):
    net, x, claim = load(tiny, device="cpu", precision="bf16"), photo(8, 8), Claim(0.06, 0.06, n=400, shipped=41)
    other = load(tiny, device="cpu", precision="fp32")
    record.describe(certify(x, net, claim, seed=1), x, net)
    for one in (net, other):
        with torch.no_grad():
            next(one.module.parameters()).mul_(1.5)
    made, want = (certify(x, one, claim, seed=1) for one in (net, replace(other)))
    assert torch.equal(made.bounds.upper, want.bounds.upper)  # in float32, whatever it was loaded as
    with pytest.raises(RobustSRError, match="the weights of tiny were changed: save them"):
        record.describe(made, x, net)
