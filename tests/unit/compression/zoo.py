"""The small models of `architectures`, and more of them with one class per row: name -> a factory and what one input looks like.

Of transformers come configurations alone, never weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry_ray.types import Schema

from .architectures import ARCHITECTURES, IMAGES, TOKENS, Recurrent, Tied

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


class Transformer(nn.Module):
    """A text model of transformers, the mean of what it gives, and a classifier."""

    def __init__(self, kind: str, *, attention: str = "sdpa", **sizes: object) -> None:
        import transformers

        super().__init__()
        stem = kind.removesuffix("Encoder")
        config = getattr(transformers, f"{stem}Config")(vocab_size=20, attn_implementation=attention, **sizes)
        self.model = getattr(transformers, f"{kind}Model")(config)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.model(input_ids=ids).last_hidden_state.mean(1))


class Vision(nn.Module):
    """An image model of transformers."""

    def __init__(self, kind: str, width: int, **sizes: object) -> None:
        import transformers

        super().__init__()
        self.model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(num_channels=3, **sizes))
        self.head = nn.Linear(width, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.model(pixel_values=pixels / 255).pooler_output.flatten(1))


class PreNorm(nn.Module):
    """torch's own transformer layers on patches, norms first, with a token that is read in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first, self.places = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 5, 32))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=True) for _ in range(2))
        self.head = nn.Linear(32, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels / 255).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


class Stacked(nn.Module):
    """Queries, keys and values from one layer, stacked in a dimension of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv, self.out, self.norm = nn.Embedding(20, 32), nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)
        self.wide, self.narrow, self.head = nn.Linear(32, 48), nn.Linear(48, 32), nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), 6, 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((x + self.narrow(functional.gelu(self.wide(x)))).mean(1))


class Excited(nn.Module):
    """Channels weighed by what is in all of them (arXiv 1709.01507)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.squeeze, self.excite, self.head = nn.Linear(32, 16), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.first(pixels / 255))
        weights = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3))))))
        return self.head(self.second(x * weights[:, :, None, None]).mean((2, 3)))


class Reused(nn.Module):
    """One convolution three times over, each time added to what it read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.stem(pixels / 255))
        for _ in range(3):
            x = x + functional.relu(self.again(x))
        return self.head(x.mean((2, 3)))


class SharedLayers(nn.Module):
    """Two layers with the weights of one, which cannot be cut alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(192, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.third.weight = self.second.weight
        self.last, self.head = nn.Linear(32, 48), nn.Linear(48, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.flatten(1) / 255
        for layer in (self.first, self.second, self.third, self.last):
            x = functional.relu(layer(x))
        return self.head(x)


class ConvNext(nn.Module):
    """A depthwise convolution, a norm over channels that come last, and a bottleneck with a scale of its own (arXiv 2201.03545)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 24, 4, 4), nn.Conv2d(24, 24, 7, padding=3, groups=24)
        self.norm, self.wide, self.narrow, self.scale = nn.LayerNorm(24), nn.Linear(24, 96), nn.Linear(96, 24), nn.Parameter(torch.ones(24))
        self.head = nn.Linear(24, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels / 255)
        y = self.narrow(functional.gelu(self.wide(self.norm(self.deep(x).permute(0, 2, 3, 1))))) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and side by side with what was there before (arXiv 1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up, self.last, self.head = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 24, 3, padding=1), nn.Linear(24, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        before = functional.relu(self.first(pixels / 255))
        after = functional.relu(self.up(functional.relu(self.down(before))))
        return self.head(functional.relu(self.last(torch.cat([before, after], 1))).mean((2, 3)))


class Gated(nn.Module):
    """Half of a layer's outputs gate the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.middle, self.head = nn.Linear(192, 64), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(functional.relu(self.middle(functional.glu(self.both(pixels.flatten(1) / 255), 1))))


class OnlyHead(nn.Module):
    """Nothing between inputs and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(pixels.flatten(1) / 255)


class TiedClassifier(Tied):
    """As `Tied`, with the first four tokens for classes."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).mean(1)[:, :4]


class LastState(Recurrent):
    """The last state of one direction."""

    def forward(self, ids: Tensor) -> Tensor:
        _, state = self.rnn(self.embedding(ids))
        return self.head(functional.relu(self.middle(state[-1])))


ZOO: dict[str, tuple[Callable[[], nn.Module], Schema]] = {
    **{name: one for name, one in ARCHITECTURES.items() if name != "tied"},
    "tied": (TiedClassifier, TOKENS),
    "bert, eager": (lambda: Transformer("Bert", attention="eager", max_position_embeddings=8, **_SIZES), TOKENS),
    "gpt2": (lambda: Transformer("GPT2", n_embd=32, n_layer=2, n_head=4, n_positions=8, bos_token_id=0, eos_token_id=0), TOKENS),
    "llama": (lambda: Transformer("Llama", num_key_value_heads=4, max_position_embeddings=8, **_SIZES), TOKENS),
    "llama, grouped queries": (lambda: Transformer("Llama", num_key_value_heads=2, max_position_embeddings=8, **_SIZES), TOKENS),
    "t5": (lambda: Transformer("T5Encoder", d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=48), TOKENS),
    "distilbert": (lambda: Transformer("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=8), TOKENS),
    "albert": (lambda: Transformer("Albert", embedding_size=16, max_position_embeddings=8, **_SIZES), TOKENS),
    "electra": (lambda: Transformer("Electra", embedding_size=16, max_position_embeddings=8, **_SIZES), TOKENS),
    "vit": (lambda: Vision("ViT", 32, image_size=8, patch_size=4, **_SIZES), IMAGES),
    "resnet of transformers": (
        lambda: Vision("ResNet", 32, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"),
        IMAGES,
    ),
    "pre-norm": (PreNorm, IMAGES),
    "stacked": (Stacked, TOKENS),
    "lstm, two layers": (lambda: Recurrent(nn.LSTM, layers=2), TOKENS),
    "gru, last state": (lambda: LastState(nn.GRU), TOKENS),
    "excited": (Excited, IMAGES),
    "reused": (Reused, IMAGES),
    "shared layers": (SharedLayers, IMAGES),
    "convnext": (ConvNext, IMAGES),
    "unet": (UNet, IMAGES),
    "gated": (Gated, IMAGES),
    "only a head": (OnlyHead, IMAGES),
}
"""34 of them."""
