"""Trainings that every rank of a larger world takes part in: run by ``support.ranks``."""

from __future__ import annotations

from lightning_cases import automatic, in_parts, resumed_where_buckets_stay

CASES = [automatic, in_parts, resumed_where_buckets_stay]
