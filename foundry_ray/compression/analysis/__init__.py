"""What a model is made of, before anything is done to it: what each layer costs, what is coupled, what it can lose, and which ratio a limit takes.

Decides: what is looked at, and how. Leaves to others: which limits matter and how latency is measured (passed in), and how it all looks (reporting).
"""

from foundry_ray.compression.analysis.analyzing import RATIOS, analyze
from foundry_ray.compression.analysis.facts import Analysis, GroupFacts, LayerFacts, Limit, Reached, Sensitivity

__all__ = ["RATIOS", "Analysis", "GroupFacts", "LayerFacts", "Limit", "Reached", "Sensitivity", "analyze"]
