"""Programs that share the import of torch: each is a fork of one process that has done it.

Most seconds of a short program go into importing torch, what its first optimizer imports, and
scikit-learn. The process here has imported them and done nothing else. What it forks runs a program
as ``python PROGRAM ARGUMENTS`` does, in a session of its own and to the interpreter's end.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Imported once: the second by torch's first optimizer, the third where it is installed.
SHARED = ("torch", "torch._dynamo", "sklearn.datasets")


class Programs:
    """The process that has imported ``SHARED``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from support.programs import serve; serve()"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what is read ahead, select does not see
        )

    def run(
        self,
        *program: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        warnings: str | None = None,
        timeout: float = 240.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end.

        Args:
            program: its file, or ``-m`` and a module, and its arguments.
            env: variables to add to the environment.
            cwd: the folder that it runs in.
            warnings: what is done with them, such as ``error``.
            timeout: seconds after which it is killed, with what it has started.

        Raises:
            subprocess.TimeoutExpired: where it was.
        """
        with tempfile.TemporaryDirectory() as folder:
            wanted = {
                "program": [str(word) for word in program],
                "env": dict(env or {}),
                "cwd": str(cwd or Path.cwd()),
                "warnings": warnings,
                "folder": folder,
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            child = self._answer(None)
            try:
                status = self._answer(timeout)
            except TimeoutError:
                os.killpg(child, signal.SIGKILL)
                self._answer(None)
                raise subprocess.TimeoutExpired(wanted["program"], timeout) from None
            said = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
            return subprocess.CompletedProcess(wanted["program"], status, *said)

    def _answer(self, timeout: float | None) -> int:
        answers = self._process.stdout
        assert answers is not None
        if not select.select([answers], [], [], timeout)[0]:
            raise TimeoutError
        line = answers.readline()
        assert line, "the process that programs are forked from has ended"
        return int(line)

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()


def serve() -> None:
    """Import, then fork for each line of the input; answer with the child's number and its status.

    A child returns from here too, and ends as any interpreter does.
    """
    # The first is the folder: there may be sources, which are not the package under test.
    sys.path[:] = [path for path in sys.path if path]
    for name in SHARED:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
            return
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(
    program: Sequence[str], env: Mapping[str, str], cwd: str, warnings: str | None, folder: str
) -> None:
    """Run the program in this process, which is the fork."""
    os.setsid()
    for number, name in enumerate(("/dev/null", f"{folder}/stdout", f"{folder}/stderr")):
        file = os.open(name, os.O_CREAT | os.O_RDWR)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(env)
    os.chdir(cwd)
    _warn(warnings)
    if "OMP_NUM_THREADS" in env:  # which OpenMP has read long ago
        sys.modules["torch"].set_num_threads(int(env["OMP_NUM_THREADS"]))
    if program[0] == "-m":
        sys.argv = list(program[1:])
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(program)
        sys.path.insert(0, str(Path(program[0]).resolve().parent))
        runpy.run_path(program[0], run_name="__main__")


def _warn(action: Any) -> None:
    if action is not None:
        warnings.resetwarnings()
        warnings.simplefilter(action)
