"""One class per row, whatever the rows are: cross-entropy, accuracy, and answers with a probability per class.

Shapes: B batch, N all samples, C classes.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.types import Json

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Classification:
    """Choose one of C classes. A task adds its name, and what it can learn from."""

    primary_metric = "accuracy"

    def loss(self, logits_BC: Tensor, labels_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats, computed in fp32; `label_smoothing` in [0, 1) is spread over all classes (arXiv 1512.00567)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits_BC.float(), labels_B, label_smoothing=label_smoothing)

    def metrics(self, logits_NC: np.ndarray, labels_N: np.ndarray) -> Mapping[str, float]:
        """`accuracy`, `nll` (mean negative log likelihood in nats) and `recall_<label>` for each class that occurs."""
        correct_N = self.correct(logits_NC, labels_N)
        recalls = {f"recall_{label}": float(correct_N[labels_N == label].mean()) for label in sorted(set(labels_N.tolist()))}
        nll = -float(_log_probabilities(logits_NC)[range(len(labels_N)), labels_N].mean())
        return {"accuracy": float(correct_N.mean()), "nll": nll, **recalls}

    def correct(self, logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        """1.0 where the largest logit is the label's, else 0.0; shape (N,). Not-a-number logits are wrong."""
        import numpy as np

        finite_N = np.isfinite(logits_NC).all(axis=1)
        correct_N: np.ndarray = ((logits_NC.argmax(axis=1) == labels_N) & finite_N).astype(np.float64)
        return correct_N

    def prediction(self, logits_C: np.ndarray, classes: Sequence[str]) -> Json:
        """The chosen class, its label number, its probability, and the probabilities of all classes."""
        import numpy as np

        probabilities_C = np.exp(_log_probabilities(logits_C[None])[0])
        label = int(probabilities_C.argmax())
        by_class = {name: float(value) for name, value in zip(classes, probabilities_C, strict=True)}
        answer = {"class": classes[label], "label": label, "probability": float(probabilities_C[label]), "probabilities": by_class}
        return typing.cast(Json, answer)


def _log_probabilities(logits_NC: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted_NC = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    normalised: np.ndarray = shifted_NC - np.log(np.exp(shifted_NC).sum(axis=1, keepdims=True))
    return normalised
