"""A registered model, fetched, verified and warmed up: what answers inside a replica, and what a deployer tries first on its own.

Imports onnxruntime and numpy and never torch, so that a replica starts fast and stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.config import SigningKeys, signing_keys
from foundry_ray.errors import ConfigError, ReplicaUnhealthy, SignatureInvalid
from foundry_ray.protocols import ArtifactStore
from foundry_ray.serving.protocol import ModelSignature
from foundry_ray.serving.spec import ReplicaSpec
from foundry_ray.types import Json

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.inference import Runtime

_SERVED_FILE = "model.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable:
    """A model that answered its warm-up."""

    signature: ModelSignature
    runtime: Runtime
    has_class_names: bool

    def run(self, images_NCHW: np.ndarray) -> np.ndarray:
        """Logits float32 (N, K) of raw uint8 pixels."""
        return self.runtime.run(images_NCHW)


def load_servable(spec: ReplicaSpec, store: ArtifactStore, keys: SigningKeys | None = None) -> Servable:
    """Check the signature, fetch by key, verify by sha256, load, warm up.

    Args:
        spec: What to serve.
        store: Where it lies.
        keys: What this process's environment says of signatures; read from there where absent.

    Raises:
        SignatureInvalid: It is not signed by a key that this process trusts, or it must be and this process has no key.
        ArtifactNotFound: The model is not in the store.
        ArtifactCorrupt: Its bytes are not the ones that were registered.
        BadRecord: The runtime cannot load them.
        ConfigError: This machine cannot run the runtime that the model ships with, or the model takes no images.
        ReplicaUnhealthy: The model loads and does not answer as it must.
    """
    from foundry_ray.artifacts import manifests
    from foundry_ray.inference import open_shipped

    _check_signature(spec, store, signing_keys() if keys is None else keys)
    meta = manifests.load_manifest(store, spec.model).meta
    onnx = manifests.read_file(store, spec.model, _SERVED_FILE)
    runtime = open_shipped(onnx, meta, threads=spec.threads)
    num_classes = _warm_up(runtime, spec)
    names = _class_names(meta, num_classes)
    signature = ModelSignature(
        name=spec.name,
        version=str(spec.version),
        input_shape=_image_shape(runtime, spec),
        classes=names or tuple(str(index) for index in range(num_classes)),
        platform=f"{runtime.name}_onnx",
    )
    return Servable(signature=signature, runtime=runtime, has_class_names=names is not None)


def _image_shape(runtime: Runtime, spec: ReplicaSpec) -> tuple[int, int, int]:
    if len(runtime.input_shape) != 3:
        got = f"{runtime.input_dtype} rows of shape {runtime.input_shape}"
        message = f"{spec.name}:{spec.version} takes {got}, wanted images (channels, height, width): an endpoint answers about nothing else."
        raise ConfigError(message, hint="`foundry predict` answers without a server.")
    channels, height, width = runtime.input_shape
    return channels, height, width


def _check_signature(spec: ReplicaSpec, store: ArtifactStore, keys: SigningKeys) -> None:
    from foundry_ray.registry import check_signature

    if spec.signed and not keys.is_checking:
        reason = "its signature was checked where it was deployed, and this process has no key to check it with"
        message = f"{spec.name}:{spec.version} is not used: {reason}."
        hint = "set FOUNDRY_VERIFY_KEY on the machines of the cluster before it starts; locally: `foundry cluster down`, then deploy again."
        raise SignatureInvalid(message, hint=hint, model=f"{spec.name}:{spec.version}", reason=reason)
    check_signature(store, name=spec.name, version=spec.version, model=spec.model, keys=keys)


def _warm_up(runtime: Runtime, spec: ReplicaSpec) -> int:
    """Run one image and a full batch, so that the first requests find memory allocated. Returns the number of classes."""
    import numpy as np

    num_classes = 0
    for rows in (1, max(2, spec.batch_size)):
        logits = runtime.run(np.zeros((rows, *runtime.input_shape), dtype=runtime.input_dtype))
        is_finite = bool(np.isfinite(logits).all())
        if logits.ndim != 2 or logits.shape[0] != rows or not is_finite:
            reason = f"{rows} black images gave logits of shape {logits.shape}, finite: {is_finite}; wanted ({rows}, classes), finite"
            message = f"{spec.name}:{spec.version} does not answer: {reason}."
            raise ReplicaUnhealthy(message, hint="`foundry models show` names the run that made it.", app_name=spec.name, reason=reason)
        num_classes = logits.shape[1]
    return num_classes


def _class_names(meta: Json, num_classes: int) -> tuple[str, ...] | None:
    names = meta.get("classes") if isinstance(meta, dict) else None
    if not isinstance(names, list) or len(names) != num_classes:
        return None
    return tuple(str(name) for name in names)
