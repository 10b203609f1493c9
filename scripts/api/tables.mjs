/**
 * Declarations as Markdown.
 */
import ts from 'typescript'
import { docOf, tagsOf, written } from './declarations.mjs'
import { errorOf } from './wrong-values.mjs'

/** Text in a cell of a table. */
const cell = (/** @type {string} */ text) => text.replaceAll('|', '\\|')

/** A type in a cell. */
const code = (/** @type {string} */ text) => (text ? `\`${cell(text)}\`` : '')

/** The signature of a function, its docstring, parameters, result and errors. */
export function functionEntry(name, { node }) {
  const { parameters, returns, throws } = tagsOf(node)
  const result = node.type ? written(node.type) : 'void'
  const lines = [`\`${signature(name, node)}\` → \`${result}\``, '', docOf(node)]
  // `@param logits, labels as in …` is about several, which the compiler takes for a name and a text.
  const list = parameters.map(({ name: first, text }) =>
    text.startsWith(',') ? `- ${first}${text}` : `- \`${first}\`: ${text}`,
  )
  if (returns) list.push(`- Returns ${returns}`)
  if (throws) list.push(`- Throws ${throws}`)
  return (list.length > 0 ? [...lines, '', ...list] : lines).join('\n')
}

const signature = (name, node) =>
  `${name}(${node.parameters.map((p) => `${p.name.getText()}${p.questionToken || p.initializer ? '?' : ''}`).join(', ')})`

/** The options of an interface: its own in a table, those that it inherits by name. */
export async function optionTable(name, declared, path) {
  const rows = []
  let withErrors = false
  for (const member of members(declared)) {
    const option = member.name.getText()
    const error = await errorOf(path, name, option)
    if (error) withErrors = true
    const { byDefault, meaning } = split(docOf(member))
    const standard = byDefault ?? (member.questionToken ? '' : 'required')
    rows.push([`\`${option}\``, code(typeOf(member)), cell(standard), cell(meaning), error ? code(error) : ''])
  }
  const header = ['option', 'type', 'default', '', ...(withErrors ? ['a wrong value throws, for example'] : [])]
  const table = markdownTable(
    header,
    rows.map((row) => row.slice(0, header.length)),
  )
  const others = inherited(declared)
  if (others.length === 0) return table
  return `${rows.length > 0 ? `${table}\n\nAlso` : 'Takes'} ${others.map((other) => `\`${other}\``).join(', ')}.`
}

/** The fields of an interface, with their types and docstrings. */
export function fieldTable(declared) {
  const rows = members(declared).map((member) => {
    const name = member.name.getText()
    const label = ts.isMethodSignature(member) ? signature(name, member) : `${name}${member.questionToken ? '?' : ''}`
    return [`\`${label}\``, code(typeOf(member)), cell(sentences(member))]
  })
  const others = inherited(declared)
  const more = others.length > 0 ? `\n\nAlso ${others.map((other) => `\`${other}\``).join(', ')}.` : ''
  return markdownTable(['field', 'type', ''], rows) + more
}

/** The public methods and properties of a class. */
export function classTable({ node, type, checker }) {
  const rows = []
  const seen = new Set()
  for (const member of node.members) {
    const name = ts.isConstructorDeclaration(member) ? `new ${node.name.text}` : member.name?.getText()
    const hidden = name.startsWith('#') || tagsOf(member).internal || seen.has(name)
    if (hidden) continue
    seen.add(name)
    const isStatic = ts.getModifiers(member)?.some((modifier) => modifier.kind === ts.SyntaxKind.StaticKeyword)
    const owner = isStatic ? `${node.name.text}.` : ''
    const label = member.parameters && !ts.isGetAccessor(member) ? signature(name, member) : name
    rows.push([`\`${owner}${label.replace(/\{[^}]*\}\??/, 'options?')}\``, cell(sentences(member))])
  }
  const others = checker
    .getPropertiesOfType(type)
    .filter(({ name, declarations }) => !seen.has(name) && /^\w+$/.test(name) && !tagsOf(declarations[0]).internal)
  const more = others.length > 0 ? `\n\nAlso ${others.map(({ name }) => `\`${name}\``).join(', ')}.` : ''
  return `${docOf(node)}\n\n${markdownTable(['', ''], rows)}${more}`
}

/** What a subpath exports besides `shown`: its aliases and small types, each with its declaration and docstring. */
export function typeList(path, declarations, shown) {
  const rows = []
  for (const [name, { node }] of declarations) {
    if (shown.has(`${path}/${name}`) || name.endsWith('Sync')) continue
    if (ts.isFunctionDeclaration(node) || ts.isClassDeclaration(node)) {
      throw new Error(`docs/api.md has no part of ${path}/${name}`)
    }
    const type = ts.isTypeAliasDeclaration(node) ? written(node.type) : `{ ${membersOf(node)} }`
    rows.push([`\`${name}\``, code(type.replace(/^\| /, '')), cell(docOf(node))])
  }
  return rows.length > 0 ? markdownTable(['type', '', ''], rows) : 'None.'
}

const membersOf = (node) =>
  node.members
    .filter((member) => !tagsOf(member).internal)
    .map((member) => written(member).replace(/;$/, ''))
    .join('; ')

/** The members that the declaration itself has. */
function members({ node }) {
  if (ts.isInterfaceDeclaration(node))
    return node.members.filter((member) => ts.isIdentifier(member.name) || ts.isStringLiteral(member.name))
  if (ts.isTypeAliasDeclaration(node) && ts.isTypeLiteralNode(node.type)) return [...node.type.members]
  return []
}

/** The names of the members that come from what the declaration extends. */
function inherited(declared) {
  const own = new Set(members(declared).map((member) => member.name.getText().replaceAll("'", '')))
  return declared.checker
    .getPropertiesOfType(declared.type)
    .map((property) => property.name)
    .filter((name) => !own.has(name) && !name.startsWith('__@'))
}

function typeOf(member) {
  if (ts.isMethodSignature(member)) return written(member.type)
  return member.type ? written(member.type) : ''
}

/** The docstring of a member with what its tags say. */
function sentences(member) {
  const { parameters, throws } = tagsOf(member)
  const more = parameters.map(({ name, text }) => `\`${name}\`: ${text.replace(/\.$/, '')}.`)
  if (throws) more.push(`Throws ${throws.replace(/\.$/, '')}.`)
  return [docOf(member), ...more].filter(Boolean).join(' ')
}

/** The sentence 'Defaults to …' apart from the others. */
function split(doc) {
  const found = /(?:^|(?<=[.)] ))Defaults to (.*?)(?:\.(?= |$))/.exec(doc)
  if (!found) return { meaning: doc }
  const [sentence, text] = found
  // What follows a colon or a semicolon belongs to the meaning, unless it is short.
  const [, first, rest] = /^([^:;]*)[:;] (.{20,})$/.exec(text) ?? []
  const byDefault = first ?? text
  const more = rest ? `${rest[0].toUpperCase()}${rest.slice(1)}.` : ''
  const meaning = doc.replace(sentence, more).replaceAll(/\s+/g, ' ').trim()
  return { byDefault, meaning }
}

function markdownTable(header, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`.replaceAll(/\| {2}(?=\|)/g, '| ')
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n')
}
