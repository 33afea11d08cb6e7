// The tasks of the conformance test, for examples/worker-typescript/worker.ts. tasks.py and gorunner_test.go have the same.
import { existsSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { type Job, main, Permanent, Snooze, task, transactionalTask } from './worker.ts'

async function waitAtGate(job: Job): Promise<void> {
  await job.progress(0.5, 'at the gate')
  while (!existsSync(job.args.gate)) await delay(20, undefined, { signal: job.signal })
}

task('conf.echo', (job) => ({ said: job.args.say }))
task('conf.flaky', async (job) => {
  if (job.attempt > 1) return job.checkpoint
  await job.saveCheckpoint({ at: 7 })
  throw new Error('did not work \0 this time')
})
task('conf.permanent', () => { throw new Permanent('never will') })
task('conf.snooze', (job) => { if (job.attempt === 1) throw new Snooze(1) })
task('conf.unstorable', () => ({ text: 'a\0b' }))
task('conf.busy', (job) => { for (const until = Date.now() + job.args.ms; Date.now() < until;); })
task('conf.gate', async (job) => {
  await waitAtGate(job)
  return { attempt: job.attempt }
})
transactionalTask('conf.effect', async (job, tx) => {
  await tx.query('insert into public.effects (job_id, attempt) values ($1, $2)', [job.id, job.attempt])
  await waitAtGate(job)
  return { attempt: job.attempt }
})
transactionalTask('conf.effect_then_fail', async (job, tx) => {
  await tx.query('insert into public.effects (job_id, attempt) values ($1, $2)', [job.id, job.attempt])
  throw new Error('after the effect')
})

await main()
