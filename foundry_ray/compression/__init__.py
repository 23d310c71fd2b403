"""Making a model smaller and shipping it: recipes, their steps, export, int8, parity, cost.

Decides: how a recipe is made of search parameters, in which order its steps act, what file is served, and that this file answers as
the model does. Leaves to others: training (passed in), latency and accuracy on test (evaluation). Importing this package loads no torch.
"""

from foundry_ray.compression.alone import refuse_many_workers
from foundry_ray.compression.apply import aids, apply_recipe, effective, served
from foundry_ray.compression.budget import Budgets
from foundry_ray.compression.compress import TrainedStudent, publish_student
from foundry_ray.compression.cost import Cost, cost
from foundry_ray.compression.distil import distillation, source_of
from foundry_ray.compression.distil_views import teacher_targets
from foundry_ray.compression.export import to_onnx
from foundry_ray.compression.quantize import quantize_onnx
from foundry_ray.compression.recipes import check_recipe, recipe_from_params
from foundry_ray.compression.runtime import runtime_of
from foundry_ray.compression.simulate import simulate
from foundry_ray.compression.steps import register
from foundry_ray.compression.toolbox import Fitting, Options, compress, fit_here

__all__ = [
    "Budgets",
    "Cost",
    "Fitting",
    "Options",
    "TrainedStudent",
    "aids",
    "apply_recipe",
    "check_recipe",
    "compress",
    "cost",
    "distillation",
    "effective",
    "fit_here",
    "publish_student",
    "quantize_onnx",
    "recipe_from_params",
    "refuse_many_workers",
    "register",
    "runtime_of",
    "served",
    "simulate",
    "source_of",
    "teacher_targets",
    "to_onnx",
]
