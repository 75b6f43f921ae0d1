"""A scaling curve in ten lines: accuracy of the majority vote and coverage, from one pool of 64 trajectories.

python examples/scaling_curve.py
"""

import latent_ext
from latent_ext.evaluation.metrics import correct_flags, estimate, pass_at_k, selected_accuracy
from latent_ext.evaluation.problems import shipped_problems

problems = shipped_problems("test_5", limit=200)
results = latent_ext.solve(
    latent_ext.load(), [p.question for p in problems], n=64, sampler="noise:0.6:relative", decode="all"
)
for n in (1, 2, 4, 8, 16, 32, 64):
    pairs = [(result, str(p.answer)) for result, p in zip(results, problems, strict=True)]
    vote = estimate([[selected_accuracy(latent_ext.majority_vote, r, gold, n) for r, gold in pairs]])
    coverage = estimate([[pass_at_k(64, sum(correct_flags(r, gold)), n) for r, gold in pairs]])
    for name, value in (("majority vote", vote), ("coverage", coverage)):
        low, high = value.interval
        print(f"N = {n:2}  {name:13}  {100 * value.mean:5.1f} % ({100 * low:.1f} to {100 * high:.1f})")
