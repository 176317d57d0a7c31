"""Recurrent cells: sparse linear maps and one elementwise update."""

from sparsegrad.cells.alif import ALIF, AdaptiveNeuron
from sparsegrad.cells.cell import Cell
from sparsegrad.cells.cfc import CfC
from sparsegrad.cells.check import check_cell
from sparsegrad.cells.gru import GRU
from sparsegrad.cells.ind_rnn import IndRNN
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.leaky_rnn import LeakyRNN
from sparsegrad.cells.lif import LIF, Neuron
from sparsegrad.cells.lru import LRU
from sparsegrad.cells.lstm import LSTM
from sparsegrad.cells.ltc import LTC
from sparsegrad.cells.min_gru import MinGRU
from sparsegrad.cells.peephole_lstm import PeepholeLSTM
from sparsegrad.cells.rnn import RNN
from sparsegrad.cells.stack import Stack

__all__ = [
    "ALIF",
    "GRU",
    "LIF",
    "LRU",
    "LSTM",
    "LTC",
    "RNN",
    "AdaptiveNeuron",
    "Cell",
    "CellKind",
    "CfC",
    "IndRNN",
    "LeakyRNN",
    "Map",
    "MinGRU",
    "Neuron",
    "PeepholeLSTM",
    "Stack",
    "check_cell",
]
