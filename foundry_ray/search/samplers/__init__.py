"""What to try next. `sampler` is the way in; `kinds` says which samplers there are and what each can be used with."""

from foundry_ray.search.samplers.kinds import Kind, check_sampler
from foundry_ray.search.samplers.proposal import Proposal, ask_seed
from foundry_ray.search.samplers.sampler import Sampler

__all__ = ["Kind", "Proposal", "Sampler", "ask_seed", "check_sampler"]
