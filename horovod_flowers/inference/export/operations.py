"""What a SavedModel may do when it comes from somebody else: a SavedModel is a program, run without asking.

(tensorflow.org/guide/saved_model, SECURITY.md of TensorFlow: "models are programs".) Accepted are operations that
compute, by name; what is not listed is refused, known to be harmful or not.
"""

from collections.abc import Iterator
from typing import Any


def refused_operation(program: bytes) -> str | None:
    """The first operation in a saved_model.pb that is not accepted, and where it is; None where all are.

    Reading and writing of weights, which TensorFlow's servers ask for at top level, is accepted there and in functions
    that nothing else calls. Raises protobuf's DecodeError where the bytes are no SavedModel.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(program)
    # Without objects it would be TensorFlow 1's kind, whose top level runs when it is loaded.
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        return "graph of TensorFlow 1"
    graph, objects = saved.meta_graphs[0].graph_def, saved.meta_graphs[0].object_graph_def
    for name in objects.concrete_functions:  # those that objects of the model hold, and can run
        if _stores_weights(name):
            return f"{name} as a function of the model"
    for node in graph.node:
        if node.op not in COMPUTES | STORES:
            return f"{node.op} (at top level)"
    for function in graph.library.function:
        name = function.signature.name
        allowed = COMPUTES | STORES if _stores_weights(name) else COMPUTES
        for node in function.node_def:
            if node.op not in allowed or any(_stores_weights(called) for called in _calls(node)):
                return f"{node.op} (in {name})"
    return None


def _calls(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        yield value.func.name
        yield from (function.name for function in value.list.func)


def _stores_weights(function: str) -> bool:
    return function.startswith(("__inference__traced_save", "__inference__traced_restore"))


_STORES = """
SaveV2 RestoreV2 MergeV2Checkpoints ShardedFilename StaticRegexFullMatch StringJoin Select
"""
_VARIABLES_CALLS_CONTROL = """
VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp DisableCopyOnRead VarIsInitializedOp Placeholder
PlaceholderWithDefault Const NoOp Identity IdentityN StopGradient PreventGradient PartitionedCall
StatefulPartitionedCall If StatelessIf Case StatelessCase While StatelessWhile Select SelectV2 EnsureShape Assert
CheckNumerics
"""
_TENSORS = """
TensorListReserve TensorListFromTensor TensorListGetItem TensorListSetItem TensorListStack TensorListLength Shape ShapeN
Size Rank Reshape Squeeze ExpandDims Pack Unpack ConcatV2 Split SplitV Slice StridedSlice Gather GatherV2 GatherNd
ScatterNd Tile Fill ZerosLike OnesLike Range Transpose ReverseV2 Pad PadV2 MirrorPad BroadcastTo BroadcastArgs Where
OneHot Cast Bitcast InvertPermutation SpaceToBatchND BatchToSpaceND SpaceToDepth DepthToSpace LinSpace Bucketize
"""
_ARITHMETIC = """
Add AddV2 AddN Sub Mul MulNoNan Div DivNoNan RealDiv FloorDiv FloorMod Mod Neg Abs Sign Square SquaredDifference Sqrt
Rsqrt Exp Expm1 Log Log1p Pow Maximum Minimum Floor Ceil Round Rint Reciprocal Inv Erf Erfc Sin Cos Tan Tanh Sigmoid
Softplus Softsign Relu Relu6 LeakyRelu Elu Selu Softmax LogSoftmax ClipByValue Sum Mean Max Min Prod All Any ArgMax
ArgMin Cumsum Equal NotEqual Less LessEqual Greater GreaterEqual LogicalAnd LogicalOr LogicalNot IsFinite IsNan IsInf
TopKV2 L2Loss
"""
_LAYERS = """
Conv2D DepthwiseConv2dNative Conv2DBackpropInput Conv3D MaxPool AvgPool BiasAdd MatMul BatchMatMulV2 BatchMatMulV3
Einsum FusedBatchNormV3 LRN StatelessRandomUniformV2 StatelessRandomNormalV2
"""
_IMAGES = """
ResizeBilinear ResizeNearestNeighbor ResizeBicubic ResizeArea ScaleAndTranslate DecodeJpeg DecodePng DecodeRaw Substr
StringLength
"""
STORES = frozenset(_STORES.split())
COMPUTES = frozenset(" ".join((_VARIABLES_CALLS_CONTROL, _TENSORS, _ARITHMETIC, _LAYERS, _IMAGES)).split())
"""Operations that touch no files, no network and no memory of others, and run no Python."""
