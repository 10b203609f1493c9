/** Whether this machine's GPU can be tested: exits with 1 and the reason when CUDA or cuBLASLt is not available. */
import { getBackends } from 'fused-preference-loss'

const { available, reason, devices, cublasLt } = getBackends().cuda
const problems = []
if (!available) problems.push(`CUDA is not available: ${reason}`)
else if (!cublasLt?.available) problems.push(`cuBLASLt is not available: ${cublasLt?.reason}`)
for (const problem of problems) console.error(problem)
if (problems.length > 0) process.exit(1)
console.log(
  (devices ?? []).map(({ name, computeCapability }) => `${name}, compute capability ${computeCapability}`).join('\n'),
)
