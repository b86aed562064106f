import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fervit_lib.distillation import (
    DistillLoss,
    ExpressionLoss,
    LossWeights,
    binary_kl,
    temperature_at,
)
from fervit_lib.distillation.losses import SCHEDULES


def test_kl_is_what_its_definition_says() -> None:
    student, teacher = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    p, q = (teacher / 3).sigmoid(), (student / 3).sigmoid()
    expected = 9 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(binary_kl(student, teacher, 3.0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_is_finite_wherever_logits_are(dtype: torch.dtype, temperature: float) -> None:
    edge = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype)
    student = edge[:, None].expand(5, 5).clone().requires_grad_()
    kl = binary_kl(student, edge[None].expand(5, 5), temperature)
    kl.backward()
    assert kl.isfinite()
    assert student.grad.isfinite().all()
    assert binary_kl(edge, edge, temperature) == 0


def test_the_gradient_of_kl_keeps_its_size_as_the_temperature_changes() -> None:
    teacher, sizes = 0.3 * torch.randn(64), []
    for temperature in (1.0, 2.0, 3.0, 10.0):
        student = torch.zeros(64, requires_grad=True)
        binary_kl(student, teacher, temperature).backward()
        sizes.append(student.grad.norm().item())
    assert max(sizes) / min(sizes) < 1.1


def test_kl_refuses_unequal_shapes_and_no_temperature() -> None:
    with pytest.raises(
        ValueError, match=r"teacher_logits: expected the student's shape \(2, 1\), got \(2, 2\)"
    ):
        binary_kl(torch.zeros(2, 1), torch.zeros(2, 2), 1.0)
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        binary_kl(torch.zeros(2), torch.zeros(2), 0.0)


@given(st.sampled_from(SCHEDULES), st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_temperature_goes_from_start_to_end_and_nowhere_else(
    name: str, start: float, end: float, at: float
) -> None:
    assert temperature_at(0.0, start, end, name) == pytest.approx(start)
    assert temperature_at(1.0, start, end, name) == pytest.approx(end)
    assert min(start, end) - 1e-9 <= temperature_at(at, start, end, name) <= max(start, end) + 1e-9


def test_schedules_half_way() -> None:
    assert temperature_at(0.5, 3, 1, "linear") == pytest.approx(2)
    assert temperature_at(0.25, 3, 1, "cosine") == pytest.approx(1 + (1 + math.sqrt(0.5)))
    assert temperature_at(0.5, 3, 1, "exponential") == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 3, 1, "cosinus"), "got 'cosinus'"),
        ((0.5, 0, 1, "linear"), "above 0"),
        ((1.5, 3, 1, "linear"), "progress"),
    ],
)
def test_a_bad_schedule_is_an_error(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        temperature_at(*arguments)


def test_ignored_pixels_change_no_term() -> None:
    masks = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    masks[:, :, 4:] = 255
    logits, teacher = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    loss = DistillLoss(LossWeights(feature=0.0))
    before = loss((logits, None), masks, teacher)
    changed = logits.clone()
    changed[:, :, :, 4:] = 7.0
    torch.testing.assert_close(loss((changed, None), masks, teacher), before)


def test_a_loss_with_only_ignored_or_empty_masks_is_finite() -> None:
    logits = torch.randn(2, 1, 8, 8)
    for value in (0, 255):
        masks = torch.full((2, 8, 8), value, dtype=torch.uint8)
        assert DistillLoss(LossWeights(feature=0.0))((logits, None), masks, logits).isfinite()


def test_the_loss_is_the_weighted_sum_of_its_terms_and_names_what_it_lacks() -> None:
    masks, logits = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8), torch.randn(2, 1, 8, 8)
    features = torch.randn(2, 5, 4, 4)
    loss = DistillLoss(LossWeights())
    total = loss((logits, features + 1), masks, logits + 1, features)
    assert set(loss.terms) == {"kl", "mse", "bce", "dice", "feature"}
    terms = loss.terms
    expected = (
        terms["kl"]
        + 0.5 * terms["mse"]
        + 0.5 * terms["bce"]
        + terms["dice"]
        + 0.5 * terms["feature"]
    )
    torch.testing.assert_close(total, expected)
    assert terms["feature"] == pytest.approx(1.0)
    with pytest.raises(
        ValueError, match="the loss weighs feature, but the batch has nothing for it"
    ):
        loss((logits, None), masks, logits)
    with pytest.raises(ValueError, match="features: expected"):
        loss((logits, features), masks, logits, features[:, :3])
    with pytest.raises(ValueError, match="masks: expected"):
        loss((logits, features), masks[:, :4], logits, features)
    with pytest.raises(ValueError, match="kl_weight: expected a number of 0 or more, got -1"):
        LossWeights(kl=-1)


def test_expression_losses() -> None:
    logits, labels = torch.randn(4, 7), torch.arange(4)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert ExpressionLoss("soft", alpha=1.0)(logits, labels, logits) == pytest.approx(0, abs=1e-6)
    assert ExpressionLoss("none")(logits, labels, torch.randn(4, 7)) == plain
    sure = 100 * torch.nn.functional.one_hot(labels, 7).float()
    torch.testing.assert_close(ExpressionLoss("hard", alpha=0.3)(logits, labels, sure), plain)
    token = torch.randn(4, 7, requires_grad=True)
    ours = logits.clone().requires_grad_()
    ExpressionLoss("token", alpha=1.0)((ours, token), labels, sure).backward()
    assert token.grad.abs().sum() > 0
    assert not ours.grad.abs().sum()
    for bad, message in (({"kind": "warm"}, "kind"), ({"kind": "soft", "alpha": 2}, "alpha")):
        with pytest.raises(ValueError, match=message):
            ExpressionLoss(**bad)
