"""Executors: where units are worked on. Each takes a recipe and units and yields outcomes as they come."""

from latent_ext.evaluation.executors.choose import EXECUTORS, Executor, choose_executor

__all__ = ["EXECUTORS", "Executor", "choose_executor"]
