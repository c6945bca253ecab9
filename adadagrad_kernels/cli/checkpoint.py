"""Checkpoints: one file, replaced atomically, verified before anything in it is believed.

Layout: 8 bytes of magic, the format version (u32) and the payload's length (u64), little-endian;
the SHA-256 of the payload; the payload, a dictionary written by `torch.save`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from adadagrad_kernels.errors import CheckpointError
from adadagrad_kernels.files import replace_file

MAGIC = b"ADAKCKPT"
VERSION = 1
_HEADER = struct.Struct("<8sIQ32s")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint at `path`.

    Args:
        path: The file; the previous one stays until the new one is complete.
        state: Tensors, numbers, strings, and containers of these.

    Raises:
        OSError: The file cannot be written, as on a full disk; the previous one is untouched.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    header = _HEADER.pack(MAGIC, VERSION, len(payload), hashlib.sha256(payload).digest())
    replace_file(path, [header, payload])


def load_checkpoint(path: Path, content: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Reads and verifies a checkpoint.

    Args:
        path: The file.
        content: What it must hold: the entries with their types, and no others.

    Raises:
        CheckpointError: The file is truncated, damaged, of another format or of another version,
            or holds something else.
        FileNotFoundError: There is none.
    """
    found = path.read_bytes()
    if len(found) < _HEADER.size:
        raise CheckpointError(
            f"{path}: found {len(found)} bytes, expected a header of {_HEADER.size}; "
            "the file is truncated or not a checkpoint"
        )
    magic, version, length, digest = _HEADER.unpack_from(found)
    if magic != MAGIC:
        raise CheckpointError(
            f"{path}: found {magic!r} at its start, expected {MAGIC!r}; "
            "the file is damaged or not a checkpoint"
        )
    if version != VERSION:
        raise CheckpointError(
            f"{path}: found format version {version}, expected {VERSION}; "
            "resume with the version of adadagrad-kernels that wrote it"
        )
    payload = memoryview(found)[_HEADER.size :]
    if len(payload) != length:
        raise CheckpointError(
            f"{path}: found {len(payload)} bytes of content, expected {length}; the file is "
            "truncated: restore a copy of it, or begin anew with --overwrite"
        )
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(
            f"{path}: damaged, its content does not match its checksum: restore a copy of it, or "
            "begin anew with --overwrite"
        )
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own message advises to read it in spite of this.
        raise CheckpointError(
            f"{path}: holds other objects than tensors, numbers, texts and containers of these. "
            "They could run code and are not read; no run writes them: do not use this file"
        ) from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: torch {torch.__version__} cannot read it "
            f"({str(error).partition(chr(10))[0]}); resume with the torch that wrote it"
        ) from error
    if content is not None:
        _check_content(path, state, content)
    return state


def _check_content(path: Path, state: object, content: Mapping[str, type]) -> None:
    entries = state if isinstance(state, dict) else {}
    if set(entries) != set(content) or any(
        not isinstance(entries[name], kind) for name, kind in content.items()
    ):
        holds = ", ".join(sorted(map(str, entries))) or type(state).__name__
        raise CheckpointError(
            f"{path}: holds {holds}, expected {', '.join(sorted(content))}: not the checkpoint of "
            "a run of train; give the folder of one, or begin anew with --overwrite"
        )


def check_same_run(
    path: Path,
    saved: Mapping[str, Any],
    given: Mapping[str, Any],
    but_for: Collection[str] = (),
) -> None:
    """Refuses a checkpoint that was written by a run with other options.

    Args:
        path: The checkpoint.
        saved: The options of the run that wrote it.
        given: Those of this run.
        but_for: Options that may differ.

    Raises:
        CheckpointError: With each option that differs, its value then and now.
    """
    differences = [
        f"{name} was {saved.get(name)} and is now {given.get(name)}"
        for name in sorted({*saved, *given} - set(but_for))
        if saved.get(name) != given.get(name)
    ]
    if differences:
        raise CheckpointError(
            f"{path}: belongs to another run: {', '.join(differences)}; "
            "give the same options, or another --out"
        )
