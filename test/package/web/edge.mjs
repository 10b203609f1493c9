/** A worker of workerd, which compiles no WebAssembly at run time: the module is imported. */
import * as library from 'fused-preference-loss'
import module from 'fused-preference-loss/prebuilds/wasm/fused-preference-loss.wasm'
import { checkGolden, resultOf } from './calls.mjs'

export default {
  async fetch(request) {
    const cases = await request.json()
    const without = await library.loadWasm().catch(({ message }) => message)
    const wasm = await library.loadWasm({ module })
    for (const backend of ['wasm', 'js']) checkGolden(library, cases, { backend })
    return Response.json({ without, wasm, result: await resultOf(library) })
  },
}
