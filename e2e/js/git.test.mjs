// `sandbox.git` with the JavaScript client: every method, against real servers inside the sandbox.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'

import { GitAuthError, GitUpstreamError } from 'e2b'

import { eventually, make } from './support.mjs'

const served = 'http://127.0.0.1:8418/project.git'

async function withGit(t) {
  const sandbox = await make(t)
  await sandbox.git.configureUser('Ada', 'ada@example.com')
  return sandbox
}

async function commit(sandbox, path, name, content, message) {
  await sandbox.files.write(`${path}/${name}`, content)
  await sandbox.git.add(path)
  await sandbox.git.commit(path, message)
}

async function serveHttp(sandbox) {
  await sandbox.git.init('/home/user/served/project.git', { bare: true, initialBranch: 'main' })
  const server = await readFile(new URL('../python/inside/git_server.py', import.meta.url), 'utf8')
  await sandbox.files.write('git_server.py', server)
  await sandbox.commands.run('exec python3 git_server.py 8418 /home/user/served ada s3cret', { background: true, timeoutMs: 0 })
  const ready = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8418/ || true"
  await eventually(async () => (await sandbox.commands.run(ready)).stdout === '401')
}

test('configuration, working tree and branches', async (t) => {
  const sandbox = await withGit(t)
  const git = sandbox.git
  assert.equal(await git.getConfig('user.name'), 'Ada')
  assert.equal(await git.getConfig('no.such'), undefined)
  await git.init('repo', { initialBranch: 'main' })
  await git.setConfig('pull.rebase', 'false', { scope: 'local', path: 'repo' })
  assert.equal(await git.getConfig('pull.rebase', { scope: 'local', path: 'repo' }), 'false')

  await sandbox.files.write('repo/a.txt', 'one\n')
  const status = await git.status('repo')
  assert.deepEqual([status.currentBranch, status.hasUntracked, status.isClean], ['main', true, false])
  await git.add('repo', { files: ['a.txt'] })
  assert.equal((await git.status('repo')).hasStaged, true)
  await git.commit('repo', 'first', { authorName: 'Eve', authorEmail: 'eve@example.com' })
  assert.equal((await sandbox.commands.run('git -C repo log -1 --format="%an %s"')).stdout, 'Eve first\n')
  await sandbox.files.write('repo/a.txt', 'two\n')
  await git.restore('repo', { paths: ['a.txt'] })
  assert.equal(await sandbox.files.read('repo/a.txt'), 'one\n')
  await sandbox.files.write('repo/a.txt', 'two\n')
  await git.add('repo')
  await git.reset('repo', { mode: 'hard' })
  assert.equal((await git.status('repo')).isClean, true)

  await git.createBranch('repo', 'feature')
  assert.equal((await git.branches('repo')).currentBranch, 'feature')
  await git.checkoutBranch('repo', 'main')
  await git.deleteBranch('repo', 'feature', { force: true })
  assert.deepEqual((await git.branches('repo')).branches, ['main'])

  assert.equal(await git.remoteGet('repo', 'origin'), undefined)
  await git.remoteAdd('repo', 'origin', 'https://example.com/one.git')
  await git.remoteAdd('repo', 'origin', 'https://example.com/two.git', { overwrite: true })
  assert.equal(await git.remoteGet('repo', 'origin'), 'https://example.com/two.git')
})

test('a server without passwords', async (t) => {
  const sandbox = await withGit(t)
  const git = sandbox.git
  await git.init('/home/user/served/project.git', { bare: true, initialBranch: 'main' })
  const serve = 'exec git daemon --export-all --enable=receive-pack --base-path=/home/user/served --listen=127.0.0.1'
  await sandbox.commands.run(serve, { background: true, timeoutMs: 0 })
  const url = 'git://127.0.0.1/project.git'
  await eventually(async () => (await sandbox.commands.run(`git ls-remote ${url} && echo answers || true`)).stdout.endsWith('answers\n'))
  await git.clone(url, { path: 'one' })
  await commit(sandbox, 'one', 'a.txt', '1\n', 'first')
  await git.push('one')
  await git.clone(url, { path: 'two', branch: 'main', depth: 1 })
  await commit(sandbox, 'one', 'a.txt', '2\n', 'second')
  assert.equal((await git.status('one')).ahead, 1)
  await git.push('one', { remote: 'origin', branch: 'main' })
  await git.pull('two')
  assert.equal(await sandbox.files.read('two/a.txt'), '2\n')

  await git.init('alone', { initialBranch: 'main' })
  await commit(sandbox, 'alone', 'a', '1', 'first')
  await git.remoteAdd('alone', 'origin', url)
  await assert.rejects(git.push('alone', { setUpstream: false }), GitUpstreamError)
  await assert.rejects(git.pull('alone'), GitUpstreamError)
})

test('a server with passwords', async (t) => {
  const sandbox = await withGit(t)
  const git = sandbox.git
  await serveHttp(sandbox)
  await assert.rejects(git.clone(served, { path: 'refused' }), GitAuthError)
  await assert.rejects(git.clone(served, { path: 'refused', username: 'ada', password: 'wrong' }), GitAuthError)
  await git.clone(served, { path: 'one', username: 'ada', password: 's3cret' })
  assert.equal(await git.remoteGet('one', 'origin'), served)
  await commit(sandbox, 'one', 'a.txt', '1\n', 'first')
  await assert.rejects(git.push('one'), GitAuthError)
  await git.push('one', { username: 'ada', password: 's3cret' })
  await git.dangerouslyAuthenticate({ username: 'ada', password: 's3cret', host: '127.0.0.1:8418', protocol: 'http' })
  await git.clone(served, { path: 'two' })
  assert.equal(await sandbox.files.read('two/a.txt'), '1\n')
})
