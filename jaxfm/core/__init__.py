"""Contracts: batches, models to build, objectives, tasks. Nothing here computes."""
