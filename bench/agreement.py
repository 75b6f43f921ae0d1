"""Whether a baseline and `latent_ext` found the same: no ratio is printed for results that differ.

What rounding alone may decide does not count as a difference: scores that lie closer than the tolerance
table allows, and answers after a token whose lead over the second-best is below the table's "logit_gap".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from baselines import CACHE_FREE_ANSWERS, Outcome, Task  # placeholder
