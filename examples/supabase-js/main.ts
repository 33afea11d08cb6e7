// The page: sign in, ask for a job, see what becomes of it.
import { createClient } from '@supabase/supabase-js'
import { key, url } from './config.ts'
import type { Database, Json } from './database.types.ts'
import { describe, follow, isOver, type News } from './jobs.ts'

const client = createClient<Database>(url, key)
const part = <E extends HTMLElement>(id: string): E => document.getElementById(id) as E
const signIn = part<HTMLFormElement>('sign-in'), ask = part<HTMLFormElement>('ask'), list = part('jobs'), status = part('status')
const field = (form: HTMLFormElement, name: string): string => String(new FormData(form).get(name) ?? '')
let stop = (): void => {}

signIn.addEventListener('submit', async (event) => {
  event.preventDefault()
  const { error } = await client.auth.signInWithPassword({ email: field(signIn, 'email'), password: field(signIn, 'password') })
  if (error) status.textContent = error.message
})

ask.addEventListener('submit', async (event) => {
  event.preventDefault()
  let args: NonNullable<Json>
  try {
    args = JSON.parse(field(ask, 'args')) as NonNullable<Json>
  } catch {
    status.textContent = 'The arguments are not JSON.'
    return
  }
  const { error } = await client.schema('pgtick').from('requests').insert({ task: field(ask, 'task'), args })
  if (error) status.textContent = [error.message, error.hint].filter(Boolean).join('. ')
})

client.auth.onAuthStateChange((_event, session) => {
  stop()
  signIn.hidden = session !== null
  ask.hidden = session === null
  list.replaceChildren()
  status.textContent = ''
  if (session) stop = follow(client, session.user.id, render)
})

function render({ jobs, live, problem }: News): void {
  status.textContent = problem ?? (live ? 'Live.' : 'Not live: looked for every few seconds.')
  list.replaceChildren(...jobs.map((job) => {
    const { text, share } = describe(job)
    const row = document.createElement('li'), bar = document.createElement('progress')
    if (share !== null) bar.value = share
    row.className = job.state
    row.append(text, ...(isOver(job) ? [] : [bar])) // as text: a note is not HTML
    return row
  }))
}
