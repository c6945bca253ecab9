"""The longer texts of `--help`."""

from __future__ import annotations

import textwrap

from adadagrad_kernels.integrations.checkup import TRAPS
from adadagrad_kernels.training.catalogue import SHAPES, TESTS
from adadagrad_kernels.training.readers import shape_texts

WRITERS = ("jsonl", "csv", "tensorboard", "wandb")

DESCRIPTION = """\
Adaptive batch sizes for PyTorch: what can run here, training on real data, a comparison,
a report of runs, and what is wrong with a trainer.
"""

EPILOG = """\
examples:
  adadagrad-kernels info
  adadagrad-kernels demo
  adadagrad-kernels train --data digits --test norm --eta 0.5 --out runs/digits
  adadagrad-kernels report runs/digits
  adadagrad-kernels critical-batch runs/digits
  adadagrad-kernels probe runs/digits --out hardware.json
  adadagrad-kernels plan runs/digits runs/fixed --hardware hardware.json
  adadagrad-kernels doctor mypackage.train:make_trainer
  adadagrad-kernels train --help

exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted
"""

TRAIN = """\
Trains one of the AdAdaGrad paper's MNIST models, or a classifier of yours, with a batch that grows
when the noise of the gradient asks for it (Lau, Liu and Kolar, arXiv 2402.11215).

Each step computes the gradient in micro-batches while the layers measure what every sample adds to
it, tests the batch by these exact statistics, and takes the optimizer's step. A failed test
suggests a larger batch; the batch never shrinks.
"""


CRITICAL_BATCH = """\
Goes on from the checkpoint of a run at several batch sizes and learning rates, until each branch
has the loss that the run's own size reaches, and fits the steps that it takes:
S(B) = S_min (1 + Bc / B).

Bc is the critical batch: there a doubled batch saves a quarter of the steps. Far below it saves
half of them, and loses no samples; far above, none. The noise scale of the gradient at the
checkpoint, which is often taken for it, is printed beside it.
"""

CRITICAL_BATCH_EPILOG = """\
Branches that are done are kept in --out: the same command goes on after it was stopped. A branch
that diverges, or does not reach the target, is counted and left out; a rule needs three sizes that
do. The loss is that of the first 2,000 training samples; branches keep the optimizer's state.

examples:
  adadagrad-kernels train --test none --batch-size 32 --samples 4K --out runs/fixed
  adadagrad-kernels critical-batch runs/fixed --sizes 8,16,32,64,128,256 --seeds 3

files in --out: critical_batch.json, critical_batch.png, branches.jsonl
"""

PROBE = """\
Times training steps of a run's model and optimizer at several batch sizes, without statistics, and
with the run's test where it has one, and writes the table that plan reads. On a busy machine the
table is of that; plan refuses one whose larger batches are faster. By itself it measures one
worker: state the network between several, or start it on several, whose steps in
DistributedDataParallel (gloo) and all-reduces it then measures:

  torchrun --nproc-per-node 2 -m adadagrad_kernels probe runs/fixed --out hardware.json
"""

PLAN = """\
From the metrics of runs and a table of hardware, the seconds and device hours that each way to
train takes to a loss, for several numbers of workers, and whether adapting pays. Every run keeps
its steps and batches; each step takes what the table says for a worker's share. Where the table has
steps of several workers, other numbers of them differ by an all-reduce; where it has none, an
all-reduce that nothing hides is added. Beside one worker, the seconds that the run itself took are
shown; everything else, and what lies beyond the largest batch of the table, is a simulation.
"""

DOCTOR = """\
Looks at a DataLoader, a Trainer of transformers or lightning, an Accelerator, an optimizer with its
scheduler, or a model, for what goes wrong without an error as the batch grows. Nothing is trained.
Each finding has a code, a place, what it means and what to change. Exit code 1: something was
found.
"""


def doctor_epilog() -> str:
    """The codes of findings."""
    width = max(len(trap.code) for trap in TRAPS) + 2
    whats = [textwrap.fill(trap.what.replace("`", ""), 98 - width) for trap in TRAPS]
    rows = [_row(trap.code, what, width) for trap, what in zip(TRAPS, whats, strict=True)]
    return "\n".join(["findings:", *rows])


def train_epilog() -> str:
    """What follows the options of `train`: the tests, the schedules, and what a run is."""
    tests = [_row(name, test.help, 15) for name, test in TESTS.items()]
    width = max(map(len, shape_texts())) + 1
    helps = [shape.help for shape in SHAPES.values()]
    shapes = [_row(name, text, width) for name, text in zip(shape_texts(), helps, strict=True)]
    milestones = _row('"0:8 60K:64"', "milestones, SAMPLES:SIZE", width)
    return (
        "the tests, for a batch of b samples with gradients g_i and mean g:\n"
        + "\n".join(tests)
        + _CONSTANTS
        + "\n".join([*shapes, milestones])
        + _RUN
    )


def _row(name: str, text: str, width: int) -> str:
    """A name, and its text in a column."""
    first, *more = text.splitlines()
    return "\n".join([f"  {name:<{width}}{first}", *(" " * (width + 2) + line for line in more)])


_CONSTANTS = """
Smaller constants of norm to sign tolerate less noise and grow the batch sooner; larger ones of
noise-scale to diversity make larger batches. The defaults are the paper's for 6M samples of MNIST;
with few samples a larger eta leaves the batch time to grow, as the 1.0 of digits does.

the schedules, from --batch-size to --max-batch:
"""

_RUN = """

a model and data of your own, by import path (the folder that the command runs in counts):
  --model mypackage.nets:build   build(shape, classes) gives a torch.nn.Module whose outputs are
                 scores, [samples, classes]; shape is that of one input
  --data mypackage.data:load     load(), or load(folder) with --data-dir, gives four tensors:
                 training inputs and classes, test inputs and classes

files in --out:
  metrics.jsonl     a line for each logged step (null stands for infinite and NaN)
  checkpoint.adak   the newest checkpoint, replaced atomically, verified when it is read
  model.pt          the final parameters: model.load_state_dict(torch.load("model.pt"))
  summary.json      the table at the end, for machines
  metrics.csv, tensorboard/, wandb/   the same metrics, if --writer names them. --resume may
                    name others than the run began with: they get the earlier lines too

how the times are measured:
  seconds           training alone: without evaluations, checkpoints and the timing runs below
  wall time         all of it. By default no more samples are evaluated along the way than are
                    trained on, beside the one evaluation at the end
  statistics share  (gradients with statistics - the same gradients without + the test) / seconds.
                    For the middle term a plain backward pass over one micro-batch of the same
                    samples is timed, at each new batch size and after every 20 times as many
                    samples; it changes nothing else.

Torch uses as many threads as there are cores; OMP_NUM_THREADS says otherwise. Small models on a
busy machine are faster with 1.

examples:
  the paper's CNN on MNIST (100 epochs, a test at every step):
    adadagrad-kernels train --data mnist --data-dir DIR --model cnn --optimizer adagrad \\
        --lr 0.008 --batch-size 8 --max-batch 60000 --test norm --eta 0.1 --samples 6M \\
        --out runs/cnn
  the same run after it was stopped, killed, or ran out of disk: add --resume
  AdaSGD with the augmented test on digits, which needs no download:
    adadagrad-kernels train --optimizer sgd --test augmented --theta 0.5 --nu 1 --out runs/adasgd
  AdaBatch: the batch doubles every 3,000 samples, and the learning rate falls by a quarter:
    adadagrad-kernels train --optimizer sgd --schedule step:3000 --batch-size 16 --max-batch 512 \\
        --lr-rule 0.75 --out runs/adabatch
"""

DEMO = """\
Compares five ways to spend the same samples on scikit-learn's digits (no download), with the same
model, seeds and evaluation: AdAdaGrad, AdAdaGrad-Norm and AdaSGD, all three with the norm test,
and AdaGrad at the smallest and at the largest batch.

Each learning rate is the best of a short search. One thread, so that times compare.

Writes metrics.jsonl, summary.json and demo.png into --out and prints a table.
"""

REPORT = """\
Makes one HTML page from the metrics of runs, and its pictures as PNG files: loss and accuracy
against samples, steps and seconds, the batch size, the tests, the gradient noise scale, and a table
of results. The page holds everything it shows; it can be sent as one file.
"""

REPORT_EPILOG = """\
names and seeds:
  Each RUN is a curve in every picture. Runs of one name are seeds of one curve, which is their
  mean, with a band of one standard error to each side, as far as all of them reach.
  runs/cnn                      is called cnn
  runs/cnn-seed0, runs/cnn/seed1  are seeds 0 and 1 of cnn
  "AdAdaGrad=runs/a" "AdAdaGrad=runs/b"   are two seeds of AdAdaGrad
  a file of demo names its runs and seeds itself
Dashed curves are of runs without a test: fixed batches and schedules.

the table:
  last loss         of the training set, where the run evaluated it, otherwise of the last batch
  seconds           training alone, without evaluations and checkpoints
  seconds to common acc.  to the best accuracy that every finished run reached
  statistics        the share of the seconds that statistics and tests took
  ±                 one standard error of the mean over the seeds

A run whose metrics lack their last line is shown as far as it got, and called unfinished. A
damaged file is refused, with the number of the line.

examples:
  adadagrad-kernels report runs/demo --out runs/demo/report
  adadagrad-kernels report runs/cnn-seed0 runs/cnn-seed1 "batch 64=runs/fixed" --title "MNIST, CNN"
  what is being trained, so far:
    adadagrad-kernels report runs/train

files in --out: report.html, and loss.png, accuracy.png, test_loss.png, batch_size.png, tests.png,
noise_scale.png where the metrics have what they show
"""
