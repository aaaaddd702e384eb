"""What corruptions and degradations do to one picture and seed: results made today must come out the same tomorrow."""

import pytest
import torch

from robustsr.corruptions import parse
from robustsr.degradation import LIGHT, Degradation, degrade

# By severity where there are several, each in units of 1e-4: the mean of the result, the standard deviation of the
# change, and its covariance with the picture two rows lower and three columns further right.
CORRUPTED = {
    "noise": [(5221, 301, 0)],
    "blur": [(5233, 1332, 164)],
    "blur:sigma=2,align=odd": [(5217, 1637, 186)],
    "jpeg": [(5211, 1135, 73)],
    "webp": [(5228, 847, 58)],
    "second-order": [(5219, 1910, 203)],
    "gaussian-noise": [(5219, 763, 3), (5217, 1105, 6), (5209, 1587, 12), (5195, 2170, 18), (5170, 2910, 29)],
    "shot-noise": [(5148, 845, 1), (5085, 1256, 5), (4972, 1724, -1), (4731, 2466, 3), (4522, 3053, -7)],
    "impulse-noise": [(5212, 1064, 1), (5200, 1507, 3), (5202, 1837, 7), (5191, 2463, 13), (5154, 3103, 10)],
    "defocus-blur": [(5217, 1463, 159), (5217, 1906, 221), (5217, 2409, 267), (5285, 2668, 243), (5273, 2828, 199)],
    "glass-blur": [(5218, 1981, 241), (5218, 1814, 225), (5218, 2368, 274), (5218, 2411, 262), (5218, 2554, 231)],
    "motion-blur": [(5203, 1259, -40), (5192, 1823, -47), (5178, 2327, -48), (5163, 2663, -47), (5152, 2803, -44)],
    "zoom-blur": [(5210, 1857, 219), (5201, 2046, 244), (5189, 2096, 244), (5179, 2231, 239), (5162, 2314, 214)],
    "snow": [(6960, 1088, 59), (7734, 1475, 93), (7945, 1762, 109), (8341, 2040, 120), (8789, 2180, 142)],
    "frost": [(6510, 545, 41), (6313, 1015, 48), (6168, 1331, 52), (5919, 1456, 48), (5842, 1623, 50)],
    "fog": [(4669, 1992, 25), (4610, 2206, 28), (4774, 2370, 35), (5261, 2376, 47), (5658, 2495, 61)],
    "brightness": [(5782, 331, -9), (6066, 645, -27), (6265, 935, -44), (6419, 1199, -57), (6528, 1408, -70)],
    "contrast": [(5218, 1902, 41), (5218, 2219, 48), (5218, 2536, 55), (5218, 2853, 62), (5218, 3012, 66)],
    "elastic-transform": [(4949, 4459, 48), (5011, 4510, 29), (5203, 3081, 52), (5210, 3103, 55), (5223, 3274, 90)],
    "pixelate": [(5218, 880, 33), (5218, 975, 42), (5218, 1332, 80), (5218, 1660, 125), (5218, 1834, 154)],
    "jpeg-compression": [(5213, 1253, 86), (5214, 1386, 95), (5218, 1438, 94), (5249, 1542, 109), (5184, 1608, 100)],
    "speckle-noise": [(5149, 806, 2), (5104, 1046, 2), (4937, 1722, 3), (4816, 2126, 4), (4653, 2615, 4)],
    "gaussian-blur": [(5218, 732, 75), (5219, 1632, 184), (5220, 2142, 226), (5222, 2436, 223), (5227, 2755, 185)],
    "spatter": [(5293, 394, 3), (5444, 716, 12), (5540, 778, 15), (4746, 1581, -30), (4528, 1884, -36)],
    "saturate": [(7080, 2123, 141), (7613, 2730, 182), (4555, 799, -29), (4090, 1715, 8), (4019, 1825, 14)],
}
# The standard deviation of the result, in units of 1e-3, for the seeds from 0 on.
HEAVY = """
197 212 139 77 197 234 149 136 190 131 98 215 136 160 197 197 184 154 175 183
207 103 164 163 150 231 136 188 176 95 205 185 157 193 248 201 156 160 90 59
"""
GENTLE = """
249 241 241 242 255 252 225 241 242 258 242 246 241 244 241 255 213 245 244 228
245 243 252 223 252 247 240 233 234 253 243 245 244 239 245 240 245 246 251 245
"""


def waves(h=64, w=72):
    t, y = torch.linspace(0, 1, w), torch.linspace(0, 1, h)[:, None]
    return torch.stack([0.5 + 0.45 * torch.sin(9 * (k + 1) * (t + 0.7 * y) ** 2) for k in range(3)])


@pytest.mark.parametrize(
    ("spec", "figures"),
    [
        (f"{name}:severity={severity}" if len(rows) > 1 else name, row)
        for name, rows in CORRUPTED.items()
        for severity, row in enumerate(rows, 1)
    ],
)
def test_corruptions_never_change(spec, figures):
    x, corruption = waves(), parse(spec)
    y = corruption(x, 3).double()
    change, elsewhere = y - x, x.roll((2, 3), (1, 2)) - 0.5
    found = [1e4 * float(value) for value in (y.mean(), change.std(), (change * elsewhere).mean())]
    codec = corruption.name in ("jpeg", "jpeg-compression", "webp", "second-order")  # of which there are versions
    assert found == pytest.approx(figures, abs=30 if codec else 2)


@pytest.mark.parametrize(("config", "spreads"), [(Degradation(), HEAVY), (LIGHT, GENTLE)], ids=["default", "light"])
def test_degradations_never_change(config, spreads):
    wanted = [int(spread) for spread in spreads.split()]
    found = [1e3 * float(degrade(waves(), 2, seed, config).double().std()) for seed in range(len(wanted))]
    assert found == pytest.approx(wanted, abs=2)
