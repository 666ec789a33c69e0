from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from students import model_of

from secondlook.detector import onnx_safety
from secondlook_client.errors import Damaged

WEIGHTS = np.zeros((3, 2), np.float32)
BIAS = np.zeros(2, np.float32)


def test_weights_in_another_file_are_refused_wherever_they_stand() -> None:
    outside = TensorProto(name="x", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    for attribute in (
        helper.make_attribute("value", outside),
        helper.make_attribute("values", [outside]),
    ):
        model = model_of(WEIGHTS, BIAS, (64, 64))
        model.graph.node.add(op_type="Constant", output=["y"]).attribute.append(attribute)
        with pytest.raises(Damaged, match="other files"):
            onnx_safety.refuse_unsafe(model.SerializeToString())


def test_loops_and_functions_are_refused() -> None:
    looping = model_of(WEIGHTS, BIAS, (64, 64))
    body = helper.make_graph([], "body", [], [])
    looping.graph.node.append(helper.make_node("Loop", ["a"], ["b"], body=body))
    with pytest.raises(Damaged, match="loops"):
        onnx_safety.refuse_unsafe(looping.SerializeToString())
    functional = model_of(WEIGHTS, BIAS, (64, 64))
    functional.functions.add(name="f", domain="d")
    with pytest.raises(Damaged, match="functions"):
        onnx_safety.refuse_unsafe(functional.SerializeToString())
    sparse = model_of(WEIGHTS, BIAS, (64, 64))
    sparse.graph.sparse_initializer.add()
    with pytest.raises(Damaged, match="sparse"):
        onnx_safety.refuse_unsafe(sparse.SerializeToString())


def sized(*nodes: Any) -> bytes:
    model = model_of(WEIGHTS, BIAS, (64, 64))
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("NonZero", ["scores"], ["x"])],
        [helper.make_node("Compress", ["zero", "scores"], ["x"])],
        [helper.make_node("Range", ["zero", "best", "zero"], ["x"])],
        [
            helper.make_node("Expand", ["zero", "later"], ["x"]),
            helper.make_node("Cast", ["flat"], ["later"], to=TensorProto.INT64),
        ],
        [helper.make_node("Reshape", ["scores", "shape", "scores"], ["x"], domain="microsoft")],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_sizes_that_depend_on_what_an_image_shows_are_refused(nodes: list[Any]) -> None:
    with pytest.raises(Damaged, match=r"what an image shows|no operation of ONNX itself"):
        onnx_safety.refuse_unsafe(sized(*nodes))


def test_a_detector_may_suppress_duplicates_in_its_graph_and_nothing_else() -> None:
    picked = [
        helper.make_node("NonMaxSuppression", ["quarters", "scores"], ["rows"]),
        helper.make_node("Reshape", ["rows", "rows"], ["x"]),
    ]
    onnx_safety.refuse_unsafe(sized(*picked), suppression=True)
    with pytest.raises(Damaged, match="what an image shows"):
        onnx_safety.refuse_unsafe(sized(*picked))
    expanded = [*picked, helper.make_node("Expand", ["zero", "x"], ["y"])]
    with pytest.raises(Damaged, match=r"what an image shows \('Expand'\)"):
        onnx_safety.refuse_unsafe(sized(*expanded), suppression=True)
    own = helper.make_node("Any", ["rows"], ["y"], domain="mine")
    with pytest.raises(Damaged, match="no operation of ONNX itself"):
        onnx_safety.refuse_unsafe(sized(*picked, own), suppression=True)


def test_suppressions_in_a_row_that_could_grow_are_refused() -> None:
    names = ["scores", *(f"n{place}" for place in range(onnx_safety.MAX_SUPPRESSIONS + 1))]
    chain = [helper.make_node("NonZero", [one], [other]) for one, other in pairwise(names)]
    onnx_safety.refuse_unsafe(sized(*chain[:-1]), suppression=True)
    with pytest.raises(Damaged, match="5 times by what an image shows"):
        onnx_safety.refuse_unsafe(sized(*chain), suppression=True)


def test_sizes_that_depend_on_the_size_of_an_image_are_not() -> None:
    nodes = [
        helper.make_node("Shape", ["scores"], ["size"]),
        helper.make_node("Expand", ["zero", "size"], ["x"]),
        helper.make_node("NonZero", ["quarters"], ["y"]),
    ]
    onnx_safety.refuse_unsafe(sized(*nodes))
    nodes[0].op_type = "Identity"
    with pytest.raises(Damaged, match="what an image shows"):
        onnx_safety.refuse_unsafe(sized(*nodes))


SIZING = {
    *("shape", "axes", "axis", "sizes", "size", "scales", "pads", "repeats", "tiles", "K", "depth"),
    *("split", "starts", "ends", "steps", "output_shape", "image_shape", "block_shape"),
    *("dft_length", "frame_step", "frame_length", "start", "limit", "delta", "position"),
}
"""Names of inputs whose values decide sizes, in all of ONNX's operations and their versions."""
KEEP_SIZES = {"Attention", "CumProd", "CumSum"}
"""Their inputs of such names decide nothing about sizes."""


def test_every_operation_with_sizes_from_values_is_known() -> None:
    known = onnx_safety._SIZES
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
    assert known.keys() <= {schema.name for schema in schemas}
    for schema in schemas:
        sizing = {place for place, value in enumerate(schema.inputs) if value.name in SIZING}
        if schema.name not in KEEP_SIZES:
            assert sizing <= set(known.get(schema.name, ())), (schema.name, sizing)


def test_every_way_to_a_tensor_is_known() -> None:
    """Of onnx.proto, with what is refused as a whole left out."""
    skipped = {
        name
        for fields in onnx_safety._MESSAGES.values()
        for name, (_, k) in fields.items()
        if k == "Skipped"
    }
    known = onnx_safety._MESSAGES

    def look(descriptor: Any, ours: str) -> None:
        for field in descriptor.fields:
            if field.message_type is None or not leads_to_tensor(field.message_type, set()):
                continue
            assert field.name in known[ours], f"{descriptor.name}.{field.name}"
            number, kind = known[ours][field.name]
            assert number == field.number
            if field.name not in skipped and kind != "Tensor":
                look(field.message_type, kind)

    def leads_to_tensor(descriptor: Any, seen: set[str]) -> bool:
        if descriptor.name == "TensorProto":
            return True
        if descriptor.name in seen:
            return False
        seen.add(descriptor.name)
        return any(
            field.message_type is not None and leads_to_tensor(field.message_type, seen)
            for field in descriptor.fields
        )

    look(onnx.ModelProto.DESCRIPTOR, "Model")
    tensor = onnx.TensorProto.DESCRIPTOR.fields_by_name
    for name, (number, _) in known["Tensor"].items():
        assert tensor[name].number == number
