// `node missing.mjs <file>`: the first name that a test file imports from `e2b` and that the installed SDK does not have.
// The file could not be loaded then.

import { readFileSync } from 'node:fs'

import * as e2b from 'e2b'

const imports = readFileSync(process.argv[2], 'utf8').matchAll(/import \{([^}]*)\} from 'e2b'/g)
const names = [...imports].flatMap((match) => match[1].split(',').map((name) => name.trim()).filter(Boolean))
console.log(names.find((name) => !(name in e2b)) ?? '')
