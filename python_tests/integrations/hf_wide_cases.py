"""What every rank of a larger world runs: AdaptiveTrainer on GPT-2."""

from __future__ import annotations

from hf_cases import tokens

CASES = [tokens]
