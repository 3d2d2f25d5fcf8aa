"""Writes a BERT encoder's safetensors as an ONNX graph, without torch: export_minilm_onnx.py MODEL_FOLDER OUT.onnx

Inputs input_ids, attention_mask, token_type_ids [batch, length]; output last_hidden_state [batch, length, hidden].
Pooling is left to the caller, as in sentence-transformers' own exports."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17


def read_safetensors(path):
    """A name: array dictionary; the format is a length, a JSON header and the values."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in ("F32", "F16"):
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        kind = {"F32": np.float32, "F16": np.float16}[entry["dtype"]]
        tensors[name] = np.frombuffer(data[begin:end], kind).reshape(entry["shape"]).astype(np.float32)
    return tensors


class Graph:
    """Nodes and constants, each node named after its output."""

    def __init__(self, tensors):
        self.tensors, self.nodes, self.constants, self.count = tensors, [], {}, 0

    def constant(self, name, value):
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind, *inputs, **attributes):
        self.count += 1
        out = f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def linear(self, x, name):
        weight = self.constant(f"{name}.weight", self.tensors[f"{name}.weight"].T)
        bias = self.constant(f"{name}.bias", self.tensors[f"{name}.bias"])
        return self.add("Add", self.add("MatMul", x, weight), bias)

    def layer_norm(self, x, name, eps):
        weight = self.constant(f"{name}.weight", self.tensors[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self.tensors[f"{name}.bias"])
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def gelu(self, x):
        scaled = self.add("Div", x, self.constant("sqrt2", np.float32(np.sqrt(2.0))))
        one_more = self.add("Add", self.add("Erf", scaled), self.constant("one", np.float32(1)))
        return self.add("Mul", self.add("Mul", x, one_more), self.constant("half", np.float32(0.5)))


def layer(g, x, mask, prefix, config):
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    split = g.constant("split", np.array([0, 0, heads, hidden // heads], np.int64))
    joined = g.constant("joined", np.array([0, 0, hidden], np.int64))
    part = lambda name, order: g.add(
        "Transpose", g.add("Reshape", g.linear(x, f"{prefix}.attention.self.{name}"), split), perm=order)
    scale = g.constant("scale", np.float32(1 / np.sqrt(hidden // heads)))
    scores = g.add("MatMul", part("query", [0, 2, 1, 3]), part("key", [0, 2, 3, 1]))
    weights = g.add("Softmax", g.add("Add", g.add("Mul", scores, scale), mask), axis=-1)
    mixed = g.add("Transpose", g.add("MatMul", weights, part("value", [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    out = g.linear(g.add("Reshape", mixed, joined), f"{prefix}.attention.output.dense")
    x = g.layer_norm(g.add("Add", out, x), f"{prefix}.attention.output.LayerNorm", config["layer_norm_eps"])
    inner = g.gelu(g.linear(x, f"{prefix}.intermediate.dense"))
    out = g.add("Add", g.linear(inner, f"{prefix}.output.dense"), x)
    return g.layer_norm(out, f"{prefix}.output.LayerNorm", config["layer_norm_eps"])


def embeddings(g, config):
    table = lambda name: g.constant(name, g.tensors[f"embeddings.{name}.weight"])
    words = g.add("Gather", table("word_embeddings"), "input_ids")
    types = g.add("Gather", table("token_type_embeddings"), "token_type_ids")
    length = g.add("Gather", g.add("Shape", "input_ids"), g.constant("axis", np.array([1], np.int64)))
    positions = g.add("Slice", table("position_embeddings"), g.constant("zero", np.array([0], np.int64)), length)
    total = g.add("Add", g.add("Add", words, types), positions)
    return g.layer_norm(total, "embeddings.LayerNorm", config["layer_norm_eps"])


def additive_mask(g):
    """0 where the mask is 1, the lowest number elsewhere, as [batch, 1, 1, length]."""
    mask = g.add("Unsqueeze", g.add("Cast", "attention_mask", to=TensorProto.FLOAT),
                 g.constant("axes", np.array([1, 2], np.int64)))
    absent = g.add("Sub", g.constant("one", np.float32(1)), mask)
    return g.add("Mul", absent, g.constant("lowest", np.float32(np.finfo(np.float32).min)))


def main(folder, out):
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_act"] == "gelu", f"{config['hidden_act']} is not supported"
    tensors = read_safetensors(folder / "model.safetensors")
    g = Graph({name.removeprefix("bert."): value for name, value in tensors.items()})
    x, mask = embeddings(g, config), additive_mask(g)
    for k in range(config["num_hidden_layers"]):
        x = layer(g, x, mask, f"encoder.layer.{k}", config)
    g.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
    ids = lambda name: helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
    hidden = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch", "length", config["hidden_size"]])
    graph = helper.make_graph(g.nodes, "bert", [ids("input_ids"), ids("attention_mask"), ids("token_type_ids")],
                              [hidden], list(g.constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(model)
    out.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
