#!/usr/bin/env bash
# Language models: benchmarks/language/run.sh encodings|positions OUT [OPTIONS of compare]
# Runs are compared by entropy saved, 1 - cross-entropy / log(4096): a perplexity that is 1 % higher is 0.12 points of it lower.
# Claims were declared here before the first of these runs.
set -euo pipefail
recipe="$(dirname "$0")/tiny.yaml"
case $1 in
  # Ten seeds: a student of 64 bytes a token is within 1 % of the perplexity of one of all logits, and 32 bytes are as well.
  encodings)
    exec frugalkd compare "$recipe" --seeds 10 --margin 0.12 --out "$2" \
      --arms live,head+tail-64,head+tail-32,head+tail-64x4,top-k+tail-64,top-k-64,sampled-64,labels \
      --claim "head+tail-64 >= live" --claim "head+tail-32 >= live" --claim "head+tail-64 > labels" "${@:3}" ;;
  positions)
    exec frugalkd compare "$recipe" --seeds 3 --margin 0.12 --out "$2" \
      --arms head+tail-64,positions-0.5,positions-0.25,positions-0.125,blocks-0.5,blocks-0.25,short-0.5,short-0.25 "${@:3}" ;;
esac
