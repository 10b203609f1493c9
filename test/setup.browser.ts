/** A page's Sync calls need this before them. */
import { loadWasm } from '../lib/index.js'

await loadWasm()
