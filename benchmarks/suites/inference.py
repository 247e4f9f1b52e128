"""Inference of one sample at a time: what answers while somebody waits, against PyTorch and ONNX Runtime.

The GPT and the LSTM write token by token, with what they keep of those before; the others take a whole input. PyTorch runs in
inference mode. ONNX Runtime has the graph that PyTorch exports; of the networks with state, none of the same form.
"""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import peers
import workloads
from contest import Absent, Contest

import deepcore as dc
from deepcore.config import settings

WIDTH, HEADS, BLOCKS, VOCABULARY = 256, 4, 4, 96  # of the GPT, and the LSTM's states
ENCODER = (384, 6, 1536, 6, 32)  # width, heads, hidden, layers, tokens
SIDES = ("deepcore", "torch eager", "torch.compile", "onnxruntime")


# -- networks -----------------------------------------------------------------------------------------------
def decoder(library, length: int):
    """A decoder of pre-norm blocks: (token (1, 1), position) to scores, over keys and values that it keeps."""
    nn, attention = library.nn, library.nn.functional.scaled_dot_product_attention
    depth = WIDTH // HEADS

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            self.register_buffer("keys", library.zeros(1, HEADS, length, depth))
            self.register_buffer("values", library.zeros(1, HEADS, length, depth))

        def forward(self, x, position, mask):
            q, k, v = (t.reshape(1, HEADS, depth) for t in self.qkv(self.norm1(x)).chunk(3, -1))
            self.keys[:, :, position] = k
            self.values[:, :, position] = v
            x = x + self.out(attention(q.unsqueeze(2), self.keys, self.values, attn_mask=mask).reshape(1, 1, WIDTH))
            return x + self.mlp(self.norm2(x))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(length, WIDTH)
            self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, token, position):
            mask = (library.arange(length) <= position).unsqueeze(0)
            x = self.tokens(token) + self.positions(position)
            for block in self.blocks:
                x = block(x, position, mask)
            return self.head(self.norm(x))

    return Decoder()


def writer(library):
    """(token (1, 1), states) to scores and the new states."""
    nn = library.nn

    class Writer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(VOCABULARY, 128), nn.LSTM(128, WIDTH, batch_first=True)
            self.head = nn.Linear(WIDTH, VOCABULARY)

        def forward(self, token, h, c):
            x, (h, c) = self.lstm(self.embedding(token), (h, c))
            return self.head(x), h, c

    return Writer()


def encoder(library):
    width, heads, hidden, layers, _ = ENCODER
    layer = library.nn.TransformerEncoderLayer(width, heads, hidden, 0.0, activation="gelu", batch_first=True)
    return library.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def images(side: int):
    return np.random.default_rng(0).standard_normal((1, 3, side, side)).astype("float32")


#: How a network is made, and what it is called with.
WHOLE = {
    "encoder": (encoder, lambda: np.random.default_rng(0).standard_normal((1, ENCODER[4], ENCODER[0])).astype("float32")),
    "cifar_cnn": (workloads.cifar_cnn, lambda: images(32)),
    "resnet18": (workloads.resnet18, lambda: images(32)),
}  # fmt: skip


# -- sides --------------------------------------------------------------------------------------------------
def _library(side: str):
    return dc if side == "deepcore" else peers.torch()


def _compiled(side: str, library, model):
    """The model as this side calls it."""
    model.eval()
    if side == "torch eager":
        return model
    if side == "torch.compile":
        library._dynamo.reset()
    compiled = library.compile(lambda *arguments: model(*arguments))
    return compiled


def _session(model, example):
    """The model in ONNX Runtime, from PyTorch's export."""
    torch = peers.torch()
    try:
        import onnxruntime
    except ImportError as error:
        raise Absent(f"ONNX Runtime cannot be imported ({error})") from None
    graph = io.BytesIO()
    try:
        torch.onnx.export(model, (torch.from_numpy(example),), graph, dynamo=False, opset_version=17)
    except Exception as error:
        raise Absent(f"PyTorch does not export it: {str(error).splitlines()[0]}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
    session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: example})


def _without_gradients(side: str, library, call):
    mode = library.no_grad if side == "deepcore" else library.inference_mode

    def run():
        with mode():
            return call()

    try:
        run()
    except Exception as error:  # torch.compile without a C++ compiler, above all
        if side != "torch.compile":
            raise
        raise Absent(f"torch.compile: {str(error).strip().splitlines()[0]}") from None
    return run


def whole(side: str, name: str):
    build, make = WHOLE[name]
    example = make()
    if side == "onnxruntime":
        return _session(build(peers.torch()).eval(), example)
    library = _library(side)
    model, x = _compiled(side, library, build(library)), library.from_numpy(example)
    return _without_gradients(side, library, lambda: model(x))


def written(side: str, length: int):
    """A second half of a text, character by character; the time of one."""
    if side == "onnxruntime":
        raise Absent("the exported graph would have other inputs and outputs")
    library = _library(side)
    model, token = _compiled(side, library, decoder(library, length)), library.zeros(1, 1, dtype=library.int64)
    places = [library.tensor(n) for n in range(length // 2, length)]

    def text():
        for place in places:
            model(token, place)

    return _without_gradients(side, library, text), 1 / len(places)


def stepped(side: str):
    if side == "onnxruntime":
        raise Absent("the exported graph would have other inputs and outputs")
    library, steps = _library(side), 32
    model, token = _compiled(side, library, writer(library)), library.zeros(1, 1, dtype=library.int64)
    start = library.zeros(1, 1, WIDTH), library.zeros(1, 1, WIDTH)

    def text():
        h, c = start
        for _ in range(steps):
            _, h, c = model(token, h, c)

    return _without_gradients(side, library, text), 1 / steps


CONTESTS = [
    *(
        Contest("inference", f"gpt, a token after {length // 2} to {length}", partial(written, length=length), SIDES[:3],
                facts={"length": length})
        for length in (128, 1024)
    ),
    Contest("inference", "lstm, a token", stepped, SIDES[:3]),
    *(Contest("inference", f"{name}, one sample", partial(whole, name=name), SIDES) for name in WHOLE),
]  # fmt: skip
