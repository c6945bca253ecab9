"""What every rank of a larger world runs: trl's SFTTrainer."""

from __future__ import annotations

from sft_ranks_cases import again, trained

CASES = [trained, again]
