# Written by `python -m deepcore.nn.stubs` from the registries; not edited by hand.

from deepcore.optim.adam import Adam as Adam
from deepcore.optim.adam import AdamW as AdamW
from deepcore.optim.sgd import SGD as SGD
