/**
 * The requirements on every shipped binary: it is made for its platform, runs on old enough systems, needs only
 * the system's libraries, and exports only the necessary symbols.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

const EXPORTS = ['napi_register_module_v1', 'node_api_module_get_api_version_v1']
const OLDEST_GLIBC = [2, 28]
/** Libraries of the systems themselves. */
/** @type {Record<string, RegExp>} */
const SYSTEM = {
  glibc: /^(libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|ld-linux-(x86-64|aarch64)\.so\.[12])$/,
  musl: /^libc\.so$/,
  cuda: /^(lib(c|m|dl|pthread|rt)\.so\.\d|ld-linux-x86-64\.so\.2)$/,
  win32: /^(node\.exe|KERNEL32\.dll|api-ms-win-crt-[a-z]+-l1-1-0\.dll)$/i,
  darwin: /^\/usr\/lib\/libSystem\.B\.dylib$/,
}
/** By architecture, the name or number of the machine in a file's header. */
const MACHINES = {
  linux: /** @type {Record<string, string>} */ ({ x64: 'Advanced Micro Devices X86-64', arm64: 'AArch64' }),
  win32: /** @type {Record<string, number>} */ ({ x64: 0x8664, arm64: 0xaa64 }),
  darwin: /** @type {Record<string, number>} */ ({ x64: 0x01000007, arm64: 0x0100000c }),
}

/**
 * Checks a binary; returns a description of the findings.
 * @param {string} file
 * @param {string} platform
 * @param {string} arch
 * @param {string | undefined} libc
 */
export function checkBinary(file, platform, arch, libc) {
  const bytes = readFileSync(file)
  assert(!bytes.includes('/work/') && !bytes.includes('/home/') && !bytes.includes('/tmp/'), `${file} names a folder`)
  if (platform === 'linux') return checkElf(file, arch, libc)
  return platform === 'win32' ? checkPe(bytes, arch) : checkMachO(bytes, arch)
}

/** Checks the CUDA library; returns a description of the findings. */
export function checkCudaLibrary(/** @type {string} */ file) {
  const found = checkElf(file, 'x64', 'cuda', ['fusedPreferenceLossCuda'])
  // One fat binary for each file of kernels.
  assert(readerOf(file)('--sections').includes('.nv_fatbin'), `${file} has no kernels`)
  return found
}

function readerOf(/** @type {string} */ file) {
  const env = { LC_ALL: 'C', PATH: process.env.PATH }
  return (/** @type {string[]} */ ...args) =>
    execFileSync('readelf', ['--wide', ...args, file], { encoding: 'utf8', env })
}

/**
 * The newest version of a library's symbols among those that `readelf --version-info` lists.
 * @param {string} text
 * @param {string} name
 */
function newestVersion(text, name) {
  const versions = [...text.matchAll(new RegExp(`\\b${name}_(\\d+(?:\\.\\d+)+)`, 'g'))]
  return versions
    .map((match) => match[1].split('.').map(Number))
    .sort(compareVersions)
    .at(-1)
}

function compareVersions(/** @type {number[]} */ a, /** @type {number[]} */ b) {
  const i = a.findIndex((number, i) => number !== b[i])
  return i < 0 ? a.length - b.length : a[i] - (b[i] ?? -1)
}

/**
 * @param {string} file
 * @param {string} arch
 * @param {string | undefined} libc
 */
function checkElf(file, arch, libc, exports = EXPORTS) {
  const read = readerOf(file)
  assert(read('--file-header').includes(MACHINES.linux[arch]), `${file} is for another machine`)
  const needed = [...read('--dynamic').matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1])
  for (const library of needed) assert.match(library, SYSTEM[String(libc)])
  const exported = [...read('--dyn-syms').matchAll(/(?:GLOBAL|WEAK)\s+DEFAULT\s+(?!UND)\S+\s+(\S+)/g)].map(
    (match) => match[1],
  )
  assert.deepEqual(exported.sort(), exports)
  assert(!read('--sections').includes('.symtab'), `${file} is not stripped`)
  const newest = newestVersion(read('--version-info'), 'GLIBC')
  if (libc === 'musl') {
    assert.equal(newest, undefined)
    return `needs ${needed.join(', ')}`
  }
  assert(newest, `${file} needs no glibc`)
  assert(compareVersions(newest, OLDEST_GLIBC) <= 0, `${file} needs glibc ${newest.join('.')}`)
  return `needs glibc ${newest.join('.')}`
}

function checkPe(/** @type {Buffer} */ bytes, /** @type {string} */ arch) {
  const header = bytes.readUInt32LE(0x3c)
  assert.equal(bytes.toString('latin1', header, header + 4), 'PE\0\0')
  assert.equal(bytes.readUInt16LE(header + 4), MACHINES.win32[arch])
  const sections = Array.from({ length: bytes.readUInt16LE(header + 6) }, (_, i) => {
    const at = header + 24 + bytes.readUInt16LE(header + 20) + 40 * i
    return {
      address: bytes.readUInt32LE(at + 12),
      size: bytes.readUInt32LE(at + 16),
      data: bytes.readUInt32LE(at + 20),
    }
  })
  const offset = (/** @type {number} */ address) => {
    const section = sections.find((s) => address >= s.address && address < s.address + s.size)
    assert(section, `no section has the address ${address}`)
    return section.data + address - section.address
  }
  const text = (/** @type {number} */ address) =>
    bytes.toString('latin1', offset(address), bytes.indexOf(0, offset(address)))
  const directories = header + 24 + 112
  const table = offset(bytes.readUInt32LE(directories))
  const names = offset(bytes.readUInt32LE(table + 32))
  const exported = Array.from({ length: bytes.readUInt32LE(table + 24) }, (_, i) =>
    text(bytes.readUInt32LE(names + 4 * i)),
  )
  assert.deepEqual(exported.sort(), EXPORTS)
  const needed = []
  for (let at = offset(bytes.readUInt32LE(directories + 8)); bytes.readUInt32LE(at + 12) !== 0; at += 20) {
    needed.push(text(bytes.readUInt32LE(at + 12)))
  }
  for (const library of needed) assert.match(library, SYSTEM.win32)
  return `needs ${needed.length} system libraries`
}

function checkMachO(/** @type {Buffer} */ bytes, /** @type {string} */ arch) {
  const [LOAD_DYLIB, BUILD_VERSION, CODE_SIGNATURE] = [0xc, 0x32, 0x1d]
  assert.equal(bytes.readUInt32LE(0), 0xfeedfacf)
  assert.equal(bytes.readUInt32LE(4), MACHINES.darwin[arch])
  let at = 32
  let oldest
  let signed = false
  for (let i = bytes.readUInt32LE(16); i > 0; i--, at += bytes.readUInt32LE(at + 4)) {
    const command = bytes.readUInt32LE(at)
    if (command === LOAD_DYLIB) {
      const name = at + bytes.readUInt32LE(at + 8)
      assert.match(bytes.toString('latin1', name, bytes.indexOf(0, name)), SYSTEM.darwin)
    }
    if (command === BUILD_VERSION) oldest = bytes.readUInt32LE(at + 12) >>> 16
    if (command === CODE_SIGNATURE) signed = true
  }
  assert(oldest !== undefined && oldest <= 11, `needs macOS ${oldest}`)
  // macOS refuses unsigned code on arm64.
  assert(signed || arch === 'x64')
  return `needs macOS ${oldest}${signed ? ', signed ad hoc' : ''}`
}
