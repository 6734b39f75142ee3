#!/usr/bin/env bash
# The default of mode regulated at a cost against a shorter schedule, at costs of 3 to 42 epochs of full training:
#   benchmarks/hard/run.sh TASK OUT [OPTIONS of compare]
# TASK is one of benchmarks/hard/recipe.py, or fine-tuning.
# Claims were declared here before the first of these runs, on seeds that no run had before (10 seeds; 3 without claims).
set -euo pipefail
task=$1 out=$2
mkdir -p "$out"
recipe=${task/fine-tuning/minilm}
python -m benchmarks.hard.recipe "${recipe/-which/}" >"$out/recipe.yaml"
arms=short-1.5,short-3,short-6,short-12,short-24,cost-3,cost-6,cost-12 claims=() seeds=10 first=30 margin=0.3 more=()
case $task in
  fashion-mnist) for cost in 3 6 12; do claims+=(--claim "cost-$cost > short-$cost"); done ;;
  # Its teacher is trained again, and the claims are those of the shorter costs.
  fashion-mnist-long) seeds=3 arms=short-24,short-48,cost-24 ;;
  # The same samples for others: what each epoch's number of samples comes to without the choice of them.
  fashion-mnist-which)
    seeds=3 arms=short-3,cost-3,permuted-cost:cost-3,short-6,cost-6,permuted-cost:cost-6 ;;
  banking77)
    arms+=,cost-24,short-48
    for cost in 3 6 12 24; do claims+=(--claim "cost-$cost >= short-$cost"); done ;;
  cifar10) seeds=3 ;;
  # At 40 and 60 epochs; its teacher and store are those of cifar10 (copy teachers/ and stores/ to OUT, or they are made).
  cifar10-long) seeds=3 arms=short-20,short-40,short-60,cost-20,cost-28,cost-42 ;;
  # Half of the views mixed with another picture: half of the cost against all, and against half of the epochs.
  cifar10-mixup) seeds=3 arms=short-20,short-40,cost-20 ;;
  cifar10-complete) seeds=3 arms=short-20,short-40,cost-20 ;;
  efficientnet) seeds=3 arms=short-5,short-10,cost-5 ;;
  # 4,000 of the 10,003 texts: an epoch of all takes a minute and a half of a core.
  minilm) seeds=3 more=(--set data.train_size=4000) ;;
  # Short fine-tuning on its own: seeds that minilm had not.
  fine-tuning)
    arms=short-3,short-6,short-12,cost-3,cost-6,cost-12 first=40 margin=0.5 more=(--set data.train_size=4000)
    for cost in 3 6 12; do claims+=(--claim "cost-$cost >= short-$cost"); done ;;
esac
exec frugalkd compare "$out/recipe.yaml" --arms "$arms" --seeds "$seeds" --first-seed "$first" --margin "$margin" \
  ${claims[@]+"${claims[@]}"} ${more[@]+"${more[@]}"} --out "$out" "${@:3}"
