"""Who goes on, and who is stopped: pure policies. `facts` is the seam; the other files are one policy each."""

from foundry_ray.search.schedulers.asha import Promotion, Rung, best, finalist, promotable, resources

__all__ = ["Promotion", "Rung", "best", "finalist", "promotable", "resources"]
