/** The page with its generated parts made anew. Throws when an export has no part, or a part no export. */
export function rendered(page: string): Promise<string>
