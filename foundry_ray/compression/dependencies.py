"""The dependency graph of torch-pruning, whose search for coupled layers ends on every graph.

The package walks on as long as it meets a list of channels that it has not met at that layer, and rotary embeddings, which swap halves, give new
lists for ever. Here it walks on as long as it meets a channel that it has not met at that layer, and that a tensor can have; on graphs where both
end they find the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch_pruning
from torch import nn
from torch_pruning import _helpers as indices
from torch_pruning.dependency import Dependency, Group
from torch_pruning.dependency.index_mapping import update_index_mapping


class Dependencies(torch_pruning.DependencyGraph):  # type: ignore[misc]  # the package has no types
    """See the module's docstring."""

    def get_pruning_group(self, module: nn.Module, pruning_fn: Any, idxs: Sequence[int]) -> Any:
        """All cuts that follow from cutting channels `idxs` of one layer, that one first, each layer and side once.

        Its `is_followed` is False where channels come up that no tensor of the model has: then the walk went astray.
        """
        update_index_mapping(self)
        start = self.module2node[module]
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels > 1:
            pruning_fn = torch_pruning.prune_depthwise_conv_out_channels
        first = Dependency(pruning_fn, pruning_fn, source=start, target=start)
        waiting = [(first, [indices._HybridIndex(idx=index, root_idx=index) for index in idxs])]
        found, widest = Group(), max(max(parameter.shape, default=1) for parameter in self.model.parameters())
        found.is_followed = True
        found.add_dep(*waiting[0])
        met: dict[tuple[Any, Any], set[int]] = {(start, pruning_fn): set(idxs)}
        while waiting:
            cut, channels = waiting.pop()
            for following in cut.target.dependencies:
                if not following.is_triggered_by(cut.handler):
                    continue
                mapped = channels
                for mapping in following.index_mapping:
                    mapped = mapped if mapping is None else mapping(mapped)
                known = met.setdefault((following.target, following.handler), set())
                found.is_followed &= all(channel.idx < widest for channel in mapped)
                fresh = [channel for channel in {channel.idx: channel for channel in reversed(mapped)}.values() if channel.idx < widest]
                fresh = [channel for channel in reversed(fresh) if channel.idx not in known]
                if fresh:
                    known.update(channel.idx for channel in fresh)
                    found.add_and_merge(following, fresh)
                    waiting.append((following, fresh))
        return self._plain(found)

    def _plain(self, found: Any) -> Any:
        """The group in plain numbers, with the root's channel beside each."""
        found._DG = self
        for place in range(len(found)):
            dep, channels = found[place]
            item = indices.GroupItem(dep=dep, idxs=indices.to_plain_idxs(channels))
            item.root_idxs = indices.to_root_idxs(channels)
            found[place] = item
        return found
