// The jobs of who is signed in: read from pgtick.my_jobs, and kept up to date by the private channel on which pgtick tells of them. Where
// that can't be joined (no Realtime, no policy), they are read again every few seconds.
import type { SupabaseClient } from '@supabase/supabase-js'
import type { Database } from './database.types.ts'

export type Client = SupabaseClient<Database>
export type State = 'ready' | 'running' | 'done' | 'failed' | 'cancelled'
/** A row of my_jobs; generated types say of every column of a view that it may be null. */
export type Job = Database['pgtick']['Views']['my_jobs']['Row'] & { id: number; task: string; state: State; created_at: string }
export type News = { jobs: Job[]; live: boolean; problem: string | null }

export const shown = 50 // jobs
export const pollEvery = 3_000
/** A message is a hint, and may be lost; so what is live is read again, too. */
export const checkEvery = 60_000

/** Calls show now, and whenever there is news, until the function that it returns is called. */
export function follow(client: Client, userId: string, show: (news: News) => void): () => void {
  let jobs: Job[] = []
  let live = false, stopped = false, reading = false, again = false
  let problem: string | null = null
  let timer: ReturnType<typeof setTimeout> | undefined
  const tell = (): void => { if (!stopped) show({ jobs, live, problem }) }

  async function read(): Promise<void> {
    if (reading) { again = true; return } // what is on its way may be older than what was just heard
    clearTimeout(timer)
    reading = true
    do {
      again = false
      const { data, error } = await client.schema('pgtick').from('my_jobs').select().order('id', { ascending: false }).limit(shown)
      problem = error && (error.hint || error.message)
      if (data) jobs = data as Job[]
      tell()
    } while (again && !problem && !stopped)
    reading = false
    if (!stopped) timer = setTimeout(() => void read(), live ? checkEvery : pollEvery)
  }

  const channel = client.channel(`pgtick:${userId}`, { config: { private: true } })
    .on('broadcast', { event: 'job' }, ({ payload }) => {
      jobs = merge(jobs, payload as Job)
      again = true
      tell()
    })
    .on('broadcast', { event: 'jobs_changed' }, () => void read())
  void client.realtime.setAuth().then(() => { // a private channel is joined as the user
    if (!stopped) channel.subscribe((status) => { // joins again by itself
      live = status === 'SUBSCRIBED'
      void read()
    })
  })
  void read()
  return () => {
    stopped = true
    clearTimeout(timer)
    void client.removeChannel(channel)
  }
}

/** The list with this job as it is now, newest first. */
export function merge(jobs: Job[], job: Job): Job[] {
  return [job, ...jobs.filter((other) => other.id !== job.id)].sort((a, b) => b.id - a.id).slice(0, shown)
}

const words: Record<State, string> = { ready: 'waits', running: 'runs', done: 'is done', failed: 'has failed', cancelled: 'was cancelled' }

/** What to say of a job, and how full its bar is: from 0 to 1, or null where nobody knows. */
export function describe(job: Job): { text: string; share: number | null } {
  const said = job.note && !isOver(job) ? `: ${job.note}` : ''
  const again = job.state === 'ready' && job.progress !== null ? ' to be tried again' : ''
  return { text: `${job.task} (${job.id}) ${words[job.state]}${again}${said}`, share: job.state === 'done' ? 1 : job.state === 'ready' ? 0 : job.progress }
}

export function isOver(job: Job): boolean {
  return job.state === 'done' || job.state === 'failed' || job.state === 'cancelled'
}
