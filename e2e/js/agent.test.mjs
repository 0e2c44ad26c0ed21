// What users rely on inside a sandbox, with the JavaScript client: exact bytes, reconnecting, ends, links, trees, large files.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'

import { CommandExitError, FileNotFoundError, FileType, InvalidArgumentError, NotFoundError, TimeoutError } from 'e2b'

import { eventually, make } from './support.mjs'

const sha256 = (data) => createHash('sha256').update(data).digest('hex')

test('input is exact', async (t) => {
  const sandbox = await make(t)
  const data = new Uint8Array(randomBytes((64 << 10) + 1))
  const command = await sandbox.commands.run('cat > got', { background: true, stdin: true })
  await sandbox.commands.sendStdin(command.pid, data)
  await sandbox.commands.closeStdin(command.pid)
  await command.wait()
  assert.deepEqual(await sandbox.files.read('got', { format: 'bytes' }), data)
})

test('disconnecting, coming back, and coming too late', async (t) => {
  const sandbox = await make(t)
  const command = await sandbox.commands.run('read line; echo $line; exit 5', { background: true, stdin: true })
  await command.disconnect()
  const again = await sandbox.commands.connect(command.pid)
  await sandbox.commands.sendStdin(command.pid, 'later\n')
  await assert.rejects(again.wait(), (error) => error instanceof CommandExitError && error.exitCode === 5 && error.stdout === 'later\n')
  const late = await sandbox.commands.connect(command.pid)
  await assert.rejects(late.wait(), (error) => error instanceof CommandExitError && error.exitCode === 5)
  await assert.rejects(sandbox.commands.connect(999_999), NotFoundError)
})

test('timeouts kill, those of a connection do not', async (t) => {
  const sandbox = await make(t)
  await assert.rejects(sandbox.commands.run('echo $$ > /tmp/pid; exec sleep 1000', { timeoutMs: 1000 }), TimeoutError)
  await eventually(async () => {
    const { stdout } = await sandbox.commands.run('kill -0 $(cat /tmp/pid) 2>/dev/null || echo gone')
    return stdout.includes('gone')
  })
  const command = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  const watcher = await sandbox.commands.connect(command.pid, { timeoutMs: 1000 })
  await assert.rejects(watcher.wait(), TimeoutError)
  assert.equal(await command.kill(), true)
  await assert.rejects(command.wait(), (error) => error.exitCode === -1 && error.error === 'signal: killed')
})

test('environment, directory, user', async (t) => {
  const sandbox = await make(t, { envs: { FOO: 'create' } })
  const run = async (cmd, opts) => (await sandbox.commands.run(cmd, opts)).stdout
  assert.equal(await run('echo $FOO'), 'create\n')
  assert.equal(await run('echo $FOO', { envs: { FOO: 'run' } }), 'run\n')
  assert.equal(await run('pwd', { cwd: '/usr/share' }), '/usr/share\n')
  assert.equal(await run('id -un', { user: 'root' }), 'root\n')
  await assert.rejects(run('pwd', { cwd: '/no/such' }), InvalidArgumentError)
  await assert.rejects(run('true', { user: 'nobody-knows' }), /invalid username: 'nobody-knows'/)
})

test('a terminal is left and found again', async (t) => {
  const sandbox = await make(t)
  let text = ''
  const onData = (data) => (text += new TextDecoder().decode(data))
  const type = (pid, line) => sandbox.pty.sendInput(pid, new TextEncoder().encode(line))
  const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData })
  await type(terminal.pid, 'KEPT=yes; echo ready=$((1))\n')
  await eventually(() => text.includes('ready=1'))
  await terminal.disconnect()
  const again = await sandbox.pty.connect(terminal.pid, { onData })
  await type(terminal.pid, 'echo kept=$KEPT\n')
  await eventually(() => text.includes('kept=yes'))
  assert.equal(await sandbox.pty.kill(terminal.pid), true)
  await assert.rejects(again.wait(), CommandExitError)
  assert.equal(await sandbox.pty.kill(terminal.pid), false)
})

test('ten thousand files', async (t) => {
  const sandbox = await make(t)
  await sandbox.commands.run("mkdir many && cd many && seq -f 'file-%05g' 10000 | xargs touch")
  const entries = await sandbox.files.list('many')
  assert.equal(entries.length, 10_000)
  assert.deepEqual([entries[0].name, entries[9999].name], ['file-00001', 'file-10000'])
  assert.deepEqual([entries[0].type, entries[0].permissions, entries[0].owner], [FileType.FILE, '-rw-r--r--', 'user'])
})

test('links and files of the kernel', async (t) => {
  const sandbox = await make(t)
  await sandbox.files.write('real/file', 'content')
  await sandbox.commands.run('ln -s /home/user/real/file absolute; ln -s real to-directory; ln -s nowhere broken')
  assert.equal((await sandbox.files.getInfo('absolute')).symlinkTarget, '/home/user/real/file')
  assert.equal((await sandbox.files.getInfo('broken')).symlinkTarget, '/home/user/broken')
  assert.deepEqual((await sandbox.files.list('to-directory')).map((entry) => entry.path), ['/home/user/to-directory/file'])
  await assert.rejects(sandbox.files.read('broken'), FileNotFoundError)
  assert.match(await sandbox.files.read('/proc/self/status'), /Name:/)
})

test('metadata', async (t) => {
  const sandbox = await make(t)
  const written = await sandbox.files.write('m', 'x', { metadata: { author: 'me' } })
  assert.deepEqual(written.metadata, { author: 'me' })
  assert.deepEqual((await sandbox.files.getInfo('m')).metadata, { author: 'me' })
  assert.deepEqual((await sandbox.files.rename('m', 'n')).metadata, { author: 'me' })
  await sandbox.files.write('n', 'y')
  assert.equal((await sandbox.files.getInfo('n')).metadata, undefined)
})

test('a tree is watched', async (t) => {
  const sandbox = await make(t)
  await sandbox.files.makeDir('w')
  const events = []
  const handle = await sandbox.files.watchDir('w', (event) => events.push(event), { recursive: true, includeEntry: true, timeoutMs: 0 })
  await sandbox.commands.run('mkdir -p w/a/b && for i in $(seq 1000); do echo $i > w/a/b/$i; done')
  const created = () => new Set(events.filter((event) => event.type === 'create').map((event) => event.name))
  await eventually(() => created().size >= 1002, 30_000)
  for (let number = 1; number <= 1000; number++) assert.ok(created().has(`a/b/${number}`), `${number}`)
  assert.ok(events.some((event) => event.entry?.path === '/home/user/w/a/b/1000'))
  await handle.stop()
  await assert.rejects(sandbox.files.watchDir('/no/such', () => {}), NotFoundError)
  await assert.rejects(sandbox.files.watchDir('/etc/hostname', () => {}), InvalidArgumentError)
})

test('64 MiB stream in and out', async (t) => {
  const sandbox = await make(t)
  const piece = randomBytes(1 << 20)
  const sent = createHash('sha256')
  let left = 64
  const data = new ReadableStream({
    pull(controller) {
      if (left-- === 0) return controller.close()
      piece.writeUInt32BE(left)
      sent.update(piece)
      controller.enqueue(new Uint8Array(piece))
    },
  })
  await sandbox.files.write('large', data)
  const digest = sent.digest('hex')
  assert.equal((await sandbox.commands.run('sha256sum large')).stdout.split(' ')[0], digest)
  const received = createHash('sha256')
  for await (const chunk of await sandbox.files.read('large', { format: 'stream' })) received.update(chunk)
  assert.equal(received.digest('hex'), digest)
})

test('large text through compression', async (t) => {
  const sandbox = await make(t)
  const text = 'line of text ü\n'.repeat(200_000)
  await sandbox.files.write('text', text, { gzip: true })
  assert.equal((await sandbox.commands.run('sha256sum text')).stdout.split(' ')[0], sha256(text))
  assert.equal(await sandbox.files.read('text', { gzip: true }), text)
})
