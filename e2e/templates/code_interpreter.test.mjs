// `code-interpreter-v1` with the JavaScript client.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox } from '@e2b/code-interpreter'

test('code runs, in contexts and languages', async (t) => {
  const sandbox = await Sandbox.create({ timeoutMs: 600_000 })
  t.after(() => sandbox.kill())

  await sandbox.runCode('x = 1')
  assert.equal((await sandbox.runCode('x += 1; x')).text, '2')
  assert.equal((await sandbox.runCode('[1, 2].map((n) => n * 2).join()', { language: 'js' })).text, '2,4')

  const lines = []
  const execution = await sandbox.runCode('print("a"); 1 / 0', { onStdout: (message) => lines.push(message.line) })
  assert.deepEqual(lines, ['a\n'])
  assert.equal(execution.error.name, 'ZeroDivisionError')

  const figure = await sandbox.runCode('import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()')
  assert.ok(Buffer.from(figure.results[0].png, 'base64').subarray(1, 4).equals(Buffer.from('PNG')))
  assert.equal(figure.results[0].chart.type, 'line')

  const context = await sandbox.createCodeContext({ cwd: '/tmp' })
  assert.equal((await sandbox.runCode('import os; os.getcwd()', { context })).text, '/tmp')
  assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id))
  await sandbox.removeCodeContext(context.id)
})
