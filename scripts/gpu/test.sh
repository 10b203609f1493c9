#!/usr/bin/env bash
# Runs the tests whose calls run on every backend on the GPU of this machine. They fail where there is no GPU
# (test/support.ts).
cd "$(dirname "$0")/../.." || exit 1
export FPL_TEST_GPU=1
exec node node_modules/vitest/vitest.mjs run --typecheck.enabled=false \
  test/cuda.test.ts test/cuda-head.test.ts test/cuda-rows.test.ts test/cuda-tokens.test.ts test/token-gradients.test.ts \
  test/cross-entropy.test.ts test/fused-head.test.ts test/golden.test.ts test/edges.test.ts test/random.test.ts test/determinism.test.ts test/inactive-rows.test.ts
