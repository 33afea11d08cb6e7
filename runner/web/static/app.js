// What pages do beyond links and forms: they follow what happens, show times in the viewer's zone, ask before what can't be undone, draw
// charts, and listen to keys. Without it each page still works.
(() => {
  'use strict';
  const base = document.body.dataset.base;
  const main = document.getElementById('main');
  const byID = (id) => document.getElementById(id);

  // --- times
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
  const local = new Intl.DateTimeFormat('sv-SE', { year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit', timeZone: zone });
  const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', timeZone: zone });
  const dayClock = new Intl.DateTimeFormat('en-GB', { weekday: 'short', hour: '2-digit', minute: '2-digit', timeZone: zone });
  const short = new Intl.DateTimeFormat('en-GB', { timeZoneName: 'short', timeZone: zone });
  const zoneName = (at) => (short.formatToParts(at).find((p) => p.type === 'timeZoneName') || { value: zone }).value;
  const utc = (at) => at.toISOString().slice(0, 19).replace('T', ' ') + ' UTC';

  function lasting(ms) {
    const s = Math.abs(ms) / 1000, two = (a, ua, b, ub) => (b ? `${a} ${ua} ${b} ${ub}` : `${a} ${ua}`);
    if (s < 60) return `${Math.floor(s)} s`;
    if (s < 3600) return two(Math.floor(s / 60), 'min', Math.floor(s) % 60, 's');
    if (s < 172800) return two(Math.floor(s / 3600), 'h', Math.floor(s / 60) % 60, 'min');
    return two(Math.floor(s / 86400), 'd', Math.floor(s / 3600) % 24, 'h');
  }

  function ago(at) {
    const ms = Date.now() - at;
    if (Math.abs(ms) < 1000) return 'now';
    return ms < 0 ? `in ${lasting(ms)}` : `${lasting(ms)} ago`;
  }

  function showTimes(root) {
    for (const t of root.querySelectorAll('time[datetime]')) {
      const at = new Date(t.dateTime);
      if (isNaN(at)) continue;
      const both = `${local.format(at)} ${zoneName(at)}\n${utc(at)}`;
      if (t.title !== both) t.title = both;
      const text = t.classList.contains('ago') ? ago(at) : `${local.format(at)} ${zoneName(at)}`;
      if (t.textContent !== text) t.textContent = text;
    }
  }

  // --- charts
  const drawn = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // A pair of light-dark() is resolved by giving it to an element.
  function resolved(name) {
    const probe = document.createElement('span');
    probe.className = 'sr';
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value || colour(name);
  }

  const seconds = (v) => (v == null ? '–' : v < 0.001 ? `${Math.round(v * 1e6)} µs` : v < 1 ? `${+(v * 1000).toPrecision(3)} ms` : v < 60 ? `${+v.toPrecision(3)} s` : lasting(v * 1000));
  const plain = (v) => (v == null ? '–' : v.toLocaleString('en-US', { maximumFractionDigits: 2 }));

  function draw(figure) {
    const text = figure.dataset.chart, before = drawn.get(figure.id);
    if (before && before.text === text && before.box.isConnected) return;
    const c = JSON.parse(text), data = [c.times, ...c.series.map((s) => s.values)];
    if (before && before.box.isConnected) {
      before.plot.setData(data);
      before.text = text;
      return;
    }
    const show = c.unit === 's' ? seconds : plain;
    const when = (v) => (c.times.at(-1) - c.times[0] > 43200 ? dayClock : clock).format(new Date(v * 1000));
    const box = document.createElement('div');
    box.className = 'drawn';
    box.setAttribute('aria-hidden', 'true'); // the table beside it says the same
    figure.querySelector('figcaption').after(box);
    const axis = { stroke: resolved('muted'), grid: { stroke: resolved('line'), width: 1 }, ticks: { stroke: resolved('line') } };
    const plot = new uPlot({
      width: box.clientWidth || 320, height: 170, tzDate: (at) => new Date(at * 1000), cursor: { y: false }, legend: { live: true },
      series: [{ label: 'at', value: (_, v) => (v == null ? '–' : when(v)) }, ...c.series.map((s) => ({
        label: s.name, stroke: resolved(s.colour), width: 2, value: (_, v) => show(v),
        ...(c.bars ? { fill: resolved(s.colour), paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false } } : { spanGaps: false }),
      }))],
      axes: [{ ...axis, space: 70, values: (_, ticks) => ticks.map(when) }, { ...axis, size: 64, values: (_, ticks) => ticks.map(show) }],
      scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, c.unit === 's' ? 0.001 : 1) * 1.08] } },
    }, data, box);
    drawn.set(figure.id, { plot, box, text });
  }

  function drawAll(anew) {
    if (typeof uPlot === 'undefined') return;
    for (const [id, d] of drawn) {
      if (!anew && d.box.isConnected) continue;
      d.plot.destroy();
      d.box.remove();
      drawn.delete(id);
    }
    for (const figure of document.querySelectorAll('figure[data-chart]')) draw(figure);
  }

  let resizing;
  addEventListener('resize', () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => { for (const { plot, box } of drawn.values()) plot.setSize({ width: box.clientWidth, height: 170 }); }, 150);
  });

  // --- following what happens
  const touched = new WeakSet(); // fields that somebody has changed: they keep what was typed
  addEventListener('input', (e) => touched.add(e.target), true);

  function morph(html) {
    const next = document.createElement('main');
    next.innerHTML = html; // made by the server's templates, as the page itself was
    showTimes(next);
    Idiomorph.morph(main, next, {
      morphStyle: 'innerHTML', ignoreActiveValue: true,
      callbacks: {
        beforeNodeMorphed: (old) => !(old.nodeType === 1 && (touched.has(old) || old.classList.contains('drawn'))),
        beforeNodeRemoved: (old) => !(old.nodeType === 1 && old.classList.contains('drawn') && old.parentNode && old.parentNode.isConnected),
        beforeAttributeUpdated: (name, node) => !(name === 'open' && (node.tagName === 'DETAILS' || node.tagName === 'DIALOG')) && !(name === 'class' && node.classList.contains('chosen')),
      },
    });
    drawAll();
  }

  let fetching = false, again = false;
  async function refresh() {
    if (fetching) { again = true; return; }
    fetching = true;
    try {
      const answer = await fetch(location.href, { headers: { 'Pgtick-Part': 'main' }, credentials: 'same-origin' });
      if (answer.status === 401) { location.reload(); return; }
      if (answer.ok) {
        morph(await answer.text());
        const title = answer.headers.get('Pgtick-Title');
        if (title) document.title = `${decodeURIComponent(title.replaceAll('+', ' '))} – pgtick`;
        document.body.dataset.refreshed = String(Number(document.body.dataset.refreshed || 0) + 1);
      }
    } catch { /* the stream tells of it */ } finally {
      fetching = false;
      if (again) { again = false; refresh(); }
    }
  }

  let stream;
  function follow() {
    const address = document.body.dataset.live, sign = byID('live');
    if (!address || stream || document.hidden) return;
    const url = new URL(address, location.href);
    url.searchParams.set('page', location.pathname + location.search);
    stream = new EventSource(url);
    const say = (on) => { if (sign) { sign.classList.toggle('on', on); sign.textContent = on ? 'live' : 'not live'; } };
    stream.onopen = () => say(true);
    stream.onerror = () => { say(false); if (stream && stream.readyState === EventSource.CLOSED) { stream = null; setTimeout(follow, 15000); } };
    stream.addEventListener('changed', refresh);
  }

  addEventListener('visibilitychange', () => {
    if (document.hidden && stream) { stream.close(); stream = null; return; }
    if (!document.hidden && document.body.dataset.live && !stream) { refresh(); follow(); }
  });
  addEventListener('pagehide', () => { if (stream) { stream.close(); stream = null; } });
  addEventListener('pageshow', (e) => { if (e.persisted) { refresh(); follow(); } });

  // --- forms
  const dialog = byID('confirm');
  let asked = null;
  addEventListener('submit', (e) => {
    const form = e.target, question = (e.submitter && e.submitter.dataset.confirm) || form.dataset.confirm;
    if (!question || asked === form) { asked = null; return; }
    e.preventDefault();
    byID('confirm-text').textContent = question;
    const submitter = e.submitter;
    byID('confirm-yes').onclick = () => { dialog.close(); asked = form; form.requestSubmit(submitter); };
    byID('confirm-no').onclick = () => dialog.close();
    dialog.showModal();
    byID('confirm-no').focus();
  });

  // Of a filter, fields that say nothing stay out of the address.
  function clean(form) {
    const url = new URL(form.action || location.href, location.href);
    url.search = '';
    for (const [name, value] of new FormData(form)) if (typeof value === 'string' && value !== '') url.searchParams.append(name, value);
    return url;
  }
  addEventListener('change', (e) => {
    const form = e.target.form;
    if (form && form.hasAttribute('data-auto')) location.assign(clean(form));
  });
  addEventListener('submit', (e) => {
    if (!e.defaultPrevented && e.target.matches('form.filter[method=get]')) { e.preventDefault(); location.assign(clean(e.target)); }
  });

  // Previews: the fields of a form go to an address whenever they have changed.
  const waiting = new WeakMap(), latest = new WeakMap();
  async function preview(form) {
    const target = byID(form.dataset.target), url = new URL(form.dataset.fragment, location.href), mine = (latest.get(form) || 0) + 1;
    latest.set(form, mine);
    for (const field of form.elements) {
      const kept = field.name && field.type !== 'password' && !field.disabled && (field.dataset.preview !== undefined || (field.name !== 'args' && field.name !== 'back'));
      if (!kept || ((field.type === 'checkbox' || field.type === 'radio') && !field.checked)) continue;
      url.searchParams.append(field.name, field.value);
    }
    try {
      const answer = await fetch(url, { headers: { 'Pgtick-Part': 'main' } });
      if (latest.get(form) !== mine || !target) return;
      const text = await answer.text();
      target.innerHTML = text;
      showTimes(target);
    } catch { /* the next key asks again */ }
  }
  addEventListener('input', (e) => {
    const form = e.target.form;
    if (!form || !form.dataset.fragment) return;
    clearTimeout(waiting.get(form));
    waiting.set(form, setTimeout(() => preview(form), 300));
  });

  // JSON is checked while somebody types; the server judges again.
  function jsonFault(text) {
    if (text.trim() === '') return '';
    try {
      const value = JSON.parse(text);
      return value !== null && typeof value === 'object' && !Array.isArray(value) ? '' : 'Not a JSON object yet: write one such as {"to": "team"}.';
    } catch (e) { return `Not JSON yet: ${e.message}.`; }
  }
  function checkJSON(field) {
    let said = byID(`j-${field.name}`);
    if (!said) {
      said = document.createElement('p');
      said.id = `j-${field.name}`;
      said.className = 'wrong';
      said.setAttribute('role', 'status');
      field.after(said);
      field.setAttribute('aria-describedby', `${field.getAttribute('aria-describedby') || ''} ${said.id}`.trim());
    }
    const fault = jsonFault(field.value);
    if (said.textContent !== fault) said.textContent = fault;
    if (fault) field.setAttribute('aria-invalid', 'true'); else field.removeAttribute('aria-invalid');
  }
  const checking = new WeakMap();
  addEventListener('input', (e) => {
    if (!e.target.matches('textarea[data-json]')) return;
    clearTimeout(checking.get(e.target));
    checking.set(e.target, setTimeout(() => checkJSON(e.target), 400));
  });

  // --- dark and light
  const theme = byID('theme');
  const isDark = () => (document.documentElement.dataset.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  function paint() {
    theme.textContent = isDark() ? 'Light' : 'Dark';
    drawAll(true);
  }
  function turn() {
    const to = isDark() ? 'light' : 'dark';
    document.documentElement.dataset.theme = to;
    document.cookie = `pgtick_theme=${to}; path=/; max-age=31536000; samesite=strict`;
    paint();
  }
  theme.hidden = false;
  theme.addEventListener('click', turn);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);

  // --- keys
  let after = '';
  function choose(step) {
    const rows = [...main.querySelectorAll('tr[data-href]')];
    if (!rows.length) return;
    const at = rows.findIndex((r) => r.classList.contains('chosen'));
    const to = rows[Math.min(Math.max(at + step, 0), rows.length - 1)];
    if (at >= 0) rows[at].classList.remove('chosen');
    to.classList.add('chosen');
    to.scrollIntoView({ block: 'nearest' });
    const link = to.querySelector('a');
    if (link) link.focus({ preventScroll: true });
  }
  addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest('input, textarea, select, dialog')) return;
    const key = e.key;
    if (after === 'g') {
      after = '';
      const link = document.querySelector(`.top nav a[data-key="${CSS.escape(key)}"]`);
      if (link) { e.preventDefault(); location.assign(link.href); }
      return;
    }
    const first = () => main.querySelector('form.filter input:not([type=hidden]), form.filter select');
    const next = () => main.querySelector('a[data-next]');
    switch (key) {
      case 'g': after = 'g'; setTimeout(() => { after = ''; }, 1500); break;
      case '/': if (first()) { e.preventDefault(); first().focus(); } break;
      case 'j': choose(1); break;
      case 'k': choose(-1); break;
      case 'n': if (next()) location.assign(next().href); break;
      case 't': turn(); break;
      case '?': location.assign(`${base}/keys`); break;
    }
  });

  if (byID('zone')) byID('zone').textContent = zone === 'UTC' ? 'UTC' : `${zone}, and UTC on hover`;
  showTimes(document);
  setInterval(() => { if (!document.hidden) showTimes(document); }, 5000);
  paint();
  follow();
  document.body.dataset.ready = 'yes';
})();
