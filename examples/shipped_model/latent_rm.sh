#!/bin/sh
# Labels and two LatentRMs for a generator, from annotation to checkpoint; goes on where it was interrupted.
#
#     examples/shipped_model/latent_rm.sh PYTHON WORK_FOLDER [GENERATOR]
#
# About 40 CPU minutes for the shipped generator, which is the default. QUESTIONS and VALIDATION make it smaller.
# The results are WORK_FOLDER/run/best, which reads thoughts alone, and WORK_FOLDER/answers/best, which reads answers, too:
# copying them over latent_ext/assets is a decision, not a side effect.
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
train() {
    "$python" -m latent_ext_cli train-rm "$1" --resume --set "generator=$generator" --set "labels=$work/train" \
        --set "validation=$work/valid" --set "output=$2"
}
mkdir -p "$work"
annotate "$work/train" --generate "${QUESTIONS:-104960}" --problem-seed 2002 --n 8
annotate "$work/valid" --generate "${VALIDATION:-800}" --split valid --problem-seed 7 --n 16
train "$here/latent_rm.yaml" "$work/run"
train "$here/answer_rm.yaml" "$work/answers"
