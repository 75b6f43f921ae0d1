"""Engines: how a latent phase is computed. All of them draw the same random numbers."""

from latent_ext.engine.choose import ENGINES, choose_engine, engine_report
from latent_ext.engine.cuda_rungs import RUNGS, choose_rung, rung_report

__all__ = ["ENGINES", "RUNGS", "choose_engine", "choose_rung", "engine_report", "rung_report"]
