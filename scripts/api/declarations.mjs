/**
 * The exports of the package, read by the compiler from the published types that package.json names.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** @typedef {{ node: ts.Declaration, type: ts.Type, checker: ts.TypeChecker }} Declared a declaration that is exported */

/** @returns {Map<string, Map<string, Declared>>} the exports by subpath; the subpath '.' is called 'main' */
export function exportsOf() {
  const { exports } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  const files = new Map()
  for (const [path, conditions] of Object.entries(exports)) {
    if (conditions.import?.types) files.set(path.slice(2) || 'main', `${root}${conditions.import.types.slice(2)}`)
  }
  const options = {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2023,
    strict: true,
    types: ['node'],
    noEmit: true,
  }
  const program = ts.createProgram([...files.values()], options)
  const checker = program.getTypeChecker()
  return new Map(Array.from(files, ([path, file]) => [path, declarationsOf(program, checker, file)]))
}

/**
 * @param {ts.Program} program
 * @param {ts.TypeChecker} checker
 * @param {string} file
 */
function declarationsOf(program, checker, file) {
  const source = program.getSourceFile(file)
  if (!source) throw new Error(`there is no ${file}: npm run setup`)
  const declared = new Map()
  const module = checker.getSymbolAtLocation(source)
  for (const exported of module ? checker.getExportsOfModule(module) : []) {
    const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
    const [node] = symbol.declarations ?? []
    declared.set(exported.name, { node, type: checker.getDeclaredTypeOfSymbol(symbol), checker })
  }
  return declared
}

/** A docstring without its tags, as one line of Markdown: links become code. */
export function docOf(/** @type {ts.Node} */ node) {
  const [doc] = ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc)
  return doc ? flat(ts.getTextOfJSDocComment(doc.comment) ?? '') : ''
}

/** The tags of a docstring: parameters by name, and the texts of the other tags. */
export function tagsOf(/** @type {ts.Node} */ node) {
  const tags = ts.getJSDocTags(node)
  const text = (/** @type {ts.JSDocTag} */ tag) => flat(ts.getTextOfJSDocComment(tag.comment) ?? '')
  const whole = (/** @type {ts.JSDocTag} */ tag) =>
    flat(
      tag
        .getText()
        .replace(/^@\w+\s*/, '')
        .replaceAll(/\n\s*\*( |$)/g, ' '),
    )
  return {
    parameters: tags.filter(ts.isJSDocParameterTag).map((tag) => ({ name: tag.name.getText(), text: text(tag) })),
    returns: tags.filter((tag) => tag.tagName.text === 'returns').map(text)[0],
    throws: tags.filter((tag) => tag.tagName.text === 'throws').map(whole)[0],
    internal: tags.some((tag) => tag.tagName.text === 'internal'),
  }
}

/** Joins text of several lines into one line. */
export function flat(/** @type {string} */ text) {
  return text
    .replaceAll(/\{@link (\w+(?:\.\w+)?)[^}]*\}/g, '`$1`')
    .replaceAll(/\s+/g, ' ')
    .trim()
}

/** A type as it is written, on one line. */
export function written(/** @type {ts.Node} */ node) {
  return flat(node.getText().replaceAll(/\/\*\*.*?\*\//gs, ''))
    .replaceAll(/(\?: [^;{}]*?) \| undefined(?=;| \})/g, '$1')
    .replaceAll('<Data>', '')
    .replaceAll(/;(?= \})/g, '')
    .replaceAll('"', "'")
}

/** The result of a function or method, as it is before it is known what was asked for. */
export function resultOf(/** @type {ts.SignatureDeclaration} */ { type, typeParameters }) {
  const text = type ? written(type) : 'void'
  return typeParameters
    ? text.replace(/^(Promise<)?(\w+).*$/, (_, promise, name) => (promise ? `Promise<${name}>` : name))
    : text
}

/** How types without a declaration of their own are written. */
const INFERRED = ts.TypeFormatFlags.NoTruncation | ts.TypeFormatFlags.UseAliasDefinedOutsideCurrentScope

/** @typedef {{ name: string, optional: boolean, type: string, doc: string, node: ts.Declaration }} Member */

/**
 * The members of an interface or of an alias of an object: its own, and the names of the interfaces it extends. A type
 * made from a table of declared options has those options as its own members.
 *
 * @param {Declared} declared
 * @returns {{ own: Member[], inherited: string[] }}
 */
export function membersOf(declared) {
  const { node, type, checker } = declared
  const properties = checker.getPropertiesOfType(type).filter(({ name }) => !name.startsWith('__@'))
  if (isOfTable(node)) {
    // In the order of the table; the compiler's order depends on the types it has seen before.
    const own = properties.map((property) => inferred(property, checker)).sort((a, b) => a.node.pos - b.node.pos)
    return { own, inherited: [] }
  }
  const { type: alias } = /** @type {{ type?: ts.TypeLiteralNode }} */ (node)
  const members = ts.isInterfaceDeclaration(node) ? node.members : (alias?.members ?? [])
  const isNamed = (/** @type {ts.TypeElement} */ { name }) =>
    name && (ts.isIdentifier(name) || ts.isStringLiteral(name))
  const own = members.filter(isNamed).map(declaredMember)
  const names = new Set(own.map(({ name }) => name.replaceAll("'", '')))
  const inherited = properties.map(({ name }) => name).filter((name) => !names.has(name))
  return { own, inherited: inherited.sort() }
}

/** `interface X extends Given<typeof table> {}` */
function isOfTable(/** @type {ts.Node} */ node) {
  return ts.isInterfaceDeclaration(node) && /<typeof \w+>$/.test(node.heritageClauses?.[0]?.types[0]?.getText() ?? '')
}

/**
 * @param {ts.TypeElement} node a property or a method
 * @returns {Member}
 */
function declaredMember(node) {
  return {
    name: node.name?.getText() ?? '',
    optional: node.questionToken !== undefined,
    type: ts.isMethodSignature(node)
      ? resultOf(node)
      : passed(written(/** @type {ts.TypeNode} */ (/** @type {ts.PropertySignature} */ (node).type))),
    doc: docOf(node),
    node,
  }
}

/** The type of an option without the undefined that any option may be. */
function passed(/** @type {string} */ type) {
  return type
    .replace(/ \| undefined$/, '')
    .replace(/^\((\(.*\) => [^()]*)\)$/, '$1')
    .replace(/^Data$/, 'TensorData')
}

function inferred(/** @type {ts.Symbol} */ property, /** @type {ts.TypeChecker} */ checker) {
  const [node] = property.declarations ?? []
  const { type: declared } = /** @type {ts.PropertySignature} */ (node)
  const isSum = declared && (ts.isUnionTypeNode(declared) || ts.isIntersectionTypeNode(declared))
  const parts = isSum ? declared.types : [declared]
  // `Option<the type of the callers' value, the type of the checked value>`
  const references = parts.flatMap((part) => (part && ts.isTypeReferenceNode(part) ? [part] : []))
  const option = references.find(({ typeName }) => typeName.getText() === 'Option')
  const type = checker.getNonNullableType(checker.getTypeOfSymbol(property))
  const [value] = option?.typeArguments ?? []
  const text = value ? written(value) : checker.typeToString(type, undefined, INFERRED)
  return { name: property.name, optional: true, type: inOrder(text.replaceAll('"', "'")), doc: docOf(node), node }
}

/**
 * An inferred type with the members of its union in the order of the alphabet, as the compiler's order depends on the types
 * that it has seen before.
 * @returns {string}
 */
function inOrder(/** @type {string} */ text) {
  const list = /^readonly \((.*)\)\[\]$/.exec(text)
  if (list) return `readonly (${inOrder(list[1])})[]`
  const parts = ['']
  let depth = 0
  for (const word of text.split(' ')) {
    if (word === '|' && depth === 0) parts.push('')
    else parts[parts.length - 1] += parts.at(-1) === '' ? word : ` ${word}`
    depth += (word.match(/[<({[]/g)?.length ?? 0) - (word.match(/[>)}\]]/g)?.length ?? 0)
  }
  return parts.sort().join(' | ')
}

/**
 * The type behind an alias: as it is written, or evaluated where it is the type of a constant. Nothing for a conditional
 * type, which its docstring explains.
 */
export function aliasedBy(/** @type {Declared} */ { node, type, checker }) {
  const { type: aliased } = /** @type {ts.TypeAliasDeclaration} */ (node)
  if (ts.isConditionalTypeNode(aliased)) return ''
  const text = written(aliased)
  if (!text.includes('typeof')) return text
  return checker.typeToString(type, undefined, INFERRED | ts.TypeFormatFlags.InTypeAlias).replaceAll('"', "'")
}
