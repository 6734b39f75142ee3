#!/usr/bin/env bash
# Language models: benchmarks/language/run.sh encodings|draws|parts|once|fixed|cut|smollm2 OUT [OPTIONS of compare]
# Runs are compared by entropy saved, 1 - cross-entropy / log(tokens of the tokenizer): of tiny.yaml, with 4,096 tokens, a
# perplexity that is 1 % higher is 0.12 points of it lower.
# Claims were declared here before the first of these runs.
set -euo pipefail
recipe="$(dirname "$0")/tiny.yaml"
parts=positions-0.5,positions-0.25,positions-0.125,blocks-0.5,blocks-0.25,gate-0.5,gate-0.25,short-0.5,short-0.25
case $1 in
  # Ten seeds: a student of 64 bytes a token is within 1 % of the perplexity of one of all logits, and 32 bytes are as well.
  encodings)
    exec frugalkd compare "$recipe" --seeds 10 --margin 0.12 --out "$2" \
      --arms live,head+tail-64,head+tail-32,head+tail-64x4,top-k+tail-64,top-k-64,sampled-64,labels \
      --claim "head+tail-64 >= live" --claim "head+tail-32 >= live" --claim "head+tail-64 > labels" "${@:3}" ;;
  # 64 bytes a token, three seeds and no claim: draws that the epochs share, four independent ones, and what is not unbiased.
  draws)
    exec frugalkd compare "$recipe" --seeds 3 --margin 0.12 --out "$2" \
      --arms head+tail-64,head+tail-64x4,sampled-64,top-k+tail-64,top-k-64 "${@:3}" ;;
  # A random half of the positions, three seeds and no claim: the same one in every epoch, or another. Both have the teacher of
  # a folder, --teacher OUT of 'draws' or 'parts', since the setting of the first is one of the data.
  fixed)
    exec frugalkd compare "$recipe" --seeds 3 --margin 0.12 --out "$2" --arms head+tail-64,positions-0.5,fixed-0.5 "${@:3}" ;;
  # A half and a quarter of the tokens, three seeds and no claim: random positions, random blocks, the blocks of the
  # largest loss, fewer epochs. If random blocks or fewer epochs are level with the gate, it stays off by default.
  parts)
    exec frugalkd compare "$recipe" --seeds 3 --margin 0.12 --out "$2" --arms "head+tail-64,$parts" "${@:3}" ;;
  # One epoch, three seeds and no claim: nothing was seen before, so that a gate has nothing to choose by.
  once)
    exec frugalkd compare "$recipe" --seeds 3 --margin 0.12 --out "$2" --arms head+tail-64,positions-0.5,blocks-0.5,gate-0.5 \
      --set student.training.epochs=1 "${@:3}" ;;
  # Parts as above, where the student begins near its teacher: two of its layers.
  cut)
    exec frugalkd compare "$recipe" --seeds 3 --margin 0.12 --out "$2" --arms "head+tail-64,$parts" \
      --set "student.model={name: causal-lm, options: {layers: [0, 3]}}" --set student.training.optimizer.lr=0.001 "${@:3}" ;;
  # A head of 49,152 tokens, which is most of the student: a half and a quarter of the tokens, one seed.
  smollm2)
    mkdir -p "$2"
    head -c 172000 "$FRUGALKD_DATA/tinyshakespeare/input.txt" >"$2/text.txt"
    exec frugalkd compare "$(dirname "$0")/smollm2.yaml" --seeds 1 --margin 0.12 --out "$2/runs" \
      --arms head+tail-64,positions-0.25,blocks-0.5,gate-0.5,short-0.5 \
      --set "data.options.path=$2/text.txt" "${@:3}" ;;
esac
