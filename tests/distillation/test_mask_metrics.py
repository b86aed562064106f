import pandas as pd
import pytest
import torch

from fervit_lib.distillation.compare import choose_student, interval_table, summary
from fervit_lib.distillation.metrics import boundary, count_pixels, scores_from


def masks_of(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    masks = torch.zeros(len(boxes), 32, 32, dtype=torch.uint8)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return masks


def as_logits(masks: torch.Tensor) -> torch.Tensor:
    return (20.0 * (masks == 1) - 10.0)[:, None]


def test_a_perfect_prediction_scores_1() -> None:
    masks = masks_of((4, 4, 20, 20), (0, 0, 32, 8))
    scores = scores_from(count_pixels(as_logits(masks), masks, as_logits(masks)))
    assert {name: value.item() for name, value in scores.items()} == dict.fromkeys(scores, 1.0)


def test_known_ious() -> None:
    true = masks_of((0, 0, 10, 10), (0, 0, 20, 20))
    predicted = masks_of((0, 0, 10, 5), (0, 0, 20, 20))
    scores = scores_from(count_pixels(as_logits(predicted), true, as_logits(true)))
    assert scores["fg_iou"] == pytest.approx(450 / 500)
    assert scores["fg_iou_per_image"] == pytest.approx((0.5 + 1) / 2)
    background = (2 * 1024 - 500) / (2 * 1024 - 450)
    assert scores["miou"] == pytest.approx((450 / 500 + background) / 2)
    assert scores["teacher_agreement"] == pytest.approx(1 - 50 / 2048)


def test_ignored_pixels_are_not_counted() -> None:
    masks = masks_of((4, 4, 20, 20))
    masks[:, 25:] = 255
    logits = as_logits(masks)
    before = count_pixels(logits, masks, logits)
    logits[:, :, 25:] = 10.0
    assert torch.equal(count_pixels(logits, masks, as_logits(masks)), before)


def test_an_empty_mask_scores_1_if_nothing_is_predicted_else_0() -> None:
    empty = masks_of((0, 0, 0, 0))
    assert scores_from(count_pixels(as_logits(empty), empty))["fg_iou"] == 1
    assert scores_from(count_pixels(as_logits(masks_of((0, 0, 4, 4))), empty))["fg_iou"] == 0


def test_without_a_teacher_the_agreement_is_nan() -> None:
    masks = masks_of((0, 0, 4, 4))
    assert scores_from(count_pixels(as_logits(masks), masks))["teacher_agreement"].isnan()


def test_boundary_iou_falls_faster_than_iou() -> None:
    edge = boundary(masks_of((8, 8, 24, 24)) == 1)
    assert edge.sum() == 16 * 16 - 14 * 14  # 2 % of this diagonal is 0.9: one pixel
    true = masks_of((4, 4, 28, 28))
    predicted = masks_of((5, 5, 27, 27))
    scores = scores_from(count_pixels(as_logits(predicted), true))
    assert scores["boundary_iou"] < 0.1 < 0.8 < scores["fg_iou"]


def test_intervals_contain_the_score_and_are_paired() -> None:
    generator = torch.Generator().manual_seed(0)
    true = masks_of(*[(4, 4, 12 + i % 8, 20) for i in range(30)])
    noise = 8 * torch.randn(3, 30, 1, 32, 32, generator=generator)

    def counts(strength: int) -> torch.Tensor:
        logits = strength * as_logits(true) + noise
        return torch.stack([count_pixels(seed, true, as_logits(true)) for seed in logits])

    weak = counts(1)
    strong = counts(3)
    table, pairs = interval_table({"none": weak, "outputs": strong})
    for row in table.to_dict("records"):
        assert row["fg_iou_low"] <= row["fg_iou"] <= row["fg_iou_high"]
    [pair] = pairs.to_dict("records")
    assert pair["low"] > 0
    same, none = interval_table({"none": weak, "outputs": weak})
    assert len(same) == 2
    assert none[["difference", "low", "high"]].abs().to_numpy().max() == 0


def test_the_best_arm_on_the_validation_split_is_shipped_and_the_control_never_is() -> None:
    scores = {"none": (0.6, 0.5), "outputs": (0.4, 0.72), "shuffled_features": (0.9, 0.9)}
    rows = [
        {"arm": arm, "seed": seed, "val_fg_iou": value}
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    ]
    assert choose_student(rows) == {"arm": "outputs", "seed": 1, "val_fg_iou": 0.72}
    assert choose_student(rows[:2]) == rows[0]


def test_the_summary_names_the_shipped_student_and_significant_differences() -> None:
    table = pd.DataFrame({"arm": ["none", "a_b"], "seeds": 2, "fg_iou": [0.5, 0.25]})
    pairs = pd.DataFrame(
        {
            "what": ["outputs - none", "a_b - none"],
            "difference": [0.1, 0.01],
            "low": [0.05, -0.01],
            "high": [0.2, 0.03],
        }
    )
    lines = summary(table, pairs, {"arm": "a_b", "seed": 3}).splitlines()
    assert "a b, seed 3" in lines[0] and "25.0%" in lines[0]
    assert "significant" in lines[1] and "no significant" not in lines[1]
    assert "a b" in lines[2] and "no significant" in lines[2]
    assert "Not tested" in lines[-1]
    helped = summary(table, pairs, {"arm": "none", "seed": 0}).splitlines()
    assert len(helped) == len(lines) + 1 and "did not help" in helped[1]
