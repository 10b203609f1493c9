/** The repository's page, from the manifest's `repository`. */
export function pageOf(manifest: { repository?: { url?: string } }): string

/** The text with every address of a repository of this package's name on GitHub made `page`. */
export function linked(text: string, page: string): string
