"""What a search space comes to, before anything is spent on it. Importing this package loads no torch.

Everything is found with random weights and random pixels, so it works before any data is read. Where recipes cut channels, the counts that random
weights give are near those of the trained teacher, and not equal to them.
"""

from foundry_ray.search.profile.profiling import profile_space
from foundry_ray.search.profile.tools import Circumstances, Tools, scratch_tools

__all__ = ["Circumstances", "Tools", "profile_space", "scratch_tools"]
