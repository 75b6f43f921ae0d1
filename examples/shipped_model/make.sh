#!/bin/sh
# Makes the shipped generator and LatentRM again, from their seeds, and measures both on validation problems.
#
#     examples/shipped_model/make.sh PYTHON WORK_FOLDER
#
# The result stays in WORK_FOLDER: copying it over latent_ext/assets is a decision, not a side effect.
set -eu
python=$1
work=$2
here=$(dirname "$0")
mkdir -p "$work"
export OMP_NUM_THREADS=1
"$python" "$here/train_generator.py" --work "$work"
"$python" "$here/export_generator.py" --work "$work" --folder "$work/generator" --problems "$work/problems"
"$python" "$here/measure_samplers.py" --folder "$work/generator"
sh "$here/latent_rm.sh" "$python" "$work/latent_rm" "$work/generator"
