// Template builds with the JavaScript client.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { Sandbox, Template, waitForPort } from 'e2b'

import { api, eventually } from './support.mjs'

/** A free name; the template is deleted after the test. */
function named(t) {
  const name = `t-${randomUUID().slice(0, 12)}`
  t.after(() => eventually(async () => [204, 404].includes((await api(`/templates/${name}`, { method: 'DELETE' })).status), 30_000))
  return name
}

test('a template with files, variables and a start command', async (t) => {
  const name = named(t)
  const context = await mkdtemp(join(tmpdir(), 'template-'))
  t.after(() => rm(context, { recursive: true }))
  await writeFile(join(context, 'index.html'), 'from javascript')
  const template = Template({ fileContextPath: context })
    .fromBaseImage()
    .setEnvs({ COLOUR: 'green' })
    .copy('index.html', '/srv/')
    .runCmd('echo $COLOUR > ~/colour')
    .setStartCmd('python3 -m http.server 8124 --directory /srv', waitForPort(8124))
  const logs = []
  const build = await Template.build(template, name, { onBuildLogs: (entry) => logs.push(entry.message) })
  assert.ok(build.templateId && build.buildId)
  assert.ok(logs.some((line) => line.includes('[builder 3/3] RUN')), logs.join('\n'))
  assert.equal(await Template.exists(name), true)
  assert.equal(await Template.exists(`${name}-not`), false)

  const sandbox = await Sandbox.create(name)
  t.after(() => sandbox.kill())
  const { stdout } = await sandbox.commands.run('curl -s localhost:8124/; echo; cat ~/colour; echo $COLOUR')
  assert.equal(stdout, 'from javascript\ngreen\ngreen\n')
  await sandbox.kill()

  await Template.assignTags(`${name}:default`, ['v1'])
  assert.deepEqual((await Template.getTags(name)).map((tag) => tag.tag).sort(), ['default', 'v1'])
  await Template.removeTags(name, ['v1'])
  assert.deepEqual((await Template.getTags(name)).map((tag) => tag.tag), ['default'])
})

test('a failure in the background says where it was', async (t) => {
  const name = named(t)
  const template = Template().fromTemplate('base').setEnvs({ A: '1' }).runCmd('whoami', { user: 'root123' })
  const build = await Template.buildInBackground(template, name)
  assert.equal((await Template.getBuildStatus(build)).status, 'building')
  const status = await eventually(async () => {
    const status = await Template.getBuildStatus(build)
    return status.status !== 'building' && status
  }, 120_000)
  assert.equal(status.status, 'error')
  assert.equal(
    status.reason.message,
    "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
  )
  assert.equal(status.reason.step, '2')
})

test('a Dockerfile', async (t) => {
  const name = named(t)
  const template = Template().fromDockerfile('FROM e2bdev/base\nENV A=1\nWORKDIR /opt/app\nRUN echo "$A" > a.txt\n')
  await Template.build(template, name)
  const sandbox = await Sandbox.create(name)
  t.after(() => sandbox.kill())
  assert.equal((await sandbox.commands.run('cat a.txt; pwd')).stdout, '1\n/opt/app\n')
  await sandbox.kill()
})
