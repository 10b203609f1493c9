/**
 * Values of JSON.
 */

/**
 * Whether a value is the same as one from `JSON.parse`, whatever the order of their keys. An instance of a class, a list
 * with holes, NaN and -0 are not the same as what JSON makes of them.
 */
export function sameJson(json: unknown, value: unknown): boolean {
  if (typeof json !== 'object' || json === null) return Object.is(json, value)
  if (typeof value !== 'object' || value === null) return false
  if (Object.getPrototypeOf(value) !== Object.getPrototypeOf(json)) return false
  const keys = Reflect.ownKeys(json) as (keyof typeof json)[]
  if (Reflect.ownKeys(value).length !== keys.length) return false
  return keys.every((key) => sameJson(json[key], (value as typeof json)[key]))
}
