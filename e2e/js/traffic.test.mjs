// Requests to programs in sandboxes, tokens and links.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox } from 'e2b'

import { api, eventually, make, needs, request, wakes } from './support.mjs'

async function serve(sandbox, ready = async () => (await request(sandbox, 8000)).status === 200) {
  await sandbox.files.write('index.html', 'a page')
  await sandbox.commands.run('exec python3 -m http.server 8000', { background: true, timeoutMs: 0 })
  await eventually(ready)
}

test('a page is served, and served again after a sleep', { skip: needs('autoResume') }, async (t) => {
  const sandbox = await make(t, { lifecycle: wakes })
  await serve(sandbox)
  assert.equal(await (await request(sandbox, 8000)).text(), 'a page')
  await sandbox.pause()
  assert.equal(await (await request(sandbox, 8000)).text(), 'a page')
  assert.equal((await sandbox.getInfo()).state, 'running')
})

test('nobody listens', async (t) => {
  const sandbox = await make(t)
  const answer = await request(sandbox, 8123)
  assert.equal(answer.status, 502)
  assert.deepEqual(await answer.json(), {
    sandboxId: sandbox.sandboxId,
    message: 'The sandbox is running but port is not open',
    port: 8123,
    code: 502,
  })
})

test('private traffic needs its token', async (t) => {
  const sandbox = await make(t, { network: { allowPublicTraffic: false } })
  const headers = { 'e2b-traffic-access-token': sandbox.trafficAccessToken }
  await serve(sandbox, async () => (await request(sandbox, 8000, '/', { headers })).status === 200)
  assert.equal((await request(sandbox, 8000)).status, 403)
})

test('links to files are signed', async (t) => {
  const sandbox = await make(t)
  await sandbox.files.write('hello.txt', 'hello')
  const link = new URL(await sandbox.downloadUrl('hello.txt', { useSignatureExpiration: 60 }))
  assert.equal(await (await request(sandbox, 49983, link.pathname + link.search)).text(), 'hello')

  const upload = new URL(await sandbox.uploadUrl('up.txt', { user: 'root' }))
  const body = new FormData()
  body.append('file', 'uploaded')
  const answer = await request(sandbox, 49983, upload.pathname + upload.search, { method: 'POST', body })
  assert.deepEqual(await answer.json(), [{ name: 'up.txt', path: '/root/up.txt', type: 'file' }])
})

test('hosts have the form that the proxy routes', async (t) => {
  const sandbox = await make(t)
  assert.equal(sandbox.getHost(3000), `3000-${sandbox.sandboxId}.${process.env.E2B_DOMAIN}`)
})

test('a wrong key is refused', async () => {
  await assert.rejects(Sandbox.create({ apiKey: 'e2b_' + '0'.repeat(40) }), /401|unauthorized|API key/i)
  const answer = await api('/v2/sandboxes', { headers: { 'X-API-Key': 'e2b_00' } })
  assert.equal(answer.status, 401)
  assert.equal((await answer.json()).code, 401)
})
