// What this page uses of the types that "npx supabase gen types --lang typescript --schema pgtick" writes. Take all of them for more.
export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]

export type Database = {
  pgtick: {
    Tables: {
      requests: {
        Row: {
          args: NonNullable<Json>
          created_at: string
          id: number
          job_id: number
          owner_id: string
          place: number | null
          run_at: string | null
          task: string
        }
        Insert: {
          args?: NonNullable<Json>
          created_at?: string
          id?: never
          job_id?: number
          owner_id?: string
          place?: number | null
          run_at?: string | null
          task: string
        }
        Update: {
          args?: NonNullable<Json>
        }
        Relationships: []
      }
    }
    Views: {
      my_jobs: {
        Row: {
          created_at: string | null
          finished_at: string | null
          id: number | null
          note: string | null
          progress: number | null
          started_at: string | null
          state: string | null
          task: string | null
        }
        Relationships: []
      }
    }
    Functions: { [_ in never]: never }
    Enums: { [_ in never]: never }
    CompositeTypes: { [_ in never]: never }
  }
}
