"""Print a network's layers, their output shapes and parameters.

WHAT is a run folder or an experiment file; without it, the network that `deepcore train` trains.
"""

from __future__ import annotations

from pathlib import Path


def arguments(parser) -> None:
    parser.add_argument("what", metavar="RUN|CONFIG", nargs="?", help="a run folder, or a TOML file")
    parser.add_argument("--data", metavar="NAME|FOLDER", help="as for train")


def run(args) -> int:
    import deepcore as dc
    from deepcore.cli import build, runs, train

    if args.what is not None and Path(args.what).is_dir():
        model, inputs = runs.load(args.what, "cpu")
        shape, text = inputs.shape, inputs.text
    else:
        config = train.configured(args.what, args.data)
        data = train.load_data(config)
        shape, text = data.train.inputs.shape[1:], data.text
        model, _ = build.model(config, shape, text)
    print(model.summary(shape, dtype=None if text is None else dc.int64))
    return 0
