"""FLOPs against numbers computed by hand, and the peaks of devices by their names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foundry_ray.training.flops import NumberFormat, forward_flops, number_format, peak_flops, peak_of, training_flops


class _Block(nn.Module):
    """A decoder block with an embedding and a head, attention through torch's fused function."""

    def __init__(self, dim: int = 32, heads: int = 4, words: int = 50) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.head = nn.Embedding(words, dim), nn.Linear(dim, words)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embed(tokens_BT)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(x + self.down(torch.relu(self.up(x))))


def test_the_flops_of_a_convolutional_net_are_those_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    by_hand = 2 * (8 * 3 * 3 * 3) * 16 * 16 + 2 * (8 * 16 * 16) * 10
    assert forward_flops(net, torch.zeros(1, 3, 16, 16)) == by_hand
    assert training_flops(net, torch.zeros(1, 3, 16, 16)) == 3 * by_hand


def test_the_flops_of_a_transformer_block_are_those_by_hand() -> None:
    length, dim, words = 16, 32, 50
    weights = 3 * dim**2 + dim**2 + 8 * dim**2 + words * dim
    attention = 2 * (2 * length * length * dim)  # scores, and their product with the values
    assert forward_flops(_Block(), torch.zeros(1, length, dtype=torch.long)) == 2 * length * weights + attention


def test_torchs_own_encoder_is_counted_in_full() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True)
    assert forward_flops(layer, torch.zeros(1, 16, 32)) == 2 * 16 * 12 * 32**2 + 4 * 16 * 16 * 32


def test_counting_changes_nothing_of_the_model() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    forward_flops(net, torch.ones(1, 3, 4, 4))
    assert [net.training, net[0].training, net[1].training] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "number", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H200", "tf32", 494.5),
        ("NVIDIA GH200 480GB", "fp32", 67),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156),
        ("NVIDIA A10", "fp16", 125),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-PCIE-16GB", "fp16", 112),
        ("Tesla T4", "fp32", 8.1),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("AMD Instinct MI300X", "bf16", 1307.4),
    ],
)
def test_a_device_has_the_peak_of_its_data_sheet(name: str, number: NumberFormat, tflops: float) -> None:
    assert peak_of(name, number) == tflops * 1e12


@pytest.mark.parametrize(
    "name", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A10-24Q", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A10G", "Quadro P400"]
)
def test_a_part_of_a_device_or_an_unknown_one_has_no_peak(name: str) -> None:
    assert peak_of(name, "bf16") is None


def test_a_format_that_a_device_emulates_has_no_peak() -> None:
    assert peak_of("Tesla V100-SXM2-16GB", "bf16") is None


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops("cpu", "fp32") is None


def test_fp32_is_tf32_where_torch_computes_it_so() -> None:
    assert [number_format(torch.float32, "cuda:0", is_convolutional=has_any) for has_any in (True, False)] == ["tf32", "fp32"]
    assert number_format(torch.float32, "cpu", is_convolutional=True) == "fp32"
    assert number_format(torch.bfloat16, "cuda:0", is_convolutional=True) == "bf16"
