"""The chosen cell moves with the arrow keys, and with four buttons.

The keys work where the map has the focus, by Tab or after a click on it, and nowhere else:
in a text box, a list or on a tab they keep their meaning, and the page scrolls as ever.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from pages.shell import links
from pages.shell.session_keys import widget

KEY = "cell_keys"
# The map's element is Streamlit's own and stays while the figure in it is drawn anew, so the
# focus stays too. Keys pressed while the page is at work count from the last place asked for;
# what the page has not come to when it is at rest is asked for again. A press of the mouse
# takes back what is still asked for.
SCRIPT = """
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PAUSE = 120, LOOK = 400, TRIES = 5;
const same = (a, b) => a[0] === b[0] && a[1] === b[1];
const atRest = () =>
  document.querySelector("[data-test-script-state]")?.dataset.testScriptState === "notRunning";

function forget(state) {
  clearTimeout(state.timer);
  clearInterval(state.watch);
  state.place = state.timer = state.watch = null;
}

function send(state) {
  state.timer = null;
  state.sent = performance.now();
  state.trigger("cell", state.place);
  clearInterval(state.watch);
  let rests = 0;
  state.watch = setInterval(() => {
    if (!state.place || state.tries >= TRIES) { forget(state); return; }
    rests = atRest() ? rests + 1 : 0;
    if (rests < 2 || state.timer) return;
    state.tries += 1;
    send(state);
  }, LOOK);
}

export default function ({ data, setTriggerValue }) {
  const map = document.querySelector(".st-key-" + data.figure);
  if (!map) return;
  let state = map.cellKeys;
  if (!state) {
    state = map.cellKeys = { place: null, sent: 0, tries: 0, timer: null, watch: null };
    document.addEventListener("pointerdown", () => forget(state), true);
  }
  const shown = [data.token, data.layer];
  state.trigger = setTriggerValue;
  if (state.place && !state.timer && same(state.place, shown)) forget(state);
  map.tabIndex = 0;
  map.setAttribute("role", "group");
  map.setAttribute("aria-label", data.label);
  map.style.outlineOffset = "2px";

  // Called for every drawing of the page, and not told when one is over: the handlers are
  // properties of the map, so that the newest replaces the one before.
  map.onkeydown = (event) => {
    const plain = !event.ctrlKey && !event.altKey && !event.metaKey && !event.shiftKey;
    const elsewhere = event.target.closest("button, a, input, textarea, summary, [role=menuitem]");
    if (!plain || elsewhere) return;
    const from = state.place ?? shown;
    let to = null;
    if (event.key in STEPS) to = from.map((x, i) => x + STEPS[event.key][i]);
    else if (event.key === "Home") to = [0, from[1]];
    else if (event.key === "End") to = [data.tokens - 1, from[1]];
    if (!to) return;
    event.preventDefault();
    to = [Math.min(Math.max(to[0], 0), data.tokens - 1),
          Math.min(Math.max(to[1], 0), data.layers - 1)];
    if (same(to, from)) return;
    state.place = to;
    state.tries = 0;
    const wait = Math.max(0, PAUSE - (performance.now() - state.sent));
    state.timer ??= setTimeout(() => send(state), wait);
  };
  map.onpointerup = (event) => {
    if (!event.target.closest("button, a, input, summary")) map.focus({ preventScroll: true });
  };
  return () => { map.onkeydown = map.onpointerup = null; };
}
"""

_mount = st.components.v2.component("grok_moe_lens.cell_keys", js=SCRIPT)

MOVES = {
    "left": ("Token before", ":material/arrow_back:", -1, 0),
    "right": ("Token after", ":material/arrow_forward:", 1, 0),
    "up": ("Layer above in the map", ":material/arrow_upward:", 0, -1),
    "down": ("Layer below in the map", ":material/arrow_downward:", 0, 1),
}


def show(figure: str, token: int, layer: int, n_tokens: int, n_layers: int) -> None:
    """Four buttons, and the keys for the figure of this key; call it below that figure."""

    def moved(shape: tuple[int, int]) -> None:
        sent = widget(KEY).get() or {}
        cell = valid_cell(sent.get("cell"), shape)
        if cell is not None:
            links.choose(token=cell[0], layer=cell[1])

    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="cell_moves"):
        for name, (words, icon, right, down) in MOVES.items():
            to = (token + right, layer + down)
            st.button(
                words,
                key=f"move_{name}",
                icon=icon,
                type="tertiary",
                disabled=not (0 <= to[0] < n_tokens and 0 <= to[1] < n_layers),
                on_click=links.choose,
                kwargs={"token": to[0], "layer": to[1]},
            )
        st.caption("or arrow keys, when the map has the focus", width="content")
    _mount(
        key=KEY,
        data={
            "figure": figure,
            "token": token,
            "layer": layer,
            "tokens": n_tokens,
            "layers": n_layers,
            "label": "Map of tokens and layers: arrow keys move the chosen cell",
        },
        height="content",
        on_cell_change=partial(moved, (n_tokens, n_layers)),
    )


def valid_cell(cell: object, shape: tuple[int, int]) -> tuple[int, int] | None:
    """The cell [token, layer] that the browser sent, if a map of this shape has it."""
    if not (isinstance(cell, list | tuple) and len(cell) == 2):
        return None
    if not all(isinstance(x, int | float) and x == int(x) for x in cell):
        return None
    token, layer = int(cell[0]), int(cell[1])
    return (token, layer) if 0 <= token < shape[0] and 0 <= layer < shape[1] else None
