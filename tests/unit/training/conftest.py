"""A small job: 48 tiny images of three classes that differ in brightness, and a model of a few hundred weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from foundry_ray import tasks
from foundry_ray.config import TrainConfig
from foundry_ray.training.loop import FitJob, TensorSplit


def make_split(num_rows: int, *, seed: int) -> TensorSplit:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(num_rows) % 3
    noise_NCHW = torch.randint(0, 80, (num_rows, 1, 6, 6), generator=generator)
    return TensorSplit(inputs_N=(noise_NCHW + 60 * labels_N[:, None, None, None]).to(torch.uint8), labels_N=labels_N)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for the second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model() -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 3))

    return make


@pytest.fixture
def job() -> FitJob:
    train = TrainConfig(epochs=4, batch_size=8, lr=1e-2, precision="fp32", ema_decay=0.9)
    splits = {"split_train": make_split(48, seed=1), "split_val": make_split(24, seed=2)}
    return FitJob(train=train, task=tasks.get("image_classification"), augment=("flip",), seed=3, **splits)


@pytest.fixture
def with_train(job: FitJob) -> Callable[..., FitJob]:
    def change(**fields: object) -> FitJob:
        return dataclasses.replace(job, train=job.train.model_copy(update=fields))

    return change
