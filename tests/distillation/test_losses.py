import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fervit_lib.distillation import (
    DistillLoss,
    FeatureTerm,
    LossWeights,
    binary_kl,
    temperature_at,
)
from fervit_lib.distillation.losses import FEATURE_LOSSES, SCHEDULES, TERMS, feature_loss


def test_kl_follows_its_definition() -> None:
    student = torch.randn(2, 1, 4, 4)
    teacher = torch.randn(2, 1, 4, 4)
    p = (teacher / 3).sigmoid()
    q = (student / 3).sigmoid()
    expected = 9 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(binary_kl(student, teacher, 3.0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_is_finite_for_extreme_logits(dtype: torch.dtype, temperature: float) -> None:
    extreme = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype)
    student = extreme[:, None].expand(5, 5).clone().requires_grad_()
    kl = binary_kl(student, extreme[None].expand(5, 5), temperature)
    kl.backward()
    assert kl.isfinite()
    assert student.grad.isfinite().all()
    assert binary_kl(extreme, extreme, temperature) == 0


def test_the_size_of_the_kl_gradient_does_not_depend_on_the_temperature() -> None:
    teacher = 0.3 * torch.randn(64)
    norms = []
    for temperature in (1.0, 2.0, 3.0, 10.0):
        student = torch.zeros(64, requires_grad=True)
        binary_kl(student, teacher, temperature).backward()
        norms.append(student.grad.norm().item())
    assert max(norms) / min(norms) < 1.1


def test_kl_refuses_unequal_shapes_and_temperature_0() -> None:
    with pytest.raises(ValueError, match=r"teacher_logits: .*\(2, 1\), got \(2, 2\)"):
        binary_kl(torch.zeros(2, 1), torch.zeros(2, 2), 1.0)
    with pytest.raises(ValueError, match="temperature"):
        binary_kl(torch.zeros(2), torch.zeros(2), 0.0)


@given(st.sampled_from(list(SCHEDULES)), st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_temperature_stays_between_start_and_end(
    name: str, start: float, end: float, progress: float
) -> None:
    assert temperature_at(0.0, start, end, name) == pytest.approx(start)
    assert temperature_at(1.0, start, end, name) == pytest.approx(end)
    temperature = temperature_at(progress, start, end, name)
    assert min(start, end) - 1e-9 <= temperature <= max(start, end) + 1e-9


def test_known_points_of_the_schedules() -> None:
    assert temperature_at(0.5, 3, 1, "linear") == pytest.approx(2)
    assert temperature_at(0.25, 3, 1, "cosine") == pytest.approx(1 + (1 + math.sqrt(0.5)))
    assert temperature_at(0.5, 3, 1, "exponential") == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.5, 3, 1, "cosinus"), "temperature_schedule"),
        ((0.5, 0, 1, "linear"), "temperature"),
        ((1.5, 3, 1, "linear"), "progress"),
    ],
)
def test_a_bad_schedule_is_an_error(arguments: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        temperature_at(*arguments)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_is_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match="kl_weight"):
        LossWeights(kl=weight)


def test_ignored_pixels_change_no_term() -> None:
    masks = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    masks[:, :, 4:] = 255
    logits = torch.randn(2, 1, 8, 8)
    teacher = torch.randn(2, 1, 8, 8)
    loss = DistillLoss(LossWeights(feature=0.0))
    before = loss((logits, None), masks, teacher)
    changed = logits.clone()
    changed[:, :, :, 4:] = 7.0
    torch.testing.assert_close(loss((changed, None), masks, teacher), before)


def test_dice_follows_its_definition_over_the_whole_batch() -> None:
    masks = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    masks[0] = 0  # an image without a person does not count on its own
    masks[1, :2] = 255
    logits = torch.randn(2, 1, 8, 8)
    loss = DistillLoss(LossWeights(kl=0, mse=0, bce=0, feature=0))
    probs = logits[:, 0].sigmoid() * (masks != 255)
    person = (masks == 1).float()
    expected = 1 - (2 * (probs * person).sum() + 1) / (probs.sum() + person.sum() + 1)
    torch.testing.assert_close(loss((logits, None), masks), expected)


@pytest.mark.parametrize("value", [0, 255])
def test_the_loss_of_empty_or_ignored_masks_is_finite(value: int) -> None:
    logits = torch.randn(2, 1, 8, 8)
    masks = torch.full((2, 8, 8), value, dtype=torch.uint8)
    assert DistillLoss(LossWeights(feature=0.0))((logits, None), masks, logits).isfinite()


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    masks = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    logits = torch.randn(2, 1, 8, 8)
    features = torch.randn(2, 5, 4, 4)
    loss = DistillLoss(LossWeights())
    total = loss((logits, features[:, None] + 1), masks, logits + 1, features)
    terms = {name: getattr(loss, f"{name}_term") for name in TERMS}
    expected = (
        terms["kl"]
        + 0.5 * terms["mse"]
        + 0.5 * terms["bce"]
        + terms["dice"]
        + 0.5 * terms["feature"]
    )
    torch.testing.assert_close(total, expected)
    assert terms["feature"] == pytest.approx(1.0)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_a_feature_loss_is_0_at_equal_features_only(name: str, attention: bool) -> None:
    features = torch.randn(2, 5, 4, 4)
    term = FeatureTerm(loss=name, attention=attention)
    equal = features[:, None].expand(-1, 3, -1, -1, -1)
    assert feature_loss(equal, features, term).item() == pytest.approx(0, abs=1e-6)
    other = (features[:, None] + 0.3 * torch.randn(2, 1, 5, 4, 4)).requires_grad_()
    loss = feature_loss(other, features, term)
    loss.backward()
    assert loss > 1e-3
    assert other.grad.abs().sum() > 0 and other.grad.isfinite().all()


def test_the_cosine_loss_ignores_the_length_of_features() -> None:
    features = torch.randn(2, 5, 4, 4)
    term = FeatureTerm(loss="cosine")
    assert feature_loss(3 * features[:, None], features, term) == pytest.approx(0, abs=1e-6)
    assert feature_loss(-features[:, None], features, term) == pytest.approx(2)


def test_attention_counts_only_where_the_detector_is_active() -> None:
    features = torch.zeros(1, 5, 4, 4)
    features[:, :, 0] = 1.0  # a quarter of the positions
    term = FeatureTerm(attention=True)
    elsewhere = features.clone()
    elsewhere[:, :, 1:] = 7.0
    assert feature_loss(elsewhere[:, None], features, term) == 0
    assert feature_loss(features[:, None] + 2, features, term) == pytest.approx(4)
    assert feature_loss(features[:, None], torch.zeros_like(features), term).isfinite()


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"tap": "neck"}, "feature_tap"),
        ({"loss": "l2"}, "feature_loss"),
        ({"width": 0}, "feature_width"),
    ],
)
def test_a_bad_feature_term_is_named(bad: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        FeatureTerm(**bad)


def test_a_missing_target_or_masks_of_another_size_are_errors() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    logits = torch.zeros(2, 1, 8, 8)
    loss = DistillLoss(LossWeights())
    with pytest.raises(KeyError, match="feature"):
        loss((logits, None), masks, logits)
    with pytest.raises(ValueError, match="size"):
        loss((logits, None), masks[:, :4], logits)
