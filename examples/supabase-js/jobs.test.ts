import assert from 'node:assert/strict'
import { test } from 'node:test'
import { describe, isOver, merge, shown, type Job, type State } from './jobs.ts'

const job = (id: number, state: State = 'ready', more: Partial<Job> = {}): Job =>
  ({ id, task: 'report.make', state, progress: null, note: null, created_at: '2031-05-06T12:00:00+00:00', started_at: null, finished_at: null, ...more })

test('each state is told in words, with a bar as full as is known', () => {
  const told = (state: State, more: Partial<Job> = {}) => Object.values(describe(job(7, state, more)))
  assert.deepEqual(told('ready'), ['report.make (7) waits', 0])
  assert.deepEqual(told('ready', { progress: 0.5, note: 'page 5' }), ['report.make (7) waits to be tried again: page 5', 0])
  assert.deepEqual(told('running'), ['report.make (7) runs', null])
  assert.deepEqual(told('running', { progress: 0.5, note: 'page 5' }), ['report.make (7) runs: page 5', 0.5])
  assert.deepEqual(told('done', { progress: 0.5, note: 'page 5' }), ['report.make (7) is done', 1])
  assert.deepEqual(told('failed', { progress: 0.5 }), ['report.make (7) has failed', 0.5])
  assert.deepEqual(told('cancelled'), ['report.make (7) was cancelled', null])
})

test('a job takes the place of what it was before, newest first', () => {
  const jobs = merge(merge(merge([], job(1)), job(3)), job(2))
  assert.deepEqual(jobs.map((j) => j.id), [3, 2, 1])
  assert.deepEqual(merge(jobs, job(2, 'done')).map((j) => j.state), ['ready', 'done', 'ready'])
})

test('the list stays short, and what is old does not push out what is new', () => {
  let jobs: Job[] = []
  for (let id = 100; id < 100 + shown; id++) jobs = merge(jobs, job(id))
  assert.equal(merge(jobs, job(1)).length, shown)
  assert.equal(merge(jobs, job(1)).some((j) => j.id === 1), false)
  assert.equal(merge(jobs, job(999))[0]?.id, 999)
})

test('what has ended is over', () => {
  assert.deepEqual((['ready', 'running', 'done', 'failed', 'cancelled'] as const).filter((state) => isOver(job(1, state))), ['done', 'failed', 'cancelled'])
})
