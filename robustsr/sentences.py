"""A certificate in sentences: what is claimed, exactly and plainly, and what is not."""

from __future__ import annotations

from .certificate import Field
from .certify import Claim


def claimed(claim: Claim, field: Field) -> list[str]:
    """The sentences of what is claimed: exactly, then plainly."""
    if field.radius is None:
        inside = f"over the whole {field.w}x{field.h} input (all three channels)"
    else:
        side = 2 * field.radius + 1
        inside = f"inside the receptive field ({side}x{side} input pixels, all three channels) of every output pixel"
    where = (
        f"in all {claim.values:,} values at once"
        if claim.scope == "simultaneous"
        else f"at each of {claim.values:,} values by itself (on average, a share of {claim.alpha:.6g} may be outside)"
    )
    true = f"true {claim.reduce} of the smoothed model, rounded to 8 bits,"
    sure = (
        f"With probability at least {1 - claim.alpha:.6g} (1 - alpha) over n = {claim.n} random draws with sigma "
        f"{claim.sigma:.6g}, for every perturbation whose L2 norm is below eps = {claim.eps:.6g} {inside}, the {true} "
        f"lies between the lower and the upper picture {where}."
    )
    among_these = f" (but for a share {claim.failure:.6g}, on average)" if claim.scope == "value" else ""
    ours = (
        f"With probability at least {1 - claim.failure:.6g} (1 - alpha - 2 beta; alpha {claim.alpha:.6g}, beta "
        f"{claim.beta:.6g}) the same holds for the picture itself{among_these}, made in the same way "
        f"from {claim.shipped} new draws after any one such perturbation, if that was chosen without knowledge of "
        f"these draws."
    )
    if claim.beta == 0:
        ours = (
            f"The picture, made of {claim.shipped} draws, is an estimate of that {claim.reduce}: beta is 0, so nothing "
            f"is claimed about the picture itself."
        )
    each = claim.eps * 255 / field.values**0.5
    among = "of the input" if field.radius is None else "that a result pixel depends on"
    plain = (
        f"In plain words: so small a change of the input cannot push the result out of the range between the lower and "
        f"the upper picture. So small is: one colour value by up to {claim.eps * 255:.3g} of 255 levels, or all "
        f"{field.values:,} values {among} by up to {each:.2g} levels each."
    )
    return [sure, ours, plain]


def not_claimed(claim: Claim, field: Field, budget: float = 10 / 255) -> list[str]:
    """The sentences of what is not claimed, with the L2 norm of an Linf ``budget``."""
    norm = budget * field.values**0.5
    where = "on this input" if field.radius is None else "inside one receptive field"
    return [
        f"Not claimed: larger changes. An attack may move every value by {budget * 255:g}/255 (Linf), up to an L2 norm "
        f"of {norm:.3g} {where}, r = {norm / claim.sigma:.3g}; certified is r = {claim.r:.3g}. Camera noise, JPEG "
        f"compression and resizing are far outside as well.",
        "Not claimed: exact arithmetic. In float32, values move by about 1e-5 with what lies beyond their field, too.",
        "Not claimed: perturbations chosen with knowledge of the shipped draws; the certificate tells their seed.",
        "Not claimed: the best of several runs. Seed, n, eps and sigma have to be chosen before any result is seen.",
        "Not claimed: that the picture is right. The bounds say how little it can be moved, not how good it is.",
    ]
