/**
 * The parent's handle on one page of a browser, each in a process of its own; what ../contender.mjs is for processes of
 * Node.js.
 */
import { chromium } from 'playwright-core'
import { CHROMIUM, LAUNCH } from '../../scripts/chromium.mjs'
import { Absent } from '../absent.mjs'
import { bundleWorker } from './bundle.mjs'
import { serveFiles } from './server.mjs'

const RESERVE = 'SpareRendererForSitePerProcess'

/** Starts a browser; its version, and what starts a contender in it. */
export async function openBrowser() {
  if (CHROMIUM === undefined) throw new Absent('no Chromium here: set CHROMIUM to its path')
  await bundleWorker()
  // Without processes in reserve the one that appears with a page is the page's.
  const args = [...LAUNCH.args, '--js-flags=--expose-gc', `--disable-features=${RESERVE}`]
  const browser = await chromium.launch({ ...LAUNCH, args })
  const server = await serveFiles()
  const system = await browser.newBrowserCDPSession()
  const processes = async () => {
    const { processInfo } = await system.send('SystemInfo.getProcessInfo')
    return processInfo.filter(({ type }) => type === 'renderer').map(({ id }) => id)
  }

  /** A page, and the process that has appeared for it. */
  async function openPage() {
    const context = await browser.newContext()
    const page = await context.newPage()
    const before = await processes()
    await page.goto(`${server.origin}/bench/browser/page.html`)
    const fresh = (await processes()).filter((id) => !before.includes(id))
    return { page, pid: fresh.length === 1 ? fresh[0] : 0 }
  }
  let opened = Promise.resolve(/** @type {any} */ (undefined))

  return {
    version: browser.version(),

    /** @param {string} peerName @param {number} patience seconds to wait for an answer */
    start(peerName, patience) {
      // One after another, so that a new process is that of the page.
      opened = opened.catch(() => {}).then(openPage)
      return new PageContender(opened, peerName, patience)
    },

    async close() {
      await browser.close()
      server.close()
    },
  }
}

class PageContender {
  /**
   * @param {Promise<{ page: import('playwright-core').Page, pid: number }>} opened
   * @param {string} peerName
   * @param {number} patience
   */
  constructor(opened, peerName, patience) {
    this.running = true
    this.patience = patience
    this.page = opened.then(async ({ page, pid }) => {
      page.on('crash', () => {
        this.running = false
      })
      await settled(page.evaluate(`begin(${JSON.stringify(`${pid} ${peerName}`)})`))
      return page
    })
    this.page.catch(() => {})
  }

  /**
   * @param {object} message
   * @returns {Promise<any>}
   */
  async ask(message) {
    /** @type {NodeJS.Timeout | undefined} */
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`no answer within ${this.patience} s`))
        this.stop()
      }, 1000 * this.patience)
    })
    const answer = this.page.then((page) => settled(page.evaluate(`ask(${JSON.stringify(message)})`)))
    return Promise.race([answer, late]).finally(() => clearTimeout(timer))
  }

  stop() {
    this.running = false
    this.page.then((page) => page.context().close()).catch(() => {})
  }
}

/** The reply of a page's worker, or its failure as an error. */
async function settled(/** @type {Promise<any>} */ answer) {
  const { reply, failure, absent } = await answer
  if (failure !== undefined) throw absent ? new Absent(failure) : new Error(failure)
  return reply
}
