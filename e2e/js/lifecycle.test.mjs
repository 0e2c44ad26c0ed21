// Create, info, list, pause, wake, timeouts and kill with the JavaScript client.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'

import { Sandbox } from 'e2b'

import { eventually, make, needs, pauses, wakes } from './support.mjs'

test('a new sandbox runs and says what it is', async (t) => {
  const sandbox = await make(t, { timeoutMs: 120_000, metadata: { purpose: 'test' }, envs: { FOO: 'bar' } })
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.state, 'running')
  assert.deepEqual(info.metadata, { purpose: 'test' })
  // SDKs of before this lifecycle say nothing of it.
  if ('lifecycle' in info) assert.deepEqual(info.lifecycle, { onTimeout: 'kill', autoResume: false })
  assert.equal((await sandbox.commands.run('echo $FOO')).stdout, 'bar\n')
})

test('a killed sandbox is gone', async (t) => {
  const sandbox = await make(t)
  // Older SDKs answer nothing here.
  assert.notEqual(await sandbox.kill(), false)
  assert.equal(await sandbox.isRunning(), false)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  await assert.rejects(Sandbox.connect(sandbox.sandboxId))
  await assert.rejects(sandbox.getInfo())
})

test('pause, then connect', { skip: !Sandbox.prototype.pause }, async (t) => {
  const sandbox = await make(t)
  assert.equal(await sandbox.pause(), true)
  assert.equal(await sandbox.pause(), false)
  assert.equal(await sandbox.isRunning(), false)
  const same = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await same.getInfo()).state, 'running')
})

test('of five pauses at once exactly one wins', { skip: !Sandbox.prototype.pause }, async (t) => {
  const sandbox = await make(t)
  const results = await Promise.all(Array.from({ length: 5 }, () => sandbox.pause()))
  assert.deepEqual(results.sort(), [false, false, false, false, true])
})

test('any call wakes a sleeping sandbox that may wake', { skip: needs('autoResume') }, async (t) => {
  const sandbox = await make(t, { lifecycle: wakes })
  await sandbox.files.write('f', 'x')
  for (const call of [() => sandbox.commands.run('true'), () => sandbox.files.read('f'), () => sandbox.files.list('/')]) {
    await sandbox.pause()
    await call()
    assert.equal((await sandbox.getInfo()).state, 'running')
  }
})

test('a sleeping sandbox that may not wake refuses calls', { skip: needs('autoResume') }, async (t) => {
  const sandbox = await make(t, { lifecycle: pauses })
  await sandbox.pause()
  await assert.rejects(sandbox.commands.run('true'))
  assert.equal((await sandbox.getInfo()).state, 'paused')
})

test('the timeout is exact', async (t) => {
  const sandbox = await make(t, { timeoutMs: 300_000 })
  await sandbox.setTimeout(2000)
  const started = Date.now()
  await eventually(async () => !(await sandbox.isRunning()))
  const took = Date.now() - started
  assert.ok(took > 1000 && took < 3500, `${took} ms`)
})

test('the timeout puts it to sleep when so asked', { skip: needs('autoResume') }, async (t) => {
  const sandbox = await make(t, { timeoutMs: 2000, lifecycle: wakes })
  await eventually(async () => (await sandbox.getInfo()).state === 'paused')
  assert.equal((await sandbox.commands.run('echo awake')).stdout, 'awake\n')
  const left = (await sandbox.getInfo()).endAt.getTime() - Date.now()
  assert.ok(left > 295_000 && left < 301_000, `${left} ms left`)
})

test('lists page by page with filters', async (t) => {
  const metadata = { test: randomUUID(), 'odd & key': 'ü = 100 %' }
  const made = []
  for (let number = 0; number < 3; number++) made.push((await make(t, { metadata })).sandboxId)
  const pages = Sandbox.list({ query: { metadata, state: ['running', 'paused'] }, limit: 1 })
  const found = []
  while (pages.hasNext) {
    const page = await pages.nextItems()
    assert.equal(page.length, 1)
    found.push(page[0].sandboxId)
  }
  assert.deepEqual(found, made.reverse())
})
