// Commands, files, watching and terminals with the JavaScript client.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import * as e2b from 'e2b'

import { eventually, make } from './support.mjs'

const { CommandExitError, TimeoutError } = e2b
// The general error was the only one before.
const notFound = e2b.FileNotFoundError ?? e2b.NotFoundError

test('output, errors and exit code', async (t) => {
  const sandbox = await make(t)
  const result = await sandbox.commands.run('echo out; echo err >&2')
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  await assert.rejects(sandbox.commands.run('exit 3'), (error) => error instanceof CommandExitError && error.exitCode === 3)
  await assert.rejects(sandbox.commands.run('sleep 100', { timeoutMs: 1000 }), TimeoutError)
})

test('input and background commands', async (t) => {
  const sandbox = await make(t)
  const command = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.sendStdin(command.pid, 'a line\n')
  await sandbox.commands.closeStdin(command.pid)
  assert.equal((await command.wait()).stdout, 'a line\n')

  const sleeper = await sandbox.commands.run('sleep 1000', { background: true })
  assert.ok((await sandbox.commands.list()).some((process) => process.pid === sleeper.pid))
  assert.equal(await sandbox.commands.kill(sleeper.pid), true)
  await assert.rejects(sleeper.wait())
  assert.equal(await sandbox.commands.kill(sleeper.pid), false)
})

test('output streams', async (t) => {
  const sandbox = await make(t)
  const chunks = []
  const command = await sandbox.commands.run('echo one; read line; echo two', {
    background: true,
    stdin: true,
    onStdout: (chunk) => chunks.push(chunk),
  })
  await eventually(() => chunks.join('') === 'one\n')
  await sandbox.commands.sendStdin(command.pid, '\n')
  await command.wait()
  assert.equal(chunks.join(''), 'one\ntwo\n')
})

test('root and sudo', async (t) => {
  const sandbox = await make(t)
  assert.equal((await sandbox.commands.run('id -un', { user: 'root' })).stdout, 'root\n')
  assert.equal((await sandbox.commands.run('sudo id -un')).stdout, 'root\n')
})

test('files in every form', async (t) => {
  const sandbox = await make(t)
  const info = await sandbox.files.write('dir/text.txt', 'text ü')
  assert.deepEqual([info.name, info.path, info.type], ['text.txt', '/home/user/dir/text.txt', 'file'])
  assert.equal(await sandbox.files.read('dir/text.txt'), 'text ü')

  const bytes = new Uint8Array(1 << 20).map((_, index) => index)
  await sandbox.files.write('bytes', bytes.buffer)
  assert.deepEqual(await sandbox.files.read('bytes', { format: 'bytes' }), bytes)
  await sandbox.files.write('blob', new Blob(['a', 'b']))
  assert.equal(await sandbox.files.read('blob'), 'ab')
  await sandbox.files.write('stream', new Blob(['streamed']).stream())
  assert.equal(await sandbox.files.read('stream'), 'streamed')
  await sandbox.files.write('packed', 'x'.repeat(100_000), { gzip: true })
  assert.equal((await sandbox.files.read('packed', { gzip: true })).length, 100_000)

  const many = await sandbox.files.write([
    { path: 'm/one', data: '1' },
    { path: 'm/two', data: '2' },
  ])
  assert.deepEqual(many.map((file) => file.path), ['/home/user/m/one', '/home/user/m/two'])
  assert.equal(await sandbox.files.read('m/two'), '2')
})

test('directories', async (t) => {
  const sandbox = await make(t)
  assert.equal(await sandbox.files.makeDir('a/b'), true)
  assert.equal(await sandbox.files.makeDir('a/b'), false)
  await sandbox.files.write('a/b/c', 'x')
  await sandbox.files.rename('a/b/c', 'a/d')
  assert.deepEqual((await sandbox.files.list('a', { depth: 2 })).map((entry) => entry.name), ['b', 'd'])
  assert.equal((await sandbox.files.getInfo('a/d')).permissions, '-rw-r--r--')
  await sandbox.files.remove('a')
  assert.equal(await sandbox.files.exists('a'), false)
  await assert.rejects(sandbox.files.read('a/d'), notFound)
})

test('watching a directory', async (t) => {
  const sandbox = await make(t)
  await sandbox.files.makeDir('w')
  const events = []
  const handle = await sandbox.files.watchDir('w', (event) => events.push(`${event.type} ${event.name}`), { recursive: true })
  await sandbox.files.write('w/file', 'x')
  await eventually(() => events.includes('create file') && events.includes('write file'))
  await sandbox.files.makeDir('w/below')
  await sandbox.files.remove('w/file')
  await eventually(() => events.includes('create below') && events.includes('remove file'))
  await handle.stop()
})

test('a terminal', async (t) => {
  const sandbox = await make(t)
  let text = ''
  const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: (data) => (text += new TextDecoder().decode(data)) })
  const type = (line) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(line))
  await type('echo size=$(tput cols)\n')
  await eventually(() => text.includes('size=80'))
  await sandbox.pty.resize(terminal.pid, { cols: 120, rows: 24 })
  await type('echo size=$(tput cols)\n')
  await eventually(() => text.includes('size=120'))
  await type('exit\n')
  assert.equal((await terminal.wait()).exitCode, 0)
})
