import pandas as pd
import pytest
import torch

from fervit_lib.distillation.compare import interval_table, summary
from fervit_lib.distillation.metrics import boundary, count_pixels, scores_from


def masks_of(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    masks = torch.zeros(len(boxes), 32, 32, dtype=torch.uint8)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return masks


def as_logits(masks: torch.Tensor) -> torch.Tensor:
    return (20.0 * (masks == 1) - 10.0)[:, None]


def test_a_perfect_prediction_scores_1_everywhere() -> None:
    masks = masks_of((4, 4, 20, 20), (0, 0, 32, 8))
    scores = scores_from(count_pixels(as_logits(masks), masks, as_logits(masks)))
    assert {name: value.item() for name, value in scores.items()} == dict.fromkeys(scores, 1.0)


def test_ious_by_hand() -> None:
    true, found = masks_of((0, 0, 10, 10), (0, 0, 20, 20)), masks_of((0, 0, 10, 5), (0, 0, 20, 20))
    scores = scores_from(count_pixels(as_logits(found), true, as_logits(true)))
    assert scores["fg_iou"] == pytest.approx(450 / 500)
    assert scores["fg_iou_per_image"] == pytest.approx((0.5 + 1) / 2)
    background = (2 * 1024 - 500) / (2 * 1024 - 450)
    assert scores["miou"] == pytest.approx((450 / 500 + background) / 2)
    assert scores["teacher_agreement"] == pytest.approx(1 - 50 / 2048)


def test_ignored_pixels_count_nowhere() -> None:
    masks = masks_of((4, 4, 20, 20))
    masks[:, 25:] = 255
    logits = as_logits(masks)
    before = count_pixels(logits, masks, logits)
    logits[:, :, 25:] = 10.0
    assert torch.equal(count_pixels(logits, masks, as_logits(masks)), before)


def test_nothing_to_find_and_nothing_found_is_1_and_something_found_is_0() -> None:
    empty = masks_of((0, 0, 0, 0))
    assert scores_from(count_pixels(as_logits(empty), empty))["fg_iou"] == 1
    assert scores_from(count_pixels(as_logits(masks_of((0, 0, 4, 4))), empty))["fg_iou"] == 0


def test_boundary_iou_sees_edges_more_than_iou_does() -> None:
    edge = boundary(masks_of((8, 8, 24, 24)) == 1)
    assert edge.sum() == 16 * 16 - 14 * 14  # 2% of this diagonal is 0.9: one pixel
    true, found = masks_of((4, 4, 28, 28)), masks_of((5, 5, 27, 27))
    scores = scores_from(count_pixels(as_logits(found), true))
    assert scores["boundary_iou"] < 0.1 < 0.8 < scores["fg_iou"]


def test_intervals_hold_their_value_and_pair_the_arms() -> None:
    generator = torch.Generator().manual_seed(0)
    true = masks_of(*[(4, 4, 12 + i % 8, 20) for i in range(30)])
    logits = as_logits(true)[None] + 8 * torch.randn(3, 30, 1, 32, 32, generator=generator)
    weak = torch.stack([count_pixels(seed, true, as_logits(true)) for seed in logits])
    strong = torch.stack(
        [count_pixels(2 * as_logits(true) + seed, true, as_logits(true)) for seed in logits]
    )
    table, pairs = interval_table({"none": weak, "outputs": strong})
    for row in table.to_dict("records"):
        assert row["fg_iou_low"] <= row["fg_iou"] <= row["fg_iou_high"]
    [pair] = pairs.to_dict("records")
    assert pair["low"] > 0
    same, none = interval_table({"none": weak, "outputs": weak})
    assert none[["difference", "low", "high"]].abs().to_numpy().max() == 0
    with pytest.raises(ValueError, match="the same seeds and images"):
        interval_table({"none": weak, "outputs": strong[:, :5]})
    assert len(same) == 2


def test_the_summary_says_which_student_is_best_and_what_is_proven() -> None:
    table = pd.DataFrame(
        {"arm": ["none", "soft", "teacher"], "accuracy": [0.5, 0.6, 0.7], "seeds": [1, 1, 1]}
    )
    said = summary(table, None, toy=False)
    assert "Highest accuracy of a student: soft with 60.0%." in said
    assert "1 seed." in said
    pairs = pd.DataFrame(
        {
            "what": ["a - b", "a - c"],
            "difference": [0.1, 0.1],
            "low": [0.05, -0.1],
            "high": [0.2, 0.3],
        }
    )
    said = summary(table.rename(columns={"accuracy": "fg_iou"}), pairs, toy=True)
    assert "Highest foreground IoU of a student: soft" in said
    assert "a - b: +10.0 points [+5.0, +20.0]: more." in said
    assert "a - c: +10.0 points [-10.0, +30.0]: no proven difference." in said
    assert "The teacher was trained here" in said
