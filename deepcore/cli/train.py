"""Train a network: the bundled handwritten digits, or what an experiment file describes.

Without CONFIG: a small network on 1,437 of the 1,797 digits that come with the package, tested on the other 360.
CONFIG is a TOML file with the tables [data], [[layers]], [loss], [optimizer], [schedule] and [train]; see
examples/digits.toml. Options override the file.

A checkpoint is written every minute and at ends of epochs, so that --resume goes on with a run that was killed.
Ctrl-C, SIGTERM and SIGHUP stop after the step under way and save.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepcore.cli import build, default, runs, sources
from deepcore.cli.config import Config, Place, dumps, parse, read
from deepcore.cli.inputs import Inputs
from deepcore.cli.predict import class_names
from deepcore.cli.terminated import Terminated, terminated
from deepcore.errors import ArgumentError, DataError, MissingDependencyError, suggest
from deepcore.io.files import atomic_write

#: Steps of a profile, and those ahead of it: the first compile, and some of them check the program.
PROFILED, AHEAD = 10, 5


def arguments(parser) -> None:
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a TOML file (default: the digit classifier)")
    parser.add_argument("--backend", "--device", metavar="NAME", help='"cpu", "cuda", "cuda:1" or "auto"')
    parser.add_argument("--seed", metavar="N", type=int, help="of initial weights, shuffling and dropout")
    parser.add_argument("--epochs", metavar="N", type=int, help="passes over the training data")
    parser.add_argument(
        "--data",
        metavar="NAME|FOLDER",
        help=f"another data set ({', '.join(sorted(sources.SOURCES))}), or the folder its files are in",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the run is saved (default: runs/NAME-TIME)")
    parser.add_argument("--overwrite", action="store_true", help="let --out replace a run that is there")
    parser.add_argument("--resume", metavar="RUN", help="go on with an interrupted run, to the same bits")
    parser.add_argument(
        "--profile", metavar="FILE", help=f"write a Chrome trace of {PROFILED} steps, and print what takes their time"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result and errors")


def run(args) -> int:
    import deepcore as dc

    folder: Path | None = None
    if args.resume is not None:
        clash = [n for n in ("config", "data", "out", "seed") if getattr(args, n) is not None]
        if clash:
            raise ArgumentError(f"--resume takes the run as it was begun, without {' and '.join(clash)}")
        folder = Path(args.resume).expanduser()
        if not (folder / runs.CONFIG).is_file():
            raise DataError(
                f"there is nothing to resume in {args.resume!r}",
                expected=f"a folder that train made, with its {runs.CONFIG}",
                fix="a run that was stopped before it wrote that is begun again, without --resume",
            )
        config = read(folder / runs.CONFIG)
    else:
        config = configured(args.config, args.data)
    config = config.with_train(epochs=args.epochs, seed=args.seed, backend=args.backend)
    backend_place = config.at.key("train.backend") if args.backend is None else Place("command line", "--backend")
    with build.at(backend_place):
        backend = dc.get_backend(config.train.backend)
    with terminated(), dc.use_backend(backend):
        profile = None if args.profile is None else _profile(args.profile)
        return train(config, args.out, args.overwrite, args.quiet, folder, profile)


def _profile(file: str):
    from deepcore.cli.profile import Profile  # which imports the training code

    return Profile(file)


def configured(path: str | None, data: str | None = None) -> Config:
    """The experiment of a file, or the default one, on `data`: the name of a data set, or a folder."""
    if path is None:
        config = parse(default.DIGITS, Place("the default experiment"), "digits", Path.cwd())
    else:
        config = read(path)
    if data is None:
        return config
    if data in sources.SOURCES:
        return config.with_data_set(data)
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ArgumentError(f"--data {data} is no data set and no folder", fix=suggest(data, sources.SOURCES))
    part = config.data
    if part.type == "digits":
        raise ArgumentError("the digits come with the package", received=f"--data {data}", fix="leave out --data")
    if part.type == "mnist":
        root = folder / "mnist" if (folder / "mnist").is_dir() else folder
        part = replace(part, arguments={**part.arguments, "root": str(root.resolve())})
    return replace(config, data=part, folder=folder)


def load_data(config: Config) -> sources.Data:
    """The data of an experiment, not yet normalised."""
    with build.at(config.data.at):
        return sources.load(config.data, config.folder, config.loss.type in build.CLASS_LOSSES)


def train(
    config: Config,
    out: str | None,
    overwrite: bool,
    quiet: bool,
    resume: Path | None = None,
    profile=None,
) -> int:
    """Train, test and save; the exit status."""
    import deepcore as dc

    data = load_data(config)
    data, validation = _divide(data, config)
    kind = (build.CLASS_LOSSES | build.BINARY_LOSSES).get(config.loss.type, "values")
    inputs = Inputs.fit(
        data.train.inputs, config.data.normalize, data.unit, data.classes, kind, data.columns, data.text
    )
    dc.manual_seed(config.train.seed)
    net, config = build.model(config, inputs.shape, data.text)
    build.check_output(config, net, inputs.shape, data.classes, data.train.targets.shape[1:], data.text)
    optimizer = build.optimizer(config, net)
    folder = runs.create(out, config.name, overwrite) if resume is None else resume
    trainer = dc.Trainer(
        net,
        optimizer,
        build.loss(config),
        metrics=None if kind != "values" else ("mean_absolute_error",),
        scheduler=build.schedule(config, optimizer),
        clip_grad_norm=config.train.clip_grad_norm,
        out=folder,
        save_every=config.train.save_every,
        keep=config.train.keep,
        best=config.train.best,
    )
    dataset = dc.data.TensorDataset(*(dc.tensor(a, backend=trainer.backend) for a in _arrays(data.train, inputs)))
    with build.at(config.at.key("train")):
        loader = dc.data.DataLoader(dataset, config.train.batch_size, shuffle=True, drop_last=config.train.drop_last)
    if resume is None:
        runs.clear(folder)
    resolved = replace(config, data=sources.relocated(config.data, config.folder))
    runs.write_text(folder / runs.CONFIG, dumps(resolved.table()))
    inputs.save(folder / runs.INPUTS)
    check = None
    if validation is not None:
        arrays = [dc.tensor(a, backend=trainer.backend) for a in _arrays(validation, inputs)]
        check = dc.data.DataLoader(dc.data.TensorDataset(*arrays), config.train.batch_size)
    if not quiet:
        validation_text = f", {len(validation):,} to validate" if validation is not None else ""
        test_text = f", {len(data.test):,} to test" if data.test is not None else ""
        print(
            f"{config.data.type}: {len(data.train):,} samples to train{validation_text}{test_text}; {_network(net)}; backend {trainer.backend}",
            flush=True,
        )
    start = time.perf_counter()
    callbacks = [*_callbacks(config, folder), *([] if profile is None else [profile])]
    stopped = _fit(trainer, loader, check, config, quiet, resume, folder, callbacks)
    seconds = time.perf_counter() - start
    history = trainer.history
    # Files first: printing may fail when the reader of a pipe or the terminal is gone.
    net.eval()
    net.save(folder / runs.MODEL)
    history.save_csv(folder / runs.HISTORY)
    result: dict[str, Any] = {"epochs": len(history), "seconds": round(seconds, 3), "interrupted": history.interrupted}
    result |= {"seed": config.train.seed, "backend": str(trainer.backend), "deepcore": dc.__version__}
    scores, lines = ({}, []) if data.test is None or stopped else _test(trainer, data, inputs)
    runs.write_json(folder / runs.RESULT, result | scores)
    if len(history) and not stopped:
        _plot(history, folder / runs.PLOT)
    if not history.interrupted:
        lines.insert(0, f"trained {len(history)} epochs in {seconds:.1f} s")
    if profile is not None:
        lines += profile.lines
    lines.append(f"saved in {folder}")
    if history.interrupted or stopped:
        lines.append(_resume_command(folder))
    elif not quiet:
        lines.append(f"  deepcore predict {folder} FILE")
    status = 128 + stopped if stopped else 130 if history.interrupted else 0
    try:
        print("\n".join(lines), flush=True)
    except OSError:
        if not stopped:
            raise
    return status


def _divide(data: sources.Data, config: Config) -> tuple[sources.Data, sources.Samples | None]:
    """The data with fewer training samples, and those to validate on, drawn by the seed."""
    fraction = config.train.validation_split
    if fraction is None:
        return data, None
    from deepcore.data.sampler import permutation

    count = len(data.train)
    first = math.floor(count * (1 - fraction))
    if not 0 < first < count:
        raise config.at.key("train.validation_split").error(
            "validation_split leaves no sample on one side", received=f"{fraction} of {count} samples"
        )
    order = permutation(count, config.train.seed)
    parts = [
        replace(data.train, inputs=data.train.inputs[rows], targets=data.train.targets[rows])
        for rows in (order[:first], order[first:])
    ]
    return replace(data, train=parts[0]), parts[1]


def _callbacks(config: Config, folder: Path) -> list:
    from deepcore.train import EarlyStopping, ModelCheckpoint

    callbacks: list = []
    settings = config.train
    if settings.early_stopping is not None:
        callbacks.append(EarlyStopping(**settings.early_stopping))
    if settings.checkpoint is not None:
        path = folder / settings.checkpoint["filepath"]
        callbacks.append(ModelCheckpoint(**{**settings.checkpoint, "filepath": path}))
    return callbacks


def _fit(
    trainer, loader, check, config: Config, quiet: bool, resume: Path | None, folder: Path, callbacks: list
) -> int | None:
    """Train; returns the SIGTERM or SIGHUP that stopped it after saving, or None. Errors get a note on how to resume."""
    try:
        trainer.fit(
            loader,
            check,
            epochs=config.train.epochs,
            validation_freq=config.train.validation_freq,
            callbacks=callbacks,
            verbose=0 if quiet else 1,
            resume=None if resume is None else str(folder),
        )
    except Terminated as signal:
        if trainer.history.interrupted or len(trainer.history) == config.train.epochs:
            return signal.signum
        raise
    except Exception as error:
        if trainer.step and (folder / runs.CHECKPOINT).exists():
            error.add_note(_resume_command(folder).strip())
        raise
    return None


def _resume_command(folder: Path) -> str:
    return f"  deepcore train --resume {folder}"


def _network(net) -> str:
    return f"{sum(p.numel() for p in net.parameters()):,} parameters"


def _arrays(samples: sources.Samples, inputs: Inputs):
    return inputs(samples.inputs), samples.targets


def _test(trainer, data: sources.Data, inputs: Inputs) -> tuple[dict[str, Any], list[str]]:
    """(loss, metrics and, with classes, the confusion matrix on the test data; the lines to print)."""
    from deepcore import metrics

    x, y = _arrays(data.test, inputs)  # type: ignore[arg-type]
    results = trainer.evaluate((x, y), batch_size=1024, verbose=0)
    shown = [
        f"{name.replace('_', ' ')} {value:.2%}" if name == "accuracy" else f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in results.items()
    ]
    lines = ["test " + ", ".join(shown)]
    out = {f"test_{name}": value for name, value in results.items()}
    if data.classes is not None:
        scores = trainer.predict(x, batch_size=1024)
        names = class_names(data.classes, scores.shape[1])
        matrix = metrics.confusion_matrix(scores, y, classes=len(names))
        if len(names) <= 30:
            lines.append(metrics.format_confusion_matrix(matrix, names))
        out["confusion_matrix"] = matrix.tolist()
    return out, lines


def _plot(history, path: Path) -> None:
    """The curves, where matplotlib is installed."""
    try:
        figure = history.plot()
    except (ImportError, MissingDependencyError):
        return
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
