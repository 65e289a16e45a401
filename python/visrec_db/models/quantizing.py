"""A compiled model in 8-bit integers, and how alike two forms' vectors are.

Weights become int8 with a scale for each group of 64 along the inputs of a row; OpenVINO quantizes
the activations while it runs, in groups of the same size (its dynamic quantization). Both scales
follow the largest magnitude of their group, so no pictures are needed to calibrate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 64
"""Of ViT-B/32's weights, groups of 64, 128 and whole rows give mean cosines of 0.9985, 0.9982 and
0.9979 with float32, for 2.0, 2.1 and 2.2 times the speed."""

PARITY, NEIGHBOURS = 0.998, 0.97
"""What vectors computed in fewer bits must reach beside float32: the mean cosine about the mean
vector, and the share of the ten nearest."""

Vectors = NDArray[np.float32]


def quantize(graph: Any) -> int:
    """Gives the matrix products of ``graph`` int8 weights, in place; returns how many."""
    from openvino import opset13 as ops  # noqa: PLC0415 - imported by import_openvino before

    count = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul" or not node.get_transpose_b():
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() == "Convert":
            source = source.input_value(0).get_node()
        if source.get_type_name() != "Constant" or len(source.get_output_shape(0)) != 2:
            continue
        numbers, scales = int8(np.array(source.get_data(), np.float32))
        weights = ops.multiply(ops.convert(ops.constant(numbers), "f32"), ops.constant(scales))
        shape = np.array(source.get_output_shape(0), np.int64)
        restored = ops.reshape(weights, ops.constant(shape), special_zero=False)
        node.input(1).replace_source_output(restored.output(0))
        count += 1
    graph.validate_nodes_and_infer_types()
    return count


def int8(weights: Vectors) -> tuple[NDArray[np.int8], Vectors]:
    """Returns ``weights`` (rows, inputs) as integers (rows, groups, inputs of one) and scales."""
    rows, inputs = weights.shape
    group = GROUP if inputs % GROUP == 0 else inputs
    grouped = weights.reshape(rows, inputs // group, group)
    scales = np.abs(grouped).max(axis=2, keepdims=True) / 127
    scales[scales == 0] = 1
    return np.round(grouped / scales).astype(np.int8), scales.astype(np.float32)


def parity(ours: Vectors, expected: Vectors) -> float:
    """Returns the mean cosine about the expected mean: all vectors may point nearly one way."""
    ours, expected = _unit(ours), _unit(expected)
    mean = expected.mean(axis=0)
    ours, expected = ours - mean, expected - mean
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((ours * expected).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


def shared_neighbours(ours: Vectors, expected: Vectors, count: int = 10) -> float:
    """Returns the share of each one's nearest by cosine that both agree on."""
    both = []
    for vectors in (ours, expected):
        unit = _unit(vectors).astype(np.float64)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        both.append(np.argsort(-cosines, axis=1)[:, :count])
    return float(np.mean([len({*a} & {*b}) for a, b in zip(*both, strict=True)])) / count


def _unit(rows: Vectors) -> Vectors:
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
