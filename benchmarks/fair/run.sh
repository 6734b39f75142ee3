#!/usr/bin/env bash
# Arms and their controls at equal samples and at equal cost:
#   benchmarks/fair/run.sh tune|claims|factorial fashion-mnist|cifar10 OUT [OPTIONS of compare]
# tune: the curve and the batch size, on validation data, with fewer epochs of all samples alone.
# claims: what was declared here before the first of these runs; ten seeds that no run had before.
# factorial: {the gate, its plan permuted} x {even, early} x {two batch sizes}, five seeds.
set -euo pipefail
what=$1 data=$2 out=$3
recipe="$(dirname "$0")/$data.yaml"
case $what in
  tune)
    case $data in
      fashion-mnist) cells=b32-lr0.002,b32-lr0.004,b32-lr0.008,b32-lr0.016,b64-lr0.002,b64-lr0.004,b64-lr0.008 ;;
      cifar10) cells=b64-lr0.05,b64-lr0.1,b64-lr0.2,b128-lr0.05,b128-lr0.1,b128-lr0.2 ;;
    esac
    exec frugalkd compare "$recipe" --arms "$cells" --budgets 0.25,1 --seeds 1 \
      --set data.validation=5000 --out "$out" "${@:4}" ;;
  claims)
    ours=ceiling-early@0.25
    exec frugalkd compare "$recipe" --seeds 10 --first-seed 10 --out "$out" \
      --arms "vanilla,ce,$ours,random@0.25,short@0.25,permuted:$ours,random-cost:$ours,short-cost:$ours,permuted-cost:$ours" \
      --claim "$ours >= vanilla" --claim "$ours > random@0.25" --claim "$ours > short@0.25" \
      --claim "$ours > random-cost:$ours" --claim "$ours > short-cost:$ours" \
      --claim "$ours > permuted:$ours" "${@:4}" ;;
  factorial)
    arms=
    for batch in first- second-; do
      arms+="${batch}even@0.25,${batch}early@0.25,permuted:${batch}even@0.25,permuted:${batch}early@0.25,${batch}random@0.25,"
    done
    exec frugalkd compare "$recipe" --seeds 5 --first-seed 10 --out "$out" --arms "${arms%,}" "${@:4}" ;;
esac
