# Written by `python -m deepcore.nn.stubs` from the registries; not edited by hand.

from deepcore.optim.lr_scheduler.composed import ChainedScheduler as ChainedScheduler
from deepcore.optim.lr_scheduler.composed import SequentialLR as SequentialLR
from deepcore.optim.lr_scheduler.cosine import CosineAnnealingLR as CosineAnnealingLR
from deepcore.optim.lr_scheduler.cosine import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from deepcore.optim.lr_scheduler.cycles import CyclicLR as CyclicLR
from deepcore.optim.lr_scheduler.cycles import OneCycleLR as OneCycleLR
from deepcore.optim.lr_scheduler.factors import ConstantLR as ConstantLR
from deepcore.optim.lr_scheduler.factors import ExponentialLR as ExponentialLR
from deepcore.optim.lr_scheduler.factors import LambdaLR as LambdaLR
from deepcore.optim.lr_scheduler.factors import LinearLR as LinearLR
from deepcore.optim.lr_scheduler.factors import MultiStepLR as MultiStepLR
from deepcore.optim.lr_scheduler.factors import MultiplicativeLR as MultiplicativeLR
from deepcore.optim.lr_scheduler.factors import PolynomialLR as PolynomialLR
from deepcore.optim.lr_scheduler.factors import StepLR as StepLR
from deepcore.optim.lr_scheduler.plateau import ReduceLROnPlateau as ReduceLROnPlateau
