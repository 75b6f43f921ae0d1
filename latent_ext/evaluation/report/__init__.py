"""`write_report`: one self-contained HTML page of a run or of two, with PNG and CSV files beside it."""

from latent_ext.evaluation.report.calibration import score_deciles, vote_confidence
from latent_ext.evaluation.report.compare import difference_table
from latent_ext.evaluation.report.post_mortem import Missed, missed, outcome
from latent_ext.evaluation.report.run_files import Run, read_run
from latent_ext.evaluation.report.write import Written, write_report

__all__ = [
    "Missed",
    "Run",
    "Written",
    "difference_table",
    "missed",
    "outcome",
    "read_run",
    "score_deciles",
    "vote_confidence",
    "write_report",
]
