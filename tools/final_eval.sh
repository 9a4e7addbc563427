#!/bin/sh
# The final measurement of the shipped policy: 300 unused seeds a task (900000 and up are kept for such measurements), every suite. Takes about a quarter of an hour on two cores.
set -e
out=${1:-runs/out/final}
for suite in paraphrase instruction-swap blind blank; do
  .venv/bin/ideomotor eval --policy shipped --suite $suite --tasks pick,place_on --episodes 300 --seed 910000 --out "$out/$suite"
done
