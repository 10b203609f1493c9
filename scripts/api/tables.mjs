/**
 * Declarations as Markdown.
 */
import ts from 'typescript'
import { aliasedBy, docOf, membersOf, resultOf, tagsOf, written } from './declarations.mjs'
import { errorOf } from './wrong-values.mjs'

/** @typedef {import('./declarations.mjs').Declared} Declared */

/** Text in a cell of a table. */
const cell = (/** @type {string} */ text) => text.replaceAll('|', '\\|')

/** A type in a cell. */
const code = (/** @type {string} */ text) => (text ? `\`${cell(text)}\`` : '')

/** The signature of a function, its docstring, parameters, result and errors. */
export function functionEntry(/** @type {string} */ name, /** @type {Declared} */ declared) {
  const node = /** @type {ts.FunctionDeclaration} */ (declared.node)
  const { parameters, returns, throws } = tagsOf(node)
  const lines = [`\`${signature(name, node)}\` → \`${resultOf(node)}\``, '', docOf(node)]
  // `@param logits, labels as in …` describes several parameters; the compiler reads it as one name and a text.
  const list = parameters.map(({ name: first, text }) =>
    text.startsWith(',') ? `- ${first}${text}` : `- \`${first}\`: ${text}`,
  )
  if (returns) list.push(`- Returns ${returns}`)
  if (throws) list.push(`- Throws ${throws}`)
  return (list.length > 0 ? [...lines, '', ...list] : lines).join('\n')
}

const signature = (/** @type {string} */ name, /** @type {ts.SignatureDeclaration} */ node) =>
  `${name}(${node.parameters.map((p) => `${p.name.getText()}${p.questionToken || p.initializer ? '?' : ''}`).join(', ')})`

/**
 * The options of an interface: its own in a table, inherited ones by name.
 * @param {string} name
 * @param {Declared} declared
 * @param {string} path
 */
export async function optionTable(name, declared, path) {
  const { own, inherited } = membersOf(declared)
  const rows = []
  for (const { name: option, optional, type, doc } of own) {
    if (doc === '') throw new Error(`the option ${option} of ${name} has no docstring in the published types`)
    const error = await errorOf(path, name, option)
    const { byDefault = optional ? '' : 'required', meaning } = split(doc)
    rows.push([`\`${option}\``, code(type), cell(byDefault), cell(meaning), ...(error ? [code(error)] : [])])
  }
  if (rows.length === 0) return `Takes ${listed(inherited)}.`
  const header = ['option', 'type', 'default', '', 'a wrong value throws, for example'].slice(0, rows[0].length)
  const table = markdownTable(header, rows)
  return inherited.length > 0 ? `${table}\n\nAlso ${listed(inherited)}.` : table
}

/** The fields of an interface, with their types and docstrings. */
export function fieldTable(/** @type {Declared} */ declared) {
  const { own, inherited } = membersOf(declared)
  const rows = own.map(({ name, optional, type, node }) => {
    const label = ts.isMethodSignature(node) ? signature(name, node) : `${name}${optional ? '?' : ''}`
    return [`\`${label}\``, code(type), cell(sentences(node))]
  })
  const table = markdownTable(['field', 'type', ''], rows)
  return inherited.length > 0 ? `${table}\n\nAlso ${listed(inherited)}.` : table
}

const listed = (/** @type {string[]} */ names) => names.map((name) => `\`${name}\``).join(', ')

/** The public methods and properties of a class. */
export function classTable(/** @type {Declared} */ { node, type, checker }) {
  const { name: className, members } = /** @type {ts.ClassDeclaration} */ (node)
  const owner = className?.text
  const rows = []
  const seen = new Set()
  for (const member of members) {
    const name = ts.isConstructorDeclaration(member) ? `new ${owner}` : (member.name?.getText() ?? '')
    const hidden = name.startsWith('#') || tagsOf(member).internal || seen.has(name)
    if (hidden) continue
    seen.add(name)
    const modifiers = ts.canHaveModifiers(member) ? ts.getModifiers(member) : undefined
    const isStatic = modifiers?.some((modifier) => modifier.kind === ts.SyntaxKind.StaticKeyword)
    const isCalled = ts.isConstructorDeclaration(member) || ts.isMethodDeclaration(member)
    const label = isCalled ? signature(name, member) : name
    rows.push([
      `\`${isStatic ? `${owner}.` : ''}${label.replace(/\{[^}]*\}\??/, 'options?')}\``,
      cell(sentences(member)),
    ])
  }
  const others = checker
    .getPropertiesOfType(type)
    .filter(
      ({ name, declarations }) =>
        !seen.has(name) && /^\w+$/.test(name) && !declarations?.some((declaration) => tagsOf(declaration).internal),
    )
  const more = others.length > 0 ? `\n\nAlso ${listed(others.map(({ name }) => name))}.` : ''
  return `${docOf(node)}\n\n${markdownTable(['', ''], rows)}${more}`
}

/**
 * The exports of a subpath other than `shown`: its aliases and small types, each with its declaration and docstring.
 * @param {string} path
 * @param {Map<string, Declared>} declarations
 * @param {Set<string>} shown
 */
export function typeList(path, declarations, shown) {
  const rows = []
  for (const [name, declared] of declarations) {
    const { node } = declared
    if (shown.has(`${path}/${name}`) || name.endsWith('Sync')) continue
    if (ts.isFunctionDeclaration(node) || ts.isClassDeclaration(node)) {
      throw new Error(`docs/api.md has no part for ${path}/${name}`)
    }
    const type = ts.isTypeAliasDeclaration(node) ? aliasedBy(declared) : literal(node)
    rows.push([`\`${name}\``, code(type.replace(/^\| /, '')), cell(docOf(node))])
  }
  return rows.length > 0 ? markdownTable(['type', '', ''], rows) : 'None.'
}

const literal = (/** @type {ts.Declaration} */ node) => {
  const members = /** @type {ts.InterfaceDeclaration} */ (node).members.filter((member) => !tagsOf(member).internal)
  return `{ ${members.map((member) => written(member).replace(/;$/, '')).join('; ')} }`
}

/** The docstring of a member with the texts of its tags. */
function sentences(/** @type {ts.Node} */ member) {
  const { parameters, throws } = tagsOf(member)
  const more = parameters.map(({ name, text }) => `\`${name}\`: ${text.replace(/\.$/, '')}.`)
  if (throws) more.push(`Throws ${throws.replace(/\.$/, '')}.`)
  return [docOf(member), ...more].filter(Boolean).join(' ')
}

/** Separates the sentence 'Defaults to …' from the others. */
function split(/** @type {string} */ doc) {
  const found = /(?:^|(?<=[.)] ))Defaults to (.*?)(?:\.(?= |$))/.exec(doc)
  if (!found) return { meaning: doc }
  const [sentence, text] = found
  // Text after a colon or a semicolon belongs to the meaning, unless it is short.
  const [, first, rest] = /^([^:;]*)[:;] (.{20,})$/.exec(text) ?? []
  const byDefault = first ?? text
  const more = rest ? `${rest[0].toUpperCase()}${rest.slice(1)}.` : ''
  const meaning = doc.replace(sentence, more).replaceAll(/\s+/g, ' ').trim()
  return { byDefault, meaning }
}

function markdownTable(/** @type {string[]} */ header, /** @type {string[][]} */ rows) {
  const line = (/** @type {string[]} */ cells) => `| ${cells.join(' | ')} |`.replaceAll(/\| {2}(?=\|)/g, '| ')
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n')
}
