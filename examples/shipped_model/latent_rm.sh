#!/bin/sh
# Labels and a LatentRM for a generator, from annotation to checkpoint; goes on where it was interrupted.
#
#     examples/shipped_model/latent_rm.sh PYTHON WORK_FOLDER [GENERATOR]
#
# About 12 CPU minutes for the shipped generator, which is the default. QUESTIONS and VALIDATION make it smaller.
# The result is WORK_FOLDER/run/best: copying it over latent_ext/assets is a decision, not a side effect.
set -eu
python=$1
work=$2
generator=${3:-shipped}
here=$(dirname "$0")
export OMP_NUM_THREADS=1

annotate() {
    "$python" -m latent_ext_cli annotate "$@" --model "$generator" --steps 5 6 --policy outcome --rollouts 1 \
        --max-answer-tokens 24 --stored-as float16
}
mkdir -p "$work"
annotate "$work/train" --generate "${QUESTIONS:-22528}" --problem-seed 2002 --n 8
annotate "$work/valid" --generate "${VALIDATION:-800}" --split valid --problem-seed 7 --n 16
"$python" -m latent_ext_cli train-rm "$here/latent_rm.yaml" --resume --set "generator=$generator" \
    --set "labels=$work/train" --set "validation=$work/valid" --set "output=$work/run"
