// The page without its HTML: the real client and jobs.ts. Each line of its input asks for a job of that task; what is shown goes to its output.
import { createInterface } from 'node:readline'
import { createClient } from '@supabase/supabase-js'
import type { Database } from './database.types.ts'
import { describe, follow } from './jobs.ts'

const { SITE = '', KEY = '', TOKEN = '', USER_ID = '' } = process.env
const client = createClient<Database>(SITE, KEY, { accessToken: async () => TOKEN })
const say = (what: unknown): void => console.log(JSON.stringify(what))
const stop = follow(client, USER_ID, ({ jobs, live, problem }) => say({ live, problem, jobs: jobs.map((job) => describe(job).text) }))
for await (const task of createInterface(process.stdin)) {
  const { error } = await client.schema('pgtick').from('requests').insert({ task, args: { month: '2031-05' } })
  if (error) say({ code: error.code, hint: error.hint })
}
stop()
