"""Real-time recurrent learning on sparse networks: SnAp-n and exact RTRL on fixed patterns."""

from sparsegrad.cells import GRU, LSTM, RNN, Cell, check_cell
from sparsegrad.influence import Influence
from sparsegrad.learner import OnlineLearner
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp
from sparsegrad.optimizers import SGD, Adam, AdamW
from sparsegrad.pattern import ReachPattern, reach
from sparsegrad.readout import MLP, Linear

__version__ = "0.1.0"
__all__ = [
    "BPTT",
    "GRU",
    "LSTM",
    "MLP",
    "RFLO",
    "RNN",
    "RTRL",
    "SGD",
    "UORO",
    "Adam",
    "AdamW",
    "Cell",
    "Influence",
    "Linear",
    "OnlineLearner",
    "ReachPattern",
    "SnAp",
    "check_cell",
    "reach",
]
