"""Scoring a checkpoint: against truth and baselines, over bags, for the papers' tables, and what is written of it."""
