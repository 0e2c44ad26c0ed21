// What a client learns whose sandbox is killed or paused while a call is open (contract 4.5).

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { make, pauses } from './support.mjs'

const killed = /sandbox was killed or reached its end of life/

/** What a promise is rejected with. */
async function failure(promise) {
  try {
    await promise
  } catch (error) {
    return error
  }
  assert.fail('it succeeded')
}

test('a command of a killed sandbox says so', async (t) => {
  const sandbox = await make(t)
  const command = await sandbox.commands.run('sleep 1000', { background: true })
  const waiting = failure(command.wait())
  await sandbox.kill()
  const error = await waiting
  assert.match(error.message, killed)
  assert.ok(error.message.includes(sandbox.sandboxId))
})

test('a command in the foreground says so', async (t) => {
  const sandbox = await make(t)
  let up
  const started = new Promise((resolve) => (up = resolve))
  const running = failure(sandbox.commands.run('echo up; sleep 1000', { onStdout: up }))
  await started
  await sandbox.kill()
  assert.match((await running).message, killed)
})

test('a command of a paused sandbox says so', async (t) => {
  const sandbox = await make(t, { lifecycle: pauses })
  const command = await sandbox.commands.run('sleep 1000', { background: true })
  const waiting = failure(command.wait())
  await sandbox.pause()
  const error = await waiting
  assert.match(error.message, /sandbox was paused/)
  assert.ok(error.message.includes(sandbox.sandboxId))
})
