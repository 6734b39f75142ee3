#!/usr/bin/env bash
# Banking77 by the protocol: 10 seeds. The first nine claims were declared here before the first of these
# runs; the three of early-loose after it had won on validation data (benchmarks/banking77-validation.yaml)
# and before its own runs, when the others' test results were known. All twelve are corrected together.
# Where its results go: benchmarks/banking77.sh runs/banking77
set -euo pipefail
exec frugalkd compare banking77 --budgets 0.1,0.25,0.5 --seeds 10 --out "$1" \
  --arms vanilla,significance,regulated,hybrid,ceiling-early,random,short,infobatch,infobatch-no-anneal,ceiling-early@0.35,random@0.35,short@0.35,early-loose@0.25,early-loose@0.35 \
  --set 'arms.infobatch-no-anneal={set: {student.mode: null, student.weighting: uniform, student.policy: {name: infobatch, anneal: 0}}}' \
  --claim 'ceiling-early@0.35 >= vanilla' \
  --claim 'ceiling-early@0.35 > random@0.35' \
  --claim 'ceiling-early@0.35 > short@0.35' \
  --claim 'ceiling-early@0.25 >= vanilla' \
  --claim 'ceiling-early@0.25 > random@0.25' \
  --claim 'ceiling-early@0.25 > short@0.25' \
  --claim 'ceiling-early@0.25 > infobatch@0.25' \
  --claim 'regulated@0.25 > random@0.25' \
  --claim 'regulated@0.25 > short@0.25' \
  --claim 'early-loose@0.35 >= vanilla' \
  --claim 'early-loose@0.35 > random@0.35' \
  --claim 'early-loose@0.35 > short@0.35' \
  "${@:2}"
