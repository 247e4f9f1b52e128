"""`Trainer.fit` on the bundled digits, against scikit-learn's `MLPClassifier` and two loops in PyTorch.

The same network (64-128-10, ReLU), Adam, batches of 32 in a new order each epoch; everyone keeps the mean loss of each
epoch. A call trains a network from fresh weights to the end. The accuracies are of the test digits, means over seeds.
"""

from __future__ import annotations

import warnings
from statistics import fmean

import numpy as np
import peers
from contest import Absent, Contest

import deepcore as dc

EPOCHS, BATCH, HIDDEN, RATE = 10, 32, 128, 3e-3
SEEDS = 10
FACTS: dict = {"epochs": EPOCHS, "batch": BATCH, "accuracy": {}}


def digits(split: str):
    return [t.numpy() for t in dc.data.digits(split, flatten=True, backend="cpu").tensors]


def network(library):
    nn = library.nn
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


def own():
    data = dc.data.digits("train", flatten=True, backend="cpu")

    def fit(seed: int = 0):
        dc.manual_seed(seed)
        model = network(dc)
        optimizer = dc.optim.Adam(model.parameters(), lr=RATE)
        trainer = dc.Trainer(model, optimizer, dc.nn.CrossEntropyLoss(), metrics=())
        trainer.fit(data, epochs=EPOCHS, batch_size=BATCH, verbose=0)
        return model

    return fit, lambda model, images: model(dc.from_numpy(images)).argmax(1).numpy()


def sklearn():
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise Absent(f"scikit-learn cannot be imported ({error})") from None
    images, labels = digits("train")

    def fit(seed: int = 0):
        model = MLPClassifier(
            (HIDDEN,), alpha=0.0, batch_size=BATCH, learning_rate_init=RATE, max_iter=EPOCHS, tol=0.0,
            n_iter_no_change=EPOCHS + 1, random_state=seed,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(images, labels)

    return fit, lambda model, images: model.predict(images)


def loop(batches):
    """PyTorch's usual loop; batches(torch, images, labels) gives an iterable for each epoch."""

    def side():
        torch = peers.torch()
        images, labels = map(torch.tensor, digits("train"))

        def fit(seed: int = 0):
            torch.manual_seed(seed)
            model = network(torch)
            optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
            loss = torch.nn.CrossEntropyLoss()
            epoch = batches(torch, images, labels)
            history = []
            for _ in range(EPOCHS):
                total = 0.0
                for x, y in epoch():
                    optimizer.zero_grad(set_to_none=True)
                    value = loss(model(x), y)
                    value.backward()
                    optimizer.step()
                    total += value.item() * len(x)
                history.append(total / len(images))
            return model

        return fit, lambda model, images: model(torch.tensor(images)).argmax(1).numpy()

    return side


def loaded(torch, images, labels):
    data = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    return lambda: loader


def sliced(torch, images, labels):
    def epoch():
        order = torch.randperm(len(images))
        return zip(images[order].split(BATCH), labels[order].split(BATCH))

    return epoch


SIDES = {"deepcore": own, "sklearn": sklearn, "torch DataLoader": loop(loaded), "torch slices": loop(sliced)}


def make(side: str):
    fit, predict = SIDES[side]()
    images, labels = digits("test")
    right = [float(np.mean(predict(fit(seed), images) == labels)) for seed in range(SEEDS)]
    FACTS["accuracy"][side] = round(fmean(right), 5)
    return fit


CONTESTS = [Contest("fit", "digits", make, tuple(SIDES), long=True, facts=FACTS)]
