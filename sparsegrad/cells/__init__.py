"""Recurrent cells: sparse linear maps and one elementwise update."""

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.check import check_cell
from sparsegrad.cells.gru import GRU
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.lstm import LSTM
from sparsegrad.cells.rnn import RNN

__all__ = ["GRU", "LSTM", "RNN", "Cell", "CellKind", "Map", "check_cell"]
