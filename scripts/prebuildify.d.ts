/** The part of prebuildify that prebuild.mjs uses; the package has no types of its own. */
declare module 'prebuildify' {
  export default function prebuildify(options: object, done: (error: Error | null) => void): void
}
