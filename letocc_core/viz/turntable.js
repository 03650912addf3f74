// Voxels to turn, zoom and switch, in every <canvas class="voxels"> of the page. Data: see turntable.py.
"use strict";
(() => {
  const CUBE = []; // per corner of a face's two triangles: x, y, z in [0, 1], normal
  for (const axis of [0, 1, 2]) for (const side of [0, 1]) {
    const [u, v] = [(axis + 1) % 3, (axis + 2) % 3];
    for (const [a, b] of [[0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]]) {
      const corner = [0, 0, 0], normal = [0, 0, 0];
      corner[axis] = side; corner[u] = a; corner[v] = b; normal[axis] = 2 * side - 1;
      CUBE.push(...corner, ...normal);
    }
  }
  const VERTEX = `#version 300 es
    in vec3 corner; in vec3 normal; in vec3 place; in vec4 colour; in vec3 size;
    uniform mat4 view; out vec4 shade;
    void main() {
      gl_Position = view * vec4(place + corner * size, 1.0);
      float light = 0.62 + 0.38 * max(dot(normal, normalize(vec3(-0.35, 0.45, 0.82))), 0.0);
      shade = vec4(colour.rgb * light, colour.a);
    }`;
  const FRAGMENT = `#version 300 es
    precision mediump float; in vec4 shade; out vec4 pixel; void main() { pixel = vec4(shade.rgb * shade.a, shade.a); }`;
  const bytes = (text, kind) => {
    const raw = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    return new kind(raw.buffer);
  };

  function program(gl) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    return made;
  }

  function attribute(gl, where, name, data, parts, every, stride = 0, offset = 0) {
    const at = gl.getAttribLocation(where, name);
    if (data) { gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()); gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW); }
    gl.enableVertexAttribArray(at); gl.vertexAttribPointer(at, parts, gl.FLOAT, false, stride, offset);
    gl.vertexAttribDivisor(at, every);
  }

  function layer(gl, where, scene, given) { // one draw call: all its voxels
    const index = bytes(given.index, Uint16Array), rgb = bytes(given.rgb, Uint8Array), n = index.length / 3;
    const place = new Float32Array(3 * n), colour = new Float32Array(4 * n), size = new Float32Array(3 * n);
    for (let i = 0; i < n; i++) {
      for (let a = 0; a < 3; a++) {
        place[3 * i + a] = scene.lower[a] + index[3 * i + a] * scene.voxel;
        size[3 * i + a] = 0.97 * scene.voxel;
        colour[4 * i + a] = rgb[3 * i + a] / 255;
      }
      colour[4 * i + 3] = given.alpha;
    }
    return boxes(gl, where, place, colour, size, given.alpha < 1);
  }

  function boxes(gl, where, place, colour, size, faint) {
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    attribute(gl, where, "corner", new Float32Array(CUBE), 3, 0, 24, 0);
    attribute(gl, where, "normal", null, 3, 0, 24, 12);
    attribute(gl, where, "place", place, 3, 1);
    attribute(gl, where, "colour", colour, 4, 1);
    attribute(gl, where, "size", size, 3, 1);
    return { array, count: place.length / 3, faint };
  }

  // Column-major projection times view: the eye circles the target, z is up.
  function camera(eye, target, aspect) {
    const sub = (a, b) => a.map((v, i) => v - b[i]), dot = (a, b) => a.reduce((s, v, i) => s + v * b[i], 0);
    const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    const unit = a => a.map(v => v / Math.hypot(...a));
    const z = unit(sub(eye, target)), x = unit(cross([0, 0, 1], z)), y = cross(z, x);
    const near = 0.5, far = 1000, f = 1 / Math.tan(0.36), p = (far + near) / (near - far), q = 2 * far * near / (near - far);
    const t = [-dot(x, eye), -dot(y, eye), -dot(z, eye)];
    return new Float32Array([
      x[0] * f / aspect, y[0] * f, z[0] * p, -z[0], x[1] * f / aspect, y[1] * f, z[1] * p, -z[1],
      x[2] * f / aspect, y[2] * f, z[2] * p, -z[2], t[0] * f / aspect, t[1] * f, t[2] * p + q, -t[2]]);
  }

  function start(canvas) {
    const scene = JSON.parse(document.getElementById(canvas.dataset.scene).textContent);
    const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
    if (!gl) { canvas.replaceWith("This view needs a browser with WebGL 2."); return; }
    const where = program(gl), view = gl.getUniformLocation(where, "view");
    const layers = scene.layers.map(given => layer(gl, where, scene, given));
    const vehicle = boxes(gl, where, new Float32Array(scene.vehicle.lower),
      new Float32Array([...scene.vehicle.rgb.map(v => v / 255), 1]), new Float32Array(scene.vehicle.size), false);
    const shown = scene.layers.map(given => given.shown);
    const first = { turn: Math.PI + 0.25, tilt: 0.62, far: scene.far };
    let { turn, tilt, far } = first, waiting = false;
    function draw() {
      waiting = false;
      const ratio = window.devicePixelRatio || 1;
      canvas.width = canvas.clientWidth * ratio; canvas.height = canvas.clientHeight * ratio;
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(...scene.background.map(v => v / 255), 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.enable(gl.DEPTH_TEST);
      gl.useProgram(where);
      const c = Math.cos(tilt), eye = [Math.cos(turn) * c, Math.sin(turn) * c, Math.sin(tilt)];
      gl.uniformMatrix4fv(view, false,
        camera(eye.map((v, i) => scene.target[i] + far * v), scene.target, canvas.width / canvas.height));
      for (const faint of [false, true]) {
        gl.depthMask(!faint);
        if (faint) { gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA); } else gl.disable(gl.BLEND);
        for (const [i, part] of [...layers, vehicle].entries()) if (part.faint === faint && shown[i] !== false) {
          gl.bindVertexArray(part.array);
          gl.drawArraysInstanced(gl.TRIANGLES, 0, 36, part.count);
        }
      }
      gl.depthMask(true);
    }
    const ask = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
    let held = null;
    canvas.addEventListener("pointerdown", e => { held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", () => { held = null; });
    canvas.addEventListener("pointermove", e => {
      if (!held) return;
      turn -= 0.008 * (e.clientX - held[0]);
      tilt = Math.min(1.5, Math.max(0.02, tilt + 0.008 * (e.clientY - held[1])));
      held = [e.clientX, e.clientY]; ask();
    });
    canvas.addEventListener("wheel", e => { far *= Math.exp(0.001 * e.deltaY); e.preventDefault(); ask(); }, { passive: false });
    canvas.addEventListener("dblclick", () => { ({ turn, tilt, far } = first); ask(); });
    const bar = document.createElement("div");
    bar.className = "faint";
    scene.layers.forEach((given, i) => {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox"; box.checked = shown[i];
      box.addEventListener("change", () => { shown[i] = box.checked; ask(); });
      label.append(box, ` ${given.name} (${layers[i].count}) `);
      bar.append(label);
    });
    bar.append("drag to turn, wheel to zoom, double click to go back");
    canvas.after(bar);
    new ResizeObserver(ask).observe(canvas);
  }
  // Only what is on the screen holds a context: browsers allow few of them.
  const seen = new IntersectionObserver(entries => entries.forEach(entry => {
    if (entry.isIntersecting) { seen.unobserve(entry.target); start(entry.target); }
  }));
  document.querySelectorAll("canvas.voxels").forEach(canvas => seen.observe(canvas));
})();
