"""`adadagrad-kernels probe`: the hardware table of `plan`, measured on this machine."""

from __future__ import annotations

import argparse
import json
import platform

import torch

from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.cli.saved_run import SavedRun
from adadagrad_kernels.cli.table import format_table
from adadagrad_kernels.files import replace_file
from adadagrad_kernels.training.probe import gradient_bytes, powers, seconds_of_step

#: The largest batch, where --sizes does not say.
LARGEST = 1024


def run(arguments: argparse.Namespace) -> int:
    """Times steps of a run's model at several sizes and writes the table.

    Raises:
        CheckpointError: There is no checkpoint of a run of train, or the data are others.
    """
    saved = SavedRun(arguments.run, arguments.data_dir)
    torch.set_num_threads(torch.get_num_threads())
    steps = []
    for size in arguments.sizes or powers(min(LARGEST, len(saved.data.train))):
        progress = Progress(f"batch {size:,}", 0, quiet=True)
        seconds = seconds_of_step(saved.config, saved.data, size, progress)
        steps.append({"batch": size, "seconds": seconds})
    processor = platform.processor() or platform.machine()
    table = {
        "machine": f"{processor}, {torch.get_num_threads()} threads",
        "steps": steps,
        "latency": arguments.latency,
        "bandwidth": arguments.bandwidth,
        "gradient_bytes": gradient_bytes(saved.config, saved.data),
    }
    text = json.dumps(table, indent=2) + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(arguments.out, [text.encode()])
    if arguments.json:
        print(text)
        return 0
    rows = [
        [
            f"{row['batch']:,}",
            f"{row['seconds'] * 1e3:.3f}",
            f"{row['batch'] / row['seconds']:,.0f}",
        ]
        for row in steps
    ]
    print(format_table(["batch", "ms per step", "samples per second"], rows))
    print(f"\n{arguments.out}")
    return 0
