"""Muon against its definition, torch's own, and Adam for what is no matrix."""

import pytest
import torch
from robustsr_training.muon import Muon, orthogonal


def weights(seed=0):
    """A convolution's, one with fewer columns than rows, and a bias."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random) for shape in ((8, 4, 3, 3), (30, 2, 3, 3), (8,))]


def trained(optimiser, params):
    """Four steps; each parameter has the gradient of the weight that is as large."""
    for step in range(4):
        gradients = {gradient.numel(): gradient for gradient in weights(step + 1)}
        for p in params:
            p.grad = gradients[p.numel()].view_as(p)
        optimiser.step()


@pytest.mark.parametrize("shape", [(8, 36), (30, 18)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonal(matrix)
    inside = u.T @ made @ v.T
    assert float((inside - inside.diag().diag()).abs().max()) < 1e-9
    assert s.max() / s.min() > 2 and inside.diag().min() > 0.6 and inside.diag().max() < 1.25
    assert orthogonal(torch.zeros(shape)).abs().max() == 0


def test_matrices_go_as_torch_has_it_and_the_rest_as_adam():
    ours = [w.requires_grad_() for w in weights()]
    matrices = [w.flatten(1).requires_grad_() for w in weights()[:2]]
    bias = weights()[2].requires_grad_()
    trained(Muon(ours, 0.1, (0.9, 0.99)), ours)
    trained(torch.optim.Muon(matrices, lr=0.1, weight_decay=0, adjust_lr_fn="match_rms_adamw"), matrices)
    trained(torch.optim.Adam([bias], 0.1, (0.9, 0.99)), [bias])
    for mine, other, start in zip(ours, matrices, weights(), strict=False):
        moved = (other - start.flatten(1)).norm()
        assert float(((mine.flatten(1) - other).norm() / moved).detach()) < 0.02  # torch iterates in bfloat16
    torch.testing.assert_close(ours[2], bias)


def test_memory_formats_change_nothing_and_what_has_no_gradient_stays():
    plain, idle = weights()[0].requires_grad_(), weights()[1].requires_grad_()
    turned = weights()[0].contiguous(memory_format=torch.channels_last).requires_grad_()
    trained(Muon([plain, idle], 0.1, (0.9, 0.99)), [plain])
    trained(Muon([turned], 0.1, (0.9, 0.99)), [turned])
    torch.testing.assert_close(plain, turned)
    assert not torch.equal(plain, weights()[0]) and torch.equal(idle, weights()[1])


def test_one_row_or_column_is_no_matrix():
    ours, theirs = ([torch.ones(shape, requires_grad=True) for shape in ((1, 8, 1, 1), (9, 1, 1, 1))] for _ in range(2))
    for method, params in ((Muon, ours), (torch.optim.Adam, theirs)):
        optimiser = method(params, 0.1, (0.9, 0.99))
        for p in params:
            p.grad = torch.linspace(-1, 1, p.numel()).view_as(p)
        optimiser.step()
    torch.testing.assert_close(ours, theirs)
