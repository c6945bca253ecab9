"""The doctor: looks at what a training is made of for what goes wrong as its batch grows."""

from adadagrad_kernels.integrations.checkup.findings import Finding, doctor
from adadagrad_kernels.integrations.checkup.traps import TRAPS, Trap, traps_table

__all__ = ["TRAPS", "Finding", "Trap", "doctor", "traps_table"]
