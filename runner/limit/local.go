package limit

import "time"

// maxBuckets bounds the memory of the local buckets, some 20 MB.
const maxBuckets = 100_000

// place is what one limit counts by itself.
type place struct{ task, key string }

// bucket is the state of one place here, by this process's clock: this runner's share of the limit.
type bucket struct {
	rule    Rule
	runners int
	outage  int           // in which this was begun
	tat     time.Duration // as in the script, since the limiter's start
	line    time.Duration // the latest time to which a job was put off
	owed    bool          // jobs have started of which Redis has not been told
}

// buckets start empty: the first job starts an interval after it was asked for. So a runner that goes local while Redis's state is full adds nothing
// to what was started there before; and to throw a bucket away is always safe.
type buckets struct {
	all    map[place]*bucket
	outage int
	tidied time.Duration // when last
}

// take lets a job start, or says how long it shall wait. Those that are put off are lined up an interval apart, so that no two come back at once,
// but for more than longest: those come to ask again.
func (b *buckets) take(at place, rule Rule, runners int, now, longest time.Duration) (ok bool, wait time.Duration) {
	interval, burst := rule.interval(runners), time.Duration(rule.share(runners))
	own := b.find(at, rule, runners, now, burst*interval)
	first := own.tat - (burst-1)*interval
	if first <= now {
		own.tat = max(own.tat, now) + interval
		return true, 0
	}
	if own.line > now {
		first = max(first, own.line+interval)
	}
	if first-now > longest {
		return false, longest
	}
	own.line = first
	return false, first - now
}

// find returns the bucket of a place; full is what an empty one has to wait for to be full.
func (b *buckets) find(at place, rule Rule, runners int, now, full time.Duration) *bucket {
	own := b.all[at]
	switch {
	case own == nil:
		b.makeRoom(now)
		own = &bucket{rule: rule, runners: runners, outage: b.outage, tat: now + full}
		b.all[at] = own
	case own.outage != b.outage:
		*own = bucket{rule: rule, runners: runners, outage: b.outage, tat: now + full, owed: own.owed}
	case own.rule != rule || own.runners != runners:
		own.rule, own.runners, own.tat, own.line = rule, runners, min(own.tat, now+full), 0
	}
	return own
}

// giveBack undoes a start that did not happen after all.
func (b *buckets) giveBack(at place) {
	if own := b.all[at]; own != nil {
		own.tat -= own.rule.interval(own.runners)
	}
}

// owe notes that a job has started of which Redis has not been told.
func (b *buckets) owe(at place) { b.all[at].owed = true }

// owes tells whether Redis is to hear that jobs of this place have started without it, since it would otherwise let a whole burst go. What has come
// back since is not owed any more.
func (b *buckets) owes(at place, now time.Duration) bool {
	own := b.all[at]
	return own != nil && own.owed && own.tat > now
}

func (b *buckets) settled(at place) {
	if own := b.all[at]; own != nil {
		own.owed = false
	}
}

// tidy drops what says no more than a new bucket would: all that is paid, when no bucket is needed.
func (b *buckets) tidy(now time.Duration) {
	if now-b.tidied < time.Second {
		return
	}
	b.tidied = now
	for at, own := range b.all {
		if !own.owed || own.tat <= now {
			delete(b.all, at)
		}
	}
}

func (b *buckets) makeRoom(now time.Duration) {
	if len(b.all) < maxBuckets {
		return
	}
	for at, own := range b.all {
		if own.tat <= now {
			delete(b.all, at)
		}
	}
	for at := range b.all { // in no order: whoever it meets, starts empty again
		if len(b.all) <= maxBuckets*9/10 {
			return
		}
		delete(b.all, at)
	}
}
