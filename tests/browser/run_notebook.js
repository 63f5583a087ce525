// Runs a notebook in a real JupyterLab, moves every slider, takes a screenshot: `make browser NOTEBOOKS=01`.
// usage: node run_notebook.js BASE_URL TOKEN NOTEBOOK SHOT.png [seconds]; scripts/browser_check.py starts the server.
// CHROMIUM is the browser's path, else the first of chromium, chromium-browser, google-chrome that is found.
const { chromium } = require('playwright-core');
const { execSync } = require('child_process');
const [base, token, notebook, shot, seconds] = process.argv.slice(2);
const limit = 1000 * +(seconds || 300);

function browserPath() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    try { return execSync(`which ${name}`, { stdio: ['ignore', 'pipe', 'ignore'] }).toString().trim(); } catch {}
  }
  throw new Error('no chromium found: install it, or set CHROMIUM to its path');
}

const began = Date.now();
const say = (...words) => console.log(((Date.now() - began) / 1000).toFixed(1).padStart(6), ...words);
const api = async path => (await fetch(`${base}/api/${path}`, { headers: { Authorization: `token ${token}` } })).json();

// The toolbar says idle before the websocket is up, and a Run All sent then is lost: ask the server instead.
async function kernelReady(page) {
  for (;;) {
    const session = (await api('sessions')).find(s => s.path === notebook);
    if (session && session.kernel.connections > 0 && session.kernel.execution_state === 'idle') return;
    if (Date.now() - began > limit) throw new Error('the kernel did not come up');
    await page.waitForTimeout(250);
  }
}

const prompts = page => page.evaluate(() => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].map(
  cell => cell.querySelector('.jp-InputPrompt')?.textContent ?? ''));

async function runAll(page) {
  for (let attempt = 0; attempt < 4; attempt++) {
    await page.locator('li.lm-MenuBar-item', { hasText: /^Run$/ }).click();
    await page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click();
    await page.waitForTimeout(2500);
    if ((await prompts(page)).some(text => /[\d*]/.test(text))) break;
  }
  await page.waitForFunction(() => {
    const shown = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].map(
      cell => cell.querySelector('.jp-InputPrompt')?.textContent || '');
    const errors = document.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"]').length;
    return shown.length && !shown.some(text => text.includes('*')) &&
      (errors || shown.every((text, i) => text === '' || text.includes(`[${i + 1}]`)));   // a folded solution shows no prompt
  }, null, { timeout: limit, polling: 500 });
  await kernelReady(page);
}

// Each slider must repaint the picture of its own widget.
async function moveSliders(page) {
  const boxes = page.locator('.jupyter-widgets.widget-vbox:has(img.widget-image)');
  let moved = 0;
  for (let i = 0; i < await boxes.count(); i++) {
    const box = boxes.nth(i), image = box.locator('img.widget-image').first();
    const handles = box.locator('.noUi-handle');
    for (let j = 0; j < await handles.count(); j++) {
      const before = await image.getAttribute('src');
      await handles.nth(j).focus();
      await page.keyboard.press('ArrowRight');
      await page.keyboard.press('ArrowRight');
      const element = await image.elementHandle();
      await page.waitForFunction(([element, before]) => element.src !== before, [element, before], { timeout: 20000, polling: 200 });
      moved++;
    }
  }
  return moved;
}

(async () => {
  const browser = await chromium.launch({ executablePath: browserPath(), headless: true, args: ['--no-sandbox', '--disable-gpu',
    '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
  try {
    const page = await (await browser.newContext({ viewport: { width: 1280, height: 1600 } })).newPage();
    const hosts = new Set(), problems = [];
    page.on('request', request => {
      const url = new URL(request.url());
      if (url.protocol.startsWith('http') && url.hostname !== '127.0.0.1') hosts.add(url.hostname);
    });
    page.on('pageerror', error => problems.push(error.message.slice(0, 200)));
    await page.goto(`${base}/lab/workspaces/auto-t${Date.now()}/tree/${notebook}?token=${token}&reset`, { waitUntil: 'domcontentloaded' });
    await page.waitForSelector('.jp-Notebook', { timeout: 90000 });
    await kernelReady(page);
    say('kernel idle and connected');
    try {
      await runAll(page);
    } catch (error) {
      await page.screenshot({ path: shot });
      throw new Error(`run all did not end: prompts ${JSON.stringify(await prompts(page))}; ${error.message}`);
    }
    const errors = await page.locator('[data-mime-type="application/vnd.jupyter.error"]').count();
    say(`run all: ${(await prompts(page)).length} code cells, ${errors} errors`);
    const moved = await moveSliders(page);
    say(`${moved} sliders moved, each repainted its picture`);
    await page.screenshot({ path: shot });
    say(`other hosts: ${[...hosts].join(' ') || 'none'}; page errors: ${problems.length} ${problems.slice(0, 3).join(' | ')}`);
    if (errors || problems.length) process.exitCode = 1;
  } finally {
    await browser.close();
  }
})().catch(error => { console.error(error); process.exitCode = 1; });
