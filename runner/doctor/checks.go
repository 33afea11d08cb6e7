package doctor

// Checks are all, in the order in which they are made: what others stand on comes first.
func Checks() []Check {
	return []Check{
		// the way to the database
		{Name: "reachable", Why: "Without the database nothing runs: no schedule, no job, no report.", look: reachable},
		{Name: "server-version", on: aConnection, Why: "pgtick needs PostgreSQL 15 or later, and migrate stops on an older one.", look: serverVersion},
		{Name: "writable", on: aConnection, Why: "A runner does nothing but wait on a server, or with a login, that may only read.", look: rows(writableSQL)},
		{Name: "pooler", Why: "A pooler in transaction mode swallows LISTEN, one in statement mode allows no transaction, and migrate needs a session of its own.", look: pooler},
		{Name: "listen", on: aConnection, Why: "Without notifications each job starts up to the poll interval (5 s) late, and an idle runner asks all the time.", look: listen},
		{Name: "same-database", on: aConnection, Why: "A runner that listens at another database hears of nothing that happens in its own.", look: sameDatabase},
		{Name: "login-timeouts", on: aConnection, Why: "What the login's settings cut off is an attempt that failed, upkeep that is never done, or a listener that is gone again and again.",
			look: together(loginTimeouts, rows(runnersTimeoutsSQL)), well: "the login's settings cut off nothing that a runner does"},
		{Name: "connections", on: aConnection, Why: "A runner that gets no connection does nothing, and one that takes the last leaves none to the application.", look: rows(connectionsSQL, connectionsOfARunner)},

		// what is installed
		{Name: "schema", on: aConnection, Why: "A runner ends at once on a schema that is older than itself.", look: schemaVersion},
		{Name: "functions", on: theSchema, Why: "Functions, views and rights of another release may lack what this one calls, or have a mistake that was put right since.", look: functionsInForce},
		{Name: "address", on: theSchema, Why: "A runner ends at once where the database does not know its address: it could be a copy, which must not call production's webhooks.", look: address},
		{Name: "partitions", on: theSchema, Why: "Finished jobs and slots without a partition for their day go into the default one, which slows down upkeep.", look: rows(partitionsSQL), well: "those of today and tomorrow are there"},
		{Name: "default-partitions", on: theSchema, Why: "What lies in a default partition is not dropped with its day, and holds up the making of partitions.", look: rows(defaultPartitionsSQL), well: "nothing has lain there for longer than two hours"},
		{Name: "upkeep", on: theSchema, Why: "Without upkeep history grows, and there are no partitions for the coming days.", look: rows(upkeepSQL), well: "it is done"},
		{Name: "indexes", on: theSchema, Why: "An index that is not valid costs every write and serves no read.", look: rows(indexesSQL), well: "all are valid"},
		{Name: "triggers", on: theSchema, Why: "A trigger that is off guards nothing: entries of the ledger could be changed.", look: rows(triggersSQL), well: "all are on"},
		{Name: "owners", on: theSchema, Why: "migrate can't replace what belongs to another role than the schema.", look: rows(ownersSQL), well: "all belongs to the owner of its schema"},
		{Name: "ids", on: theSchema, Why: "A number that is given a second time makes every enqueue, or every booking, fail.", look: rows(idsSQL), well: "the next ids are new ones"},

		// who may do what
		{Name: "runner-rights", on: theSchema, Why: "A runner without one of its rights fails in the middle of its work.", look: rows(runnerRightsSQL), well: "pgtick_runner and its logins may do what a runner does"},
		{Name: "open-rights", on: theSchema, Why: "What everybody or anon may do, anybody in the internet may do through the API.", look: rows(openRightsSQL), well: "nothing is open to everybody, or to anon"},
		{Name: "row-security", on: theSchema, Why: "Without row level security a role sees and changes the rows of all users.", look: rows(rowSecuritySQL), well: "it is on for every table, and views heed it"},

		// the clocks
		{Name: "clock-skew", on: aConnection, Why: "The database's clock decides when jobs run; this machine's signs webhooks, judges certificates and dates the log.", look: clockSkew},
		{Name: "ticking", on: theSchema, Why: "When no clock ticks no schedule runs, and nobody takes jobs from dead runners.", look: rows(tickingSQL, leaseSeconds)},
		{Name: "clocks-agree", on: theSchema, Why: "A tick in the future means that the server's clock was set back, and pg_cron does nothing until that time has come again.", look: rows(clocksAgreeSQL), well: "no clock is ahead of the database's"},
		{Name: "pg-cron", on: theSchema, Why: "pg_cron goes on ticking while no runner does; without it schedules wait for a runner and are then caught up.", look: cronEntry},
		{Name: "pg-cron-runs", on: theSchema, Why: "An entry that does not run is no clock.", look: cronRuns},
		{Name: "pg-cron-entries", on: theSchema, Why: "An entry for a database that is gone fails each minute, a second one for this is of no use, and another schedule than each minute makes slots late.", look: cronEntries},
		{Name: "time-zones", on: theSchema, Why: "Governments change clocks. A server with old time zone data runs schedules an hour early or late.", look: timeZones},

		// the server
		{Name: "durability", on: aConnection, Why: "Without it a crash of the server loses jobs and credits that were committed, or the whole database.", look: rows(durabilitySQL), well: "what is committed survives a crash"},
		{Name: "old-transactions", on: theSchema, Why: "What an open transaction may still see cannot be cleaned away, so claims get slower until it ends.", look: rows(oldTransactionsSQL), well: "none is older than 15 minutes"},
		{Name: "replication-slots", on: aConnection, Why: "A replication slot that nobody reads keeps WAL until the disk is full, and may keep dead rows.", look: rows(replicationSlotsSQL), well: "none lies idle"},
		{Name: "dead-rows", on: theSchema, Why: "Every claim walks over dead rows until vacuum has taken them away.", look: rows(deadRowsSQL), well: "vacuum keeps up"},
		{Name: "bloat", on: theSchema, Why: "Space that is mostly empty fills the cache and makes every scan longer.", look: rows(bloatSQL), well: "no table of the queue is mostly empty space"},
		{Name: "autovacuum", on: theSchema, Why: "Without autovacuum the queue slows down by the hour, and the server stops at the end of its transaction numbers.", look: rows(autovacuumSQL), well: "it is on, for every table"},
		{Name: "wraparound", on: theSchema, Why: "A server that runs out of transaction numbers takes no more writes.", look: rows(wraparoundSQL)},
		{Name: "disk", on: theSchema, Why: "A database whose disk is full takes no writes, or stops.", look: disk},

		// runners and their work
		{Name: "runners", on: theSchema, Why: "Jobs wait until a runner lives; those of a late one are given to others.", look: rows(runnersSQL)},
		{Name: "old-runners", on: theSchema, Why: "A runner of an older release works on for one release only, and knows nothing of what is new.", look: rows(oldRunnersSQL, version), well: "none was started before the schema last changed"},
		{Name: "deaf-runners", on: theSchema, Why: "A runner that no notification reaches starts jobs up to its poll interval late.", look: rows(deafRunnersSQL), well: "none"},
		{Name: "tasks-served", on: theSchema, Why: "A job whose task no runner has waits for ever.", look: rows(tasksServedSQL), well: "each task with a job that could run has a runner"},
		{Name: "schedules", on: theSchema, Why: "A schedule whose jobs nobody runs, or that ticks cannot read, or whose jobs are not done in time, is a promise that is not kept.", look: rows(schedulesSQL), well: "all are served, whole and in time"},
		{Name: "slots", on: theSchema, Why: "Each slot of a schedule is accounted for. One that is not is a fault of pgtick, or somebody has deleted rows.", look: rows(slotsSQL), well: "each slot of the last hour is accounted for"},
		{Name: "sequences", on: theSchema, Why: "A job that failed holds up all behind it in its sequence.", look: rows(sequencesSQL), well: "none is held up"},
		{Name: "backlog", on: theSchema, Why: "Jobs come faster than they are done, or tasks hang.", look: rows(backlogSQL), well: "no job that has a runner has waited for more than 15 minutes"},
		{Name: "suspects", on: theSchema, Why: "A job with which two runners have died may well kill the next.", look: rows(suspectsSQL), well: "no job has lost two runners"},
		{Name: "failures", on: theSchema, Why: "Many more jobs than usual that failed for good: something has changed.", look: rows(failuresSQL), well: "no task has failed unusually often within a day"},
		{Name: "pauses", on: theSchema, Why: "A pause that was forgotten looks like one that is meant.", look: rows(pausesSQL), well: "no queue is paused for more than a day, no schedule for more than a week"},

		// what is beside the database
		{Name: "redis", on: theSchema, Why: "Without Redis each runner keeps its share of a rate by itself: jobs start less evenly, and slower where runners are idle.", look: redisAnswers},
		{Name: "secrets", on: theSchema, Why: "A call whose secret is not to be had fails.", look: secrets},
		{Name: "sync-target", on: theSchema, Why: "Credit entries that can't be handed over are missing in reports.", look: syncTarget},
		{Name: "sync-refused", on: theSchema, Why: "What the target of the sync has refused is missing there until somebody mends the cause.", look: rows(syncRefusedSQL), well: "no entry is set aside"},
		{Name: "ledger", on: theSchema, Why: "The ledger's rules hold always. One that is broken means that somebody has gone around its functions.", look: rows(ledgerSQL),
			well: "the accounts that were used last keep all rules; all accounts: `pgtick credits verify`"},
		{Name: "health", on: theSchema, Why: "pgtick.health says what does not hold now.", look: rows(otherHealthSQL), well: "pgtick.health says nothing else"},
	}
}

func connectionsOfARunner(x *examination) any { return x.opt.Connections + 2 }
func leaseSeconds(x *examination) any         { return x.opt.Lease.Seconds() }
func version(x *examination) any              { return x.opt.Version }
