from __future__ import annotations

import pytest
import torch

from foundry_ray.errors import ResourcesUnavailable
from foundry_ray.training import precision


def test_auto_is_bf16_exactly_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "has_native_bf16", lambda device, answer=is_native: answer)
        assert precision.resolve_precision("auto", "cpu") is expected


def test_a_named_precision_is_taken_at_its_word() -> None:
    assert precision.resolve_precision("fp32", "cpu") is torch.float32
    assert precision.resolve_precision("bf16", "cpu") is torch.bfloat16
    assert precision.resolve_precision("fp16", "cpu") is torch.float16


def test_weights_become_fp32_and_contiguous_whatever_they_were() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), torch.nn.Linear(2, 2)).bfloat16()
    values = [param.float() for param in model.parameters()]
    prepared = precision.in_fp32(model, "cpu")
    assert prepared is model
    for param, value in zip(prepared.parameters(), values, strict=True):
        assert param.dtype is torch.float32
        assert param.is_contiguous()
        assert torch.equal(param, value)


def test_images_of_one_channel_really_become_channels_last() -> None:
    images_BCHW = torch.rand(2, 1, 4, 4)
    ordered = precision.channels_last(images_BCHW)
    assert torch.equal(images_BCHW, ordered)
    assert torch.nn.Conv2d(1, 8, 3)(ordered).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the error needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error_with_a_hint() -> None:
    with pytest.raises(ResourcesUnavailable, match=r"sees no GPU, wanted one. Hint: set `teacher.use_gpu: false`"):
        precision.resolve_device(use_gpu=True)
