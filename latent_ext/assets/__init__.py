"""Package data: the shipped generator, its rewards, and held-out problems."""

from pathlib import Path

_HERE = Path(__file__).parent
SHIPPED_GENERATOR = _HERE / "generator"
SHIPPED_LATENT_RM = _HERE / "latent_rm"
SHIPPED_ANSWER_RM = _HERE / "answer_rm"
SHIPPED_ANSWER_READING = _HERE / "answer_reading.json"
SHIPPED_PROBLEMS = _HERE / "problems"

# Chosen on the validation problems alone (examples/shipped_model);
# the demonstration uses them on held-out ones.
SHIPPED_SAMPLER = "noise:0.6:relative"
SHIPPED_SPLIT = "test_5"
