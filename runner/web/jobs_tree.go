package web

import (
	"context"
	"slices"
)

// What a tree of jobs shows at most: how far it goes, and how many.
const (
	treeDepth = 5
	treeWidth = 20 // of one job
	treeJobs  = 60
)

// kin is a job in the tree of those that wait for each other.
type kin struct {
	ID      int64
	Task    string
	State   string // gone: it has been dropped since
	Address string
	Below   []*kin
	More    int  // that are not shown
	Again   bool // it stands elsewhere in the tree already
}

// readTree reads what the job waits (or waited) for, and what waits for it.
func (s *jobShown) readTree(ctx context.Context, v *view) (err error) {
	if len(s.After) > 0 {
		top := &kin{ID: s.ID}
		seen := map[int64]bool{s.ID: true}
		level := s.grow(v, top, s.After, seen, 0)
		for depth := 1; len(level) > 0; depth++ {
			if level, err = s.levelUp(ctx, v, level, seen, depth); err != nil {
				return err
			}
		}
		s.Parents = top.Below
	}
	if cancels(s.JobView) {
		s.Children, err = s.childrenOf(ctx, v)
	}
	return err
}

// grow hangs jobs below one that waits for them, and returns those that were not seen before.
func (s *jobShown) grow(v *view, k *kin, ids []int64, seen map[int64]bool, depth int) (fresh []*kin) {
	for i, id := range ids {
		if i >= treeWidth || len(seen) > treeJobs || depth >= treeDepth {
			k.More, s.Cut = len(ids)-i, true
			return fresh
		}
		below := &kin{ID: id, State: "gone", Address: jobAddress(v.Base, id), Again: seen[id]}
		k.Below = append(k.Below, below)
		seen[id] = true
		fresh = append(fresh, below)
	}
	return fresh
}

// levelUp reads the jobs of one level, and hangs those below that they wait for.
func (s *jobShown) levelUp(ctx context.Context, v *view, level []*kin, seen map[int64]bool, depth int) (next []*kin, err error) {
	ids := make([]int64, len(level))
	for i, k := range level {
		ids[i] = k.ID
	}
	found, err := jobsNamed(ctx, v.DB, ids)
	if err != nil {
		return nil, err
	}
	for _, k := range level {
		at := slices.IndexFunc(found, func(r relative) bool { return r.ID == k.ID })
		if at < 0 {
			continue
		}
		k.Task, k.State = found[at].Task, found[at].State
		if !k.Again {
			next = append(next, s.grow(v, k, found[at].After, seen, depth)...)
		}
	}
	return next, nil
}

func (s *jobShown) childrenOf(ctx context.Context, v *view) ([]*kin, error) {
	top := &kin{ID: s.ID}
	level := map[int64]*kin{s.ID: top}
	seen := map[int64]bool{s.ID: true}
	for depth := 0; len(level) > 0 && depth < treeDepth; depth++ {
		ids := []int64{}
		for id := range level {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		found, err := jobsWaitingFor(ctx, v.DB, ids, treeJobs+1)
		if err != nil {
			return nil, err
		}
		next := map[int64]*kin{}
		for _, r := range found {
			over := level[r.Of]
			if len(over.Below) >= treeWidth || len(seen) > treeJobs {
				over.More++
				s.Cut = true
				continue
			}
			k := &kin{ID: r.ID, Task: r.Task, State: r.State, Address: jobAddress(v.Base, r.ID), Again: seen[r.ID]}
			over.Below = append(over.Below, k)
			if !seen[r.ID] {
				seen[r.ID], next[r.ID] = true, k
			}
		}
		level = next
	}
	return top.Below, nil
}
