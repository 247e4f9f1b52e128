"""The experiment of `deepcore train` without a file; examples/digits.toml is the same text."""

from __future__ import annotations

DIGITS = """\
# Handwritten digits, 8×8 pixels. `deepcore train` without a file does exactly this.
# Network and settings were chosen by 5-fold cross-validation on the 1,437 training digits (98.8 %).

[data]
type = "digits"
normalize = "all"          # subtract the mean of the training pixels, divide by their deviation

[[layers]]
type = "Flatten"

[[layers]]
type = "Dropout"
p = 0.1

[[layers]]
type = "Linear"            # in_features follows from the layer before
out_features = 256

[[layers]]
type = "BatchNorm1d"

[[layers]]
type = "ReLU"

[[layers]]
type = "Dropout"
p = 0.3

[[layers]]
type = "Linear"
out_features = 128

[[layers]]
type = "BatchNorm1d"

[[layers]]
type = "ReLU"

[[layers]]
type = "Dropout"
p = 0.3

[[layers]]
type = "Linear"
out_features = 10

[loss]
type = "CrossEntropyLoss"
label_smoothing = 0.1

[optimizer]
type = "AdamW"
lr = 0.003
weight_decay = 0.05

[schedule]
type = "CosineAnnealingLR" # T_max is the number of epochs

[train]
epochs = 30
batch_size = 64
seed = 0
"""
