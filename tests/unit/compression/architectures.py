"""Small models of many kinds, for what has to work on any: name -> a factory and what one input looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry_ray.types import ImageSchema, Schema, TokenSchema

IMAGES = ImageSchema(channels=3, height=8, width=8, dtype="uint8", classes=tuple("abcd"))
TOKENS = TokenSchema(length=6, vocab_size=20, has_labels=True, classes=tuple("abcd"))


class Encoder(nn.Module):
    """torch's own transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(20, 32), nn.Parameter(torch.randn(1, 6, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids) + self.positions).mean(1))


class Bert(nn.Module):
    """A BERT of transformers, without its weights."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
        self.bert = BertModel(BertConfig(vocab_size=20, max_position_embeddings=8, **sizes))
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bert(input_ids=ids).pooler_output)


class Fused(nn.Module):
    """Queries, keys and values from one layer; the number of heads is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv, self.out, self.head = nn.Embedding(20, 32), nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 4)
        self.num_heads = 4

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.head((x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(1))


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, a perceptron on the mean or on the last states."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], *, layers: int = 1, bidirectional: bool = False, last: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.rnn = kind(16, 24, num_layers=layers, bidirectional=bidirectional, batch_first=True)
        self.middle, self.head = nn.Linear(24 * (1 + bidirectional), 32), nn.Linear(32, 4)
        self.last = last

    def forward(self, ids: Tensor) -> Tensor:
        outputs, state = self.rnn(self.embedding(ids))
        found = torch.cat([state[-2], state[-1]], 1) if self.last else outputs.mean(1)
        return self.head(functional.relu(self.middle(found)))


class Concatenated(nn.Module):
    """Two branches side by side, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.joined, self.head = nn.BatchNorm2d(32), nn.Conv2d(32, 24, 3, padding=1), nn.Linear(24 * 4, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        left = functional.relu(self.left(pixels / 255))
        both = torch.cat([left, functional.relu(self.right(left))], 1)
        return self.head(functional.adaptive_avg_pool2d(functional.relu(self.joined(self.norm(both))), 2).flatten(1))


class Inverted(nn.Module):
    """Depthwise convolutions in an inverted bottleneck with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(16, 32, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
            nn.Conv2d(32, 16, 1),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels / 255)
        return self.head((x + self.block(x)).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions and a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.norm, self.mixed, self.head = nn.GroupNorm(4, 32), nn.Conv2d(32, 24, 1), nn.Linear(24, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.stem(pixels / 255))
        return self.head(functional.relu(self.mixed(x + self.norm(self.grouped(x)))).mean((2, 3)))


class Tied(nn.Module):
    """The embedding's weights are the output's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.first, self.second = nn.Embedding(20, 32), nn.Linear(32, 48), nn.Linear(48, 32)
        self.out = nn.Linear(32, 20, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        return self.out(x + self.second(functional.relu(self.first(x))))


class Shuffled(nn.Module):
    """Channels are shuffled between two convolutions (arXiv 1707.01083)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(num_in, 32, 3, padding=1) for num_in in (3, 32, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.first(pixels / 255))
        x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(functional.relu(self.third(functional.relu(self.second(x)))).mean((2, 3)))


class Stubborn(nn.Module):
    """A width is written into the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.last, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(1024, 48), nn.Linear(48, 32), nn.Linear(32, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.stem(pixels / 255)).view(-1, 1024)
        return self.head(functional.relu(self.last(functional.relu(self.middle(x)))))


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], Schema]] = {
    "encoder": (Encoder, TOKENS),
    "bert": (Bert, TOKENS),
    "fused": (Fused, TOKENS),
    "lstm": (lambda: Recurrent(nn.LSTM), TOKENS),
    "gru": (lambda: Recurrent(nn.GRU), TOKENS),
    "lstm, two layers, both directions": (lambda: Recurrent(nn.LSTM, layers=2, bidirectional=True), TOKENS),
    "gru, last states of both directions": (lambda: Recurrent(nn.GRU, bidirectional=True, last=True), TOKENS),
    "concatenated": (Concatenated, IMAGES),
    "inverted": (Inverted, IMAGES),
    "grouped": (Grouped, IMAGES),
    "tied": (Tied, TOKENS),
    "shuffled": (Shuffled, IMAGES),
    "stubborn": (Stubborn, IMAGES),
}


def made(name: str, among: Mapping[str, tuple[Callable[[], nn.Module], Schema]] = ARCHITECTURES) -> tuple[nn.Module, Schema]:
    """One of them, in evaluation mode, the same each time; batch norms have seen something."""
    make, schema = among[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    torch.nn.init.normal_(tensor)
        return model.eval(), schema


def inputs_of(schema: Schema, num_rows: int) -> Tensor:
    """Random inputs, the same each time."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(schema, ImageSchema):
        return torch.randint(0, 256, (num_rows, *schema.shape), generator=generator).float()
    return torch.randint(0, schema.vocab_size, (num_rows, *schema.shape), generator=generator)
