"""Threats: parsing, budgets, refusals, and which attacks a word stands for."""

import math

import pytest
import torch

from robustsr import threats
from robustsr.settings import Smoothing
from robustsr.threats import Threat, parse, variants_for, with_loss
from robustsr.types import RobustSRError, number, shown


def picture(h=12, w=14, n=1):
    x = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    return (x * 255).round() / 255


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("8px", 8 / 255), (".031", 0.031), ("1e-2", 0.01)])
def test_sizes_as_people_write_them(text, value):
    assert number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["0.1", "8/255", "2.5/255", "2", "0.2", "0.12345678"])
def test_sizes_are_shown_as_people_write_them(text):
    assert shown(number(text)) == text


def test_attacks_may_be_written_in_capitals():
    assert parse("PGD_L2:eps=.5") == parse("pgd-l2:eps=.5") and parse(" Pgd:steps=3") == parse("pgd:steps=3")
    assert with_loss("PGD:eps=8/255", "mse") == "pgd:eps=8/255,loss=mse"


@pytest.mark.parametrize("text", ["", "8/", "8/0", "abc", "8 px/2", "px"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RobustSRError, match="write 8/255, 8px or 0.031"):
        number(text)


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("fgsm", "fgsm"),
        ("pgd:eps=10px,steps=20,restarts=2", "pgd:eps=10/255,steps=20,restarts=2"),
        ("pgd:norm=l2,eps=0.5", "pgd-l2:eps=0.5"),
        ("pgd-l2:eps_rel=.05,loss=mse", "pgd-l2:eps_rel=0.05,loss=mse"),
        ("cw:c=1,steps=4,squared=true,drop=3", "cw:steps=4,c=1,squared=true,drop=3"),
        ("random:eps=.1", "random:eps=0.1"),
        ("pgd-l2:eps=.5,clip=false", "pgd-l2:eps=0.5,clip=false"),
    ],
)
def test_specs_have_one_canonical_form(spec, canonical):
    assert parse(spec).spec == canonical
    assert parse(canonical) == parse(spec)
    assert threats.is_threat(spec) and not threats.is_threat("noise:sigma=0.03")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("deepfool", "no attack 'deepfool'; there are: fgsm, bim, pgd, cw, random, pgd-l2"),
        ("cw:eps=8/255", "cw has no ball, so no eps"),
        ("pgd:eps=8", "did you mean 8/255"),
        ("pgd:epsilon=1", "epsilon is none of its settings"),
        ("pgd:steps=many", "steps must be a whole number, got 'many'"),
        ("pgd:steps=0", "must be at least 1"),
        ("bim:norm=l2", "bim has no use for norm, only pgd, random"),
        ("pgd:eps_rel=.1", "eps_rel is an L2 budget"),
        ("pgd-l2:eps=.1,eps_rel=.1", "eps_rel is an L2 budget"),
        ("cw:clip=false", "cw has no use for clip, only fgsm, bim, pgd"),
        ("pgd:drop=3", "pgd has no use for drop, only cw"),
        ("fgsm:steps=3", "fgsm has no use for steps, only bim, pgd, cw"),
        ("random:steps=3", "random has no use for steps"),
        ("pgd:eps=-1", "eps must be at least 0"),
        ("pgd:norm=l1", "linf or l2"),
        ("cw:squared=yes", "squared must be true or false, got 'yes'"),
        ("pgd:eps=abc", r"'pgd:eps=abc': eps must be 8/255, 8px or 0.031, got 'abc'"),
        ("pgd:eps=1/255,eps=4/255", "eps is given twice"),
    ],
)
def test_wrong_threats_are_explained(spec, message):
    with pytest.raises(RobustSRError, match=message):
        parse(spec)


def test_budgets():
    x = picture()
    assert parse("pgd").budget(x) == 8 / 255 and parse("pgd-l2").budget(x) == 0.5
    assert parse("pgd-l2:eps_rel=.1").budget(x) == pytest.approx(0.1 * math.sqrt(3 * 12 * 14))
    assert [parse(s).iterations for s in ("fgsm", "bim", "pgd", "cw", "cw:steps=4")] == [1, 10, 10, 6, 4]


def test_which_variants_a_word_stands_for():
    smoothing = Smoothing("median", 0.1, 3)
    assert variants_for("worst", smoothing) == ["base", "eot", "mean", "losses", "seed"]
    assert variants_for("worst", Smoothing("mean", 0.1, 3)) == ["base", "eot", "losses", "seed"]
    assert variants_for("worst", None) == ["base"] == variants_for("base", smoothing)
    assert variants_for("smoothed", smoothing) == ["eot", "mean", "losses", "seed"]
    assert variants_for("eot,base", smoothing) == ["base", "eot"]
    with pytest.raises(RobustSRError, match="attacks a smoothed model: add --smooth"):
        variants_for("smoothed", None)
    with pytest.raises(RobustSRError, match="got everything"):
        variants_for("everything", smoothing)


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ("fgsm", "1 step of eps"),
        ("bim", "10 steps of eps/steps"),
        ("pgd:steps=5", "5 steps of eps/4 from a random start"),
        ("pgd:step_size=2/255", "10 steps of 2/255 from a random start"),
        ("cw:c=1", "6 steps of Adam at rate 0.01, c 1; values at 0 or 1 hardly move"),
        ("cw:step_size=.05", "6 steps of Adam at rate 0.05, c 0.01; values at 0 or 1 hardly move"),
    ],
)
def test_an_attack_says_how_it_goes(spec, way):
    assert parse(spec).way == way


def test_options_replace_only_what_is_given():
    threat = threats.with_options(parse("pgd:eps=4/255"), steps=7, eps=None)
    assert threat == Threat("pgd", eps=4 / 255, steps=7)
