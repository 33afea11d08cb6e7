-- Last, since a new trigger locks the jobs until the commit.
select pgtick.place_realtime();
