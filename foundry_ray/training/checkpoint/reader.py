"""Reads checkpoints back: into live tensors of any number of ranks and any cut, or whole, as the model that was judged.

A rank computes from its own fragments which blocks it needs, and reads those and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from foundry_ray.artifacts.manifests import get_json
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError
from foundry_ray.protocols import ArtifactStore, Fragment, Reporter
from foundry_ray.training.checkpoint.layout import MANIFEST, Checkpoint, Index, OwnTensor, is_first_format, parse_checkpoint, stage_folder
from foundry_ray.training.checkpoint.pieces import Catalog, as_tensor
from foundry_ray.training.checkpoint.ranges import Stretch, read, read_indices
from foundry_ray.training.state import LoopState

if TYPE_CHECKING:
    from torch import Tensor, nn

_SUMS = "sums"
_AVERAGE, _WEIGHTS = "average", "weights"
_AVERAGE_BUFFERS, _BUFFERS = "average_buffers/", "buffers/"
_HINT = "restore with the model that saved it, or train anew: `--fresh STAGE`."


def committed(store: ArtifactStore, stage_key: str, *, reporter: Reporter | None = None) -> tuple[Checkpoint, ...]:
    """All committed checkpoints of a stage, oldest first. Those of the first format are not among them: they cannot be restored.

    Args:
        store: Where they are.
        stage_key: Whose.
        reporter: Warned of manifests that cannot be read, which are then left out.

    Raises:
        ArtifactCorrupt: A manifest cannot be read, and there is no reporter.
        StoreError: A later foundry wrote it.
    """
    found = []
    for info in store.list(stage_folder(stage_key)):
        folder, _, name = info.key.removeprefix(stage_folder(stage_key)).rpartition("/")
        if name != MANIFEST or is_first_format(folder):
            continue
        try:
            found.append(parse_checkpoint(info.key, get_json(store, info.key)))
        except ArtifactNotFound:
            continue  # deleted since it was listed
        except ArtifactCorrupt as error:
            if reporter is None:
                raise
            reporter.warn(f"{error.message} It is left out.")
    return tuple(sorted(found, key=lambda checkpoint: checkpoint.order))


def latest(store: ArtifactStore, stage_key: str, *, reporter: Reporter | None = None) -> Checkpoint | None:
    """The newest committed checkpoint of a stage; half-written ones do not exist. Raises as `committed` does."""
    found = committed(store, stage_key, reporter=reporter)
    return found[-1] if found else None


def restore(store: ArtifactStore, checkpoint: Checkpoint, state: LoopState, *, rank: int, world_size: int) -> None:
    """Write a checkpoint into the live tensors of one rank. `checkpoint.document` says the rest.

    Fragments get their bits. Own tensors get those of the same rank where as many ranks saved as restore; otherwise floating ones get the mean
    over the ranks that saved (batch-norm statistics), integers those of rank 0, and sums go to rank 0 whole and are zero elsewhere.

    Args:
        store: Where it is.
        checkpoint: What `committed` gave.
        state: The live state of this rank.
        rank: This one.
        world_size: How many restore.

    Raises:
        ConfigError: Another model or optimizer saved it. Nothing was written.
        ArtifactNotFound: An object is not there.
        ArtifactCorrupt: Bytes are not what their hash says. Some tensors may be written already: restore another checkpoint, or build anew.
    """
    indices = read_indices(store, checkpoint)
    own, finish = _own_tensors(checkpoint, indices, state.own, rank if world_size == checkpoint.world_size else None, is_first=rank == 0)
    read(store, checkpoint, [*Catalog(checkpoint, indices).stretches(state.fragments), *own])
    finish()


def assemble(store: ArtifactStore, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model that was judged, whole and on the CPU, for publishing: averaged weights where they exist, else weights, and buffers.

    Returns:
        Weights by the names of parameters, flattened in one dimension (a checkpoint knows no shapes), and buffers by their names, in their shapes.

    Raises:
        ArtifactNotFound: An object is not there.
        ArtifactCorrupt: Bytes are not what their hash says.
    """
    import torch

    indices = read_indices(store, checkpoint)
    catalog = Catalog(checkpoint, indices)
    totals = {name: (_WEIGHTS, total) for name, total in catalog.totals(_WEIGHTS).items()}
    totals |= {name: (_AVERAGE, total) for name, total in catalog.totals(_AVERAGE).items()}
    fragments = [Fragment(slot=slot, name=name, start=0, total=total, tensor=torch.empty(total)) for name, (slot, total) in totals.items()]
    buffers, own = _judged_buffers(indices[0])
    stretches, finish = _own_tensors(checkpoint, indices, own, None, is_first=True)
    read(store, checkpoint, [*catalog.stretches(fragments), *stretches])
    finish()
    return {fragment.name: fragment.tensor for fragment in fragments} | buffers


def fill(store: ArtifactStore, checkpoint: Checkpoint, model: nn.Module) -> None:
    """Write what `assemble` gives into a model of the architecture that was trained.

    Raises:
        ConfigError: The model has other parameters, or other sizes. Nothing was written.
        ArtifactNotFound: An object is not there.
        ArtifactCorrupt: Bytes are not what their hash says. Nothing was written.
    """
    import torch

    tensors = assemble(store, checkpoint)
    parameters = dict(model.named_parameters())
    live: dict[str, Tensor] = {**parameters, **dict(model.named_buffers())}
    missing = sorted(parameters.keys() - tensors.keys()) + sorted(tensors.keys() - live.keys())
    if missing:
        raise ConfigError(f"{checkpoint.folder} and the model do not share {missing[0]} (nor {len(missing) - 1} others).", hint=_HINT)
    for name, tensor in tensors.items():
        if tensor.numel() != live[name].numel():
            raise ConfigError(f"{checkpoint.folder} holds {name} with {tensor.numel()} elements, wanted {live[name].numel()}.", hint=_HINT)
    with torch.no_grad():
        for name in tuple(tensors):
            live[name].copy_(tensors.pop(name).reshape(live[name].shape))


def _judged_buffers(index: Index) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Empty tensors for the buffers: by the names that they have in the model, and by those under which they were saved."""
    import torch

    names = {tensor.name for tensor in index.own}
    buffers, own = {}, {}
    for tensor in index.own:
        plain = tensor.name.removeprefix(_AVERAGE_BUFFERS).removeprefix(_BUFFERS)
        is_averaged = tensor.name.startswith(_AVERAGE_BUFFERS)
        if is_averaged or (tensor.name.startswith(_BUFFERS) and _AVERAGE_BUFFERS + plain not in names):
            buffers[plain] = own[tensor.name] = torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))
    return buffers, own


def _own_tensors(
    checkpoint: Checkpoint, indices: Sequence[Index], live: Mapping[str, Tensor], source: int | None, *, is_first: bool
) -> tuple[list[Stretch], Callable[[], None]]:
    """What to read for a rank's own tensors: those of the rank `source`, or of all; and what brings them together when all is read."""
    values: dict[tuple[str, int], Tensor] = {}
    ranks = range(len(indices)) if source is None else (source,)
    stretches = []
    for rank in ranks:
        saved = {tensor.name: tensor for tensor in indices[rank].own}
        for name, tensor in live.items():
            found = _checked(checkpoint, saved.get(name), name, tensor)
            take = partial(_keep, values, found, rank)
            stretches.append(Stretch(rank=rank, offset=found.offset, size_bytes=found.size_bytes, sha256=found.sha256, what=name, take=take))

    def finish() -> None:
        import torch

        with torch.no_grad():
            for name, tensor in live.items():
                found = [values[name, rank] for rank in ranks]
                tensor.copy_(found[0] if source is not None else _merged(name, found, is_first=is_first))

    return stretches, finish


def _checked(checkpoint: Checkpoint, saved: OwnTensor | None, name: str, tensor: Tensor) -> OwnTensor:
    if saved is None:
        raise ConfigError(f"{checkpoint.folder} holds no {name}, wanted one of shape {tuple(tensor.shape)}.", hint=_HINT)
    if saved.shape != tuple(tensor.shape):
        raise ConfigError(f"{checkpoint.folder} holds {name} of shape {saved.shape}, wanted {tuple(tensor.shape)}.", hint=_HINT)
    return saved


def _keep(values: dict[tuple[str, int], Tensor], saved: OwnTensor, rank: int, data: memoryview) -> None:
    values[saved.name, rank] = as_tensor(data, saved.dtype).reshape(saved.shape)


def _merged(name: str, values: Sequence[Tensor], *, is_first: bool) -> Tensor:
    """One tensor of those of all ranks that saved; in float64, so that equal ones give themselves."""
    import torch

    if name == _SUMS:
        return torch.stack([value.double() for value in values]).sum(0) if is_first else torch.zeros_like(values[0])
    return torch.stack([value.double() for value in values]).mean(0) if values[0].is_floating_point() else values[0]
