from __future__ import annotations

import statistics

import pytest
import torch

from foundry_ray.config import TrainConfig
from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.training.mixing import MixPlan, apply, check_mixing, plan_mix


def plans(num: int, **fields: float) -> list[MixPlan]:
    found = [plan_mix(TrainConfig(batch_size=12, **fields), seed=1, step=step) for step in range(num)]
    return [plan for plan in found if plan is not None]


def images(num_rows: int) -> torch.Tensor:
    return torch.rand(num_rows, 3, 7, 5, generator=torch.Generator().manual_seed(num_rows)) * 255


def test_nothing_is_mixed_unless_asked_for() -> None:
    assert plan_mix(TrainConfig(), seed=1, step=0) is None


def test_a_plan_is_a_function_of_seed_and_step() -> None:
    train = TrainConfig(mixup_alpha=0.4)
    assert plan_mix(train, seed=1, step=5) == plan_mix(train, seed=1, step=5)
    assert len({plan_mix(train, seed=seed, step=step) for seed in range(3) for step in range(3)}) == 9


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_lam_has_the_mean_and_the_variance_of_its_beta_distribution(alpha: float) -> None:
    lams = [plan.lam for plan in plans(4000, mixup_alpha=alpha)]
    assert statistics.fmean(lams) == pytest.approx(0.5, abs=0.03)
    assert statistics.pvariance(lams) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)
    assert all(0 <= lam <= 1 for lam in lams)


def test_every_partner_occurs_and_none_is_the_row_itself() -> None:
    assert {plan.shift for plan in plans(300, mixup_alpha=0.4)} == set(range(1, 12))


def test_a_batch_of_one_is_mixed_with_itself() -> None:
    plan = plan_mix(TrainConfig(batch_size=1, mixup_alpha=0.4), seed=1, step=0)
    assert plan is not None
    assert plan.shift == 0


def test_with_both_kinds_each_batch_takes_one() -> None:
    kinds = [plan.kind for plan in plans(400, mixup_alpha=0.4, cutmix_alpha=1.0)]
    assert 150 < kinds.count("mixup") < 250
    assert {plan.kind for plan in plans(20, cutmix_alpha=1.0)} == {"cutmix"}


@pytest.mark.parametrize("fields", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}])
def test_what_a_row_becomes_depends_neither_on_workers_nor_on_the_micro_batch(fields: dict[str, float]) -> None:
    whole = images(12)
    for plan in plans(20, **fields):
        partners = whole.roll(-plan.shift, 0)
        expected = apply(plan, whole, partners)
        for size in (1, 2, 3, 4, 6):
            parts = zip(whole.split(size), partners.split(size), strict=True)
            assert torch.equal(torch.cat([apply(plan, part, partner) for part, partner in parts]), expected)


def test_mixup_blends_by_lam() -> None:
    plan = MixPlan(kind="mixup", lam=0.25, shift=1)
    assert torch.equal(apply(plan, torch.full((2, 3), 4.0), torch.full((2, 3), 8.0)), torch.full((2, 3), 7.0))
    assert plan.own_ratio((2, 3)) == 0.25


def test_cutmix_takes_the_box_from_the_partner_and_weighs_labels_by_its_pixels() -> None:
    blank, full = torch.zeros(2, 1, 9, 6), torch.ones(2, 1, 9, 6)
    for plan in plans(50, cutmix_alpha=1.0):
        mixed = apply(plan, blank, full)
        assert 1 - mixed.mean().item() == pytest.approx(plan.own_ratio(mixed.shape))
        assert plan.box[2] ** 2 == pytest.approx(1 - plan.lam)
        rows, columns = mixed[0, 0].amax(1), mixed[0, 0].amax(0)
        assert mixed.sum().item() == 2 * rows.sum().item() * columns.sum().item()
    assert blank.sum() == 0


def test_a_box_inside_the_image_takes_1_minus_lam_of_it() -> None:
    plan = MixPlan(kind="cutmix", lam=0.75, shift=1, box=(0.5, 0.5, 0.5))
    assert plan.pixels(32, 16) == (8, 24, 4, 12)
    assert plan.own_ratio((4, 3, 32, 16)) == 0.75


def test_cutmix_without_images_is_refused() -> None:
    with pytest.raises(OutOfRange, match=r"cutmix_alpha is 1\.0, but the data set has no images .* Hint: set `train\.cutmix_alpha: 0`"):
        check_mixing(TrainConfig(cutmix_alpha=1.0), has_images=False)


def test_token_numbers_are_not_blended() -> None:
    with pytest.raises(OutOfRange, match=r"mixup_alpha is 0\.2, but the data set has no inputs that are values"):
        check_mixing(TrainConfig(mixup_alpha=0.2), has_images=False, is_continuous=False)


def test_a_teachers_cached_answers_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match="while distilling, wanted one or the other"):
        check_mixing(TrainConfig(mixup_alpha=0.2), has_images=True, distils=True)


def test_what_can_be_mixed_passes_the_check() -> None:
    check_mixing(TrainConfig(), has_images=False, is_continuous=False, distils=True)
    check_mixing(TrainConfig(mixup_alpha=0.2), has_images=False)
    check_mixing(TrainConfig(mixup_alpha=0.2, cutmix_alpha=1.0), has_images=True)
