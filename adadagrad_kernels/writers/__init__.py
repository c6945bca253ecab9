"""Where the metrics of a training loop go: files, TensorBoard, Weights & Biases, several at once.

All take a dictionary of numbers with the samples and steps it belongs to (``MetricsWriter``).
"""

from adadagrad_kernels.writers.csv_writer import CsvWriter
from adadagrad_kernels.writers.jsonl_writer import JsonlWriter
from adadagrad_kernels.writers.protocol import MetricsWriter, Value
from adadagrad_kernels.writers.several import Writers
from adadagrad_kernels.writers.tensorboard_writer import TensorBoardWriter
from adadagrad_kernels.writers.wandb_writer import WandbWriter

__all__ = [
    "CsvWriter",
    "JsonlWriter",
    "MetricsWriter",
    "TensorBoardWriter",
    "Value",
    "WandbWriter",
    "Writers",
]
