"""`adadagrad-kernels probe`: the hardware table of `plan`, measured on this machine."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from adadagrad_kernels.cli.saved_run import SavedRun
from adadagrad_kernels.cli.table import format_table
from adadagrad_kernels.files import replace_file
from adadagrad_kernels.training.probe import gradient_bytes, powers, steps_alone, steps_together

#: The largest batch, where --sizes does not say.
LARGEST = 1024


def run(arguments: argparse.Namespace) -> int:
    """Times steps of a run's model at several sizes and writes the table.

    Raises:
        CheckpointError: There is no checkpoint of a run of train, or the data are others.
    """
    saved = SavedRun(arguments.run, arguments.data_dir)
    torch.set_num_threads(torch.get_num_threads())
    sizes = arguments.sizes or powers(min(LARGEST, len(saved.data.train)))
    is_launched = dist.is_available() and dist.is_torchelastic_launched()
    workers = int(os.environ["WORLD_SIZE"]) if is_launched else 1
    is_first = workers == 1 or os.environ["RANK"] == "0"
    processor = platform.processor() or platform.machine()
    table: dict[str, Any] = {"machine": f"{processor}, {torch.get_num_threads()} threads"}
    if is_first:
        # A rank of a group has a share of its batches, so none is one yet: the others wait.
        table["steps"] = steps_alone(saved.config, saved.data, sizes)
        table["gradient_bytes"] = gradient_bytes(saved.config, saved.data)
    if workers > 1:
        dist.init_process_group("gloo")
        try:
            table |= steps_together(saved.config, saved.data, sizes)
        finally:
            # What still holds a wrapper holds gloo's threads, which may abort a process at its end.
            gc.collect()
            dist.destroy_process_group()
    if not is_first:
        return 0
    given = {"latency": arguments.latency, "bandwidth": arguments.bandwidth}
    table = {"latency": 0.0, "bandwidth": None} | table
    table |= {name: value for name, value in given.items() if value is not None}
    text = json.dumps(table, indent=2) + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(arguments.out, [text.encode()])
    print(text if arguments.json else f"{_text(table)}\n\n{arguments.out}")
    return 0


def _text(table: dict[str, Any]) -> str:
    """Steps by size, those of several workers beside those of one."""
    times = {"seconds": "ms per step", "tested_seconds": "with its test"}
    times = {n: words for n, words in times.items() if any(n in row for row in table["steps"])}
    header = ["samples of a worker", *times.values(), "samples per second"]
    rows = [
        [f"{row['batch']:,}", *_times(row, times), f"{row['batch'] / row['seconds']:,.0f}"]
        for row in table["steps"]
    ]
    if "workers" not in table:
        return format_table(header, rows)
    count = table["workers"]["count"]
    header += [f"ms, {count} workers", *header[2:]]
    for row, measured in zip(rows, table["workers"]["steps"], strict=True):
        row += _times(measured, times)
        row.append(f"{count * measured['share'] / measured['seconds']:,.0f}")
    return "\n\n".join(
        [
            format_table(header, rows),
            f"an all-reduce: {table['latency'] * 1e6:,.0f} µs for a message, "
            f"{table['bandwidth'] / 1e9:,.3g} GB/s between two workers",
        ]
    )


def _times(row: dict[str, float], names: Iterable[str]) -> list[str]:
    return [f"{row[name] * 1e3:.3f}" if name in row else "-" for name in names]
