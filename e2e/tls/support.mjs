// What the JavaScript tests over HTTPS share.

import { readFile } from 'node:fs/promises'

import { Sandbox } from 'e2b'

for (const name of ['E2B_API_URL', 'E2B_SANDBOX_URL']) {
  if (process.env[name]) throw new Error(`${name} would lead around what is tested`)
}

export const domain = process.env.E2B_DOMAIN

/** A sandbox with a page on port 8001 and the test server on port 8000. */
export async function inhabited() {
  const sandbox = await Sandbox.create()
  const server = await readFile(new URL('../python/inside/server.py', import.meta.url), 'utf8')
  await sandbox.files.write('server.py', server)
  await sandbox.files.write('page/index.html', '<title>inside</title><h1>a page</h1>')
  await sandbox.commands.run('exec python3 -u server.py 0.0.0.0 8000', { background: true, timeoutMs: 0 })
  await sandbox.commands.run('exec python3 -m http.server 8001 -d page', { background: true, timeoutMs: 0 })
  // The commands above return before the programs listen.
  const both = 'import socket; [socket.create_connection(("127.0.0.1", p)) for p in (8000, 8001)]'
  await sandbox.commands.run(`until python3 -c '${both}'; do sleep 0.05; done`)
  return sandbox
}
