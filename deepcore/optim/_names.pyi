# Written by `python -m deepcore.nn.stubs` from the registries; not edited by hand.

from deepcore.optim.adadelta import Adadelta as Adadelta
from deepcore.optim.adafactor import Adafactor as Adafactor
from deepcore.optim.adagrad import Adagrad as Adagrad
from deepcore.optim.adam import Adam as Adam
from deepcore.optim.adam import AdamW as AdamW
from deepcore.optim.adamax import Adamax as Adamax
from deepcore.optim.asgd import ASGD as ASGD
from deepcore.optim.lbfgs import LBFGS as LBFGS
from deepcore.optim.muon import Muon as Muon
from deepcore.optim.nadam import NAdam as NAdam
from deepcore.optim.radam import RAdam as RAdam
from deepcore.optim.rmsprop import RMSprop as RMSprop
from deepcore.optim.rprop import Rprop as Rprop
from deepcore.optim.sgd import SGD as SGD
