-- What is for Prometheus: runners serve it, and so may whoever reads.

select pgtick.grant_to('{pgtick_runner,pgtick_reader}', 'execute', array[
  'function pgtick.measure(bigint, bigint, bigint, text)',
  'function pgtick.measure_health()']);
