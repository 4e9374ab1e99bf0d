"""What one operation of TensorFlow takes: products and convolutions are counted, a multiply-add as two.

What is neither counted nor known to take no products (elementwise work, reductions, pooling, moves of data) leaves a
model without a number: it may be anything.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from horovod_flowers.model.flops.function_graph import FunctionGraph, Operation, Shape

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """One kind of product: its two factors, among the inputs, and what each may cost to differentiate."""

    flops: Callable[[Operation, Sizes, Sizes, Sizes], float]
    """Of the operation, the shapes of its factors and of its first output."""
    factors: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Parts:
    """What an operation takes; `of_factors`: how much more the gradient of each of its factors does."""

    forward: float
    factors: tuple[int, int]


def parts_of(operation: Operation, graph: FunctionGraph) -> Parts | None:
    """Of a product; None where a shape is not known. KeyError for what is none."""
    product = PRODUCTS[operation.kind]
    factors = [_known(graph.shape(operation.inputs[place])) for place in product.factors]
    result = _known(_result(operation, graph))
    if factors[0] is None or factors[1] is None or result is None:
        return None
    return Parts(product.flops(operation, factors[0], factors[1], result), product.factors)


def _result(operation: Operation, graph: FunctionGraph) -> Shape:
    """Its shape; of a dilated convolution that TensorFlow takes apart, what is left once the parts are put together."""
    if graph[operation.inputs[0][0]].kind == "SpaceToBatchND":
        (takes, *others) = graph.takers(operation.name) or [operation]
        if takes.kind == "BatchToSpaceND" and not others:
            return takes.shapes[0]
    return operation.shapes[0] if operation.shapes else None


def _known(shape: Shape) -> Sizes | None:
    if shape is None or any(size is None for size in shape):
        return None
    return tuple(size for size in shape if size is not None)


def _matrix_product(transposed: str) -> Callable[[Operation, Sizes, Sizes, Sizes], float]:
    """Of [..., m, k] and [..., k, n]: 2 m k n. `transposed`: the attribute that says the first is [..., k, m]."""

    def flops(operation: Operation, left: Sizes, _: Sizes, result: Sizes) -> float:
        return 2.0 * math.prod(result) * left[-2 if operation.attributes[transposed].b else -1]

    return flops


def _convolution(_: Operation, __: Sizes, kernel: Sizes, result: Sizes) -> float:
    """Each output is a sum over the kernel's window and the input channels of its group ([..., channels, filters]).

    What the window covers of the padding is counted like the rest.
    """
    return 2.0 * math.prod(result) * math.prod(kernel[:-1])


def _depthwise(_: Operation, __: Sizes, kernel: Sizes, result: Sizes) -> float:
    """Each output is a sum over the kernel's window ([height, width, channels, multiplier]) in one channel."""
    return 2.0 * math.prod(result) * math.prod(kernel[:-2])


def _transposed_convolution(_: Operation, kernel: Sizes, spread: Sizes, __: Sizes) -> float:
    """As the convolution whose gradient it is: each element that is spread meets the window and each channel."""
    return 2.0 * math.prod(spread) * math.prod(kernel[:-1])


def _einsum(operation: Operation, left: Sizes, right: Sizes, _: Sizes) -> float:
    """Two for each combination of all indices, where something is added up over; else it is elementwise."""
    equation = operation.attributes["equation"].s.decode()
    inputs, _, output = equation.partition("->")
    words = inputs.split(",")
    sizes: dict[str, int] = {}
    for word, shape in zip(words, (left, right), strict=True):
        for index, size in _indexed(word, shape):
            sizes[index] = max(size, sizes.get(index, 1))  # a 1 is spread
    if set("".join(words)) - {"."} <= set(output) and not _outer(words):
        return 0.0
    return 2.0 * math.prod(sizes.values())


def _outer(words: Sequence[str]) -> bool:
    one, other = (set(word) for word in words)
    return bool(one - other) and bool(other - one)


def _indexed(word: str, shape: Sizes) -> list[tuple[str, int]]:
    """Each index with its size; those that '...' stands for are counted from the last."""
    before, dots, behind = word.partition("...")
    if not dots:
        return list(zip(word, shape, strict=True))
    middle = shape[len(before) : len(shape) - len(behind)]
    own = [*zip(before, shape, strict=False), *zip(behind, shape[len(shape) - len(behind) :], strict=True)]
    return [*own, *((f"...{place - len(middle)}", size) for place, size in enumerate(middle))]


PRODUCTS: Mapping[str, Product] = {
    "MatMul": Product(_matrix_product("transpose_a")),
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), Product(_matrix_product("adj_x"))),
    **dict.fromkeys(("Conv", "Conv2D", "Conv3D"), Product(_convolution)),
    "DepthwiseConv2dNative": Product(_depthwise),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), Product(_transposed_convolution, (1, 2))),
    "Einsum": Product(_einsum),
}
"""Operations that are counted, by TensorFlow's names."""

BLOCKING = frozenset(
    {
        *("StopGradient", "PreventGradient", "Floor", "Ceil", "Round", "Rint", "Sign", "ZerosLike", "OnesLike"),
        *("OneHot", "Range", "LinSpace", "Fill", "Const", "Placeholder", "Bucketize", "RandomUniformInt"),
        *("Multinomial", "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5"),
    }
)
"""That hand no gradient on, beside those that give whole numbers."""

ASSIGNING = frozenset({"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})
"""That are computed though nothing that is returned depends on them."""

_ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "AddN", "AddV2", "Angle", "Asin", "Asinh", "Atan", "Atan2", "Atanh"),
    *("BiasAdd", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Bitcast", "Cast", "ClipByValue", "Complex", "ComplexAbs"),
    *("Conj", "Cos", "Cosh", "Digamma", "Div", "DivNoNan", "Elu", "Equal", "Erf", "Erfc", "Erfinv", "Exp", "Expm1"),
    *("FloorDiv", "FloorMod", "Greater", "GreaterEqual", "Igamma", "Igammac", "Imag", "Inv", "Invert", "IsFinite"),
    *("IsInf", "IsNan", "LeakyRelu", "LeftShift", "Less", "LessEqual", "Lgamma", "Log", "Log1p", "LogicalAnd"),
    *("LogicalNot", "LogicalOr", "Maximum", "Minimum", "Mod", "Mul", "MulNoNan", "Ndtri", "Neg", "NextAfter"),
    *("NotEqual", "Polygamma", "Pow", "Real", "RealDiv", "Reciprocal", "Relu", "Relu6", "RightShift", "Rsqrt"),
    *("Select", "SelectV2", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Square"),
    *("SquaredDifference", "Sub", "Tan", "Tanh", "TruncateDiv", "TruncateMod", "Xdivy", "Xlog1py", "Xlogy", "Zeta"),
    *("Betainc", "BesselI0e", "BesselI1e", "BesselI0", "BesselI1", "Dawsn", "Spence", "Expint", "PopulationCount"),
    *("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel"),
    *("RGBToHSV", "HSVToRGB", "AdjustContrastv2", "AdjustHue", "AdjustSaturation", "Bincount", "DenseBincount"),
)
_REDUCING = (
    *("All", "Any", "ArgMax", "ArgMin", "Cumprod", "Cumsum", "CumulativeLogsumexp", "EuclideanNorm", "L2Loss"),
    *("LogSoftmax", "Max", "Mean", "Min", "Prod", "Softmax", "SoftmaxCrossEntropyWithLogits", "Sum", "InTopKV2"),
    *("SparseSoftmaxCrossEntropyWithLogits", "SegmentSum", "SegmentMean", "SegmentMax", "SegmentMin", "SegmentProd"),
    *("UnsortedSegmentSum", "UnsortedSegmentMax", "UnsortedSegmentMin", "UnsortedSegmentProd", "CTCLoss", "CTCLossV2"),
    *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "LRN", "SparseSegmentMean", "SparseSegmentSum"),
    *("AvgPool", "AvgPool3D", "MaxPool", "MaxPoolV2", "MaxPool3D", "MaxPoolWithArgmax", "FractionalMaxPool"),
    *("FractionalAvgPool", "TopKV2", "NthElement", "HistogramFixedWidth"),
)
_MOVING = (
    *("BatchToSpace", "BatchToSpaceND", "BroadcastArgs", "BroadcastGradientArgs", "BroadcastTo", "Concat", "ConcatV2"),
    *("CropAndResize", "DepthToSpace", "Diag", "DiagPart", "DynamicPartition", "DynamicStitch", "EnsureShape"),
    *("ExpandDims", "ExtractImagePatches", "ExtractVolumePatches", "Gather", "GatherNd", "GatherV2", "Identity"),
    *("IdentityN", "ImageProjectiveTransformV2", "ImageProjectiveTransformV3", "InvertPermutation", "ListDiff"),
    *("MatrixBandPart", "MatrixDiag", "MatrixDiagV2", "MatrixDiagV3", "MatrixDiagPart", "MatrixDiagPartV2"),
    *("MatrixDiagPartV3", "MatrixSetDiag", "MatrixSetDiagV2", "MatrixSetDiagV3", "MirrorPad", "Pack", "Pad", "PadV2"),
    *("ParallelDynamicStitch", "Rank", "Reshape", "ResizeArea", "ResizeBicubic", "ResizeBilinear"),
    *("ResizeNearestNeighbor", "ResourceGather", "ResourceGatherNd", "Reverse", "ReverseSequence", "ReverseV2", "Roll"),
    *("ScaleAndTranslate", "ScatterNd", "Shape", "ShapeN", "Size", "Slice", "SpaceToBatch"),
    *("SpaceToBatchND", "SpaceToDepth", "Split", "SplitV", "Squeeze", "StridedSlice", "TensorScatterAdd"),
    *("TensorScatterMax", "TensorScatterMin", "TensorScatterSub", "TensorScatterUpdate", "TensorStridedSliceUpdate"),
    *("Tile", "Transpose", "ConjugateTranspose", "Unique", "UniqueV2", "UniqueWithCounts", "Unpack", "UnravelIndex"),
    *("Where", "LowerBound", "UpperBound", "SparseToDense", "ReadVariableOp", "VariableShape", "VarIsInitializedOp"),
    *("TensorListConcatV2", "TensorListElementShape", "TensorListFromTensor", "TensorListGather", "TensorListGetItem"),
    *("TensorListLength", "TensorListPopBack", "TensorListPushBack", "TensorListReserve", "TensorListResize"),
    *("TensorListScatterV2", "TensorListSetItem", "TensorListSplit", "TensorListStack", "EmptyTensorList"),
    *("RaggedRange", "RaggedTensorToTensor", "RaggedTensorFromVariant", "RaggedTensorToVariant"),
)
_OTHERS = (
    *("CheckNumerics", "NoOp", "Assert", "Print", "PrintV2", "StringFormat", "Timestamp", "RandomShuffle"),
    *("RandomStandardNormal", "RandomUniform", "TruncatedNormal", "RandomGamma", "RandomPoissonV2"),
    *("StatelessMultinomial", "StatelessRandomBinomial", "StatelessRandomGammaV2", "StatelessRandomGammaV3"),
    *("StatelessRandomGetAlg", "StatelessRandomGetKeyCounter", "StatelessRandomGetKeyCounterAlg"),
    *("StatelessRandomNormal", "StatelessRandomNormalV2", "StatelessRandomPoisson", "StatelessRandomUniform"),
    *("StatelessRandomUniformFullInt", "StatelessRandomUniformFullIntV2", "StatelessRandomUniformInt"),
    *("StatelessRandomUniformIntV2", "StatelessRandomUniformV2", "StatelessShuffle", "StatelessTruncatedNormal"),
    *("StatelessTruncatedNormalV2", "StatelessSampleDistortedBoundingBox", "RngReadAndSkip", "RngSkip"),
)
FREE = frozenset((*_ELEMENTWISE, *_REDUCING, *_MOVING, *_OTHERS, *BLOCKING, *ASSIGNING))
"""Operations that take no products: a few operations an element at most, and bound by memory."""
