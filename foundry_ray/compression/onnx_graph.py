"""From a folded graph of operators to ONNX nodes, one small function per operator.

A graph is written directly because the exporter of torch takes seconds and a sweep meets dozens of shapes. Whatever is not known here
raises `Unsupported`, and export.py then asks torch's own exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from foundry_ray.compression.tracing import operator_name

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, fx, nn

Emit = Callable[["GraphWriter", "fx.Node", str], None]
MODULES: dict[str, Callable[[GraphWriter, fx.Node, str, Any], None]] = {}
FUNCTIONS: dict[str, Emit] = {}
_OF_ANY_DTYPE = frozenset(("contiguous", "eq", "flatten", "float", "ne", "take", "transpose", "type_as", "unflatten", "unsqueeze"))
"""The rules of all other functions write nodes, and constants beside them, of floats alone."""


class Unsupported(Exception):
    """An operator that has no rule here."""


class GraphWriter:
    """Collects nodes and weights. Tensors are named as in the traced graph, weights as in the state dict."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.modules = dict(traced.named_modules())
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.traced = traced

    def emit(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> None:
        """Append one node with one output."""
        from onnx import helper

        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))

    def weight(self, name: str, tensor: Tensor) -> str:
        """Keep a constant in the file; returns its name."""
        from onnx import numpy_helper

        if name not in self.weights:
            kept = tensor.detach()
            kept = kept.float() if kept.is_floating_point() else kept
            self.weights[name] = numpy_helper.from_array(kept.contiguous().numpy(), name)
        return name

    def rank(self, node: fx.Node, unknown: int = 2) -> int:
        """Dimensions of what a traced node gives, as `shapes` found them."""
        shape = node.meta.get("shape")
        return unknown if shape is None else len(shape)

    def is_float(self, node: fx.Node) -> bool:
        """Whether a traced node gives floats, as far as `note_shapes` found out."""
        import torch

        return bool(node.meta.get("dtype", torch.float32) == torch.float32)

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Keep whole numbers (axes, a shape) in the file; returns their name."""
        import torch

        return self.weight(name, torch.tensor(list(values), dtype=torch.int64))

    def operand(self, value: object, like: str) -> str:
        """The name of an argument: a node's own, or that of a new constant."""
        import torch
        from torch import fx

        if isinstance(value, fx.Node):
            return value.name
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self.weight(f"{like}/constant", torch.tensor(float(value)))
        raise Unsupported(f"an operand of type {type(value).__name__}")

    def visit(self, node: fx.Node) -> None:
        """Write one traced node. Raises Unsupported."""
        if node.op == "get_attr":
            self.weight(node.name, _attribute(self.traced, str(node.target)))
        elif node.op == "call_module":
            module = self.modules[str(node.target)]
            rule = MODULES.get(type(module).__name__)
            if rule is None:
                raise Unsupported(type(module).__name__)
            rule(self, node, node.name, module)
        else:
            name = operator_name(node)
            if name not in FUNCTIONS:
                raise Unsupported(name)
            if name not in _OF_ANY_DTYPE and not all(map(self.is_float, node.all_input_nodes)):
                raise Unsupported(f"{name} of something else than floats")
            FUNCTIONS[name](self, node, node.name)


def _attribute(traced: fx.GraphModule, path: str) -> Tensor:
    from torch import Tensor

    parent, _, name = path.rpartition(".")
    value = getattr(traced.get_submodule(parent), name)
    if not isinstance(value, Tensor):
        raise Unsupported(f"attribute {path}")
    return value


def module_rule(*names: str) -> Callable[[Callable[[GraphWriter, fx.Node, str, Any], None]], None]:
    """Register a rule for modules of these class names."""

    def _keep(rule: Callable[[GraphWriter, fx.Node, str, Any], None]) -> None:
        MODULES.update(dict.fromkeys(names, rule))

    return _keep


def function_rule(*names: str) -> Callable[[Emit], None]:
    """Register a rule for functions and methods of these names."""

    def _keep(rule: Emit) -> None:
        FUNCTIONS.update(dict.fromkeys(names, rule))

    return _keep


def source_of(node: fx.Node) -> str:
    """The name of what a node reads first. Raises Unsupported."""
    from torch import fx

    if not node.args or not isinstance(node.args[0], fx.Node):
        raise Unsupported(f"{node.name} without an input")
    return node.args[0].name


def _pair(value: object) -> list[int]:
    if isinstance(value, int):
        return [value, value]
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(item, int) for item in value):
        return [int(item) for item in value]
    raise Unsupported(f"a window of {value!r}")


@module_rule("Conv2d")
def _conv(writer: GraphWriter, node: fx.Node, out: str, module: nn.Conv2d) -> None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise Unsupported(f"padding {module.padding_mode} {module.padding!r}")
    inputs = [source_of(node), writer.weight(f"{node.target}.weight", module.weight)]
    if module.bias is not None:
        inputs.append(writer.weight(f"{node.target}.bias", module.bias))
    sizes = {"kernel_shape": _pair(module.kernel_size), "strides": _pair(module.stride), "dilations": _pair(module.dilation)}
    writer.emit("Conv", inputs, out, pads=_pair(module.padding) * 2, group=module.groups, **sizes)


@module_rule("Linear")
def _linear(writer: GraphWriter, node: fx.Node, out: str, module: nn.Linear) -> None:
    source = source_of(node)
    if writer.rank(node) != 2:  # a Gemm takes matrices alone
        product = out if module.bias is None else f"{out}/product"
        writer.emit("MatMul", [source, writer.weight(f"{node.target}.weight", module.weight.T)], product)
        if module.bias is not None:
            writer.emit("Add", [product, writer.weight(f"{node.target}.bias", module.bias)], out)
        return
    inputs = [source, writer.weight(f"{node.target}.weight", module.weight)]
    if module.bias is not None:
        inputs.append(writer.weight(f"{node.target}.bias", module.bias))
    writer.emit("Gemm", inputs, out, transB=1)


@module_rule("BatchNorm2d")
def _batch_norm(writer: GraphWriter, node: fx.Node, out: str, module: nn.BatchNorm2d) -> None:
    import torch

    if module.running_mean is None or module.running_var is None:
        raise Unsupported("a batch norm without running statistics")
    ones, zeros = torch.ones_like(module.running_mean), torch.zeros_like(module.running_mean)
    tensors = {
        "weight": module.weight if module.affine else ones,
        "bias": module.bias if module.affine else zeros,
        "running_mean": module.running_mean,
        "running_var": module.running_var,
    }
    inputs = [writer.weight(f"{node.target}.{name}", tensor) for name, tensor in tensors.items()]
    writer.emit("BatchNormalization", [source_of(node), *inputs], out, epsilon=module.eps)


@module_rule("ReLU")
def _relu_module(writer: GraphWriter, node: fx.Node, out: str, _: nn.Module) -> None:
    writer.emit("Relu", [source_of(node)], out)


@module_rule("Identity", "Dropout", "Dropout2d")
def _identity_module(writer: GraphWriter, node: fx.Node, out: str, _: nn.Module) -> None:
    writer.emit("Identity", [source_of(node)], out)


@module_rule("MaxPool2d")
def _max_pool(writer: GraphWriter, node: fx.Node, out: str, module: nn.MaxPool2d) -> None:
    if module.ceil_mode or module.return_indices or _pair(module.dilation) != [1, 1]:
        raise Unsupported("a max pool with ceil mode, indices or dilation")
    pads = _pair(module.padding) * 2
    writer.emit("MaxPool", [source_of(node)], out, kernel_shape=_pair(module.kernel_size), strides=_pair(module.stride), pads=pads)


@module_rule("AvgPool2d")
def _avg_pool(writer: GraphWriter, node: fx.Node, out: str, module: nn.AvgPool2d) -> None:
    if module.ceil_mode or module.divisor_override or _pair(module.padding) != [0, 0]:
        raise Unsupported("an average pool with ceil mode, divisor or padding")
    writer.emit("AveragePool", [source_of(node)], out, kernel_shape=_pair(module.kernel_size), strides=_pair(module.stride))


@module_rule("AdaptiveAvgPool2d")
def _global_pool(writer: GraphWriter, node: fx.Node, out: str, module: nn.AdaptiveAvgPool2d) -> None:
    if module.output_size not in (1, (1, 1)):
        raise Unsupported(f"an adaptive pool to {module.output_size}")
    writer.emit("GlobalAveragePool", [source_of(node)], out)


@module_rule("Flatten")
def _flatten_module(writer: GraphWriter, node: fx.Node, out: str, module: nn.Flatten) -> None:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise Unsupported("a partial flatten")
    writer.emit("Flatten", [source_of(node)], out, axis=1)


@function_rule("flatten")
def _flatten(writer: GraphWriter, node: fx.Node, out: str) -> None:
    start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    if start not in (1, 2) or len(node.args) > 2 or "end_dim" in node.kwargs:
        raise Unsupported("a flatten of a part in the middle")
    if start == 1:
        writer.emit("Flatten", [source_of(node)], out, axis=1)
    else:
        writer.emit("Reshape", [source_of(node), writer.integers(f"{out}/shape", [0, 0, -1])], out)


@function_rule("relu")
def _relu(writer: GraphWriter, node: fx.Node, out: str) -> None:
    writer.emit("Relu", [source_of(node)], out)


@function_rule("contiguous")
def _identity(writer: GraphWriter, node: fx.Node, out: str) -> None:
    writer.emit("Identity", [source_of(node)], out)


@function_rule("float")
def _float(writer: GraphWriter, node: fx.Node, out: str) -> None:
    from onnx import TensorProto

    if writer.is_float(node.all_input_nodes[0]):
        writer.emit("Identity", [source_of(node)], out)
    else:
        writer.emit("Cast", [source_of(node)], out, to=TensorProto.FLOAT)


@function_rule("adaptive_avg_pool2d")
def _adaptive(writer: GraphWriter, node: fx.Node, out: str) -> None:
    if (node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")) not in (1, (1, 1)):
        raise Unsupported("an adaptive pool to more than one pixel")
    writer.emit("GlobalAveragePool", [source_of(node)], out)


@function_rule("mean")
def _mean(writer: GraphWriter, node: fx.Node, out: str) -> None:
    dims, keep = dims_of(node)
    if sorted(dims) not in ([2, 3], [-2, -1]):
        writer.emit("ReduceMean", [source_of(node), writer.integers(f"{out}/dims", dims)], out, keepdims=int(keep))
        return
    writer.emit("GlobalAveragePool", [source_of(node)], out if keep else f"{out}/pooled")
    if not keep:
        writer.emit("Flatten", [f"{out}/pooled"], out, axis=1)


def dims_of(node: fx.Node) -> tuple[list[int], bool]:
    """The dimensions that a reduction takes, and whether it keeps them. Raises Unsupported."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, (tuple, list)) or not all(isinstance(dim, int) for dim in dims):
        raise Unsupported(f"a reduction over {dims}")
    return [int(dim) for dim in dims if isinstance(dim, int)], bool(node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False))


def _binary(op_type: str) -> Emit:
    def _rule(writer: GraphWriter, node: fx.Node, out: str) -> None:
        if len(node.args) != 2 or node.kwargs:
            raise Unsupported(f"{op_type} with options")
        left, right = (writer.operand(value, out) for value in node.args)
        writer.emit(op_type, [left, right], out)

    return _rule


for _name in ("add", "sub", "mul", "div"):
    function_rule(_name)(_binary(_name.capitalize()))
