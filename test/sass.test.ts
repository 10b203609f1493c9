/** How scripts/sass.mjs counts a kernel's instructions, on listings as nvdisasm prints them. */
import { expect, it } from 'vitest'

const { hotLoop, kernelsOf } = await import(new URL('../scripts/sass.mjs', import.meta.url).href)

/** A listing; an entry with a colon is a label. */
const listing = (...lines: string[]) =>
  [
    '\t.section\t.text.aKernel,"ax",@progbits',
    '.text.aKernel:',
    ...lines.map((line, i) =>
      line.endsWith(':') ? line : `        /*${(16 * i).toString(16).padStart(4, '0')}*/  ${line} ;`,
    ),
    '\t.section\t.text.bKernel,"ax",@progbits',
    '.text.bKernel:',
    '        /*0000*/  EXIT ;',
  ].join('\n')

const LOAD = 'LDG.E.EF.128 R4, desc[UR4][R2.64]'
const KERNEL = [
  'S2R R0, SR_TID.X',
  '.L_x_0:', // a row
  'IMAD R1, R0, R0, RZ',
  'ISETP.NE.AND P0, PT, R1, RZ, PT',
  '@P0 BRA `(.L_x_3)',
  '.L_x_1:', // a tile
  LOAD,
  'FADD R4, R4, R4',
  '@P1 BRA `(.L_x_2)',
  'FMUL R4, R4, R4', // the way that is taken seldom
  'FMUL R4, R4, R4',
  '.L_x_2:',
  '@P2 BRA `(.L_x_1)',
  'FADD R5, R5, R5',
  '.L_x_3:',
  '@P3 BRA `(.L_x_0)',
  'EXIT',
]

it('finds the loop that reads logits, and what the loop around it adds', () => {
  const kernels = kernelsOf(listing(...KERNEL))
  expect([...kernels.keys()]).toEqual(['aKernel', 'bKernel'])
  expect(hotLoop(kernels.get('aKernel'))).toEqual({ loads: 1, inside: 4, around: 5 })
  expect(() => hotLoop(kernels.get('bKernel'))).toThrow('no loop that reads logits')
})

it('counts each instruction more', () => {
  const at = (label: string) => KERNEL.indexOf(label) + 1
  const count = (place: number, ...more: string[]) =>
    hotLoop(kernelsOf(listing(...KERNEL.toSpliced(place, 0, ...more))).get('aKernel'))
  expect(count(at('.L_x_1:'), 'FADD R6, R6, R6')).toEqual({ loads: 1, inside: 5, around: 5 })
  expect(count(at('.L_x_1:'), LOAD)).toEqual({ loads: 2, inside: 5, around: 5 })
  expect(count(at('.L_x_0:'), 'FADD R6, R6, R6')).toEqual({ loads: 1, inside: 4, around: 6 })
})

it('counts a tile outside of the loop as one inside, whether it comes before the loop or after it', () => {
  const tile = ['@P4 BRA `(.L_x_4)', LOAD, 'FADD R4, R4, R4', 'FADD R4, R4, R4', '.L_x_4:']
  for (const place of ['.L_x_1:', '.L_x_3:']) {
    const code = KERNEL.toSpliced(KERNEL.indexOf(place), 0, ...tile)
    expect(hotLoop(kernelsOf(listing(...code)).get('aKernel'))).toEqual({ loads: 1, inside: 4, around: 6 })
  }
})
