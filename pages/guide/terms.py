"""The field's words on hover and by keyboard: what the marks of `lens.glossary` show.

A mark is a link to "#term-layer". One script for the whole app shows the meaning beside it where
the pointer or the focus is; Escape, scrolling or looking elsewhere takes it away again.
"""

from __future__ import annotations

import json

from lens import glossary

STYLE = """<style>
a[href^="#term-"], a[href^="#term-"]:visited {
  color: inherit !important; text-decoration: underline dotted 1px; text-underline-offset: 0.22em;
  cursor: help;
}
a[href^="#term-"]:hover, a[href^="#term-"]:focus { text-decoration-style: solid; }
#term-note {
  position: fixed; z-index: 2000000; max-width: min(22rem, calc(100vw - 1.5rem));
  padding: 0.5rem 0.75rem; border: 1px solid #7A7A7A; border-radius: 0.4rem; line-height: 1.4;
  font: 0.9rem "Source Sans", sans-serif; box-shadow: 0 3px 12px rgba(0, 0, 0, 0.25);
}
</style>"""
_SCRIPT = """<script>
if (!window.grokLensTerms) {
  window.grokLensTerms = true;
  const notes = NOTES, box = document.createElement("div");
  box.id = "term-note"; box.setAttribute("role", "tooltip"); box.hidden = true;
  document.body.append(box);
  let of = null;
  const term = event => event.target.closest && event.target.closest('a[href^="#term-"]');
  const hide = () => {
    box.hidden = true;
    if (of) of.removeAttribute("aria-describedby");
    of = null;
  };
  const show = link => {
    const note = notes[link.getAttribute("href").slice(1)];
    if (!note || link === of) return;
    hide();
    const name = document.createElement("b"), page = document.querySelector("[data-testid=stApp]");
    name.textContent = note[0] + ". ";
    box.replaceChildren(name, note[1]);
    const colours = getComputedStyle(page);
    box.style.background = colours.backgroundColor; box.style.color = colours.color;
    box.hidden = false;
    of = link;
    link.setAttribute("aria-describedby", box.id);
    const at = link.getClientRects()[0], high = box.offsetHeight;
    box.style.left = Math.max(8, Math.min(at.left, innerWidth - box.offsetWidth - 12)) + "px";
    box.style.top = (at.bottom + 6 + high < innerHeight ? at.bottom + 6 : at.top - high - 6) + "px";
  };
  document.addEventListener("mouseover", event => {
    const link = term(event);
    if (link) show(link);
    else if (!box.contains(event.target) && of !== document.activeElement) hide();
  });
  document.addEventListener("focusin", event => term(event) ? show(term(event)) : hide());
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, true);
  document.addEventListener("click", event => {
    if (!term(event)) return;
    event.preventDefault();  // the address stays as it is
    show(term(event));
  }, true);
}
</script>"""


def script() -> str:
    """Look and behaviour of the marks, for the page as a whole; it takes effect once."""
    return STYLE + _SCRIPT.replace("NOTES", json.dumps(glossary.notes()).replace("<", "\\u003c"))
