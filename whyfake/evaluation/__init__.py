"""Evaluation: explanations of many frames judged into a ledger, and what the ledger says."""

from .plan import SUITES, Plan, make_plan
from .run import Done, Stored, evaluate

__all__ = ["SUITES", "Done", "Plan", "Stored", "evaluate", "make_plan"]
