"use strict";
(() => {
const WORDS = {
en: { tagline: "See where a Vision Transformer looks", language: "Language", token: "This server needs its token", use: "Use", picture: "Picture", samples: "Drawings that come with Vitrail", bird: "Bird", house: "House", window: "Window", open: "Open a file", camera: "Camera", drop: "or drop one here, or paste one", model: "Model", against: "Beside it", none: "no other", where: "Where it looks", from: "From", class: "class token", "mean patch": "mean patch", mean: "mean of all patches", rollout: "rollout", point: "Point at a patch: the map shows where it looks. A click pins it, the arrow keys move it.", layer: "Layer", head: "Head", heads: "Heads of this layer", allHeads: "mean", strength: "Strength", whatIf: "What if", hide: "Hide patches", shuffle: "Shuffle patches", reset: "Undo all", positions: "with position embeddings", lesson: "Shuffle the patches: the answer changes. Now take the positions away: it does not matter any more where a patch is. The model reads a bag of patches.", size: "Resolution", facts: "What this is", caution: "Attention shows where a layer looks, and is not an explanation of the answer.", why: "Why (Jain and Wallace, 2019)", save: "Save this page as one file", answer: "Answers", before: "the line: before the change", looks: "{from} looks most at row {r}, column {c}: {p} of its attention", patch: "patch in row {r}, column {c}", pinned: "pinned: {from}", hidden: "{n} patches hidden", stage: "{m}: the arrow keys choose a patch, Enter pins it, Space hides it, Home takes the class token, Escape lets go", weights: "weights", preprocess: "picture", times: "milliseconds", decode: "decode", wait: "wait", modelTime: "model", trip: "in all", engine: "computed by", maps: "maps", noMaps: "no maps", thisSize: "{w} × {h} pixels, {n} × {k} patches", failed: "The server does not answer.", saved: "A saved page: what it shows does not need a server.", noCamera: "The camera cannot be used.", large: "The file is larger than 10 MB.", busy: "The server is busy; try again.", "not-an-image": "This file is not a picture that can be read.", "unknown-format": "Pictures are JPEG, PNG or WebP.", "no-token": "The token is not right.", "not-decoded": "This picture is too costly to decode.", "too-many-pixels": "The picture has more than 25 million pixels.", "wrong-channels": "The picture has other colours than the model reads.", stopping: "The server is stopping.", internal: "The server made a mistake.", seen: "The picture as the model sees it", answered: "{l}, {p}" },
ja: { tagline: "Vision Transformer がどこを見ているかを見る", language: "言語", token: "このサーバーにはトークンが必要です", use: "使う", picture: "画像", samples: "Vitrail に付属する絵", bird: "鳥", house: "家", window: "窓", open: "ファイルを開く", camera: "カメラ", drop: "ここにドロップ、または貼り付け", model: "モデル", against: "並べるモデル", none: "なし", where: "どこを見ているか", from: "始点", class: "クラストークン", "mean patch": "パッチの平均", mean: "全パッチの平均", rollout: "ロールアウト", point: "パッチを指すと、そこから見ている先が表示されます。クリックで固定、矢印キーで移動します。", layer: "層", head: "ヘッド", heads: "この層のヘッド", allHeads: "平均", strength: "濃さ", whatIf: "もしも", hide: "パッチを隠す", shuffle: "パッチを並べ替える", reset: "すべて戻す", positions: "位置埋め込みを使う", lesson: "パッチを並べ替えると答えが変わります。次に位置埋め込みを外すと、パッチの場所は意味を失います。モデルはパッチを順序のない集まりとして読んでいます。", size: "解像度", facts: "この表示について", caution: "アテンションは層がどこを見るかを示しますが、答えの理由を説明するものではありません。", why: "理由（Jain・Wallace, 2019）", save: "このページを一つのファイルに保存", answer: "答え", before: "線は変更前の値", looks: "{from}は {r} 行 {c} 列を最もよく見ています（アテンションの {p}）", patch: "{r} 行 {c} 列のパッチ", pinned: "固定：{from}", hidden: "{n} 個のパッチを隠しています", stage: "{m}：矢印キーでパッチを選び、Enter で固定、Space で隠し、Home でクラストークン、Escape で解除", weights: "重み", preprocess: "前処理", times: "ミリ秒", decode: "デコード", wait: "待ち", modelTime: "モデル", trip: "合計", engine: "実行環境", maps: "マップ", noMaps: "マップなし", thisSize: "{w} × {h} ピクセル、{n} × {k} パッチ", failed: "サーバーが応答しません。", saved: "保存されたページです。表示にサーバーは要りません。", noCamera: "カメラを使えません。", large: "ファイルが 10 MB を超えています。", busy: "サーバーが混んでいます。もう一度お試しください。", "not-an-image": "読める画像ではありません。", "unknown-format": "画像は JPEG、PNG、WebP です。", "no-token": "トークンが正しくありません。", "not-decoded": "この画像はデコードの負担が大きすぎます。", "too-many-pixels": "画像が 2500 万画素を超えています。", "wrong-channels": "画像の色の種類がモデルに合いません。", stopping: "サーバーは停止中です。", internal: "サーバーで問題が起きました。", seen: "モデルが見た画像", answered: "{l}、{p}" },
ko: { tagline: "Vision Transformer가 어디를 보는지 보기", language: "언어", token: "이 서버에는 토큰이 필요합니다", use: "사용", picture: "그림", samples: "Vitrail에 들어 있는 그림", bird: "새", house: "집", window: "창문", open: "파일 열기", camera: "카메라", drop: "여기에 놓거나 붙여 넣기", model: "모델", against: "나란히 볼 모델", none: "없음", where: "어디를 보는가", from: "시작점", class: "클래스 토큰", "mean patch": "패치 평균", mean: "모든 패치의 평균", rollout: "롤아웃", point: "패치를 가리키면 그 패치가 보는 곳이 나타납니다. 클릭하면 고정되고 화살표 키로 움직입니다.", layer: "층", head: "헤드", heads: "이 층의 헤드", allHeads: "평균", strength: "진하기", whatIf: "만약에", hide: "패치 숨기기", shuffle: "패치 섞기", reset: "모두 되돌리기", positions: "위치 임베딩 사용", lesson: "패치를 섞으면 답이 바뀝니다. 이제 위치를 빼면 패치가 어디 있는지는 상관없습니다. 모델은 패치를 순서 없는 묶음으로 읽습니다.", size: "해상도", facts: "이 화면에 대하여", caution: "어텐션은 층이 어디를 보는지 보여 줄 뿐, 답의 이유를 설명하지는 않습니다.", why: "이유 (Jain, Wallace, 2019)", save: "이 페이지를 파일 하나로 저장", answer: "답", before: "선은 바꾸기 전의 값", looks: "{from}: {r}행 {c}열을 가장 많이 봅니다 (어텐션의 {p})", patch: "{r}행 {c}열의 패치", pinned: "고정: {from}", hidden: "패치 {n}개를 숨김", stage: "{m}: 화살표 키로 패치를 고르고 Enter로 고정, Space로 숨기기, Home은 클래스 토큰, Escape는 해제", weights: "가중치", preprocess: "전처리", times: "밀리초", decode: "디코딩", wait: "대기", modelTime: "모델", trip: "전체", engine: "실행 환경", maps: "맵", noMaps: "맵 없음", thisSize: "{w} × {h} 픽셀, {n} × {k} 패치", failed: "서버가 응답하지 않습니다.", saved: "저장된 페이지입니다. 서버 없이 볼 수 있습니다.", noCamera: "카메라를 쓸 수 없습니다.", large: "파일이 10 MB보다 큽니다.", busy: "서버가 바쁩니다. 다시 해 보세요.", "not-an-image": "읽을 수 있는 그림이 아닙니다.", "unknown-format": "그림은 JPEG, PNG, WebP입니다.", "no-token": "토큰이 맞지 않습니다.", "not-decoded": "이 그림은 디코딩 비용이 너무 큽니다.", "too-many-pixels": "그림이 2,500만 화소를 넘습니다.", "wrong-channels": "그림의 색 구성이 모델과 맞지 않습니다.", stopping: "서버가 멈추는 중입니다.", internal: "서버에 문제가 생겼습니다.", seen: "모델이 본 그림", answered: "{l}, {p}" },
};
const find = (id) => document.getElementById(id);
const savedData = find("saved");
const state = { lang: "en", layer: 1, head: 0, from: "class", at: undefined, spot: null, pins: [], opacity: 0.85, brush: false, hidden: new Map(), shuffled: 0, positions: true, size: null, picture: null, camera: false, token: "", models: [] };
const panels = [];
const say = (key, values = {}) => (WORDS[state.lang][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
const percent = (share) => (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %";
const make = (kind, text, className) => { const one = document.createElement(kind); if (text !== undefined) one.textContent = text; if (className) one.className = className; return one; };

// --- colours: dark where nothing looks, bright where much does ---
const STOPS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
const HEAT = Array.from({ length: 256 }, (_, value) => {
  const share = value / 255, at = Math.min(3, Math.floor(share * 4)), part = share * 4 - at;
  const colour = STOPS[at].map((one, k) => one + (STOPS[at + 1][k] - one) * part);
  const dark = 0.62 * (1 - share), tint = 0.58 * share, alpha = 1 - (1 - dark) * (1 - tint);
  return [...colour.map((one) => alpha ? one * tint / alpha : 0), 255 * alpha];
});
const paint = (canvas, map, [h, w], strength) => {
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const context = canvas.getContext("2d"), image = context.createImageData(w, h);
  for (let k = 0; k < map.length; k++) {
    const [r, g, b, a] = HEAT[map[k]];
    image.data[4 * k] = r; image.data[4 * k + 1] = g; image.data[4 * k + 2] = b; image.data[4 * k + 3] = a * strength;
  }
  context.putImageData(image, 0, 0);
};

// --- what the server sends ---
const fromText = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const toText = (bytes) => { let text = ""; for (let k = 0; k < bytes.length; k += 32768) text += String.fromCharCode(...bytes.subarray(k, k + 32768)); return btoa(text); };
const floats = (bytes) => new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
const rounded = (answer) => String(Number(answer.value.toPrecision(4)));
const finish = (look) => { if ("value" in look.answers[0]) Object.assign(look.answers[0], { labels: [], probabilities: [] }); look.rows = look.maps ? look.maps.length / (look.layers.length * (look.heads + 1) * look.grid[0] * look.grid[1]) : 0; return look; };
const unpackText = (look) => finish({ ...look, maps: look.maps && fromText(look.maps), peaks: look.peaks && floats(fromText(look.peaks)), rollout: look.rollout && fromText(look.rollout) });
const unpackBytes = (buffer) => {
  const length = new DataView(buffer).getUint32(0, true), look = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const { name, type, shape } of look.arrays) {
    const size = shape.reduce((a, b) => a * b, type === "float32" ? 4 : 1), bytes = new Uint8Array(buffer, at, size);
    look[name] = type === "float32" ? floats(bytes) : bytes;
    at += size;
  }
  return finish(look);
};
class Refusal extends Error { constructor(code, text) { super(text); this.code = code; } }
const ask = async (path, options = {}) => {
  const headers = { ...options.headers, ...(state.token ? { authorization: "Bearer " + state.token } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) { find("token").hidden = false; find("token-value").focus(); }
  throw new Refusal(problem.code ?? "failed", problem.detail ?? "");
};
const complain = (error) => {
  if (error.name === "AbortError" || (error.code === "no-token" && !state.token)) return;  // the page asks for a token first
  state.refusal = error;
  const box = find("problem"), known = error.code && WORDS[state.lang][error.code];
  box.textContent = known ? known : error.code && error.code !== "failed" ? error.message : say("failed");
  box.hidden = false;
};

// --- one model's picture, maps and answers ---
class Panel {
  constructor(model) {
    this.model = model; this.turn = 0; this.means = new Map();
    this.box = find("panel").content.cloneNode(true).firstElementChild;
    find("panels").append(this.box);
    this.stage = this.box.querySelector(".stage"); this.image = this.box.querySelector("img"); this.canvas = this.box.querySelector("canvas");
    this.box.querySelector("h2").textContent = model.name;
    const place = (event) => {
      const area = this.stage.getBoundingClientRect(), part = (value, size) => Math.min(0.9999, Math.max(0, value / size));
      return [part(event.clientY - area.top, area.height), part(event.clientX - area.left, area.width)];
    };
    this.stage.addEventListener("pointermove", (event) => {
      const before = state.at && String(this.cell(state.at));
      state.at = place(event);
      if (state.brush && event.buttons) hide(state.at, true);
      if (String(this.cell(state.at)) !== before) draw();
    });
    this.stage.addEventListener("pointerleave", () => { state.at = undefined; draw(); });
    this.stage.addEventListener("pointerdown", (event) => {
      if (state.brush) hide(place(event)); else pin(place(event));
      draw();
    });
    this.stage.addEventListener("keydown", (event) => this.key(event));
  }
  get grid() { return this.look?.maps ? this.look.grid : [1, 1]; }
  cell([y, x]) { const [h, w] = this.grid; return [Math.min(h - 1, Math.floor(y * h)), Math.min(w - 1, Math.floor(x * w))]; }
  middle([r, c]) { const [h, w] = this.grid; return [(r + 0.5) / h, (c + 0.5) / w]; }
  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key], [h, w] = this.grid;
    if (!step && !["Home", "Enter", " ", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (step) {
      const from = state.spot ? this.cell(state.spot) : [Math.floor(h / 2) - step[0], Math.floor(w / 2) - step[1]];
      state.spot = this.middle([Math.min(h - 1, Math.max(0, from[0] + step[0])), Math.min(w - 1, Math.max(0, from[1] + step[1]))]);
    } else if (event.key === "Enter" && state.spot) pin(state.spot);
    else if (event.key === " " && state.spot) hide(state.spot);
    else if (event.key === "Home") state.spot = null;
    else if (event.key === "Escape") { state.spot = null; state.pins = []; }
    state.at = undefined;
    draw(true);
  }
  // a row of a map: 0 to 255, the square root of the share of the row's largest
  row(layer, head, place) {
    const look = this.look, n = look.grid[0] * look.grid[1], base = (layer * (look.heads + 1) + head) * look.rows;
    const slice = (row) => ({ map: look.maps.subarray((base + row) * n, (base + row + 1) * n), peak: look.peaks[base + row] });
    if (place && look.rows > 1) { const [r, c] = this.cell(place); return slice(1 + r * look.grid[1] + c); }
    if (state.from === "rollout" && look.rollout) return { map: look.rollout, peak: 0 };
    if (state.from === "mean" && look.rows > 1) return this.mean(layer, head, n, base);
    return slice(0);
  }
  mean(layer, head, n, base) {
    const key = layer + "," + head;
    if (!this.means.has(key)) {
      const sum = new Float64Array(n);
      for (let row = 1; row <= n; row++) {
        const from = (base + row) * n, scale = this.look.peaks[base + row] / (255 * 255) / n;
        for (let k = 0; k < n; k++) { const value = this.look.maps[from + k]; sum[k] += value * value * scale; }
      }
      const peak = Math.max(...sum);
      this.means.set(key, { map: Uint8Array.from(sum, (value) => Math.round(255 * Math.sqrt(value / peak))), peak });
    }
    return this.means.get(key);
  }
  get layer() { return this.look.layers.length < 2 ? 0 : Math.round(state.layer * (this.look.layers.length - 1)); }
  get head() { return Math.min(state.head, this.look.heads); }
  describe(place) {
    const [r, c] = place ? this.cell(place) : [0, 0];
    return place ? say("patch", { r, c }) : say({ class: this.look.first === "class token" ? "class" : "mean patch" }[state.from] ?? state.from);
  }
  sentence(place) {
    if (!this.look.maps) return say("noMaps") + ": " + this.look.missing;
    const { map, peak } = this.row(this.layer, this.head, place), best = map.indexOf(Math.max(...map)), w = this.grid[1];
    const said = say("looks", { from: this.describe(place), r: Math.floor(best / w), c: best % w, p: peak ? percent(peak) : "" });
    return peak ? said : said.replace(/[:（(][^:（(]*$/, "");
  }
  draw(speak) {
    const look = this.look;
    if (!look) return;
    const place = look.maps ? state.at === undefined ? state.spot : state.at : null, [h, w] = this.grid;
    this.stage.setAttribute("aria-label", say("stage", { m: this.model.name }));
    const mark = (one, where) => {
      one.hidden = !where;
      if (!where) return;
      const [r, c] = this.cell(where);
      Object.assign(one.style, { top: 100 * r / h + "%", left: 100 * c / w + "%", height: 100 / h + "%", width: 100 / w + "%" });
    };
    const [here, ...pinned] = this.stage.querySelectorAll(".mark");
    mark(here, place); pinned.forEach((one, k) => mark(one, look.maps && state.pins[k]));
    this.canvas.hidden = !look.maps;
    if (look.maps) paint(this.canvas, this.row(this.layer, this.head, place).map, look.grid, state.opacity);
    const said = this.sentence(place);
    this.box.querySelector(".caption").textContent = said;
    if (speak && this === panels[0]) find("live").textContent = said;
    this.drawPins();
  }
  drawPins() {
    const box = this.box.querySelector(".pins"), look = this.look, key = JSON.stringify([state.pins, state.layer, state.head, state.lang, this.turn, look.rows]);
    if (this.pinKey === key) return;
    this.pinKey = key;
    box.replaceChildren(...(look.maps ? state.pins : []).map((place) => {
      const figure = make("figure"), canvas = make("canvas"), small = document.createElement("canvas"), side = 176;
      canvas.width = side; canvas.height = Math.round(side * look.seen.size[0] / look.seen.size[1]);
      paint(small, this.row(this.layer, this.head, place).map, look.grid, 0.9);
      const context = canvas.getContext("2d");
      if (this.image.complete && this.image.naturalWidth) context.drawImage(this.image, 0, 0, canvas.width, canvas.height);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
      canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", this.sentence(place));
      figure.append(canvas, make("figcaption", say("pinned", { from: this.describe(place) })));
      return figure;
    }));
  }
  show(look, trip) {
    const first = !this.look;
    this.look = look; this.means.clear(); this.trip = trip;
    const [height, width] = look.seen.size;
    this.image.src = "data:image/png;base64," + look.seen.png;
    this.image.className = Math.max(height, width) <= 64 ? "tiny" : "";
    this.image.alt = say("seen");
    this.stage.style.aspectRatio = width + " / " + height;
    this.bars();
    settle(first);
    draw();
  }
  bars() {
    const { labels, probabilities, value } = this.look.answers[0], changed = edited() && this.baseline, table = this.box.querySelector("table");
    if (value === undefined) table.caption.textContent = say("answer") + (changed ? " · " + say("before") : "");
    else table.caption.textContent = `${say("answer")}: ${rounded(this.look.answers[0])}` + (changed ? ` ← ${rounded(this.baseline)}` : "");
    const shown = labels.slice(0, 5).map((label, k) => [label, probabilities[k]]);
    const old = changed ? new Map(this.baseline.labels.map((label, k) => [label, this.baseline.probabilities[k]])) : null;
    const top = changed && this.baseline.labels[0];
    if (top && !shown.some(([label]) => label === top)) shown.push([top, probabilities[labels.indexOf(top)] ?? 0]);
    const body = table.tBodies[0];
    while (body.rows.length > shown.length) body.lastElementChild.remove();
    shown.forEach(([label, share], k) => {
      let line = body.rows[k];
      if (!line) {
        line = make("tr"); const name = make("th"), bar = make("span", undefined, "bar"), end = make("td");
        name.scope = "row"; bar.append(make("i"), make("u")); bar.setAttribute("aria-hidden", "true"); name.append(make("span"), bar); line.append(name, end); body.append(line);
      }
      line.querySelector("span").textContent = label;
      line.cells[1].textContent = percent(share);
      line.querySelector("i").style.width = 100 * share + "%";
      const ghost = line.querySelector("u");
      ghost.hidden = !old;
      if (old) ghost.style.left = `calc(${100 * (old.get(label) ?? 0)}% - 1px)`;
    });
  }
  // the picture with hidden and shuffled patches, at the pixels the model saw
  async changed() {
    const own = this.base.look.own_grid, [h, w] = own[0] ? own : panels[0].look.own_grid, [height, width] = this.base.look.seen.size, canvas = document.createElement("canvas");
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), high = height / h, wide = width / w, { mean } = this.model.preprocess;
    context.imageSmoothingEnabled = false;
    const order = state.shuffled ? shuffle(h * w, state.shuffled) : Array.from({ length: h * w }, (_, k) => k);
    const grey = mean.length === 3 ? mean : [mean[0], mean[0], mean[0]];
    context.fillStyle = `rgb(${grey.map((one) => Math.round(255 * one)).join(",")})`;
    const [sh, sw] = panels[0].grid;
    order.forEach((source, k) => {
      const r = Math.floor(k / w), c = k % w, key = Math.floor((r + 0.5) / h * sh) + "," + Math.floor((c + 0.5) / w * sw);
      if (state.hidden.has(key)) context.fillRect(c * wide, r * high, wide, high);
      else context.drawImage(this.base.image, source % w * wide, Math.floor(source / w) * high, wide, high, c * wide, r * high, wide, high);
    });
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }
  async run() {
    if (!state.picture || savedData) return;
    const turn = ++this.turn, began = performance.now(), picture = state.picture;
    this.abort?.abort(); this.abort = new AbortController();
    const query = new URLSearchParams({ model: this.model.name, top: "20" });
    if (state.size) query.set("size", state.size);
    const send = (body, more) => ask("look?" + query + more, { method: "POST", body, signal: this.abort.signal, headers: { "content-type": /^image\/(jpeg|png|webp)$/.test(body.type) ? body.type : "application/octet-stream" } });
    this.box.classList.add("busy");
    try {
      let body = picture;
      if (state.hidden.size || state.shuffled) {
        if (!this.base || this.base.picture !== picture || this.base.size !== state.size) await this.keep(picture, unpackText(await (await send(picture, "")).json()));
        body = await this.changed();
      }
      if (!state.positions) query.set("positions", "off");
      const quick = unpackText(await (await send(body, "")).json());
      if (turn !== this.turn) return;
      if (!edited()) this.baseline = quick.answers[0];
      if (body === picture && state.positions) await this.keep(picture, quick);
      this.show(quick, performance.now() - began);
      find("problem").hidden = true;
      if (this === panels[0]) find("live").textContent = "value" in quick.answers[0] ? rounded(quick.answers[0]) : say("answered", { l: quick.answers[0].labels[0] ?? "", p: percent(quick.answers[0].probabilities[0] ?? 0) });
      if (state.camera || !quick.maps) return;
      const whole = unpackBytes(await (await send(body, "&layer=all")).arrayBuffer());
      whole.milliseconds = { ...quick.milliseconds, maps: whole.milliseconds.model };
      if (turn === this.turn) this.show(whole, this.trip);
    } catch (error) { if (turn === this.turn) complain(error); } finally { if (turn === this.turn) this.box.classList.remove("busy"); }
  }
  async keep(picture, look) {
    const image = new Image();
    image.src = "data:image/png;base64," + look.seen.png;
    await image.decode();
    this.base = { picture, size: state.size, look, image };
  }
  pack() { const { maps, peaks, rollout, ...rest } = this.look; return { model: this.model, look: { ...rest, maps: maps && toText(maps), peaks: peaks && toText(new Uint8Array(peaks.buffer)), rollout: rollout && toText(rollout) } }; }
}
const shuffle = (count, seed) => {
  const order = Array.from({ length: count }, (_, k) => k);
  for (let k = count - 1; k > 0; k--) { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; const other = seed % (k + 1); [order[k], order[other]] = [order[other], order[k]]; }
  return order;
};
const edited = () => state.hidden.size > 0 || state.shuffled > 0 || !state.positions || state.size !== null;
const pin = (place) => {
  if (!panels[0].look?.maps) return;
  const [r, c] = panels[0].cell(place), same = (one) => { const [a, b] = panels[0].cell(one); return a === r && b === c; };
  state.pins = state.pins.some(same) ? state.pins.filter((one) => !same(one)) : [...state.pins, place].slice(-2);
};
let later;
const rerun = (wait = 0) => { clearTimeout(later); later = setTimeout(() => panels.forEach((panel) => panel.run()), wait); };
const hide = (place, wanted) => {
  const key = String(panels[0].cell(place)), there = state.hidden.has(key), on = wanted ?? !there;
  if (there === on || !panels[0].look?.maps) return;
  if (on) state.hidden.set(key, true); else state.hidden.delete(key);
  find("live").textContent = say("hidden", { n: state.hidden.size });
  rerun(120);
};

// --- the parts around the pictures ---
const draw = (speak) => { panels.forEach((panel) => panel.draw(speak)); thumbnails(); };
const thumbnails = () => {
  const panel = panels[0], box = find("heads");
  if (!panel?.look?.maps) { box.replaceChildren(); return; }
  while (box.children.length > panel.look.heads + 1) box.lastElementChild.remove();
  while (box.children.length < panel.look.heads + 1) {
    const button = make("button"), head = box.children.length;
    button.type = "button"; button.append(make("canvas"), make("span"));
    button.addEventListener("click", () => { state.head = head; draw(true); remember(); });
    box.append(button);
  }
  const place = state.at === undefined ? state.spot : state.at;
  [...box.children].forEach((button, head) => {
    paint(button.firstChild, panel.row(panel.layer, head, place).map, panel.grid, 1);
    button.lastChild.textContent = head ? head : say("allHeads");
    button.setAttribute("aria-label", head ? say("head") + " " + head : say("allHeads"));
    button.setAttribute("aria-pressed", head === panel.head);
  });
};
const settle = () => {
  const panel = panels[0], look = panel?.look;
  if (!look) return;
  const count = Math.max(1, look.layers.length), layer = find("layer");
  layer.min = 1; layer.max = count; layer.value = panel.layer + 1;
  find("layer-said").textContent = look.layers[panel.layer] ?? "";
  find("where").hidden = !look.maps;
  const token = look.first === "class token";
  find("from-first").textContent = say(token ? "class" : "mean patch");
  find("from-mean").hidden = !token;  // it is the first row then
  const size = find("size"), { multiple, preprocess } = panel.model, own = Math.max(...preprocess.size);
  size.min = 2 * multiple; size.max = Math.floor(2 * own / multiple) * multiple; size.step = multiple; size.value = state.size ?? own;
  find("size-said").textContent = say("thisSize", { h: look.seen.size[0], w: look.seen.size[1], n: look.own_grid[0], k: look.own_grid[1] });
  size.setAttribute("aria-valuetext", find("size-said").textContent);
  size.parentElement.hidden = !multiple;
  find("what-if").hidden = !multiple && !look.maps;
  find("positions").disabled = !panel.model.positions;
  for (const name of ["brush", "shuffle"]) find(name).disabled = !look.maps;
  facts();
};
const facts = () => {
  const rows = panels.filter((panel) => panel.look).flatMap(({ model, look, trip }) => {
    const { preprocess } = look.model, { decode, wait, model: took, maps } = look.milliseconds;
    const times = `${say("decode")} ${decode}, ${say("wait")} ${wait}, ${say("modelTime")} ${took}` + (trip ? `, ${say("trip")} ${Math.round(trip)}` : "") + (maps ? `; ${say("maps")} ${maps}` : "");
    return [[say("model"), model.name], [say("weights"), "sha256 " + look.model.sha256.slice(0, 16) + "…"], [say("engine"), `${look.model.engine}, ${look.model.precision}`], [say("preprocess"), `${look.seen.size[1]} × ${look.seen.size[0]}, ${preprocess.resize}, ${preprocess.interpolation}`], [say("times"), times]];
  });
  find("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
};
const translate = () => {
  document.documentElement.lang = state.lang; find("language").value = state.lang;
  for (const one of document.querySelectorAll("[data-w]")) one.textContent = say(one.dataset.w);
  for (const one of document.querySelectorAll("[data-w-label]")) one.setAttribute("aria-label", say(one.dataset.wLabel));
  document.title = "Vitrail: " + say("tagline");
  if (find("other").options.length) find("other").options[0].textContent = say("none");
  find("opacity-said").textContent = Math.round(100 * state.opacity) + " %";
  if (!find("problem").hidden) complain(state.refusal);
  settle(); panels.forEach((panel) => panel.look && panel.bars()); draw();
};
const remember = () => {
  const words = new URLSearchParams({ lang: state.lang, layer: state.layer.toFixed(3), head: state.head, from: state.from });
  if (state.pins.length) words.set("pins", state.pins.map((pair) => pair.map((one) => one.toFixed(3)).join(",")).join(";"));
  try { history.replaceState(null, "", "#" + words); } catch { /* a page from disk may not */ }
};
const recall = () => {
  const words = new URLSearchParams(location.hash.slice(1)), lang = words.get("lang") ?? navigator.language.slice(0, 2);
  state.lang = Object.hasOwn(WORDS, lang) ? lang : "en";
  state.layer = Math.min(1, Math.max(0, Number(words.get("layer") ?? 1) || 0)); state.head = Math.max(0, Number.parseInt(words.get("head") ?? "0", 10) || 0);
  if (["class", "mean", "rollout"].includes(words.get("from"))) state.from = words.get("from");
  state.pins = (words.get("pins") ?? "").split(";").map((pair) => pair.split(",").map(Number)).filter((pair) => pair.length === 2 && pair.every((one) => one >= 0 && one < 1)).slice(0, 2);
  for (const one of document.querySelectorAll("[name=from]")) one.checked = one.value === state.from;
};
const load = (blob) => {
  if (!blob) return;
  if (blob.size > 10 * 1024 * 1024) { complain(new Refusal("large", "")); return; }
  if (state.camera) camera();
  state.picture = blob; reset(false); rerun();
};
const reset = (again = true) => {
  state.hidden.clear(); state.shuffled = 0; state.positions = true; state.size = null; state.brush = false;
  find("positions").checked = true;
  for (const name of ["brush", "shuffle"]) find(name).setAttribute("aria-pressed", "false");
  document.body.classList.remove("hiding");
  if (again) rerun();
};
const compare = () => {
  const wanted = [find("model").value, find("other").value].filter((name, k, all) => name && all.indexOf(name) === k);
  while (panels.length) { const panel = panels.pop(); panel.turn++; panel.abort?.abort(); panel.box.remove(); }
  for (const name of wanted) panels.push(new Panel(state.models.find((one) => one.name === name)));
  reset(false); rerun();
};
const sample = async (name) => { try { load(await (await ask(`samples/${name}.png`)).blob()); } catch (error) { complain(error); } };
const camera = async () => {
  const button = find("camera"), video = find("video");
  state.camera = !state.camera; button.setAttribute("aria-pressed", state.camera);
  if (!state.camera) { video.srcObject = null; rerun(); return; }
  let stream;
  try {
    video.srcObject = stream = await navigator.mediaDevices.getUserMedia({ video: { width: 480 }, audio: false });
    await video.play();
    reset(false);
    const canvas = document.createElement("canvas");
    while (state.camera && video.srcObject === stream) {
      canvas.width = video.videoWidth; canvas.height = video.videoHeight;
      canvas.getContext("2d").drawImage(video, 0, 0);
      const frame = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
      if (!state.camera) break;
      state.picture = frame;
      await Promise.all(panels.map((panel) => panel.run()));  // the next frame after the last answer
      await new Promise((resolve) => setTimeout(resolve, find("problem").hidden ? 0 : 1000));
    }
  } catch { if (state.camera) { state.camera = false; button.setAttribute("aria-pressed", "false"); complain(new Refusal("noCamera", "")); } }
  stream?.getTracks().forEach((track) => track.stop());
};
const save = async () => {
  try {
    const [css, js, html] = await Promise.all(["page.css", "page.js", "./"].map(async (path) => (await ask(path)).text()));
    const data = JSON.stringify({ panels: panels.map((panel) => panel.pack()) }).replace(/</g, "\\u003c");
    const policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:";
    const page = html
      .replace('<link rel="stylesheet" href="page.css">', () => `<meta http-equiv="Content-Security-Policy" content="${policy}"><style>${css}</style>`)
      .replace('<script src="page.js"><\/script>', () => `<script type="application/json" id="saved">${data}<\/script><script>${js}<\/script>`)
      .replace(/src="samples\/\w+\.png"/g, 'src="data:,"');
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([page], { type: "text/html" })); link.download = "vitrail-look.html";
    link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) { complain(error); }
};

// --- events ---
const on = (id, kind, act) => find(id).addEventListener(kind, act);
on("language", "change", (event) => { state.lang = event.target.value; translate(); remember(); });
on("layer", "input", (event) => { if (!panels[0]?.look) return; const count = panels[0].look.layers.length; state.layer = count < 2 ? 0 : (event.target.value - 1) / (count - 1); settle(); draw(); });
on("layer", "change", () => { draw(true); remember(); });
on("opacity", "input", (event) => { state.opacity = event.target.value / 100; find("opacity-said").textContent = event.target.value + " %"; draw(); });
for (const one of document.querySelectorAll("[name=from]")) one.addEventListener("change", () => { state.from = one.value; state.spot = null; draw(true); remember(); });
on("brush", "click", () => { state.brush = !state.brush; find("brush").setAttribute("aria-pressed", state.brush); document.body.classList.toggle("hiding", state.brush); });
on("shuffle", "click", () => { state.shuffled = state.shuffled ? 0 : 1 + Math.floor(Math.random() * 1e9); find("shuffle").setAttribute("aria-pressed", state.shuffled > 0); rerun(); });
on("reset", "click", () => reset());
on("positions", "change", (event) => { state.positions = event.target.checked; rerun(); });
on("size", "change", (event) => { const own = Math.max(...panels[0].model.preprocess.size); state.size = Number(event.target.value) === own ? null : Number(event.target.value); state.hidden.clear(); rerun(); });
on("file", "change", (event) => { load(event.target.files[0]); event.target.value = ""; });
on("camera", "click", camera);
on("save", "click", save);
on("token", "submit", (event) => { event.preventDefault(); state.token = find("token-value").value; find("token").hidden = true; begin(); });
for (const one of ["model", "other"]) on(one, "change", compare);
for (const one of document.querySelectorAll("[data-sample]")) one.addEventListener("click", () => sample(one.dataset.sample));
document.addEventListener("paste", (event) => { const file = [...(event.clipboardData?.files ?? [])][0]; if (file) { event.preventDefault(); load(file); } });
document.addEventListener("dragover", (event) => { event.preventDefault(); find("pick").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) find("pick").classList.remove("over"); });
document.addEventListener("drop", (event) => { event.preventDefault(); find("pick").classList.remove("over"); load(event.dataTransfer.files[0]); });

const begin = async () => {
  try {
    state.models = (await (await ask("models")).json()).models;
    const option = (name) => { const one = make("option", name); one.value = name; return one; };
    find("model").replaceChildren(...state.models.map(({ name }) => option(name)));
    find("other").replaceChildren(Object.assign(option(say("none")), { value: "" }), ...state.models.map(({ name }) => option(name)));
    for (const one of ["model-label", "other-label"]) find(one).hidden = state.models.length < 2;
    compare();
    await sample("bird");
  } catch (error) { complain(error); }
};
recall();
if (savedData) {
  for (const id of ["pick", "what-if", "save"]) find(id).hidden = true;
  for (const { model, look } of JSON.parse(savedData.textContent).panels) { state.models.push(model); panels.push(new Panel(model)); panels.at(-1).show(unpackText(look)); }
  find("live").textContent = say("saved");
} else begin();
translate();
})();
