"""One rung in a process of its own: `python -m gpu_ladder.check.worker RUNG JOB ANSWER`.

A kernel may end its process, sanitizers have to be there from its start, and Triton is told before
it is imported whether it interprets. ANSWER, a file, gets what was found, or why the rung cannot
run here, or what is wrong with what it was given.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from pathlib import Path

from gpu_ladder.check.job import Job
from gpu_ladder.check.launches import DescriptionError
from gpu_ladder.check.results import RungResult
from gpu_ladder.host_build import BuildError
from gpu_ladder.static.toolchain import ToolMissingError

_OF_TRITON = ("torch", "triton")


def main(rung: str, job: str, answer: str) -> int:
    """Runs it; 2 where it could not be run."""
    given = json.loads(job)
    paths = {name: Path(given[name]) for name in ("source", "launches")}
    include = tuple(map(Path, given["include"]))
    read = Job(**{**given, **paths, "include": include})
    told = _told(rung, read)
    Path(answer).write_text(json.dumps(told), encoding="utf-8")
    return 0 if "result" in told else 2


def _told(rung: str, job: Job) -> dict[str, object]:
    from gpu_ladder.static.cuda_gate import CompileError

    try:
        return {"result": dataclasses.asdict(_run(rung, job))}
    except ToolMissingError as error:
        return {"left_out": str(error)}
    except ModuleNotFoundError as error:
        if error.name not in _OF_TRITON:
            return {"error": traceback.format_exc()}
        return {"left_out": f"{error}; torch and triton come with the extra gpu-ladder[triton]"}
    except (DescriptionError, BuildError, CompileError) as error:
        return {"error": str(error)}
    except Exception:
        # Of the user's file most likely: all of it helps.
        return {"error": traceback.format_exc()}


def _run(rung: str, job: Job) -> RungResult:
    if job.source.suffix == ".py":
        from gpu_ladder.check import triton_rungs

        return triton_rungs.RUNGS[rung](job)
    from gpu_ladder.check import cuda_rungs

    return cuda_rungs.RUNGS[rung](job)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
