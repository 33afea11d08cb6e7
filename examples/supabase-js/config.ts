// Of your project: Settings, API keys. Both are public.
export const url = 'https://abcdefghijklmnop.supabase.co'
export const key = 'sb_publishable_...'
