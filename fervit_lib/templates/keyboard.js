// plotly's sliders and menus answer the mouse alone. Here they get a place in the order of Tab, a name for screen
// readers, and the arrow keys, Home and End.
figuresDrawn.then(() => {
for (const plot of document.querySelectorAll('.js-plotly-plot')) {
  const controls = () => [
    ...[...plot.querySelectorAll('.slider-group')].map((element, i) => ({ element, kind: 'sliders', i })),
    ...[...plot.querySelectorAll('.updatemenu-header')].map((element, i) => ({ element, kind: 'updatemenus', i })),
  ];
  const choicesOf = ({ kind, i }) => plot.layout[kind][i][kind === 'sliders' ? 'steps' : 'buttons'];
  const chosen = ({ kind, i }) => plot.layout[kind][i].active ?? 0;
  let focused = null; // a redraw may put a new element in the place of the one that had the focus

  async function choose(control, to) {
    const { kind, i } = control, choices = choicesOf(control), next = Math.min(Math.max(to, 0), choices.length - 1);
    if (next === chosen(control)) return;
    focused = `${kind}${i}`;
    await Plotly[choices[next].method](plot, ...choices[next].args);
    await Plotly.relayout(plot, { [`${kind}[${i}].active`]: next });
  }

  function equip() {
    for (const control of controls()) {
      const { element, kind, i } = control, choices = choicesOf(control), layout = plot.layout[kind][i];
      const name = layout.currentvalue?.prefix?.trim() || 'shown', now = chosen(control);
      const described = { tabindex: 0, role: 'slider', 'aria-label': name, 'aria-valuemin': 1, 'aria-valuenow': now + 1 };
      described['aria-valuemax'] = choices.length;
      described['aria-valuetext'] = choices[now].label;
      for (const [attribute, value] of Object.entries(described)) element.setAttribute(attribute, value);
      element.onkeydown = event => {
        const at = chosen(control), last = choices.length - 1;
        const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        choose(control, to);
      };
      if (focused === `${kind}${i}` && document.activeElement !== element) element.focus();
      element.onblur = () => { focused = null; };
    }
  }

  equip();
  plot.on('plotly_afterplot', equip);
}
});
