"""Engines: how a latent phase is computed. All of them draw the same random numbers."""

from latent_ext.engine.choose import ENGINES, choose_engine, engine_report

__all__ = ["ENGINES", "choose_engine", "engine_report"]
