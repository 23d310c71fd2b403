"""The next token at each place of a sequence: shifted cross-entropy, token accuracy, perplexity.

A model's logits at place t are of the token at t + 1, so the label at t is compared with the logits at t - 1, and the first label with none.
Losses and scores are means over samples of each sample's mean over its tokens: the mean of a batch is the same however it is split into
micro-batches, also where samples have different numbers of labels. Without ignored labels that is the mean over all tokens.

Shapes: B batch, N all samples, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.errors import ConfigError
from foundry_ray.tasks import register
from foundry_ray.types import Json, Schema

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_IGNORED = -100
_NUM_SHOWN = 5


@register("causal_lm")
class CausalLm:
    """Predict each token from those before it."""

    name = "causal_lm"
    primary_metric = "token_accuracy"

    def check(self, schema: Schema) -> None:
        """Raises ConfigError for anything but token ids with a label at each token."""
        if schema.kind != "tokens" or schema.classes:
            got = f"{schema.kind} of {len(schema.classes)} classes" if schema.classes else schema.kind
            hint = "`data.source` names a .npz file of token ids for it; for images use `task: image_classification`."
            raise ConfigError(f"task is causal_lm and the data set has {got}, wanted token ids with a label at each token.", hint=hint)

    def loss(self, logits_BTV: Tensor, labels_BT: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats, computed in fp32; `label_smoothing` in [0, 1) is spread over the vocabulary (arXiv 1512.00567)."""
        from torch.nn.functional import cross_entropy, pad

        # the labels move and not the logits, which are V times as large
        targets_BT = pad(labels_BT[:, 1:].long(), (0, 1), value=_IGNORED)
        nats = cross_entropy(
            logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none", ignore_index=_IGNORED, label_smoothing=label_smoothing
        )
        counts_B = (targets_BT != _IGNORED).sum(1).clamp(min=1)
        return (nats.view_as(targets_BT).sum(1) / counts_B).mean()

    def metrics(self, logits_NTV: np.ndarray, labels_NT: np.ndarray) -> Mapping[str, float]:
        """`token_accuracy`, `nll` (mean negative log likelihood in nats) and `perplexity` (its exponential)."""
        predicted_NT = labels_NT[:, 1:] != _IGNORED
        log_NT = _log_likelihood(logits_NTV[:, :-1], labels_NT[:, 1:].clip(min=0))
        nll = -float(_mean_over_tokens(log_NT, predicted_NT).mean())
        return {"token_accuracy": float(self.correct(logits_NTV, labels_NT).mean()), "nll": nll, "perplexity": math.exp(min(nll, 700.0))}

    def correct(self, logits_NTV: np.ndarray, labels_NT: np.ndarray) -> np.ndarray:
        """Share of each sample's tokens whose logit is the largest, shape (N,). Not-a-number logits are wrong."""
        import numpy as np

        before_NTV, targets_NT = logits_NTV[:, :-1], labels_NT[:, 1:]
        hits_NT = (before_NTV.argmax(axis=2) == targets_NT) & np.isfinite(before_NTV.sum(axis=2))
        return _mean_over_tokens(hits_NT.astype(np.float64), targets_NT != _IGNORED)

    def prediction(self, logits_TV: np.ndarray, classes: Sequence[str]) -> Json:
        """The most likely next token after the last one, its probability, and the runners-up."""
        import numpy as np

        last_V = logits_TV[-1].astype(np.float64)
        probabilities_V = np.exp(last_V - last_V.max())
        probabilities_V /= probabilities_V.sum()
        best = [int(token) for token in np.argsort(-probabilities_V, kind="stable")[:_NUM_SHOWN]]
        answer = {"token": best[0], "probability": float(probabilities_V[best[0]]), "tokens": best}
        return typing.cast(Json, answer)


def _log_likelihood(logits_NTV: np.ndarray, targets_NT: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted_NTV = logits_NTV.astype(np.float64) - logits_NTV.max(axis=2, keepdims=True)
    chosen_NT: np.ndarray = np.take_along_axis(shifted_NTV, targets_NT[:, :, None], axis=2)[:, :, 0]
    likely: np.ndarray = chosen_NT - np.log(np.exp(shifted_NTV).sum(axis=2))
    return likely


def _mean_over_tokens(values_NT: np.ndarray, counts_NT: np.ndarray) -> np.ndarray:
    means: np.ndarray = (values_NT * counts_NT).sum(axis=1) / counts_NT.sum(axis=1).clip(min=1)
    return means
