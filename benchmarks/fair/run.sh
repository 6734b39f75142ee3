#!/usr/bin/env bash
# Arms and their controls at equal samples and at equal cost:
#   benchmarks/fair/run.sh WHAT fashion-mnist|cifar10|banking77 OUT [OPTIONS of compare]
# tune: the curve and the batch size, on validation data, with fewer epochs of all samples alone.
# claims: what was declared here before the first of these runs; ten seeds that no run had before.
# factorial: {the gate, its plan permuted} x {even, early} x {two batch sizes}, five seeds.
# arms: those of claims but labels alone, five seeds and no claim. rivals: the others at a quarter, three seeds.
set -euo pipefail
what=$1 data=$2 out=$3
recipe="$(dirname "$0")/$data.yaml"
ours=ceiling-early@0.25
arms="vanilla,ce,$ours,random@0.25,short@0.25,permuted:$ours,random-cost:$ours,short-cost:$ours,permuted-cost:$ours"
case $what in
  tune)
    case $data in
      fashion-mnist) cells=b32-lr0.002,b32-lr0.004,b32-lr0.008,b32-lr0.016,b64-lr0.002,b64-lr0.004,b64-lr0.008 ;;
      cifar10)
        cells=b64-lr0.05,b64-lr0.1,b64-lr0.2
        cells+=,b128-lr0.05@0.25,b128-lr0.1@0.25,b128-lr0.2,b64-lr0.4@0.25,b64-lr0.8@0.25
        cells+=,b32-lr0.1@0.25,b32-lr0.2@0.25,b32-lr0.4@0.25,b32-lr0.8@0.25
        cells+=,b16-lr0.4@0.25 ;;
      banking77) cells=b32-lr0.01,b32-lr0.02,b32-lr0.04,b32-lr0.08,b64-lr0.01,b64-lr0.02,b64-lr0.04,b64-lr0.08 ;;
    esac
    held=5000
    [ "$data" = banking77 ] && held=1500
    exec frugalkd compare "$recipe" --arms "$cells" --budgets 0.25,1 --seeds 1 \
      --set data.validation=$held --out "$out" "${@:4}" ;;
  claims)
    claims=()
    [ "$data" = fashion-mnist ] && claims=(--claim "$ours >= vanilla")
    exec frugalkd compare "$recipe" --seeds 10 --first-seed 10 --out "$out" --arms "$arms" ${claims[@]+"${claims[@]}"} \
      --claim "$ours > random@0.25" --claim "$ours > short@0.25" \
      --claim "$ours > random-cost:$ours" --claim "$ours > short-cost:$ours" \
      --claim "$ours > permuted:$ours" "${@:4}" ;;
  arms)
    arms=${arms/ce,/}
    exec frugalkd compare "$recipe" --seeds 5 --first-seed 10 --out "$out" --arms "$arms" "${@:4}" ;;
  factorial)
    arms=
    for batch in first- second-; do
      arms+="${batch}even@0.25,${batch}early@0.25,permuted:${batch}even@0.25,permuted:${batch}early@0.25,${batch}random@0.25,"
    done
    exec frugalkd compare "$recipe" --seeds 5 --first-seed 10 --out "$out" --arms "${arms%,}" "${@:4}" ;;
  rivals)
    arms="vanilla,$ours,random@0.25,short@0.25,regulated@0.25,infobatch@0.25,infobatch-normalised@0.25"
    arms+=",infobatch-no-anneal@0.25"
    if [ "$data" != cifar10 ]; then
      for arm in ceiling-drawn random-static selective-backprop unix pdd ies el2n forgetting rho-loss swiftlearn hybrid; do
        arms+=",$arm@0.25"
      done
    fi
    exec frugalkd compare "$recipe" --seeds 3 --first-seed 10 --out "$out" --arms "$arms" "${@:4}" ;;
esac
