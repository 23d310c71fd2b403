"""Making a model smaller and shipping it: recipes, their steps, export, int8, parity, cost.

Decides: how a recipe is made of search parameters, in which order its steps act, what file is served, and that this file answers as
the model does. Leaves to others: training (passed in), latency and accuracy on test (evaluation). Importing this package loads no torch.
"""

from foundry_ray.compression.apply import aids, apply_recipe, effective, served
from foundry_ray.compression.compress import TrainedStudent, compress
from foundry_ray.compression.cost import Cost, cost
from foundry_ray.compression.distil import teacher_targets
from foundry_ray.compression.export import to_onnx
from foundry_ray.compression.quantize import quantize_onnx
from foundry_ray.compression.recipes import check_recipe, recipe_from_params
from foundry_ray.compression.runtime import runtime_of
from foundry_ray.compression.simulate import simulate
from foundry_ray.compression.steps import register

__all__ = [
    "Cost",
    "TrainedStudent",
    "aids",
    "apply_recipe",
    "check_recipe",
    "compress",
    "cost",
    "effective",
    "quantize_onnx",
    "recipe_from_params",
    "register",
    "runtime_of",
    "served",
    "simulate",
    "teacher_targets",
    "to_onnx",
]
